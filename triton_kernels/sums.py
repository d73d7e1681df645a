"""Deterministic sums over the rows: their kernels and launchers.

One program adds up SUM_CHUNK or more values, at most SUM_PROGRAMS programs write a partial sum each, one program adds
those. The split depends on the number of values alone, so the same input gives the same bits.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

SUM_BLOCK = 1024
SUM_CHUNK = 4 * SUM_BLOCK
SUM_PROGRAMS = 512


@triton.jit(do_not_specialize=["count", "chunk"])
def sum_kernel(values, denominator, output, count, chunk, BLOCK: tl.constexpr):
    """output[program] = sum of values[program * chunk : (program + 1) * chunk], divided by denominator[0] if given."""
    program = tl.program_id(0)
    start = program.to(tl.int64) * chunk
    end = tl.minimum(start + chunk, count)
    total = tl.zeros((BLOCK,), values.dtype.element_ty)
    for first in range(start, end, BLOCK):
        index = first + tl.arange(0, BLOCK)
        total += tl.load(values + index, mask=index < end, other=0.0)
    result = tl.sum(total, axis=0)
    if denominator is not None:
        result = result / tl.load(denominator)
    tl.store(output + program, result)


@triton.jit(do_not_specialize=["count", "chunk", "classes", "ignore_index"])
def target_weight_kernel(target, weight, output, count, chunk, classes, ignore_index, BLOCK: tl.constexpr):
    """output[program] = sum of the class weights of the targets that count (1 each without class weights)."""
    program = tl.program_id(0)
    start = program.to(tl.int64) * chunk
    end = tl.minimum(start + chunk, count)
    total = tl.zeros((BLOCK,), output.dtype.element_ty)
    for first in range(start, end, BLOCK):
        row = first + tl.arange(0, BLOCK)
        index = tl.load(target + row, mask=row < end, other=ignore_index)
        counted = index != ignore_index
        if weight is None:
            total += tl.where(counted, 1.0, 0.0)
        else:
            inside = counted & (index >= 0) & (index < classes)
            total += tl.load(weight + index, mask=inside, other=0.0)
    tl.store(output + program, tl.sum(total, axis=0))


def sum_plan(count: int) -> tuple[int, int]:
    """(programs, values a program)"""
    programs = min(triton.cdiv(count, SUM_CHUNK), SUM_PROGRAMS)
    return programs, triton.cdiv(triton.cdiv(count, programs), SUM_BLOCK) * SUM_BLOCK


def sum_rows(values: Tensor, denominator: Tensor | None) -> Tensor:
    """Sum of the contiguous values (rows,), divided by the 0-d denominator if there is one; 0-d, on the device."""
    result = values.new_empty(())
    programs, chunk = sum_plan(values.numel())
    if programs > 1:
        partial = values.new_empty(programs)
        sum_kernel[(programs,)](values, None, partial, values.numel(), chunk, BLOCK=SUM_BLOCK)
        values, chunk = partial, SUM_BLOCK
    sum_kernel[(1,)](values, denominator, result, values.numel(), chunk, BLOCK=SUM_BLOCK)
    return result


def sum_target_weights(
    target: Tensor, weight: Tensor | None, classes: int, ignore_index: int, dtype: torch.dtype
) -> Tensor:
    """Sum of the weights of the index targets (rows,) that count; 0-d, on the device."""
    programs, chunk = sum_plan(target.numel())
    partial = torch.empty(programs, dtype=dtype, device=target.device)
    target_weight_kernel[(programs,)](
        target, weight, partial, target.numel(), chunk, classes, ignore_index, BLOCK=SUM_BLOCK
    )
    return sum_rows(partial, None) if programs > 1 else partial[0]
