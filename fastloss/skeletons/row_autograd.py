"""Autograd of the fused losses: one pass where the reduction is scalar, two where it is not; double backward.

With a scalar reduction, forward already writes the gradient of the reduced loss. Backward hands that buffer on, scaled
in place if the upstream gradient is not 1: the memory is the logits and one gradient, and the logits are read once. A
buffer that was given away cannot be used again, so a second backward (``retain_graph=True``) recomputes it.

There are two sets of autograd Functions:

* eager mode uses `_OnePass` and `_Rows`, whose backward may keep state on `ctx` as above;
* :mod:`torch.func` transforms and torch.compile use `_Pure`, with ``setup_context`` and a generated vmap rule, which
  must be pure.

Differentiating the backward differentiates the reference body instead (`_Twice`): any derivative beyond the first is
torch's own. Forward-mode never comes here; dispatch leaves it to the reference.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.autograd import Function

from fastloss.core.autograd import scaled, transformed
from fastloss.operators.row import NONE, RowOperands

if TYPE_CHECKING:
    from fastloss.skeletons.row import Row

REFERENCES: dict[str, Row] = {}
"""The reference body of every fused loss over rows, by its name."""


def row_loss(logits: Tensor, operands: RowOperands, inplace: bool, namespace: str) -> Tensor:
    """The losses (rows,) or their reduction, in the accumulator dtype, with the operators of `namespace`."""
    operators = getattr(torch.ops, namespace)
    if torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active():
        loss = _Pure.apply(logits, *operands, namespace)[0]
    elif not (logits.requires_grad and torch.is_grad_enabled()):
        loss = operators.row_forward(logits, *operands)[0]
    elif operands.reduction == NONE:
        loss = _Rows.apply(logits, operands, operators)
    elif inplace:
        _check_inplace(logits)
        loss = _InPlace.apply(logits, operands, operators)
    else:
        loss = _OnePass.apply(logits, operands, operators)
    return loss


# ------------------------------------------------------------------------------------------ eager


class _OnePass(Function):
    """logits -> mean or sum of the rows' losses; the gradient is made in forward."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, operands: RowOperands, operators: Any) -> Tensor:
        loss, grad = operators.row_forward_backward(logits, *operands)
        ctx.save_for_backward(logits)
        ctx.operands, ctx.operators, ctx.ready = operands, operators, grad
        return loss

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, None, None]:
        if transformed(upstream):
            (logits,) = ctx.saved_tensors
            return _differentiable_gradient(upstream, logits, ctx.operands), None, None
        grad, ctx.ready = ctx.ready, None
        if grad is None:  # handed on by an earlier backward
            (logits,) = ctx.saved_tensors
            _, grad = ctx.operators.row_forward_backward(logits, *ctx.operands)
        return scaled(grad, upstream, ctx.operators), None, None


class _InPlace(Function):
    """_OnePass whose gradient overwrites the logits."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, operands: RowOperands, operators: Any) -> Tensor:
        ctx.operators, ctx.ready = operators, logits.detach()
        loss = operators.row_forward_backward_(ctx.ready, *operands)
        torch.autograd.graph.increment_version(logits)  # whoever saved the logits learns that they are gone
        return loss

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None, None]:
        if transformed(upstream) or ctx.ready is None:
            raise RuntimeError(
                "fastloss: inplace=True overwrote the logits with their gradient, which serves one backward pass; "
                "pass inplace=False for retain_graph=True or create_graph=True"
            )
        grad, ctx.ready = ctx.ready, None
        return scaled(grad, upstream, ctx.operators), None, None


def _check_inplace(logits: Tensor) -> None:
    base = logits._base if logits._is_view() else logits
    if base is not None and base.is_leaf and base.requires_grad:
        raise RuntimeError("fastloss: inplace=True would overwrite a leaf tensor that requires grad")


class _Rows(Function):
    """logits -> the losses of the rows; backward reads the logits again."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, operands: RowOperands, operators: Any) -> Tensor:
        loss, state = operators.row_forward(logits, *operands)
        ctx.save_for_backward(logits)
        ctx.operands, ctx.operators, ctx.state = operands, operators, state
        return loss

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, None, None]:
        (logits,) = ctx.saved_tensors
        o = ctx.operands
        if transformed(upstream):
            return _differentiable_gradient(upstream, logits, o), None, None
        grad = ctx.operators.row_backward(
            upstream.contiguous(), logits, o.target, o.weight, ctx.state, o.loss, o.parameters, o.ignore_index
        )
        return grad, None, None


def _differentiable_gradient(upstream: Tensor, logits: Tensor, operands: RowOperands) -> Tensor:
    """The gradient as a differentiable function of the upstream gradient and the logits, by the reference body."""
    spec = REFERENCES[operands.loss]
    loss, pullback = torch.func.vjp(lambda x: spec.on_operands(operands, x), logits)  # type: ignore[misc]
    return pullback(upstream.to(loss.dtype))[0]


# ------------------------------------------------------------------------------------------ transforms, torch.compile


class _Pure(Function):
    """logits -> (loss, what its backward needs: the gradient of a scalar loss, the state of the rows otherwise)."""

    generate_vmap_rule = True

    @staticmethod
    def forward(
        logits: Tensor,
        target: Tensor,
        weight: Tensor | None,
        loss: str,
        parameters: list[float],
        ignore_index: int,
        reduction: int,
        namespace: str,
    ) -> tuple[Tensor, Tensor]:
        operators = getattr(torch.ops, namespace)
        operator = operators.row_forward if reduction == NONE else operators.row_forward_backward
        return operator(logits, target, weight, loss, parameters, ignore_index, reduction)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        logits, target, weight, *ctx.rest = inputs
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(logits, target, weight, output[1])

    @staticmethod
    def backward(ctx: Any, upstream: Tensor, _: Any) -> tuple[Tensor | None, ...]:
        logits, target, weight, known = ctx.saved_tensors
        return _Twice.apply(upstream, logits, target, weight, known, *ctx.rest), *[None] * 7


class _Twice(Function):
    """The gradient of a pure Function, itself differentiable: through the reference body."""

    generate_vmap_rule = True

    @staticmethod
    def forward(
        upstream: Tensor,
        logits: Tensor,
        target: Tensor,
        weight: Tensor | None,
        known: Tensor,  # the gradient of a scalar loss, or the state of the rows
        loss: str,
        parameters: list[float],
        ignore_index: int,
        reduction: int,
        namespace: str,
    ) -> Tensor:
        if reduction != NONE:
            return (known * upstream).to(known.dtype)
        return getattr(torch.ops, namespace).row_backward(
            upstream.contiguous(), logits, target, weight, known, loss, parameters, ignore_index
        )

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        upstream, logits, target, weight, _, *ctx.rest = inputs
        ctx.save_for_backward(upstream, logits, target, weight)

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor | None, ...]:
        upstream, logits, target, weight = ctx.saved_tensors
        operands = RowOperands(target, weight, *ctx.rest[:-1])
        _, pullback = torch.func.vjp(  # type: ignore[misc]
            lambda g, x: _differentiable_gradient(g, x, operands), upstream, logits
        )
        return *pullback(cotangent), *[None] * 8
