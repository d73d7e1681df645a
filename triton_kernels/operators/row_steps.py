"""Row losses in steps, in Triton: the launchers of kernels/row_statistics.py.

Each reads the logits once, statistics and gradient; a row goes through its program a tile at a time, whatever its
length. The plan follows from shape, strides and dtype alone: a row has the same bits in every batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

from fastloss.core.arguments import accumulator_dtype
from fastloss.core.registry import BY_KERNEL
from fastloss.operators.row import COMMON_STATISTICS

from ..coefficients import in_arithmetic, kernel_numbers
from ..kernels.row_statistics import row_gradient_kernel, row_merge_kernel, row_outputs_kernel, row_statistics_kernel
from ..losses import RowLoss, declared
from ..memory import PACKET_BYTES, has_unit_stride, on_device

# For AMD an assert compiles to a printf through the host, 65 more memory accesses in every kernel.
TRAPS = torch.version.hip is None

WARPS = 8
TILE_BYTES = 16384  # of the accumulator: 16 fp32 a thread, beside the exponentials of as many
ROWS_A_PROGRAM = 128  # of outputs and merges


class Steps(NamedTuple):
    """A loss as the kernels of the steps take it."""

    loss: RowLoss
    coefficients: Any
    statistics: int
    outputs: int
    sums: int
    expectations: int
    dense: bool


def described(loss: str, parameters: Sequence[float], classes: int, soft: bool, accumulate: torch.dtype) -> Steps:
    declaration, known = BY_KERNEL[loss], declared(loss)
    coefficients = known.coefficients(in_arithmetic(parameters, accumulate), classes)
    dense = soft or getattr(coefficients, "uniform", None) is not None
    expectations = declaration.expectations
    sums = declaration.statistics - COMMON_STATISTICS - 2 * declaration.two_rows - expectations
    numbers = kernel_numbers(coefficients, accumulate)
    return Steps(known.helper, numbers, declaration.statistics, declaration.outputs, sums, expectations, dense)


def strides_of(*matrices: Tensor | None) -> tuple[int, ...]:
    """Of each matrix over rows or batches, and over classes."""
    return tuple(stride for m in matrices for stride in ((0, 0) if m is None else m.stride()[:2]))


def grid_of(logits: Tensor, strides: Sequence[int], accumulate: torch.dtype) -> tuple[int, int, int, dict[str, Any]]:
    """(programs, positions of a batch, blocks of a batch, the tile)"""
    by_class, packet = logits.dim() == 2, PACKET_BYTES // logits.element_size()
    batches, positions = (1, logits.shape[0]) if by_class else (logits.shape[0], logits.shape[2])
    elements, classes = TILE_BYTES // accumulate.itemsize, triton.next_power_of_2(max(1, logits.shape[1]))
    if by_class:
        columns = min(classes, elements)
        rows = elements // columns  # of a row's length, so that a row is the same in every batch
    else:
        rows = min(triton.next_power_of_2(positions), 32 * packet)
        columns = min(classes, max(1, elements // rows))
    blocks, neighbours = triton.cdiv(positions, rows), logits.shape[-1]
    steps = strides[::2] if by_class else strides
    tile = {
        "BY_CLASS": by_class, "ROWS": rows, "CLASSES": columns,
        "PACKET": packet if all(stride % packet == 0 for stride in (*steps, neighbours)) else 1,
    }  # fmt: skip
    return batches * blocks, positions, blocks, tile


def check(*matrices: Tensor | None) -> None:
    if not all(m is None or has_unit_stride(m) for m in matrices):
        raise ValueError("the last dimension of the logits, of a second row and of soft targets must have stride 1")


def targets_of(target: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
    """(index target, soft target)"""
    soft = target is not None and target.is_floating_point()
    return (None, target) if soft else (target, None)


def row_count(logits: Tensor) -> int:
    return logits.shape[0] * (logits.shape[2] if logits.dim() == 3 else 1)


def row_statistics(
    logits: Tensor, second: Tensor | None, target: Tensor | None, weight: Tensor | None, loss: str,
    parameters: Sequence[float], ignore_index: int, first_class: int, classes: int,
) -> Tensor:  # fmt: skip
    """(k, rows)"""
    index, soft = targets_of(target)
    check(logits, second, soft)
    accumulate, rows = accumulator_dtype(logits.dtype), row_count(logits)
    steps = described(loss, parameters, classes, soft is not None, accumulate)
    statistics = torch.empty(steps.statistics, rows, dtype=accumulate, device=logits.device)
    strides = strides_of(logits, second, soft)
    programs, positions, blocks, tile = grid_of(logits, strides, accumulate)
    if rows:
        with on_device(logits):
            row_statistics_kernel[(programs,)](
                logits, second, index, soft, weight, statistics, rows, logits.shape[1], positions, blocks,
                strides, first_class, classes, ignore_index, steps.coefficients,
                LOSS=steps.loss, DENSE=steps.dense, SUMS=steps.sums, EXPECTATIONS=steps.expectations, **tile,
                num_warps=WARPS, debug=TRAPS, sanitize_overflow=False,
            )  # fmt: skip
    return statistics


def row_merge(statistics: Tensor, loss: str, parameters: Sequence[float]) -> Tensor:
    """(slices, k, rows) -> (k, rows)"""
    slices, count, rows = statistics.shape
    steps = described(loss, parameters, 1, False, statistics.dtype)
    merged = torch.empty(count, rows, dtype=statistics.dtype, device=statistics.device)
    if rows:
        with on_device(statistics):
            row_merge_kernel[(triton.cdiv(rows, ROWS_A_PROGRAM),)](
                statistics, merged, rows, slices, LOSS=steps.loss, COUNT=count, SUMS=steps.sums,
                EXPECTATIONS=steps.expectations, ROWS=ROWS_A_PROGRAM,
            )  # fmt: skip
    return merged


def row_outputs(
    statistics: Tensor, target: Tensor | None, loss: str, parameters: Sequence[float], ignore_index: int, classes: int
) -> Tensor:
    """(outputs, rows)"""
    index, soft = targets_of(target)
    count, rows = statistics.shape
    steps = described(loss, parameters, classes, soft is not None, statistics.dtype)
    outputs = torch.empty(steps.outputs, rows, dtype=statistics.dtype, device=statistics.device)
    if rows:
        with on_device(statistics):
            row_outputs_kernel[(triton.cdiv(rows, ROWS_A_PROGRAM),)](
                statistics, index, outputs, rows, ignore_index, steps.coefficients, LOSS=steps.loss, COUNT=count,
                OUTPUTS=steps.outputs, ROWS=ROWS_A_PROGRAM,
            )  # fmt: skip
    return outputs


def row_gradient(
    upstream: Tensor, statistics: Tensor, logits: Tensor, second: Tensor | None, target: Tensor | None,
    weight: Tensor | None, loss: str, parameters: Sequence[float], ignore_index: int, first_class: int, classes: int,
) -> Tensor:  # fmt: skip
    """Of the shape of the logits, contiguous."""
    index, soft = targets_of(target)
    check(logits, second, soft)
    accumulate, rows = accumulator_dtype(logits.dtype), row_count(logits)
    steps = described(loss, parameters, classes, soft is not None, accumulate)
    gradient = torch.empty(logits.shape, dtype=logits.dtype, device=logits.device)
    strides = strides_of(logits, second, soft, gradient)
    programs, positions, blocks, tile = grid_of(logits, strides, accumulate)
    if gradient.numel():
        with on_device(logits):
            row_gradient_kernel[(programs,)](
                logits, second, index, soft, weight, statistics, upstream, gradient, rows, logits.shape[1], positions,
                blocks, strides, first_class, classes, ignore_index,
                steps.coefficients, LOSS=steps.loss, DENSE=steps.dense, COUNT=steps.statistics, OUTPUTS=steps.outputs,
                **tile, num_warps=WARPS, debug=TRAPS, sanitize_overflow=False,
            )  # fmt: skip
    return gradient
