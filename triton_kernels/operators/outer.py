"""Losses over all pairs of elements within a row, in Triton: the launcher (fastloss/operators/outer.py).

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

from ..coefficients import kernel_numbers
from ..kernels.outer import outer_kernel
from ..losses import coefficients, declared
from ..memory import on_device
from ..sums import sum_rows

__all__ = ["outer"]

SOURCES, TARGETS = 32, 32  # of a tile: 8 pairs a thread
WARPS = 4


def outer(
    source: Tensor, target: Tensor, operands: Sequence[Tensor], row_factor: Tensor | None, loss: str,
    parameters: Sequence[float], factor: float, reduce: bool, wanted: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """(loss, gradient): loss (rows,) or their sum, the gradient by the source if it is wanted."""
    (rows, sources), targets = source.shape, target.shape[1]
    dtype = accumulator(source, target)
    description = declared(loss)
    losses, gradient = empty_results(source, target, reduce, wanted)
    tile = (min(SOURCES, triton.next_power_of_2(sources)), min(TARGETS, triton.next_power_of_2(targets)))
    blocks = triton.cdiv(sources, tile[0])
    partial = losses if not reduce and blocks == 1 else losses.new_empty(rows * blocks)
    tensors = (source, target, *operands)
    with on_device(source):
        outer_kernel[(rows * blocks,)](
            source, target, tuple(operands), row_factor, *kernel_numbers((factor / targets,), dtype),
            coefficients(description, parameters, dtype), partial, gradient if wanted else None,
            sources, targets, blocks, tuple(0 if x.dim() == 1 else x.stride(0) for x in tensors),
            tuple(x.stride(-1) for x in tensors),
            LOSS=description.helper, SOURCES=tile[0], TARGETS=tile[1],
            A=tl.float64 if dtype == torch.float64 else tl.float32,
            num_warps=WARPS if tile[0] * tile[1] >= 256 * WARPS else 1,
        )  # fmt: skip
        if reduce:
            return sum_rows(partial, None), gradient
    return partial if blocks == 1 else partial.view(rows, blocks).sum(1), gradient
