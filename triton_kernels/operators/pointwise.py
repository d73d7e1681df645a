"""Pointwise losses in Triton: the launchers of both operators (fastloss/operators/pointwise.py).

One pass reads every operand once and writes every gradient once. Where all tensors share one dense order, or are single
elements, there is one row and no arithmetic on strides; else the dimensions are merged as far as they can be
(csrc/layout.h), and the fastest one is the columns.

The tiling of a launch follows from size, layout and dtypes alone: no autotuning, so no first-call cost and the same
bits on every run. Sums take two stages: one partial sum a program, then all of those in order, in double precision. The
constants of the tiling come from registers and loads in flight as compiled; nothing here has been measured on a GPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import triton.language as tl
from torch import Tensor

from fastloss.operators.pointwise import (
    accumulator,
    broadcast_shape,
    empty_gradients,
    empty_results,
    is_dense,
)

from ..coefficients import kernel_numbers
from ..kernels.pointwise import MAX, MIN, SUM, finish_kernel, pointwise_kernel
from ..losses import coefficients, declared
from ..memory import PACKET_BYTES, on_device

__all__ = ["pointwise", "pointwise_backward"]

# For AMD an assert compiles to a printf through the host, many more memory accesses in every kernel.
TRAPS = torch.version.hip is None

WARPS = 4 if torch.version.hip is None else 2  # 128 threads
TILE_BYTES = 4096  # of the accumulator: 8 fp32 a thread and operand; 16 took up to 168 registers
STRIDED_COLUMNS = 64  # of a tile where a tensor strides over the columns: its lines are used again by the tile's rows
PROGRAMS = 4096  # at most, and as many partial sums; 4 to 8 waves of the largest GPUs
FINISH_BLOCK = 1024

Strides = tuple[int, ...]


# Triton's own cdiv and next_power_of_2 take 2 us a call.


def ceiling(number: int, divisor: int) -> int:
    """number / divisor, rounded up"""
    return -(-number // divisor)


def power_of_2(number: int) -> int:
    """The least power of 2 that is not below the number."""
    return 1 << (number - 1).bit_length()


# ------------------------------------------------------------------------------------------ layouts


class Tiling(NamedTuple):
    """How a launch walks over its tensors, see kernels/pointwise.py."""

    rows: int
    columns: int
    sizes: Strides  # of the outer dimensions, slowest first
    strides: tuple[Strides, ...]  # along those and along the columns, by tensor
    access: tuple[int, ...]
    tile_rows: int
    packets: int
    packet: int


def merged(shape: Sequence[int], strides: Sequence[Strides]) -> tuple[Strides, tuple[Strides, ...]]:
    """Sizes, and strides by tensor, of fewer dimensions that reach every element; csrc/layout.h in Python."""

    def slower(a: int, b: int) -> bool:
        for tensor in strides:
            if tensor[a] != tensor[b] and tensor[a] and tensor[b]:
                return tensor[a] > tensor[b]
        return False

    order = [d for d, size in enumerate(shape) if size != 1]
    for k in range(1, len(order)):
        while k and slower(order[k], order[k - 1]):
            order[k - 1], order[k] = order[k], order[k - 1]
            k -= 1
    sizes: list[int] = []
    kept: list[Strides] = []  # by dimension
    for d in order:
        step = tuple(tensor[d] for tensor in strides)
        if sizes and all(outer == inner * shape[d] for outer, inner in zip(kept[-1], step, strict=True)):
            sizes[-1] *= shape[d]
            kept[-1] = step
        else:
            sizes.append(shape[d])
            kept.append(step)
    return tuple(sizes), tuple(tuple(step[t] for step in kept) for t in range(len(strides)))


def strides_in(tensor: Tensor, shape: torch.Size) -> Strides:
    """Along the dimensions of the call's shape; 0 where the tensor broadcasts."""
    missing = len(shape) - tensor.dim()
    own = (s if n != 1 else 0 for s, n in zip(tensor.stride(), tensor.shape, strict=True))
    return (0,) * missing + tuple(own)


def tiling(shape: torch.Size, tensors: Sequence[Tensor | None], accumulator_bytes: int) -> Tiling:
    """tensors: all of a launch, None for those that it does not have."""
    present = [tensor for tensor in tensors if tensor is not None]
    numel = shape.numel()
    sizes: Strides = (numel,)
    full = next((tensor for tensor in present if tensor.shape == shape), None)
    if numel == 1:
        strides: tuple[Strides, ...] = ((1,),) * len(present)
    elif full is not None and is_dense(full) and all(t.numel() == 1 or same_order(t, full) for t in present):
        strides = tuple((0,) if tensor.numel() == 1 else (1,) for tensor in present)
    else:
        sizes, strides = merged(shape, [strides_in(tensor, shape) for tensor in present])
    *outer, columns = sizes
    rows = numel // columns

    floats = (t.element_size() for t in present if t.is_floating_point() and (t.numel() > 1 or numel == 1))
    packet = PACKET_BYTES // min(floats, default=4)
    if outer and columns % packet:
        packet = 1
    access = [access_code(tensor, steps, packet) for tensor, steps in zip(present, strides, strict=True)]
    if max(access) < 8:
        packet = 1
    tile = TILE_BYTES // accumulator_bytes
    tile_columns = min(tile, power_of_2(columns))
    if outer and any(code % 4 == 2 for code in access):
        tile_columns = min(tile_columns, STRIDED_COLUMNS)
    tile_rows = min(tile // tile_columns, power_of_2(rows))
    of_present = iter(zip(strides, access, strict=True))
    of_all = [((), 0) if tensor is None else next(of_present) for tensor in tensors]
    return Tiling(
        rows, columns, tuple(outer), tuple(steps for steps, _ in of_all), tuple(code for _, code in of_all),
        tile_rows, max(1, tile_columns // packet), packet,
    )  # fmt: skip


def same_order(tensor: Tensor, other: Tensor) -> bool:
    return tensor.shape == other.shape and tensor.stride() == other.stride()


def access_code(tensor: Tensor, strides: Strides, packet: int) -> int:
    *outer, inner = strides
    code = min(inner, 2) + (4 if any(outer) else 0)
    unit = min(PACKET_BYTES, packet * tensor.element_size())
    steps = (step * tensor.element_size() % unit for step in outer)
    if inner == 1 and packet > 1 and tensor.data_ptr() % unit == 0 and not any(steps):
        code += 8 * unit
    return code


# ------------------------------------------------------------------------------------------ launches


def launch(
    operands: Sequence[Tensor], weight: Tensor | None, scale: Tensor | None, upstream: Tensor | None, loss: str,
    scalars: Sequence[float], parameters: Sequence[float], present: int, wanted: int, masked: bool, factor: float,
    losses: Tensor | None, total: Tensor | None, metrics: Tensor | None,
) -> list[Tensor]:  # fmt: skip
    """Writes losses (elementwise), total (their sum) and metrics, if given; allocates and returns the gradients."""
    description = declared(loss)
    accumulate = accumulator(operands)
    shape = broadcast_shape(operands)
    tensors = iter(operands)
    by_number = [next(tensors) if present >> k & 1 else None for k in range(description.operands)]
    allocated = iter(empty_gradients(operands, present, wanted))
    gradients = [next(allocated) if wanted >> k & 1 else None for k in range(description.operands)]
    readable = [as_bytes(tensor) for tensor in (*by_number, weight, scale, upstream)]
    how = tiling(shape, [*readable, losses, *gradients], accumulate.itemsize)
    column_tiles = ceiling(how.columns // how.packet, how.packets)
    tiles = ceiling(how.rows, how.tile_rows) * column_tiles
    tiles_a_program = max(1, ceiling(tiles, PROGRAMS))
    programs = max(1, ceiling(tiles, tiles_a_program))

    kinds = description.metrics if metrics is not None else ()
    weighted_mean = weight is not None and "mean" in kinds
    sums = (SUM.value,) * ((total is not None) + weighted_mean)
    sums += tuple({"min": MIN.value, "max": MAX.value}.get(kind, SUM.value) for kind in kinds)
    device = operands[0].device
    partials = torch.empty(len(sums), programs, dtype=accumulate, device=device) if sums else None
    of_operands = tuple(None if operand is not None else scalars[k] for k, operand in enumerate(by_number))
    with on_device(operands[0]):
        pointwise_kernel[(programs,)](
            tuple(readable[:-3]), kernel_numbers(of_operands, accumulate), *readable[-3:],
            kernel_numbers((None if factor == 1.0 else factor,), accumulate)[0],
            coefficients(description, parameters, accumulate), losses, tuple(gradients), partials,
            tiles_a_program, tiles, column_tiles, how.rows, how.columns, how.sizes, how.strides,
            LOSS=description.helper, DOMAIN=description.domain, REQUIREMENT=description.requirement,
            ACCESS=how.access, METRICS=kinds, KINDS=sums,
            WEIGHTS=weighted_mean, REDUCE=total is not None, MASKED=masked and weight is not None,
            A=tl.float64 if accumulate == torch.float64 else tl.float32,
            EDGE=how.columns % how.packet != 0, WIDE=shape.numel() >= 2**31,
            ROWS=how.tile_rows, PACKETS=how.packets, PACKET=how.packet, num_warps=WARPS,
            debug=TRAPS and description.domain is not None, sanitize_overflow=False,
        )  # fmt: skip
        if sums:
            finish_kernel[((total is not None) + len(kinds),)](
                partials, total, metrics, programs, shape.numel(),
                METRICS=kinds, WEIGHTS=weighted_mean, REDUCE=total is not None, BLOCK=FINISH_BLOCK,
            )  # fmt: skip
    return [gradient for gradient in gradients if gradient is not None]


def as_bytes(tensor: Tensor | None) -> Tensor | None:
    """A tensor of bools as the bytes that it consists of."""
    return tensor.view(torch.uint8) if tensor is not None and tensor.dtype == torch.bool else tensor


def pointwise(
    operands: Sequence[Tensor], weight: Tensor | None, scale: Tensor | None, loss: str, scalars: Sequence[float],
    parameters: Sequence[float], present: int, wanted: int, masked: bool, factor: float, reduce: bool, measure: bool,
    dtype: int,
) -> tuple[Tensor, Tensor, list[Tensor]]:  # fmt: skip
    """(loss, metrics, gradients of the wanted operands)"""
    count = len(declared(loss).metrics) if measure else 0
    result, metrics = empty_results(operands, reduce, count, dtype)
    gradients = launch(
        operands, weight, scale, None, loss, scalars, parameters, present, wanted, masked, factor,
        None if reduce else result, result if reduce else None, metrics if count else None,
    )  # fmt: skip
    return result, metrics, gradients


def pointwise_backward(
    upstream: Tensor, operands: Sequence[Tensor], weight: Tensor | None, scale: Tensor | None, loss: str,
    scalars: Sequence[float], parameters: Sequence[float], present: int, wanted: int, masked: bool, factor: float,
) -> list[Tensor]:  # fmt: skip
    """The gradients of the wanted operands; upstream is the gradient of the elementwise losses."""
    return launch(
        operands, weight, scale, upstream, loss, scalars, parameters, present, wanted, masked, factor,
        None, None, None,
    )  # fmt: skip
