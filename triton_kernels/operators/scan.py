"""Recurrences over time, in Triton: the launcher (fastloss/operators/scan.py).

Which kernel takes a call depends on the layout and the number of steps, never on how many sequences there are, so a
sequence has the same bits in every batch. Nothing here has been measured on a GPU yet.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastloss.operators.scan import ScanOptions, accumulator, empty_outputs

from ..coefficients import kernel_numbers
from ..kernels.scan import block_kernel, column_kernel
from ..losses import coefficients, declared
from ..memory import on_device

__all__ = ["scan"]

SHORT = 1024  # steps that a lane takes one after the other, where neighbours in memory are sequences
COLUMNS = 128  # sequences of a program, a lane each
STEPS = 256  # of a tile of one sequence
NEIGHBOURS = 8  # sequences of a tile, where they are neighbours: 32 bytes of float32
WARPS = 4


def _strides(x: Tensor, time_dim: int) -> tuple[int, int, int]:
    """(outer, step, inner)"""
    last = x.dim() - 1
    return x.stride(0) if time_dim else 0, x.stride(time_dim), x.stride(last) if last > time_dim else 0


def scan(operands: Sequence[Tensor], *how: Any) -> list[Tensor]:
    o, first = ScanOptions(*how), operands[0]
    results = empty_outputs(operands, o.outputs, o.output)
    dtype = accumulator(operands)
    description = declared(o.loss)
    given = iter(operands)
    tensors = tuple(next(given) if o.present >> k & 1 else None for k in range(len(o.constants)))
    flags = (o.terminated, o.truncated, o.there)
    strides = tuple((0, 0, 0) if x is None else _strides(x, o.time_dim) for x in (*tensors, *flags, *results))
    inner = first.shape[-1] if first.dim() - 1 > o.time_dim else 1
    steps = first.shape[o.time_dim]
    outer = len(o.starts) - 1 if o.starts is not None else first.shape[0] if o.time_dim else 1
    of_first = _strides(first, o.time_dim)
    columns = inner > 1 and of_first[2] <= of_first[1]
    arguments = (
        tensors, kernel_numbers(tuple(o.constants), dtype), coefficients(description, o.parameters, dtype),
        *(None if x is None else x.view(torch.uint8) for x in flags), o.starts, tuple(results),
        outer * inner, steps, inner, strides,
    )  # fmt: skip
    options: dict[str, Any] = {
        "SCAN": description.helper,
        "COUNT": len(tensors),
        "REVERSE": o.reverse,
        "A": tl.float64 if dtype == torch.float64 else tl.float32,
    }
    with on_device(first):
        if columns and steps <= SHORT:
            programs = triton.cdiv(outer * inner, COLUMNS)
            column_kernel[(programs,)](*arguments, **options, SEQUENCES=COLUMNS, num_warps=COLUMNS // 32)
        else:
            most, sequences = (STEPS // 4, NEIGHBOURS) if columns else (STEPS, 1)
            tile = (min(most, max(16, triton.next_power_of_2(steps))), sequences)
            programs = triton.cdiv(outer * inner, tile[1])
            block_kernel[(programs,)](*arguments, **options, STEPS=tile[0], SEQUENCES=tile[1], num_warps=WARPS)
    return results
