"""Autograd of the losses over rows of linear logits; the walk over chunks is in :mod:`linear_row_operators`.

Multiply-adds in units of N H C (N rows, H features, C classes), of which torch's linear and cross_entropy take 3:

    mean, sum   3, all in forward; a second backward of one forward takes 3 more
    none        On a CPU 3 in forward. Backward looks at the upstream gradient: if it is the same for all rows that
                count, as after .sum() or .mean(), it scales; if not, the gradient of the input is still a scaling of
                its rows, and only logits and d_matrix are computed again, 2 more. Elsewhere looking would wait for
                the device, so forward takes 1 and backward 3; so it does inside torch.compile.

float16 with products in float16 (not on a CPU): mean and sum as none, see `deferred`.

As in :mod:`row_autograd`, eager mode has Functions that give their buffers away, and differentiating their backward
differentiates the reference body. torch.compile, which differentiates no backward, has a pure one (`_Pure`); torch.func
transforms are the reference's.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function

from fastloss.core.autograd import scaled, transformed
from fastloss.operators.row import NONE
from fastloss.skeletons.row_autograd import REFERENCES
from fastloss.tiles.linear import (
    Gradients,
    LinearOperands,
    as_rows,
    deferred,
    forward,
    forward_backward,
    of_counted_rows,
)


def linear_row_loss(input: Tensor, matrix: Tensor, bias: Tensor | None, o: LinearOperands, namespace: str) -> Tensor:
    """The losses (N * D,) or their reduction, in the accumulator dtype, with the row operators of `namespace`."""
    operators = getattr(torch.ops, namespace)
    wanted = [torch.is_grad_enabled() and t is not None and t.requires_grad for t in (input, matrix, bias)]
    if torch.compiler.is_compiling():
        flat = (*o.row, o.positions, o.chunk, o.wide)
        if any(wanted):
            return _Pure.apply(input, matrix, bias, *flat, wanted, namespace)[0]
        return operators.linear_row_forward(input, matrix, bias, *flat)
    if not any(wanted):
        return forward(input, matrix, bias, o, operators)
    return (_Rows if o.row.reduction == NONE else _OnePass).apply(input, matrix, bias, o, operators)


# ------------------------------------------------------------------------------------------ eager


class _OnePass(Function):
    """input, matrix, bias -> mean or sum of the rows' losses; the gradients are made in forward, unless deferred."""

    @staticmethod
    def forward(
        ctx: Any, input: Tensor, matrix: Tensor, bias: Tensor | None, o: LinearOperands, operators: Any
    ) -> Tensor:
        ctx.ready = None
        if deferred(input):
            loss = forward(input, matrix, bias, o, operators)
        else:
            loss, ctx.ready = forward_backward(input, matrix, bias, o, operators, ctx.needs_input_grad)
        ctx.save_for_backward(input, matrix, bias)
        ctx.operands, ctx.operators = o, operators
        return loss

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        o, operators = ctx.operands, ctx.operators
        if transformed(upstream):
            return *_differentiable_gradients(upstream, ctx.saved_tensors, o), None, None
        gradients, ctx.ready = ctx.ready, None
        input, matrix, bias = ctx.saved_tensors
        if gradients is None:  # deferred, or handed on by an earlier backward
            _, gradients = forward_backward(input, matrix, bias, o, operators, ctx.needs_input_grad, upstream)
            return *gradients, None, None
        return *_scaled(gradients, upstream, operators, input.dtype), None, None


class _Rows(Function):
    """input, matrix, bias -> the losses of the rows; the head of this file says what is computed when."""

    @staticmethod
    def forward(
        ctx: Any, input: Tensor, matrix: Tensor, bias: Tensor | None, o: LinearOperands, operators: Any
    ) -> Tensor:
        ctx.ready = None
        if input.is_cpu:
            losses, ctx.ready = forward_backward(input, matrix, bias, o, operators, ctx.needs_input_grad)
        else:
            losses = forward(input, matrix, bias, o, operators)
        ctx.save_for_backward(input, matrix, bias)
        ctx.operands, ctx.operators = o, operators
        return losses

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        o, operators = ctx.operands, ctx.operators
        if transformed(upstream):
            return *_differentiable_gradients(upstream, ctx.saved_tensors, o), None, None
        input, matrix, bias = ctx.saved_tensors
        ready, ctx.ready = ctx.ready, None
        wanted = ctx.needs_input_grad[:3]
        has_values = input.is_cpu and type(upstream) is Tensor  # a FakeTensor has none
        common = _common_value(upstream, o) if has_values else None
        if common is not None:
            if ready is None:  # handed on by an earlier backward
                _, ready = forward_backward(input, matrix, bias, o, operators, wanted)
            return *_scaled(ready, common, operators, input.dtype), None, None
        d_input = None
        if ready is not None and ready[0] is not None and o.positions == 1:
            d_input = ready[0].mul_(of_counted_rows(upstream, o)[:, None]).to(input.dtype)
            wanted = (False, *wanted[1:])
        gradients: Gradients = (None, None, None)
        if any(wanted):
            _, gradients = forward_backward(input, matrix, bias, o, operators, wanted, upstream.contiguous())
        return d_input if d_input is not None else gradients[0], *gradients[1:], None, None


def _scaled(gradients: Gradients, upstream: Tensor, operators: Any, dtype: torch.dtype) -> Gradients:
    for gradient in gradients:
        if gradient is not None:
            scaled(gradient.view(-1, gradient.shape[-1]), upstream, operators)
    d_input, d_matrix, d_bias = (None if g is None else g.to(dtype) for g in gradients)
    return d_input, d_matrix, d_bias


def _common_value(upstream: Tensor, o: LinearOperands) -> Tensor | None:
    """What the upstream gradients (N * D,), on a CPU, of all rows that count are, if they are the same."""
    target = o.row.target
    counted = upstream if target.is_floating_point() else upstream[target != o.row.ignore_index]
    if counted.numel() == 0:
        return upstream.new_ones(())
    return counted[0] if bool((counted == counted[0]).all()) else None


def _differentiable_gradients(upstream: Tensor, tensors: tuple[Tensor | None, ...], o: LinearOperands) -> Gradients:
    """The gradients as differentiable functions of the upstream gradient and the tensors, by the reference body."""
    present = [t is not None for t in tensors]

    def reference(*given: Tensor) -> Tensor:
        remaining = iter(given)
        input, matrix, bias = (next(remaining) if there else None for there in present)
        assert input is not None
        assert matrix is not None
        logits = as_rows(F.linear(input, matrix, bias), o)
        return REFERENCES[o.row.loss].on_operands(o.row, logits)

    loss, pullback = torch.func.vjp(reference, *(t for t in tensors if t is not None))  # type: ignore[misc]
    gradients = iter(pullback(upstream.to(loss.dtype)))
    d_input, d_matrix, d_bias = (next(gradients) if there else None for there in present)
    return d_input, d_matrix, d_bias


# ------------------------------------------------------------------------------------------ torch.compile


class _Pure(Function):
    """input, matrix, bias -> (loss, their gradients where the reduction is scalar, else empty)."""

    @staticmethod
    def forward(
        input: Tensor,
        matrix: Tensor,
        bias: Tensor | None,
        target: Tensor,
        weight: Tensor | None,
        loss: str,
        parameters: list[float],
        ignore_index: int,
        reduction: int,
        positions: int,
        chunk: int,
        wide: bool,
        wanted: list[bool],
        namespace: str,
    ) -> tuple[Tensor, ...]:
        operators = getattr(torch.ops, namespace)
        operands = (
            input, matrix, bias, target, weight, loss, parameters, ignore_index, reduction, positions, chunk, wide
        )  # fmt: skip
        if reduction == NONE or deferred(input):
            return operators.linear_row_forward(*operands), *(input.new_empty(0) for _ in range(3))
        return operators.linear_row_forward_backward(*operands, wanted, None)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        *tensors, loss, parameters, ignore_index, reduction, positions, chunk, wide, wanted, namespace = inputs
        ctx.rest = (loss, parameters, ignore_index, reduction, positions, chunk, wide, wanted, namespace)
        ctx.mark_non_differentiable(*output[1:])
        ctx.save_for_backward(*tensors, *output[1:])

    @staticmethod
    def backward(ctx: Any, upstream: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        *operands, d_input, d_matrix, d_bias = ctx.saved_tensors
        *rest, reduction, positions, chunk, wide, wanted, namespace = ctx.rest
        input = operands[0]
        if reduction != NONE and not deferred(input):
            gradients = [(g * upstream).to(input.dtype) for g in (d_input, d_matrix, d_bias)]
        else:
            _, *gradients = getattr(torch.ops, namespace).linear_row_forward_backward(
                *operands, *rest, reduction, positions, chunk, wide, wanted, upstream.contiguous()
            )
        return *(g if want else None for g, want in zip(gradients, wanted, strict=True)), *[None] * 11
