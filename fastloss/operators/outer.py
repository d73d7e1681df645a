"""The operator over all pairs of elements within a row: schema, shapes without data (meta), vmap rule.

``source``: (rows, N), ``target``: (rows, M), ``operands``: (N,) or (rows, N) each; floating-point, of any dtypes and
strides. The arithmetic is in the accumulator dtype: float64 if the source or the target is, else float32.
``row_factor``: (rows,) in the accumulator dtype, contiguous, or None: all 1. A row of factor 0 is not there, whatever
it holds.
``loss``: factor * row_factor_b * sum_i mean_j f(source_bi, target_bj, operands_bi), in the accumulator dtype; of each
row, or, if ``reduce``, their sum.
``gradient``: of the sum over the rows by the source, contiguous and in its dtype, if it is ``wanted``; else (0,).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

SCHEMAS = {
    "outer": "(Tensor source, Tensor target, Tensor[] operands, Tensor? row_factor, str loss, float[] parameters, "
    "float factor, bool reduce, bool wanted) -> (Tensor loss, Tensor gradient)",
}


class OuterOptions(NamedTuple):
    """What the operator takes between its source and `wanted`, in its order."""

    target: Tensor
    operands: list[Tensor]
    row_factor: Tensor | None
    loss: str
    parameters: Sequence[float]
    factor: float
    reduce: bool


def accumulator(source: Tensor, target: Tensor) -> torch.dtype:
    return torch.float64 if torch.float64 in (source.dtype, target.dtype) else torch.float32


def empty_results(source: Tensor, target: Tensor, reduce: bool, wanted: bool) -> tuple[Tensor, Tensor]:
    """(loss, gradient), without data in them"""
    loss = source.new_empty(() if reduce else source.shape[:1], dtype=accumulator(source, target))
    return loss, source.new_empty(source.shape if wanted else (0,))


def _meta_outer(source, target, operands, row_factor, loss, parameters, factor, reduce, wanted):
    return empty_results(source, target, reduce, wanted)


META: dict[str, Any] = {"outer": _meta_outer}


# A batch of B calls is one call with B times the rows, not reduced; each entry is then summed.


def _flat(tensor: Tensor, dim: int | None, size: int) -> Tensor:
    """(rows, ...), batched along dim -> (size * rows, ...)"""
    tensor = tensor.expand(size, *tensor.shape) if dim is None else tensor.movedim(dim, 0)
    return tensor.flatten(0, 1)


def vmap_rules(ops: Any) -> dict[str, Any]:
    def outer(info, in_dims, source, target, operands, row_factor, loss, parameters, factor, reduce, wanted):
        size, rows = info.batch_size, source.shape[0 if in_dims[0] != 0 else 1]

        def flat_operand(operand: Tensor, dim: int | None) -> Tensor:
            if operand.dim() - (dim is not None) == 1:
                if dim is None:
                    return operand
                operand, dim = operand.movedim(dim, 0).unsqueeze(1).expand(-1, rows, -1), 0
            return _flat(operand, dim, size)

        operands = [flat_operand(x, dim) for x, dim in zip(operands, in_dims[2], strict=True)]
        if row_factor is not None:
            row_factor = _flat(row_factor, in_dims[3], size).contiguous()
        source, target = _flat(source, in_dims[0], size), _flat(target, in_dims[1], size)
        losses, gradient = ops.outer(source, target, operands, row_factor, loss, parameters, factor, False, wanted)
        losses = losses.unflatten(0, (size, rows))
        loss = losses.sum(1) if reduce else losses
        return (loss, gradient.unflatten(0, (size, rows)) if wanted else gradient), (0, 0 if wanted else None)

    return {"outer": outer}
