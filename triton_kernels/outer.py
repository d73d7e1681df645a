"""Losses over all pairs of elements within a row, in Triton: the kernel and the launcher of the operator
(fastloss/operators/outer.py).

A program has some sources of one row and walks over the row's targets; the pairs are in registers only. Losses and
derivatives are added up for each place of the tile, so that a long row costs no accuracy, then across the tile.
Programs write partial losses, which are added in their order. The plan of a launch follows from the shape alone; its
constants come from registers as compiled, nothing here has been measured on a GPU yet.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastloss.operators.outer import accumulator, empty_results

from .common import constant, kernel_constants, on_device, sum_rows
from .pairs_losses import LOSSES, pairs_loss
from .pointwise_kernels import narrow, widen

__all__ = ["outer"]

SOURCES, TARGETS = 32, 32  # of a tile: 8 pairs a thread
WARPS = 4


@triton.jit
def read(tensor, row, row_stride, index, step, mask, A: tl.constexpr):
    """In A, 0 where masked."""
    return widen(tl.load(tensor + row * row_stride + index.to(tl.int64) * step, mask=mask, other=0.0), A)


@triton.jit(do_not_specialize=["sources", "targets", "blocks", "row_strides", "factor"])
def pairs_kernel(
    source, target, operands, row_factor, factor, constants, loss, gradient,
    sources, targets, blocks, row_strides, steps,
    LOSS: tl.constexpr, SOURCES: tl.constexpr, TARGETS: tl.constexpr, A: tl.constexpr,
):  # fmt: skip
    """loss[program] = the program's share of its row's loss; gradient (rows, sources), contiguous, or None.

    row_strides and steps: of the source, the target and the operands, along the rows and along the elements.
    """
    program = tl.program_id(0)
    row = program.to(tl.int64) // blocks
    i = program % blocks * SOURCES + tl.arange(0, SOURCES)
    exists = i < sources
    s = read(source, row, row_strides[0], i, steps[0], exists, A)[:, None]
    x = ()
    for k in tl.static_range(len(operands)):
        x += (read(operands[k], row, row_strides[2 + k], i, steps[2 + k], exists, A)[:, None],)
    p = [None if number is None else constant(number, A).to(A) for number in constants]
    f = constant(factor, A).to(A)
    losses = tl.zeros((SOURCES, TARGETS), A)
    slopes = tl.zeros((SOURCES, TARGETS), A)
    for first in range(0, targets, TARGETS):
        j = first + tl.arange(0, TARGETS)
        t = read(target, row, row_strides[1], j, steps[1], j < targets, A)[None, :]
        value, derivative = pairs_loss(LOSS, s, t, x, p)
        counted = exists[:, None] & (j < targets)[None, :]
        losses += tl.where(counted, value, 0.0)
        slopes += tl.where(counted, derivative, 0.0)
    total = tl.sum(tl.sum(losses, axis=1), axis=0)
    slope = tl.sum(slopes, axis=1)
    if row_factor is not None:
        of_row = tl.load(row_factor + row)
        f = f * of_row
        total = tl.where(of_row == 0.0, 0.0, total)  # the row is not there: 0 * NaN would be
        slope = tl.where(of_row == 0.0, 0.0, slope)
    tl.store(loss + program, f * total)
    if gradient is not None:
        tl.store(gradient + row * sources + i, narrow(f * slope, gradient.dtype.element_ty), mask=exists)


def outer(
    source: Tensor, target: Tensor, operands: Sequence[Tensor], row_factor: Tensor | None, loss: str,
    parameters: Sequence[float], factor: float, reduce: bool, wanted: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """(loss, gradient): loss (rows,) or their sum, the gradient by the source if it is wanted."""
    (rows, sources), targets = source.shape, target.shape[1]
    dtype = accumulator(source, target)
    losses, gradient = empty_results(source, target, reduce, wanted)
    tile = (min(SOURCES, triton.next_power_of_2(sources)), min(TARGETS, triton.next_power_of_2(targets)))
    blocks = triton.cdiv(sources, tile[0])
    partial = losses if not reduce and blocks == 1 else losses.new_empty(rows * blocks)
    tensors = (source, target, *operands)
    with on_device(source):
        pairs_kernel[(rows * blocks,)](
            source, target, tuple(operands), row_factor, *kernel_constants((factor / targets,), dtype),
            kernel_constants(LOSSES[loss](parameters), dtype), partial, gradient if wanted else None,
            sources, targets, blocks, tuple(0 if x.dim() == 1 else x.stride(0) for x in tensors),
            tuple(x.stride(-1) for x in tensors),
            LOSS=loss, SOURCES=tile[0], TARGETS=tile[1], A=tl.float64 if dtype == torch.float64 else tl.float32,
            num_warps=WARPS if tile[0] * tile[1] >= 256 * WARPS else 1,
        )  # fmt: skip
        if reduce:
            return sum_rows(partial, None), gradient
    return partial if blocks == 1 else partial.view(rows, blocks).sum(1), gradient
