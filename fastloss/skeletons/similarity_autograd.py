"""Autograd of the pairwise losses: one pass where the reduction is scalar, two where it is not; double backward.

The gradients are as small as the vectors, O((N + M) D), so backward multiplies them instead of giving its buffers away:
one set of Functions, pure, serves eager mode, :mod:`torch.func` and torch.compile alike. Derivatives beyond the first
are those of a reference in torch, on the full matrix.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function

from fastloss.operators.similarity import DIFFERENTIABLE
from fastloss.skeletons.triplets import semi_hard_losses


def similarity_losses(name: str, namespace: str, arguments: tuple[Any, ...], reduce: bool) -> Tensor:
    """The losses (N,) or, if `reduce`, their sum, by an operator; `arguments`: its own, up to ``upstream``."""
    wanted = 0
    if torch.is_grad_enabled():
        for k in DIFFERENTIABLE[name]:
            if arguments[k] is not None and arguments[k].requires_grad:
                wanted |= 1 << k
    if wanted:
        return _Losses.apply(name, namespace, wanted, reduce, *arguments)[0]
    losses, _ = getattr(getattr(torch.ops, namespace), name)(*arguments, None, 0)
    return losses.sum() if reduce else losses


def _places(wanted: int) -> list[int]:
    return [k for k in range(wanted.bit_length()) if wanted >> k & 1]


def _without_context(inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    """Dynamo (2.13) tells from the number of parameters whether forward takes a ctx, and so gives one to *inputs."""
    return inputs if isinstance(inputs[0], str) else inputs[1:]


class _Losses(Function):
    """(name, namespace, wanted, reduce, arguments of the operator) -> (losses or their sum, gradients of the sum)"""

    generate_vmap_rule = True

    @staticmethod
    def forward(*inputs: Any) -> Any:
        name, namespace, wanted, reduce, *arguments = _without_context(inputs)
        operator = getattr(getattr(torch.ops, namespace), name)
        loss, gradients = operator(*arguments, None, wanted if reduce else 0)
        return loss, *gradients

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.name, ctx.namespace, ctx.wanted, _, *arguments = inputs
        ctx.mark_non_differentiable(*output[1:])
        ctx.set_materialize_grads(False)  # no zeros in the place of the gradients' gradients
        ctx.tensors = [k for k, x in enumerate(arguments) if isinstance(x, Tensor)]
        ctx.statics = [None if isinstance(x, Tensor) else x for x in arguments]
        ctx.save_for_backward(*(arguments[k] for k in ctx.tensors), *output[1:])

    @staticmethod
    def backward(ctx: Any, upstream: Tensor | None, *_: Any) -> tuple[Any, ...]:
        if upstream is None:
            return None, None, None, None, *[None] * len(ctx.statics)
        count = len(ctx.tensors)
        arguments = list(ctx.statics)
        for k, x in zip(ctx.tensors, ctx.saved_tensors[:count], strict=True):
            arguments[k] = x
        known = ctx.saved_tensors[count:]
        gradients = _Gradients.apply(ctx.name, ctx.namespace, ctx.wanted, len(known), upstream, *arguments, *known)
        result: list[Any] = [None] * len(arguments)
        for k, gradient in zip(_places(ctx.wanted), gradients, strict=True):
            result[k] = gradient
        return None, None, None, None, *result


class _Gradients(Function):
    """The gradients of `_Losses`, themselves differentiable: through the reference.

    Inputs: name, namespace, wanted, the number of gradients that are known, upstream, arguments of the operator, the
    gradients that are known: those of the sum, or none.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(*inputs: Any) -> Any:
        name, namespace, wanted, count, upstream, *arguments = _without_context(inputs)
        if count:
            return tuple(gradient * upstream for gradient in arguments[len(arguments) - count :])
        operator = getattr(getattr(torch.ops, namespace), name)
        return tuple(operator(*arguments, upstream.contiguous(), wanted)[1])

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.name, _, ctx.wanted, ctx.count, upstream, *arguments = inputs
        arguments = arguments[: len(arguments) - ctx.count]
        ctx.tensors = [k for k, x in enumerate(arguments) if isinstance(x, Tensor)]
        ctx.statics = [None if isinstance(x, Tensor) else x for x in arguments]
        ctx.save_for_backward(upstream, *(arguments[k] for k in ctx.tensors))

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Any, ...]:
        upstream, *tensors = ctx.saved_tensors
        arguments = list(ctx.statics)
        for k, x in zip(ctx.tensors, tensors, strict=True):
            arguments[k] = x
        places = _places(ctx.wanted)

        def gradients(upstream: Tensor, *operands: Tensor) -> tuple[Tensor, ...]:
            def losses(*operands: Tensor) -> Tensor:
                replaced = list(arguments)
                for k, x in zip(places, operands, strict=True):
                    replaced[k] = x
                losses = REFERENCES[ctx.name](*replaced)
                return losses.sum() if ctx.count else losses

            _, pullback = torch.func.vjp(losses, *operands)  # type: ignore[misc]
            return pullback(upstream)

        _, pullback = torch.func.vjp(gradients, upstream, *(arguments[k] for k in places))  # type: ignore[misc]
        of_upstream, *found = pullback(tuple(cotangents))
        result: list[Any] = [None] * len(arguments)
        for k, gradient in zip(places, found, strict=True):
            result[k] = gradient
        return None, None, None, None, of_upstream, *result, *[None] * ctx.count


# ------------------------------------------------------------------------------------------ references of the operators


def _softmax(
    query: Tensor, key: Tensor | None, own: Tensor | None, scale: Tensor, target: Tensor, dropped: Tensor | None,
    labels: Tensor | None, key_labels: Tensor | None,
) -> Tensor:  # fmt: skip
    z = scale * (query @ (query if key is None else key).t())
    out = torch.zeros_like(z, dtype=torch.bool)
    if labels is not None:
        out = labels[:, None] == (labels if key_labels is None else key_labels)
    if key is None:
        out = out | torch.eye(z.shape[0], dtype=torch.bool, device=z.device)
    if own is not None:
        z = torch.cat([z, scale * (query * own).sum(1, keepdim=True)], 1)
        out = F.pad(out, (0, 1))
    if dropped is not None:
        out = out | (torch.arange(z.shape[1], device=z.device) == dropped[:, None])
    z = z.masked_fill(out, -math.inf)
    return F.cross_entropy(z, target, reduction="none")


def _two_way(query: Tensor, key: Tensor, scale: Tensor) -> Tensor:
    z = scale * (query @ key.t())
    return (z.logsumexp(1) + z.logsumexp(0)) / 2 - z.diagonal()


def _sigmoid(query: Tensor, key: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    z = scale * (query @ key.t()) + bias
    sign = 2 * torch.eye(z.shape[0], dtype=z.dtype, device=z.device) - 1
    return F.softplus(-sign * z).sum(1)


REFERENCES: dict[str, Callable[..., Tensor]] = {
    "similarity_softmax": _softmax,
    "similarity_two_way": _two_way,
    "similarity_sigmoid": _sigmoid,
    "similarity_semi_hard": semi_hard_losses,
}
"""The losses (N,) of each operator, in torch on the full matrix, from the same arguments."""
