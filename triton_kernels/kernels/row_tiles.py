"""Device functions of the row skeletons: reading a tile of logits and targets, its sums, its gradient.

Masked lanes have z = -inf and q = 0. `mask` is None for a tile that lies inside the row. DENSE: the target has mass
that is spread over the classes (q); without it only the index target has mass (index_mass).
"""

from __future__ import annotations

import triton
import triton.language as tl

from ..memory import aligned_body


@triton.jit
def lowest(dtype: tl.constexpr):
    """The start of a running maximum. Finite: -inf - -inf would poison lanes that have seen only -inf logits."""
    if dtype == tl.float64:
        return tl.full((), -1.7976931348623157e308, dtype)
    else:
        return tl.full((), -3.4028234663852886e38, dtype)


@triton.jit
def read_index_target(target, weight, row, exists, classes, ignore_index, A: tl.constexpr):
    """(column, does the row count?, its class weight); an index outside [0, C) has column -1 and the weight NaN."""
    index = tl.load(target + row, mask=exists, other=ignore_index)
    counted = index != ignore_index
    inside = (index >= 0) & (index < classes)
    tl.device_assert(inside | (index == ignore_index), "index target outside [0, C)")
    if weight is None:
        row_weight = tl.where(inside, 1.0, float("nan")).to(A)
    else:
        row_weight = tl.load(weight + index, mask=counted & inside, other=float("nan"))
    return tl.where(inside, index, -1).to(tl.int32), counted, row_weight


@triton.jit
def row_scale(grad_loss, denominator, row, exists, A: tl.constexpr):
    """The gradient of the reduced loss with respect to the loss of the row."""
    if grad_loss is not None:
        scale = tl.load(grad_loss + row, mask=exists, other=0.0)
    elif denominator is not None:
        scale = 1.0 / tl.load(denominator)
    else:
        scale = tl.full((), 1.0, A)
    return scale


@triton.jit
def elements_before_packet(pointer, PACKET: tl.constexpr):
    """Number of elements from the address to the next multiple of 16 bytes."""
    ITEMSIZE: tl.constexpr = 16 // PACKET
    return (((0 - pointer.to(tl.int64)) & 15) // ITEMSIZE).to(tl.int32)


@triton.jit
def row_body(
    tensor, row, stride, head,
    PACKET: tl.constexpr, EDGES: tl.constexpr, ALIGNED: tl.constexpr, BASE_ALIGNED: tl.constexpr,
):  # fmt: skip
    """The address of column `head` of a row."""
    start = row * stride
    if EDGES:
        start += head
    if ALIGNED:
        return aligned_body(tensor, start, PACKET, BASE_ALIGNED)
    else:
        return tensor + start


@triton.jit
def strided_body(tensor, batch, batch_stride, start, PACKET: tl.constexpr, ALIGNED: tl.constexpr):
    """The address of class 0 of position `start` of a batch."""
    if ALIGNED:
        return aligned_body(tensor, batch * batch_stride + start, PACKET, True)
    else:
        return tensor + (batch * batch_stride + start)


@triton.jit
def read(pointers, mask, EVICTION: tl.constexpr):
    """0 where masked; mask is None for tiles that lie inside the row."""
    if mask is None:
        return tl.load(pointers, eviction_policy=EVICTION)
    else:
        return tl.load(pointers, mask=mask, other=0.0, eviction_policy=EVICTION)


@triton.jit
def read_logits(LOSS: tl.constexpr, coefficients, pointers, mask, A: tl.constexpr, EVICTION: tl.constexpr):
    """z, with -inf where masked (softcap would make something else of a masked x)."""
    z = LOSS.logit(read(pointers, mask, EVICTION).to(A), coefficients)
    if mask is not None:
        z = tl.where(mask, z, float("-inf"))
    return z


@triton.jit
def read_mass(
    LOSS: tl.constexpr, coefficients, target_body, weight, offset, column, column_mask, mask,
    A: tl.constexpr, EVICTION: tl.constexpr,
):  # fmt: skip
    """q of a tile of columns, 0 where masked; a scalar where it is the same for all columns (see sum_mass)."""
    class_weight = tl.full((), 1.0, A)
    if weight is not None:
        class_weight = read(weight + column, column_mask, "evict_last")
    probability = tl.full((), 0.0, A)
    if target_body is not None:
        probability = read(target_body + offset, mask, EVICTION).to(A)
    mass = LOSS.mass(class_weight, probability, coefficients)
    if mask is not None and len(mass.shape) > 0:
        mass = tl.where(mask, mass, 0.0)
    return mass


@triton.jit
def sum_mass(q, mask, tile, AXIS: tl.constexpr):
    """sum of q over an axis of the tile; of a scalar q over the columns that are not masked."""
    if len(q.shape) > 0:
        return tl.sum(q, axis=AXIS)
    elif mask is None:
        return q * tile.shape[AXIS]
    else:
        return tl.sum(tl.where(mask, q, 0.0), axis=AXIS)


@triton.jit
def carried(mass, shift):
    """mass * shift, and 0 for lanes without mass, whose shift may overflow (their maximum is still `lowest`)."""
    return tl.where(mass == 0.0, 0.0, mass * shift)


@triton.jit
def weighted(q, spread, mask):
    """q * spread, 0 where masked. A logit of -inf with q = 0 that is not masked gives NaN, as in torch."""
    if mask is None:
        return q * spread
    else:
        return tl.where(mask, q * spread, 0.0)


@triton.jit
def absorb(z, q, mask, top, total, mass, linear, DENSE: tl.constexpr, AXIS: tl.constexpr):
    """Adds a tile to running sums over AXIS: total = sum exp(z - top), mass = sum q, linear = sum q (z - top)."""
    new_top = tl.maximum(top, tl.max(z, axis=AXIS))
    spread = z - tl.expand_dims(new_top, AXIS)
    total = total * tl.exp(top - new_top) + tl.sum(tl.exp(spread), axis=AXIS)
    if DENSE:
        linear += tl.sum(weighted(q, spread, mask), axis=AXIS) + carried(mass, top - new_top)
        mass += sum_mass(q, mask, z, AXIS)
    return new_top, total, mass, linear


@triton.jit
def tile_gradient(
    LOSS: tl.constexpr, coefficients, z, q, column, index, top, log_sum, coefficient, scale, index_mass,
    DENSE: tl.constexpr,
):  # fmt: skip
    """slope * (coefficient * p - q), times scale, which coefficient and index_mass already hold. index is None for soft
    targets."""
    gradient = coefficient * tl.exp((z - top) - log_sum)
    if DENSE:
        gradient -= scale * q
    if index is not None:
        gradient -= tl.where(column == index, index_mass, 0.0)
    return LOSS.slope(z, coefficients) * gradient


@triton.jit
def read_tile(
    LOSS: tl.constexpr, coefficients, body, target_body, weight, offset, column, mask,
    A: tl.constexpr, DENSE: tl.constexpr, EVICTION: tl.constexpr,
):  # fmt: skip
    """(z, q) of a tile; q is a scalar 0 unless the target is DENSE, that is has mass spread over the classes."""
    z = read_logits(LOSS, coefficients, body + offset, mask, A, EVICTION)
    q = tl.zeros((), A)
    if DENSE:
        q = read_mass(LOSS, coefficients, target_body, weight, offset, column, mask, mask, A, EVICTION)
    return z, q


@triton.jit
def sum_packets(tile):
    """(ROWS, packets, PACKET) -> (ROWS,); first within the packets, that is within a thread."""
    return tl.sum(tl.sum(tile, axis=2), axis=1)


@triton.jit
def max_packets(tile):
    """(ROWS, packets, PACKET) -> (ROWS,)"""
    return tl.max(tl.max(tile, axis=2), axis=1)


@triton.jit
def resident_sums(z, q, mask, column, index, top, DENSE: tl.constexpr):
    """Sums over a tile (ROWS, packets, PACKET): exp(z - top), q, q (z - top), and z - top of the index target."""
    spread = z - top[:, None, None]
    total = sum_packets(tl.exp(spread))
    mass = tl.zeros_like(top)
    linear = tl.zeros_like(top)
    at_index = tl.zeros_like(top)
    if DENSE:
        mass = tl.sum(sum_mass(q, mask, spread, 2), axis=1)
        linear = sum_packets(weighted(q, spread, mask))
    if index is not None:
        at_index = index_spread(z, mask, column, index, top)
    return total, mass, linear, at_index


@triton.jit
def index_spread(z, mask, column, index, top):
    """z - top of the index target, over a tile (ROWS, packets, PACKET); 0 where another tile has it."""
    # mask: the tile of whole packets is padded with columns that the edges have, where z is -inf
    return sum_packets(tl.where((column == index) & mask, z - top[:, None, None], 0.0))


@triton.jit
def modulated_mass(LOSS: tl.constexpr, coefficients, index_mass, log_p):
    """(mass in the gradient, minus the loss) of an index target of a modulated loss."""
    loss, slope = LOSS.modulation(log_p, coefficients)
    return index_mass * slope, -index_mass * loss
