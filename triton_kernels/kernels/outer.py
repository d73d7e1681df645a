"""The kernel over all pairs of elements within a row.

A program has some sources of one row and walks over the row's targets; the pairs are in registers only. Losses and
derivatives are added up for each place of the tile, so that a long row costs no accuracy, then across the tile.
"""

from __future__ import annotations

import triton
import triton.language as tl

from ..coefficients import number
from ..memory import narrow, widen


@triton.jit
def read(tensor, row, row_stride, index, step, mask, A: tl.constexpr):
    """In A, 0 where masked."""
    return widen(tl.load(tensor + row * row_stride + index.to(tl.int64) * step, mask=mask, other=0.0), A)


@triton.jit(do_not_specialize=["sources", "targets", "blocks", "row_strides", "factor", "coefficients"])
def outer_kernel(
    source, target, operands, row_factor, factor, coefficients, loss, gradient,
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
    c = [None if k is None else number(k, A) for k in coefficients]
    f = number(factor, A)
    losses = tl.zeros((SOURCES, TARGETS), A)
    slopes = tl.zeros((SOURCES, TARGETS), A)
    for first in range(0, targets, TARGETS):
        j = first + tl.arange(0, TARGETS)
        t = read(target, row, row_strides[1], j, steps[1], j < targets, A)[None, :]
        value, derivative = LOSS(s, t, *x, *c)
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
