"""Autograd of the losses over pairs: one pass where the reduction is scalar, two where it is not; double backward.

As for rows (row_autograd.py): with a scalar reduction forward already writes the gradient, and backward hands it on;
eager mode has a Function with state (`_Eager`), :mod:`torch.func` and torch.compile have pure ones; derivatives beyond
the first are those of the reference body. Where the losses of the rows come back one by one, the upstream gradients are
factors of the rows, so backward is the same operator once more.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.autograd import Function

from fastloss.core.autograd import scaled, transformed
from fastloss.operators.outer import OuterOperands, accumulator

if TYPE_CHECKING:
    from fastloss.skeletons.outer import Outer

REFERENCES: dict[str, Outer] = {}
"""The reference body of every loss over pairs, by its name."""


def outer_loss(source: Tensor, operands: OuterOperands, namespace: str) -> Tensor:
    """The losses (rows,) or their sum, in the accumulator dtype, with the operators of `namespace`."""
    if torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active():
        target, per_source, *rest = operands
        return _Pure.apply(source, namespace, target, *rest, *per_source)[0]
    operators = getattr(torch.ops, namespace)
    if not (source.requires_grad and torch.is_grad_enabled()):
        return operators.outer(source, *operands, False)[0]
    return _Eager.apply(source, operands, operators)


def _with_upstream(operands: OuterOperands, upstream: Tensor, source: Tensor) -> OuterOperands:
    """With the gradients of the rows' losses among the factors of the rows."""
    factor = upstream.to(accumulator(source, operands.target))
    if operands.row_factor is not None:
        factor = factor * operands.row_factor
    return operands._replace(row_factor=factor.contiguous())


def _differentiable_gradient(upstream: Tensor, source: Tensor, operands: OuterOperands) -> Tensor:
    """The gradient as a differentiable function of the upstream gradient and the source, by the reference body."""
    fused = REFERENCES[operands.loss]
    loss, pullback = torch.func.vjp(lambda x: fused.on_operands(operands, x), source)  # type: ignore[misc]
    return pullback(upstream.to(loss.dtype))[0]


class _Eager(Function):
    """source -> the losses of the rows, or their sum, whose gradient is made in forward."""

    @staticmethod
    def forward(ctx: Any, source: Tensor, operands: OuterOperands, operators: Any) -> Tensor:
        loss, gradient = operators.outer(source, *operands, operands.reduce)
        # The tensors are torch's to keep (or to offload, or to recompute), and nowhere else in ctx.
        ctx.save_for_backward(source, operands.target, operands.row_factor, *operands.operands)
        ctx.rest, ctx.operators, ctx.ready = operands[3:], operators, gradient if operands.reduce else None
        return loss

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None, None]:
        source, target, row_factor, *per_source = ctx.saved_tensors
        operands = OuterOperands(target, per_source, row_factor, *ctx.rest)
        if transformed(upstream):
            return _differentiable_gradient(upstream, source, operands), None, None
        if not operands.reduce:
            return ctx.operators.outer(source, *_with_upstream(operands, upstream, source), True)[1], None, None
        gradient, ctx.ready = ctx.ready, None
        if gradient is None:  # handed on by an earlier backward
            gradient = ctx.operators.outer(source, *operands, True)[1]
        return scaled(gradient, upstream, ctx.operators), None, None


# ------------------------------------------------------------------------------------------ transforms, torch.compile


class _Pure(Function):
    """source -> (loss, its gradient if the loss is a sum)."""

    generate_vmap_rule = True

    @staticmethod
    def forward(
        source: Tensor,
        namespace: str,
        target: Tensor,
        row_factor: Tensor | None,
        loss: str,
        parameters: list[float],
        factor: float,
        reduce: bool,
        *operands: Tensor,
    ) -> tuple[Tensor, Tensor]:
        operator = getattr(torch.ops, namespace).outer
        return operator(source, target, list(operands), row_factor, loss, parameters, factor, reduce, reduce)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        source, ctx.namespace, target, row_factor, *ctx.how = inputs[:8]
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(output[1], source, target, row_factor, *inputs[8:])

    @staticmethod
    def backward(ctx: Any, upstream: Tensor, _: Any) -> tuple[Tensor | None, ...]:
        known, source, target, row_factor, *operands = ctx.saved_tensors
        gradient = _Twice.apply(upstream, source, known, ctx.namespace, target, row_factor, *ctx.how, *operands)
        return gradient, *[None] * (7 + len(operands))


class _Twice(Function):
    """The gradient of `_Pure`, itself differentiable: through the reference body."""

    generate_vmap_rule = True

    @staticmethod
    def forward(
        upstream: Tensor,
        source: Tensor,
        known: Tensor,  # the gradient of a sum
        namespace: str,
        target: Tensor,
        row_factor: Tensor | None,
        loss: str,
        parameters: list[float],
        factor: float,
        reduce: bool,
        *operands: Tensor,
    ) -> Tensor:
        if reduce:
            return (known * upstream).to(known.dtype)
        how = OuterOperands(target, list(operands), row_factor, loss, parameters, factor, reduce)
        return getattr(torch.ops, namespace).outer(source, *_with_upstream(how, upstream, source), True)[1]

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        upstream, source, _, _, target, row_factor, *ctx.how = inputs[:10]
        ctx.save_for_backward(upstream, source, target, row_factor, *inputs[10:])

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor | None, ...]:
        upstream, source, target, row_factor, *per_source = ctx.saved_tensors
        operands = OuterOperands(target, per_source, row_factor, *ctx.how)
        _, pullback = torch.func.vjp(  # type: ignore[misc]
            lambda g, x: _differentiable_gradient(g, x, operands), upstream, source
        )
        return *pullback(cotangent), *[None] * (8 + len(per_source))
