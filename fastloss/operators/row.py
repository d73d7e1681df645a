"""The operators over rows of logits: schemas, shapes without data (meta), vmap rules.

In one pass, where a loss comes out of one: ``row_forward``, ``row_backward``, ``row_forward_backward`` and
``row_forward_backward_``.

In steps, for every loss over rows: ``row_statistics`` (k, rows), of a row or of a slice of its classes; ``row_merge``,
the statistics of a row from those of its slices (slices, k, rows), added in their order; ``row_outputs`` (outputs,
rows): the loss, or several numbers; ``row_gradient``, by the logits, from the upstream gradients of all outputs.

``logits``: (rows, C) with unit class stride, or (N, C, D) with unit stride over D, where row = n * D + d.
``target``: int64 (rows,), or soft targets with the dtype and shape rules of ``logits``.
``weight``: (C,) in the accumulator dtype (float64 for float64 logits, else float32), or None.
``reduction``: 0 none, 1 mean, 2 sum. Losses come back in the accumulator dtype.
``second``: a second row of logits beside each, of their shape and dtype, if the loss compares two; it has no gradient.
``first_class``, ``classes``: the classes of ``logits``, ``weight`` and soft targets are ``first_class ..`` of so many.
An index target that is another class belongs to another slice and adds nothing to these statistics.
``statistics``: what csrc/losses/contracts/row.h lists (RowStatistic), in the accumulator dtype. A slice without classes
has -inf, -inf, 0, ..., and so has an ignored row, whose outputs and gradient are 0.
``state``: (2, rows), for ``row_backward`` of the same backend: the largest logit of each row, before or after a factor,
and log(sum(exp(z - max z))).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fastloss.core.arguments import accumulator_dtype
from fastloss.core.registry import BY_KERNEL
from fastloss.operators.batch import one_by_one

NONE, MEAN, SUM = 0, 1, 2
REDUCTIONS = {"none": NONE, "mean": MEAN, "sum": SUM}

MAX, LOG_SUM, TARGET, WEIGHT, MASS, LINEAR = range(6)  # RowStatistic in csrc: of every row loss
COMMON_STATISTICS = 6  # kRowOwn there

_ROW = "Tensor logits, Tensor target, Tensor? weight"
_SLICE = "Tensor logits, Tensor? second, Tensor? target, Tensor? weight"
_LOSS = "str loss, float[] parameters, int ignore_index"
SCHEMAS = {
    "row_forward": f"({_ROW}, {_LOSS}, int reduction) -> (Tensor loss, Tensor state)",
    "row_backward": f"(Tensor grad_loss, {_ROW}, Tensor state, {_LOSS}) -> Tensor",
    "row_forward_backward": f"({_ROW}, {_LOSS}, int reduction) -> (Tensor loss, Tensor grad)",
    "row_forward_backward_": f"(Tensor(a!) logits, Tensor target, Tensor? weight, {_LOSS}, int reduction) -> Tensor",
    "row_statistics": f"({_SLICE}, {_LOSS}, int first_class, int classes) -> Tensor",
    "row_merge": "(Tensor statistics, str loss, float[] parameters) -> Tensor",
    "row_outputs": f"(Tensor statistics, Tensor? target, {_LOSS}, int classes) -> Tensor",
    "row_gradient": (
        f"(Tensor upstream, Tensor statistics, {_SLICE}, {_LOSS}, int first_class, int classes) -> Tensor"
    ),
}


class RowOptions(NamedTuple):
    """What a row operator takes after the logits, in its order."""

    target: Tensor
    weight: Tensor | None
    loss: str
    parameters: Sequence[float]
    ignore_index: int
    reduction: int


def row_layout(matrix: Tensor) -> Tensor:
    """`matrix`, (rows, C) or (N, C, D), in a layout that the row kernels read; copied only where it has another."""
    return matrix if matrix.stride(-1) == 1 or matrix.size(-1) == 1 else matrix.contiguous()


def denominator(logits: Tensor, target: Tensor, weight: Tensor | None, ignore_index: int) -> Tensor:
    """What the mean over the rows divides by, 0-d in the accumulator dtype; it stays on the device."""
    dtype = accumulator_dtype(logits.dtype)
    if target.is_floating_point():
        return torch.full((), row_count(logits), dtype=dtype, device=logits.device)
    counted = target != ignore_index
    return counted.sum().to(dtype) if weight is None else (weight[target * counted] * counted).sum()


def row_count(logits: Tensor) -> int:
    return logits.shape[0] * (logits.shape[2] if logits.dim() == 3 else 1)


# ------------------------------------------------------------------------------------------ shapes without data


def _meta_row_forward(logits, target, weight, loss, parameters, ignore_index, reduction):
    rows, dtype = row_count(logits), accumulator_dtype(logits.dtype)
    shape = (rows,) if reduction == NONE else ()
    return logits.new_empty(shape, dtype=dtype), logits.new_empty((2, rows), dtype=dtype)


def _meta_row_backward(grad_loss, logits, target, weight, state, loss, parameters, ignore_index):
    return torch.empty_like(logits, memory_format=torch.contiguous_format)


def _meta_row_forward_backward(logits, target, weight, loss, parameters, ignore_index, reduction):
    grad = torch.empty_like(logits, memory_format=torch.contiguous_format)
    return logits.new_empty((), dtype=accumulator_dtype(logits.dtype)), grad


def _meta_row_forward_backward_(logits, target, weight, loss, parameters, ignore_index, reduction):
    return logits.new_empty((), dtype=accumulator_dtype(logits.dtype))


def _meta_row_statistics(
    logits, second, target, weight, loss, parameters, ignore_index, first_class, classes
):  # fmt: skip
    return logits.new_empty((BY_KERNEL[loss].statistics, row_count(logits)), dtype=accumulator_dtype(logits.dtype))


def _meta_row_merge(statistics, loss, parameters):
    return statistics.new_empty(statistics.shape[1:])


def _meta_row_outputs(statistics, target, loss, parameters, ignore_index, classes):
    return statistics.new_empty((BY_KERNEL[loss].outputs, statistics.shape[1]))


def _meta_row_gradient(
    upstream, statistics, logits, second, target, weight, loss, parameters, ignore_index, first_class, classes
):  # fmt: skip
    return torch.empty_like(logits, memory_format=torch.contiguous_format)


META: dict[str, Any] = {
    "row_statistics": _meta_row_statistics,
    "row_merge": _meta_row_merge,
    "row_outputs": _meta_row_outputs,
    "row_gradient": _meta_row_gradient,
    "row_forward": _meta_row_forward,
    "row_backward": _meta_row_backward,
    "row_forward_backward": _meta_row_forward_backward,
    "row_forward_backward_": _meta_row_forward_backward_,
}


# ------------------------------------------------------------------------------------------ vmap
#
# A batch of calls is one call with more rows: (B, rows, C) is (B * rows, C). Only what depends on a whole call, the
# mean's denominator, is formed per batch entry. Calls with class weights of their own are made one by one.


class _Batch:
    """Operands of B calls of a row operator, flattened into those of one call."""

    def __init__(self, info: Any, in_dims: Any, logits: Any, target: Any, weight: Tensor | None):
        self.size = info.batch_size
        self.weight = weight
        self.logits = self.flat(logits, in_dims[0])
        self.target = self.flat(target, in_dims[1])

    def flat(self, operand: Any, dim: int | None) -> Any:
        """Rows first: (B, rows, ...) -> (B * rows, ...)"""
        if operand is None:
            return None
        flat = self._batched(operand, dim).flatten(0, 1)
        return row_layout(flat) if flat.dim() > 1 else flat.contiguous()

    def flat_rows(self, operand: Tensor, dim: int | None) -> Tensor:
        """Rows last: (B, ..., rows) -> (..., B * rows)"""
        return self._batched(operand, dim).movedim(0, -2).flatten(-2).contiguous()

    def _batched(self, operand: Tensor, dim: int | None) -> Tensor:
        return operand.movedim(dim, 0) if dim is not None else operand.expand(self.size, *operand.shape)

    def split(self, rows: Tensor) -> Tensor:
        """(..., B * rows) -> (B, ..., rows)"""
        return rows.unflatten(-1, (self.size, -1)).movedim(-2, 0)

    def row_weights(self, ignore_index: int, dtype: torch.dtype) -> Tensor:
        """What each row adds to the mean's denominator: (B, rows)."""
        if self.target.is_floating_point():
            return self.split(self.logits.new_ones(row_count(self.logits), dtype=dtype))
        counted = self.target != ignore_index
        weight = counted.to(dtype)
        if self.weight is not None:
            weight = weight * self.weight[self.target * counted]
        return self.split(weight)


def vmap_rules(ops: Any) -> dict[str, Any]:
    def row_forward(info, in_dims, logits, target, weight, loss, parameters, ignore_index, reduction):
        if in_dims[2] is not None:
            how = (loss, parameters, ignore_index, reduction)
            return one_by_one(ops.row_forward, info, in_dims, logits, target, weight, *how)
        batch = _Batch(info, in_dims, logits, target, weight)
        rows, state = ops.row_forward(batch.logits, batch.target, weight, loss, parameters, ignore_index, NONE)
        losses, state = batch.split(rows), batch.split(state)
        if reduction != NONE:
            losses = losses.sum(-1)
        if reduction == MEAN:
            losses = losses / batch.row_weights(ignore_index, rows.dtype).sum(-1)
        return (losses, state), (0, 0)

    def row_backward(info, in_dims, grad_loss, logits, target, weight, state, loss, parameters, ignore_index):
        if in_dims[3] is not None:
            how = (loss, parameters, ignore_index)
            return one_by_one(ops.row_backward, info, in_dims, grad_loss, logits, target, weight, state, *how)
        batch = _Batch(info, in_dims[1:4], logits, target, weight)
        grad = ops.row_backward(
            batch.flat_rows(grad_loss, in_dims[0]),
            batch.logits,
            batch.target,
            weight,
            batch.flat_rows(state, in_dims[4]),
            loss,
            parameters,
            ignore_index,
        )
        return grad.unflatten(0, (batch.size, -1)), 0

    def row_forward_backward(info, in_dims, logits, target, weight, loss, parameters, ignore_index, reduction):
        if in_dims[2] is not None:
            how = (loss, parameters, ignore_index, reduction)
            return one_by_one(ops.row_forward_backward, info, in_dims, logits, target, weight, *how)
        batch = _Batch(info, in_dims, logits, target, weight)
        rows, state = ops.row_forward(batch.logits, batch.target, weight, loss, parameters, ignore_index, NONE)
        losses = batch.split(rows).sum(-1)
        factor = torch.ones_like(losses)
        if reduction == MEAN:
            factor = 1 / batch.row_weights(ignore_index, rows.dtype).sum(-1)
        row_factor = factor[:, None].expand(batch.size, rows.numel() // batch.size).flatten().contiguous()
        grad = ops.row_backward(row_factor, batch.logits, batch.target, weight, state, loss, parameters, ignore_index)
        return (losses * factor, grad.unflatten(0, (batch.size, -1))), (0, 0)

    def row_statistics(info, in_dims, logits, second, target, weight, *how):
        if in_dims[3] is not None:
            return one_by_one(ops.row_statistics, info, in_dims, logits, second, target, weight, *how)
        batch = _Batch(info, (in_dims[0], *in_dims[2:4]), logits, target, weight)
        second = batch.flat(second, in_dims[1])
        return batch.split(ops.row_statistics(batch.logits, second, batch.target, weight, *how)), 0

    def row_merge(info, in_dims, statistics, *how):
        batch = _Batch(info, (None, None, None), None, None, None)
        return batch.split(ops.row_merge(batch.flat_rows(statistics, in_dims[0]), *how)), 0

    def row_outputs(info, in_dims, statistics, target, *how):
        batch = _Batch(info, (None, in_dims[1], None), None, target, None)
        return batch.split(ops.row_outputs(batch.flat_rows(statistics, in_dims[0]), batch.target, *how)), 0

    def row_gradient(info, in_dims, upstream, statistics, logits, second, target, weight, *how):
        if in_dims[5] is not None:
            tensors = (upstream, statistics, logits, second, target, weight)
            return one_by_one(ops.row_gradient, info, in_dims, *tensors, *how)
        batch = _Batch(info, (in_dims[2], *in_dims[4:6]), logits, target, weight)
        upstream, statistics = (
            batch.flat_rows(x, dim) for x, dim in zip((upstream, statistics), in_dims, strict=False)
        )
        second = batch.flat(second, in_dims[3])
        grad = ops.row_gradient(upstream, statistics, batch.logits, second, batch.target, weight, *how)
        return grad.unflatten(0, (batch.size, -1)), 0

    return {
        "row_statistics": row_statistics,
        "row_merge": row_merge,
        "row_outputs": row_outputs,
        "row_gradient": row_gradient,
        "row_forward": row_forward,
        "row_backward": row_backward,
        "row_forward_backward": row_forward_backward,
    }
