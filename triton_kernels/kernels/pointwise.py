"""The two kernels of the pointwise losses: the pass over the elements, and the sums of its partial results.

The elements are (rows, columns): columns is the fastest dimension after merging, rows the product of the others (1
where all tensors share one dense order). A tile is (ROWS, PACKETS, PACKET); the columns come in packets, which lie in
one thread each and are one access where the address allows, and which reduce without a shuffle. Only whole packets are
in the tiles; what is left over of a single row is the EDGE, a tile of one packet for the last program.

Every tensor has a code, its ACCESS: how it moves with the columns (0 stays, 1 by one element, 2 by a stride), + 4 if it
moves with the rows, + 8 times the alignment of its packets in bytes (0: not known). What stays is read once for a
tile, so nothing that broadcasts is ever materialised.

The tensors in the order of their codes and strides: operands, weight, scale, upstream, loss, gradients. What a call
does not have is None, and its code is left out.
"""

# mypy: disable-error-code="operator,index,assignment"
# Device code: under one constexpr a name is a tensor, under another it is None; tuples grow.

from __future__ import annotations

import triton
import triton.language as tl

from ..coefficients import number
from ..memory import narrow, widen


@triton.jit
def row_offset(row, sizes, strides):
    """Offsets (ROWS,) of the rows; sizes and strides of the outer dimensions, slowest first."""
    offset = tl.zeros_like(row).to(tl.int64)
    for k in tl.static_range(len(sizes) - 1):
        index = row % sizes[len(sizes) - 1 - k]
        offset += index.to(tl.int64) * strides[len(sizes) - 1 - k]
        row = row // sizes[len(sizes) - 1 - k]
    return offset + row.to(tl.int64) * strides[0]


@triton.jit
def addresses(tensor, strides, row, sizes, start, local, ACCESS: tl.constexpr):
    """The addresses of the elements at row (ROWS,) and column start + local (1, PACKETS, PACKET); 1 along what they do
    not move with."""
    MOVE: tl.constexpr = ACCESS % 4
    ALIGNMENT: tl.constexpr = ACCESS // 8
    if ACCESS // 4 % 2 == 1:
        offset = row_offset(row, sizes, strides)
    else:
        offset = tl.zeros((1,), tl.int64)
    if MOVE == 1:
        offset += start
    elif MOVE == 2:
        offset += start * strides[len(sizes)]
    if ALIGNMENT > 0:
        # The compiler for AMD loses a hint on pointers, but not that an offset is a product (see aligned_body).
        UNIT: tl.constexpr = ALIGNMENT * 8 // tensor.dtype.element_ty.primitive_bitwidth
        pointers = tl.multiple_of(tensor + offset // UNIT * UNIT, ALIGNMENT)
    else:
        pointers = tensor + offset
    pointers = pointers[:, None, None]
    if MOVE == 1:
        pointers = pointers + local
    elif MOVE == 2:
        pointers = pointers + local.to(tl.int64) * strides[len(sizes)]
    return pointers


@triton.jit
def read(tensor, strides, row, sizes, start, local, row_mask, column_mask, ACCESS: tl.constexpr, A: tl.constexpr):
    """A tile in A, 0 where masked; 1 along what the tensor does not move with."""
    pointers = addresses(tensor, strides, row, sizes, start, local, ACCESS)
    if ACCESS % 4 == 0:
        mask = tl.broadcast_to(row_mask, pointers.shape) if ACCESS // 4 % 2 == 1 else None
    elif ACCESS // 4 % 2 == 1:
        mask = tl.broadcast_to(row_mask & column_mask, pointers.shape)
    else:
        mask = tl.broadcast_to(column_mask, pointers.shape)
    if mask is None:
        return widen(tl.load(pointers), A)
    elif ACCESS % 4 == 0:
        return widen(tl.load(pointers, mask=mask, other=0), A)
    else:
        return widen(tl.load(pointers, mask=mask, other=0, eviction_policy="evict_first"), A)


@triton.jit
def write(tensor, value, strides, row, sizes, start, local, mask, ACCESS: tl.constexpr):
    """ACCESS moves with both, if there is more than one row."""
    pointers = addresses(tensor, strides, row, sizes, start, local, ACCESS)
    tl.store(pointers, narrow(value, tensor.dtype.element_ty), mask=mask)


# ------------------------------------------------------------------------------------------ sums
#
# Of a program: the loss if reduced, the weights if a metric is a mean of weighted elements, the metrics. KINDS has the
# kind of each: numbers, because Triton does not pass on a string that it took out of a tuple.

SUM = tl.constexpr(0)
MIN = tl.constexpr(1)
MAX = tl.constexpr(2)


@triton.jit
def neutral(KIND: tl.constexpr, ROWS: tl.constexpr, PACKETS: tl.constexpr, A: tl.constexpr):
    if KIND == MIN:
        return tl.full((ROWS, PACKETS), float("inf"), A)
    elif KIND == MAX:
        return tl.full((ROWS, PACKETS), float("-inf"), A)
    else:
        return tl.zeros((ROWS, PACKETS), A)


@triton.jit
def neutrals(KINDS: tl.constexpr, ROWS: tl.constexpr, PACKETS: tl.constexpr, A: tl.constexpr):
    values = ()
    for k in tl.static_range(len(KINDS)):
        values += (neutral(KINDS[k], ROWS, PACKETS, A),)
    return values


@triton.jit
def join(x, y, KIND: tl.constexpr):
    if KIND == MIN:
        return tl.minimum(x, y, propagate_nan=tl.PropagateNan.ALL)
    elif KIND == MAX:
        return tl.maximum(x, y, propagate_nan=tl.PropagateNan.ALL)
    else:
        return x + y


@triton.jit
def collapse(x, KIND: tl.constexpr):
    """Over the last axis. tl.min and tl.max drop NaN, so it is added."""
    LAST: tl.constexpr = len(x.shape) - 1
    if KIND == SUM:
        return tl.sum(x, axis=LAST)
    else:
        poison = tl.sum(tl.where(x != x, x, 0.0), axis=LAST)
        if KIND == MIN:
            return tl.min(x, axis=LAST) + poison
        else:
            return tl.max(x, axis=LAST) + poison


@triton.jit
def tile_sums(values, counted, weighed, KINDS: tl.constexpr):
    """(ROWS, PACKETS) of each tile of values (ROWS, PACKETS, PACKET), over the elements that are counted; the extremes
    over those that have a weight as well."""
    results = ()
    for k in tl.static_range(len(KINDS)):
        if KINDS[k] == MIN:
            value = tl.where(counted & weighed, values[k], float("inf"))
        elif KINDS[k] == MAX:
            value = tl.where(counted & weighed, values[k], float("-inf"))
        else:
            value = tl.where(counted, values[k], 0.0)
        results += (collapse(value, KINDS[k]),)
    return results


@triton.jit
def join_all(x, y, KINDS: tl.constexpr):
    results = ()
    for k in tl.static_range(len(KINDS)):
        results += (join(x[k], y[k], KINDS[k]),)
    return results


@triton.jit
def total(x, KIND: tl.constexpr):
    """(ROWS, PACKETS) -> ()"""
    return collapse(collapse(x, KIND), KIND)


# ------------------------------------------------------------------------------------------ the pass over the elements


@triton.jit
def pointwise_tile(
    operands, scalars, weight, scale, upstream, factor, coefficients, loss, gradients, strides, sizes,
    row, start, local, row_mask, column_mask,
    LOSS: tl.constexpr, DOMAIN: tl.constexpr, REQUIREMENT: tl.constexpr, ACCESS: tl.constexpr, METRICS: tl.constexpr,
    KINDS: tl.constexpr, WEIGHTS: tl.constexpr, REDUCE: tl.constexpr, MASKED: tl.constexpr, A: tl.constexpr,
):  # fmt: skip
    """Computes and writes a tile; its sums, (ROWS, PACKETS) each."""
    K: tl.constexpr = (len(ACCESS) - 4) // 2
    mask = row_mask & column_mask
    zeros = tl.zeros(mask.shape, A)
    x = ()
    for k in tl.static_range(K):
        if operands[k] is None:
            x += (zeros + scalars[k],)
        else:
            value = read(operands[k], strides[k], row, sizes, start, local, row_mask, column_mask, ACCESS[k], A)
            x += (zeros + value,)
    f = zeros + 1.0
    w = f
    counted = mask
    if weight is not None:
        w = zeros + read(weight, strides[K], row, sizes, start, local, row_mask, column_mask, ACCESS[K], A)
        f = w
        if MASKED:
            counted = mask & (w != 0.0)
    if factor is not None:
        f = f * factor
    if scale is not None:
        f = f * read(scale, strides[K + 1], row, sizes, start, local, row_mask, column_mask, ACCESS[K + 1], A)
    if upstream is not None:
        f = f * read(upstream, strides[K + 2], row, sizes, start, local, row_mask, column_mask, ACCESS[K + 2], A)
    if DOMAIN is not None:
        tl.device_assert(DOMAIN(*x), REQUIREMENT, mask=counted)

    value, derivatives, metrics = LOSS(*x, *coefficients)
    value = f * value
    if loss is not None:
        written = tl.where(counted, value, 0.0) if MASKED else value
        write(loss, written, strides[K + 3], row, sizes, start, local, mask, ACCESS[K + 3])
    for k in tl.static_range(K):
        if gradients[k] is not None:
            slope = f * derivatives[k]
            slope = tl.where(counted, slope, 0.0) if MASKED else slope
            write(gradients[k], slope, strides[K + 4 + k], row, sizes, start, local, mask, ACCESS[K + 4 + k])

    summands = ()
    if REDUCE:
        summands += (value,)
    if WEIGHTS:
        summands += (w,)
    for k in tl.static_range(len(METRICS)):
        if METRICS[k] == "part":
            summands += (f * metrics[k],)
        elif METRICS[k] == "mean":
            summands += (w * metrics[k],)
        else:
            summands += (metrics[k],)
    return tile_sums(summands, counted, w != 0.0, KINDS)


@triton.jit(
    do_not_specialize=[
        "tiles_a_program", "tiles", "column_tiles", "rows", "columns", "sizes", "strides", "factor", "scalars",
        "coefficients",
    ],
)  # fmt: skip
def pointwise_kernel(
    operands, scalars, weight, scale, upstream, factor, coefficients, loss, gradients, partials,
    tiles_a_program, tiles, column_tiles, rows, columns, sizes, strides,
    LOSS: tl.constexpr, DOMAIN: tl.constexpr, REQUIREMENT: tl.constexpr, ACCESS: tl.constexpr, METRICS: tl.constexpr,
    KINDS: tl.constexpr, WEIGHTS: tl.constexpr, REDUCE: tl.constexpr, MASKED: tl.constexpr, A: tl.constexpr,
    EDGE: tl.constexpr, WIDE: tl.constexpr, ROWS: tl.constexpr, PACKETS: tl.constexpr, PACKET: tl.constexpr,
):  # fmt: skip
    """Some tiles a program, one after the other; its sums go to partials (sums, programs)."""
    program = tl.program_id(0)
    # a function could not return None in a tuple
    scalars = [None if x is None else number(x, A) for x in scalars]
    coefficients = [None if x is None else number(x, A) for x in coefficients]
    if factor is not None:
        factor = number(factor, A)
    packet = tl.arange(0, PACKETS)[None, :, None]
    lane = tl.arange(0, PACKET)[None, None, :]
    packets = columns // PACKET

    sums = neutrals(KINDS, ROWS, PACKETS, A)
    first = program.to(tl.int64) * tiles_a_program
    for tile in range(first, tl.minimum(first + tiles_a_program, tiles)):
        row = tile // column_tiles * ROWS + tl.arange(0, ROWS)
        if not WIDE:
            row = row.to(tl.int32)
        packet_start = tile % column_tiles * PACKETS
        found = pointwise_tile(
            operands, scalars, weight, scale, upstream, factor, coefficients, loss, gradients, strides, sizes,
            row, packet_start * PACKET, packet * PACKET + lane,
            (row < rows)[:, None, None], tl.broadcast_to(packet + packet_start < packets, (1, PACKETS, PACKET)),
            LOSS, DOMAIN, REQUIREMENT, ACCESS, METRICS, KINDS, WEIGHTS, REDUCE, MASKED, A,
        )  # fmt: skip
        sums = join_all(sums, found, KINDS)

    edge = neutrals(KINDS, 1, 1, A)
    if EDGE and program == tl.num_programs(0) - 1:
        row = tl.zeros((1,), tl.int32)
        start = packets.to(tl.int64) * PACKET
        edge = pointwise_tile(
            operands, scalars, weight, scale, upstream, factor, coefficients, loss, gradients, strides, sizes,
            row, start, lane, (row < rows)[:, None, None], lane < columns - start,
            LOSS, DOMAIN, REQUIREMENT, ACCESS, METRICS, KINDS, WEIGHTS, REDUCE, MASKED, A,
        )  # fmt: skip
    for k in tl.static_range(len(KINDS)):
        value = join(total(sums[k], KINDS[k]), total(edge[k], KINDS[k]), KINDS[k])
        tl.store(partials + k * tl.num_programs(0) + program, value)


# ------------------------------------------------------------------------------------------ the partial sums


@triton.jit(do_not_specialize=["programs", "elements"])
def finish_kernel(
    partials, loss, metrics, programs, elements,
    METRICS: tl.constexpr, WEIGHTS: tl.constexpr, REDUCE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """partials (sums, programs) -> the loss, if reduced, and the metrics, by one program each; sums in fp64."""
    FIRST: tl.constexpr = 1 if REDUCE else 0
    program = tl.program_id(0)
    if REDUCE and program == 0:
        tl.store(loss, sum_partials(partials, programs, BLOCK).to(loss.dtype.element_ty))
    for k in tl.static_range(len(METRICS)):
        if program == FIRST + k:
            values = partials + (FIRST + (1 if WEIGHTS else 0) + k) * programs
            if METRICS[k] == "min":
                result = extreme_partial(values, programs, MIN, BLOCK)
            elif METRICS[k] == "max":
                result = extreme_partial(values, programs, MAX, BLOCK)
            else:
                result = sum_partials(values, programs, BLOCK)
            if METRICS[k] == "mean":
                if WEIGHTS:
                    count = sum_partials(partials + FIRST * programs, programs, BLOCK)
                    result = tl.where(count == 0.0, 0.0, result / tl.where(count == 0.0, 1.0, count))
                else:
                    result = result / elements.to(tl.float64)
            tl.store(metrics + k, result.to(metrics.dtype.element_ty))


@triton.jit
def sum_partials(values, count, BLOCK: tl.constexpr):
    sums = tl.zeros((BLOCK,), tl.float64)
    for first in range(0, count, BLOCK):
        index = first + tl.arange(0, BLOCK)
        sums += tl.load(values + index, mask=index < count, other=0.0).to(tl.float64)
    return tl.sum(sums, axis=0)


@triton.jit
def extreme_partial(values, count, KIND: tl.constexpr, BLOCK: tl.constexpr):
    NEUTRAL: tl.constexpr = float("inf") if KIND == MIN else float("-inf")
    extremes = tl.full((BLOCK,), NEUTRAL, values.dtype.element_ty)
    for first in range(0, count, BLOCK):
        index = first + tl.arange(0, BLOCK)
        extremes = join(extremes, tl.load(values + index, mask=index < count, other=NEUTRAL), KIND)
    return collapse(extremes, KIND)
