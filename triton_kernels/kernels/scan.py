"""The kernels of recurrences over time; csrc/losses/contracts/scan.h says what a functor is.

`column_kernel` has a lane a sequence, whose steps come one after the other: for short sequences that are neighbours in
memory. `block_kernel` has a tile (STEPS, SEQUENCES) of steps that are composed at once, as affine maps, and goes from
tile to tile. Both read every input once.
"""

# mypy: disable-error-code="operator,index,assignment"
# Device code: under one constexpr a name is a tensor, under another it is None; tuples grow.

from __future__ import annotations

import triton
import triton.language as tl

from ..coefficients import number
from ..math import carried
from ..memory import narrow, widen


@triton.jit
def compose(a, b, later_a, later_b):
    """Of y -> b + a y and, behind it in the order of the scan, y -> later_b + later_a y."""
    return carried(later_a, a), later_b + carried(later_a, b)


@triton.jit
def places(sequence, exists, starts, steps, inner):
    """(outer, inner, first step, number of steps) of some sequences."""
    outer = sequence // inner
    if starts is None:
        begin = tl.zeros_like(sequence)
        length = begin + steps
    else:
        begin = tl.load(starts + outer, mask=exists, other=0)
        length = tl.load(starts + outer + 1, mask=exists, other=0) - begin
        begin = tl.maximum(tl.minimum(begin, steps), 0)  # nothing checks them here: not beyond the tensors
        length = tl.maximum(tl.minimum(length, steps - begin), 0)
    return outer, sequence % inner, begin, length


@triton.jit
def offsets(outer, within, begin, time, strides, RAGGED: tl.constexpr):
    """Of a tensor, whose strides are (outer, step, inner)."""
    if RAGGED:
        return (begin + time) * strides[1] + within * strides[2]
    else:
        return outer * strides[0] + time * strides[1] + within * strides[2]


@triton.jit
def flag(tensor, outer, within, begin, time, strides, mask, RAGGED: tl.constexpr):
    return tl.load(tensor + offsets(outer, within, begin, time, strides, RAGGED), mask=mask, other=0) != 0


@triton.jit
def read(
    operands, constants, terminated, truncated, there, strides, outer, within, begin, time, mask,
    COUNT: tl.constexpr, RAGGED: tl.constexpr, A: tl.constexpr,
):  # fmt: skip
    """(operands, 1 where it is alive, whether it has not ended, whether it is there) of some steps."""
    counted = mask
    if there is not None:
        counted = mask & flag(there, outer, within, begin, time, strides[COUNT + 2], mask, RAGGED)
    x = ()
    for k in tl.static_range(COUNT):
        if operands[k] is None:
            x += (tl.zeros(mask.shape, A) + constants[k],)
        else:
            at = operands[k] + offsets(outer, within, begin, time, strides[k], RAGGED)
            value = widen(tl.load(at, mask=mask, other=0.0), A)
            if there is not None:
                value = tl.where(counted, value, 0.0)
            x += (value,)
    alive = tl.zeros(mask.shape, A) + 1.0
    goes_on = mask
    if terminated is not None:
        over = flag(terminated, outer, within, begin, time, strides[COUNT], mask, RAGGED)
        alive = tl.where(over, 0.0, 1.0).to(A)
        goes_on = goes_on & ~over
    if truncated is not None:
        goes_on = goes_on & ~flag(truncated, outer, within, begin, time, strides[COUNT + 1], mask, RAGGED)
    return x, alive, goes_on, counted


@triton.jit
def write(
    outputs, values, strides, outer, within, begin, time, mask, counted, FIRST: tl.constexpr, RAGGED: tl.constexpr
):  # fmt: skip
    for k in tl.static_range(len(outputs)):
        at = outputs[k] + offsets(outer, within, begin, time, strides[FIRST + k], RAGGED)
        tl.store(at, narrow(tl.where(counted, values[k], 0.0), outputs[k].dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["sequences", "steps", "inner", "constants", "coefficients"])
def column_kernel(
    operands, constants, coefficients, terminated, truncated, there, starts, outputs, sequences, steps, inner, strides,
    SCAN: tl.constexpr, COUNT: tl.constexpr, REVERSE: tl.constexpr, SEQUENCES: tl.constexpr, A: tl.constexpr,
):  # fmt: skip
    RAGGED: tl.constexpr = starts is not None
    sequence = tl.program_id(0).to(tl.int64) * SEQUENCES + tl.arange(0, SEQUENCES)
    exists = sequence < sequences
    outer, within, begin, length = places(sequence, exists, starts, steps, inner)
    constants = [number(constant, A) for constant in constants]
    c = [number(constant, A) for constant in coefficients]
    y = tl.zeros((SEQUENCES,), A)
    seen = sequence < 0
    for s in range(tl.max(tl.where(exists, length, 0), axis=0)):
        mask = exists & (s < length)
        time = length - 1 - s if REVERSE else begin * 0 + s
        x, alive, goes_on, counted = read(
            operands, constants, terminated, truncated, there, strides, outer, within, begin, time, mask,
            COUNT, RAGGED, A,
        )  # fmt: skip
        on = goes_on & seen
        follows = tl.where(on, 1.0, 0.0).to(A)
        before = tl.where(on, y, 0.0)
        a, b = SCAN.step(x, alive, follows, c)
        found = b + carried(a, before)
        values = SCAN.finish(x, alive, follows, found, before, c)
        write(outputs, values, strides, outer, within, begin, time, mask, counted, COUNT + 3, RAGGED)
        y = tl.where(counted, found, y)
        seen = seen | counted


@triton.jit(do_not_specialize=["sequences", "steps", "inner", "constants", "coefficients"])
def block_kernel(
    operands, constants, coefficients, terminated, truncated, there, starts, outputs, sequences, steps, inner, strides,
    SCAN: tl.constexpr, COUNT: tl.constexpr, REVERSE: tl.constexpr, STEPS: tl.constexpr, SEQUENCES: tl.constexpr,
    A: tl.constexpr,
):  # fmt: skip
    """A tile's steps lie in the order of memory, so the first one of the scan may be the last one of the tile."""
    RAGGED: tl.constexpr = starts is not None
    LAST: tl.constexpr = 0 if REVERSE else STEPS - 1
    sequence = tl.program_id(0).to(tl.int64) * SEQUENCES + tl.arange(0, SEQUENCES)[None, :]
    exists = sequence < sequences
    outer, within, begin, length = places(sequence, exists, starts, steps, inner)
    constants = [number(constant, A) for constant in constants]
    c = [number(constant, A) for constant in coefficients]
    place = tl.arange(0, STEPS)[:, None]
    beginning = STEPS - 1 - LAST
    y = tl.zeros((1, SEQUENCES), A)
    counts = tl.zeros((1, SEQUENCES), tl.int32)
    for start in range(0, tl.max(tl.max(tl.where(exists, length, 0), axis=1), axis=0), STEPS):
        s = start + (STEPS - 1 - place if REVERSE else place)
        mask = exists & (s < length)
        time = length - 1 - s if REVERSE else begin * 0 + s
        x, alive, goes_on, counted = read(
            operands, constants, terminated, truncated, there, strides, outer, within, begin, time, mask,
            COUNT, RAGGED, A,
        )  # fmt: skip
        if there is None:
            on = goes_on & (s > 0)
        else:
            here = counted.to(tl.int32)
            on = goes_on & (counts + tl.cumsum(here, axis=0, reverse=REVERSE) - here > 0)
            counts += tl.sum(here, axis=0)[None, :]
        follows = tl.where(on, 1.0, 0.0).to(A)
        a, b = SCAN.step(x, alive, follows, c)
        a = tl.where(counted, tl.where(on, a, 0.0), 1.0)  # what is not there hands on
        b = tl.where(counted, b, 0.0)
        all_a, all_b = tl.associative_scan((a, b), 0, compose, reverse=REVERSE)
        found = all_b + carried(all_a, tl.broadcast_to(y, (STEPS, SEQUENCES)))
        # y of the step before in the order of the scan
        neighbour = tl.broadcast_to(tl.minimum(tl.maximum(place + (1 if REVERSE else -1), 0), STEPS - 1), found.shape)
        before = tl.where(place == beginning, y, tl.gather(found, neighbour, axis=0))
        before = tl.where(on, before, 0.0)
        values = SCAN.finish(x, alive, follows, found, before, c)
        write(outputs, values, strides, outer, within, begin, time, mask, counted, COUNT + 3, RAGGED)
        y = tl.sum(tl.where(place == LAST, found, 0.0), axis=0)[None, :]
