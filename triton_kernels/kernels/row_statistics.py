"""The kernels of the row losses in steps: statistics of rows or of slices of their classes, their merge, outputs, and
gradient. csrc/losses/contracts/row.h says what the statistics are; they know no loss.

A tile is (ROWS, CLASSES). BY_CLASS: the logits are (rows, C) with neighbouring classes next to each other in memory;
else (N, C, D), with neighbouring rows. Masked lanes have z = -inf. PACKET: all strides, and the number of neighbours in
memory, are multiples of it.
"""

# mypy: disable-error-code="operator,index"
# Device code: under one constexpr a name is a tensor, under another it is None.

from __future__ import annotations

import triton
import triton.language as tl

from ..memory import narrow, widen
from .row_tiles import carried, lowest, modulated_mass, sum_mass, weighted

# The places of a row's statistics, as RowStatistic in C++. Those of a second row, if there is one, and the sums of the
# loss's own follow.
MAX: tl.constexpr = tl.constexpr(0)
LOG_SUM: tl.constexpr = tl.constexpr(1)
TARGET: tl.constexpr = tl.constexpr(2)
WEIGHT: tl.constexpr = tl.constexpr(3)
MASS: tl.constexpr = tl.constexpr(4)
LINEAR: tl.constexpr = tl.constexpr(5)
OWN: tl.constexpr = tl.constexpr(6)
SECOND_MAX: tl.constexpr = tl.constexpr(6)
SECOND_LOG_SUM: tl.constexpr = tl.constexpr(7)


@triton.jit
def multiple(x, PACKET: tl.constexpr):
    """x, which is a multiple: the compiler learns it, and keeps it where hints are lost (see aligned_body)."""
    if PACKET > 1:
        x = x // PACKET * PACKET
    return x


@triton.jit
def places(tensor, batch, position, column, outer, step, BY_CLASS: tl.constexpr, PACKET: tl.constexpr):
    """The addresses of a tile. BY_CLASS: `position` is the row, and there is one batch."""
    outer = multiple(outer, PACKET)
    step = multiple(step, PACKET)
    if BY_CLASS:
        return tensor + (position * outer)[:, None] + column[None, :]
    else:
        return tensor + (batch * outer + position)[:, None] + column.to(tl.int64)[None, :] * step


@triton.jit
def places_of_targets(tensor, batch, position, column, outer, step, BY_CLASS: tl.constexpr):
    """The addresses of one column of each row."""
    if BY_CLASS:
        return tensor + position * outer + column
    else:
        return tensor + batch * outer + position + column.to(tl.int64) * step


@triton.jit
def read_slice_target(target, weight, row, exists, first_class, classes, all_classes, ignore_index, A: tl.constexpr):
    """(place among the classes of the slice, -1 for a class of another; does the row count?; its class weight, 0 for a
    class of another slice). An index outside [0, all_classes) has the weight NaN."""
    index = tl.load(target + row, mask=exists, other=ignore_index)
    counted = index != ignore_index
    inside = (index >= 0) & (index < all_classes)
    sound = inside | (index == ignore_index)
    tl.device_assert(sound, "index target outside [0, C)")
    place = index - first_class
    here = counted & inside & (place >= 0) & (place < classes)
    if weight is None:
        row_weight = tl.where(here, 1.0, 0.0).to(A)
    else:
        row_weight = tl.where(here, tl.load(weight + place, mask=here), 0.0)
    row_weight = tl.where(sound, row_weight, float("nan"))
    return tl.where(here, place, -1).to(tl.int32), counted, row_weight


@triton.jit
def slice_shift(of_slice, top):
    """From the maximum of a slice to a larger one; finite, so that 0 times it is 0. 0 for a slice that has none."""
    step = of_slice - top
    low = lowest(step.dtype)
    return tl.where(of_slice == float("-inf"), 0.0, tl.where(step < low, low, step))


@triton.jit
def slice_scale(of_slice, top):
    return tl.where(of_slice == float("-inf"), 0.0, tl.exp(slice_shift(of_slice, top)))


@triton.jit
def dense_mass(LOSS: tl.constexpr, c, soft, weight, column, in_row, mask, A: tl.constexpr):
    """q of a tile, (1, CLASSES) where it is the same for all rows."""
    class_weight = tl.full((1, 1), 1.0, A)
    if weight is not None:
        class_weight = tl.load(weight + column, mask=in_row, other=0.0)[None, :]
    probability = tl.full((1, 1), 0.0, A)
    if soft is not None:
        probability = widen(tl.load(soft, mask=mask, other=0.0), A)
    return tl.where(mask, LOSS.mass(class_weight, probability, c), 0.0)


@triton.jit(
    do_not_specialize=[
        "rows", "classes", "positions", "blocks", "strides", "first_class", "all_classes", "ignore_index",
        "c",
    ],
)  # fmt: skip
def row_statistics_kernel(
    logits, second, target, soft, weight, statistics,
    rows, classes, positions, blocks, strides, first_class, all_classes, ignore_index, c,
    LOSS: tl.constexpr, DENSE: tl.constexpr, SUMS: tl.constexpr, EXPECTATIONS: tl.constexpr, BY_CLASS: tl.constexpr,
    PACKET: tl.constexpr, ROWS: tl.constexpr, CLASSES: tl.constexpr,
):  # fmt: skip
    """statistics (k, rows). strides: of the logits, the second row, the soft target, over rows (or batches) and
    classes."""
    A: tl.constexpr = tl.float64 if logits.dtype.element_ty == tl.float64 else tl.float32
    rows = rows.to(tl.int64)
    batch = tl.program_id(0).to(tl.int64) // blocks
    position = (tl.program_id(0) % blocks).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    row = batch * positions + position
    if BY_CLASS:
        classes = multiple(classes, PACKET)
    else:
        positions = multiple(positions, PACKET)
    exists = position < positions
    counted = exists
    z_y = tl.zeros((ROWS,), A)
    row_weight = tl.zeros((ROWS,), A)
    index = tl.full((ROWS,), -1, tl.int32)
    if target is not None:
        index, counted, row_weight = read_slice_target(
            target, weight, row, exists, first_class, classes, all_classes, ignore_index, A
        )
        of_target = places_of_targets(logits, batch, position, index, strides[0], strides[1], BY_CLASS)
        z_y = LOSS.logit(widen(tl.load(of_target, mask=index >= 0, other=0.0), A), c)
        if LOSS.target_logit is not None:
            z_y = LOSS.target_logit(z_y, c)
        z_y = tl.where(index >= 0, z_y, 0.0)

    top = tl.zeros((ROWS,), A) + lowest(A)
    total = tl.zeros((ROWS,), A)
    mass = tl.zeros((ROWS,), A)
    linear = tl.zeros((ROWS,), A)
    second_top = tl.zeros((ROWS,), A) + lowest(A)
    second_total = tl.zeros((ROWS,), A)
    own = ()
    for _k in tl.static_range(SUMS):
        own += (tl.zeros((ROWS,), A),)
    read = counted if BY_CLASS else exists  # a packet of neighbouring rows is read as one
    for first in range(0, classes, CLASSES):
        column = first + tl.arange(0, CLASSES)
        in_row = column < classes
        mask = read[:, None] & in_row[None, :]
        at = places(logits, batch, position, column, strides[0], strides[1], BY_CLASS, PACKET)
        z = LOSS.logit(widen(tl.load(at, mask=mask, other=0.0), A), c)
        if LOSS.target_logit is not None:
            z = tl.where(column[None, :] == index[:, None], z_y[:, None], z)
        z = tl.where(mask, z, float("-inf"))
        new_top = tl.maximum(top, tl.max(z, axis=1))
        shift = tl.maximum(top - new_top, lowest(A))
        from_max = z - new_top[:, None]
        p = tl.exp(from_max)
        second_from_max = from_max
        second_p = p
        second_shift = shift
        new_second_top = second_top
        if second is not None:
            at = places(second, batch, position, column, strides[2], strides[3], BY_CLASS, PACKET)
            z_second = LOSS.logit(widen(tl.load(at, mask=mask, other=0.0), A), c)
            z_second = tl.where(mask, z_second, float("-inf"))
            new_second_top = tl.maximum(second_top, tl.max(z_second, axis=1))
            second_shift = tl.maximum(second_top - new_second_top, lowest(A))
            second_from_max = z_second - new_second_top[:, None]
            second_p = tl.exp(second_from_max)
        if LOSS.terms is not None:
            moved = LOSS.rebase(own, shift, total, second_shift, second_total)
            terms = LOSS.terms(z, z_y[:, None], from_max, p, second_from_max, second_p, c)
            own = ()
            for k in tl.static_range(SUMS):
                own += (moved[k] + tl.sum(tl.where(mask, terms[k], 0.0), axis=1),)
        if DENSE:
            soft_place = None
            if soft is not None:
                soft_place = places(soft, batch, position, column, strides[4], strides[5], BY_CLASS, PACKET)
            q = dense_mass(LOSS, c, soft_place, weight, column, in_row, mask, A)
            linear += tl.sum(weighted(q, from_max, mask), axis=1) + carried(mass, shift)
            mass += sum_mass(q, mask, z, 1)
        total = total * tl.exp(shift) + tl.sum(p, axis=1)
        top = new_top
        if second is not None:
            second_total = second_total * tl.exp(second_shift) + tl.sum(second_p, axis=1)
            second_top = new_second_top

    none = float("-inf")
    any_class = counted & (total != 0.0)
    tl.store(statistics + MAX * rows + row, tl.where(any_class, top, none), mask=exists)
    tl.store(statistics + LOG_SUM * rows + row, tl.where(any_class, tl.log(total), none), mask=exists)
    tl.store(statistics + TARGET * rows + row, tl.where(counted, z_y, 0.0), mask=exists)
    tl.store(statistics + WEIGHT * rows + row, tl.where(counted, row_weight, 0.0), mask=exists)
    tl.store(statistics + MASS * rows + row, tl.where(counted, mass, 0.0), mask=exists)
    tl.store(statistics + LINEAR * rows + row, tl.where(counted, linear, 0.0), mask=exists)
    if second is not None:
        any_class = counted & (second_total != 0.0)
        tl.store(statistics + SECOND_MAX * rows + row, tl.where(any_class, second_top, none), mask=exists)
        second_log_sum = tl.where(any_class, tl.log(second_total), none)
        tl.store(statistics + SECOND_LOG_SUM * rows + row, second_log_sum, mask=exists)
    after = statistics + (OWN if second is None else OWN + 2) * rows
    for k in tl.static_range(SUMS):
        tl.store(after + k * rows + row, tl.where(counted, own[k], 0.0), mask=exists)
    if EXPECTATIONS > 0:
        log_total = tl.log(total)
        second_log_total = tl.log(second_total)
        sums = ()
        for _k in tl.static_range(EXPECTATIONS):
            sums += (tl.zeros((ROWS,), A),)
        # The same classes once more, now that their softmax is known; fewer at once, as there is more to know of each.
        HALF: tl.constexpr = CLASSES // 2 if CLASSES > 1 else 1
        for first in range(0, classes, HALF):
            column = first + tl.arange(0, HALF)
            mask = read[:, None] & (column < classes)[None, :]
            at = places(logits, batch, position, column, strides[0], strides[1], BY_CLASS, PACKET)
            z = LOSS.logit(widen(tl.load(at, mask=mask, other=0.0), A), c)
            log_p = z - top[:, None] - log_total[:, None]
            second_log_p = log_p
            if second is not None:
                at = places(second, batch, position, column, strides[2], strides[3], BY_CLASS, PACKET)
                z_second = LOSS.logit(widen(tl.load(at, mask=mask, other=0.0), A), c)
                second_log_p = z_second - second_top[:, None] - second_log_total[:, None]
            terms = LOSS.expect(tl.exp(log_p), log_p, tl.exp(second_log_p), second_log_p, c)
            added = ()
            for k in tl.static_range(EXPECTATIONS):
                added += (sums[k] + tl.sum(tl.where(mask, terms[k], 0.0), axis=1),)
            sums = added
        after += SUMS * rows
        for k in tl.static_range(EXPECTATIONS):
            tl.store(after + k * rows + row, tl.where(counted, sums[k], 0.0), mask=exists)


@triton.jit
def read_statistics(statistics, rows, row, exists, COUNT: tl.constexpr):
    """A tuple of a row's statistics, in their places."""
    s = ()
    for k in tl.static_range(COUNT):
        s += (tl.load(statistics + k * rows + row, mask=exists, other=0.0),)
    return s


@triton.jit(do_not_specialize=["rows", "slices"])
def row_merge_kernel(
    parts, statistics, rows, slices,
    LOSS: tl.constexpr, COUNT: tl.constexpr, SUMS: tl.constexpr, EXPECTATIONS: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """parts (slices, COUNT, rows) -> statistics (COUNT, rows). See SliceExponents in C++."""
    FIRST: tl.constexpr = COUNT - EXPECTATIONS - SUMS  # of the loss's own
    A: tl.constexpr = statistics.dtype.element_ty
    rows = rows.to(tl.int64)
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    exists = row < rows
    none = tl.full((ROWS,), float("-inf"), A)
    top, log_sum = merged_exponents(parts, rows, slices, row, exists, COUNT, 0, none)
    second_top = top
    second_log_sum = log_sum
    if FIRST > OWN:
        second_top, second_log_sum = merged_exponents(parts, rows, slices, row, exists, COUNT, OWN, none)
    z_y = tl.zeros((ROWS,), A)
    weight = tl.zeros((ROWS,), A)
    mass = tl.zeros((ROWS,), A)
    linear = tl.zeros((ROWS,), A)
    own = ()
    for _k in tl.static_range(SUMS):
        own += (tl.zeros((ROWS,), A),)
    expectations = ()
    for _k in tl.static_range(EXPECTATIONS):
        expectations += (tl.zeros((ROWS,), A),)
    for _i in range(slices):
        s = read_statistics(parts, rows, row, exists, COUNT)
        parts += COUNT * rows
        shift = slice_shift(s[MAX], top)
        z_y += s[TARGET]
        weight += s[WEIGHT]
        mass += s[MASS]
        linear += s[LINEAR] + s[MASS] * shift
        if EXPECTATIONS > 0:  # of the one slice that is the whole row
            added = ()
            for k in tl.static_range(EXPECTATIONS):
                added += (expectations[k] + s[FIRST + SUMS + k],)
            expectations = added
        if SUMS > 0:
            # a slice without a finite maximum has sums of 0, whatever its shift of 0 makes of them
            second_shift = slice_shift(s[SECOND_MAX], second_top) if FIRST > OWN else shift
            second_sum = tl.exp(s[SECOND_LOG_SUM]) if FIRST > OWN else tl.exp(s[LOG_SUM])
            of_slice = ()
            for k in tl.static_range(SUMS):
                of_slice += (s[FIRST + k],)
            moved = LOSS.rebase(of_slice, shift, tl.exp(s[LOG_SUM]), second_shift, second_sum)
            added = ()
            for k in tl.static_range(SUMS):
                added += (own[k] + moved[k],)
            own = added
    tl.store(statistics + MAX * rows + row, top, mask=exists)
    tl.store(statistics + LOG_SUM * rows + row, log_sum, mask=exists)
    tl.store(statistics + TARGET * rows + row, z_y, mask=exists)
    tl.store(statistics + WEIGHT * rows + row, weight, mask=exists)
    tl.store(statistics + MASS * rows + row, mass, mask=exists)
    tl.store(statistics + LINEAR * rows + row, linear, mask=exists)
    if FIRST > OWN:
        tl.store(statistics + SECOND_MAX * rows + row, second_top, mask=exists)
        tl.store(statistics + SECOND_LOG_SUM * rows + row, second_log_sum, mask=exists)
    for k in tl.static_range(SUMS):
        tl.store(statistics + (FIRST + k) * rows + row, own[k], mask=exists)
    for k in tl.static_range(EXPECTATIONS):
        tl.store(statistics + (FIRST + SUMS + k) * rows + row, expectations[k], mask=exists)


@triton.jit
def merged_exponents(parts, rows, slices, row, exists, COUNT: tl.constexpr, PLACE: tl.constexpr, none):
    """(maximum, log-sum) of all slices."""
    top = none
    at = parts + PLACE * rows + row
    for _i in range(slices):
        top = tl.maximum(top, tl.load(at, mask=exists, other=0.0))
        at += COUNT * rows
    most = none
    at = parts + PLACE * rows + row
    for _i in range(slices):
        level = slice_shift(tl.load(at, mask=exists, other=0.0), top) + tl.load(at + rows, mask=exists, other=0.0)
        most = tl.maximum(most, level)
        at += COUNT * rows
    most = tl.where(most == float("-inf"), 0.0, most)
    total = tl.zeros_like(none)
    at = parts + PLACE * rows + row
    for _i in range(slices):
        level = slice_shift(tl.load(at, mask=exists, other=0.0), top) + tl.load(at + rows, mask=exists, other=0.0)
        total += tl.exp(level - most)
        at += COUNT * rows
    return top, most + tl.log(total)


@triton.jit
def index_share(LOSS: tl.constexpr, c, s, HAS_INDEX: tl.constexpr):
    """(mass, linear, class weight, mass of the index target) of a whole row of a plain loss."""
    mass = s[MASS]
    linear = s[LINEAR]
    weight = tl.full(mass.shape, 1.0, mass.dtype)
    index_mass = tl.zeros_like(mass)
    if HAS_INDEX:
        weight = s[WEIGHT]
        index_mass = LOSS.index_mass(weight, c)
        from_max = s[TARGET] - s[MAX]
        if LOSS.modulation is not None:
            index_mass, share = modulated_mass(LOSS, c, index_mass, from_max - s[LOG_SUM])
            linear += share
        else:
            linear += index_mass * from_max
        mass += index_mass
    return mass, linear, weight, index_mass


@triton.jit(do_not_specialize=["rows", "ignore_index", "c"])
def row_outputs_kernel(
    statistics, target, outputs, rows, ignore_index, c,
    LOSS: tl.constexpr, COUNT: tl.constexpr, OUTPUTS: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """outputs (OUTPUTS, rows)"""
    rows = rows.to(tl.int64)
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    exists = row < rows
    s = read_statistics(statistics, rows, row, exists, COUNT)
    counted = exists
    if target is not None:
        counted = tl.load(target + row, mask=exists, other=ignore_index) != ignore_index
    if LOSS.values is not None:
        values = LOSS.values(s, c)
    else:
        mass, linear, weight, _ = index_share(LOSS, c, s, target is not None)
        loss, _ = LOSS.finish(s[MAX], s[LOG_SUM], mass, linear, weight, c)
        values = (loss,)
    for k in tl.static_range(OUTPUTS):
        tl.store(outputs + k * rows + row, tl.where(counted, values[k], 0.0), mask=exists)


@triton.jit(
    do_not_specialize=[
        "rows", "classes", "positions", "blocks", "strides", "first_class", "all_classes", "ignore_index",
        "c",
    ],
)  # fmt: skip
def row_gradient_kernel(
    logits, second, target, soft, weight, statistics, upstream, gradient,
    rows, classes, positions, blocks, strides, first_class, all_classes, ignore_index, c,
    LOSS: tl.constexpr, DENSE: tl.constexpr, COUNT: tl.constexpr, OUTPUTS: tl.constexpr, BY_CLASS: tl.constexpr,
    PACKET: tl.constexpr, ROWS: tl.constexpr, CLASSES: tl.constexpr,
):  # fmt: skip
    """gradient, of the logits' shape. strides: as above, then of the gradient."""
    A: tl.constexpr = tl.float64 if logits.dtype.element_ty == tl.float64 else tl.float32
    rows = rows.to(tl.int64)
    batch = tl.program_id(0).to(tl.int64) // blocks
    position = (tl.program_id(0) % blocks).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    row = batch * positions + position
    if BY_CLASS:
        classes = multiple(classes, PACKET)
    else:
        positions = multiple(positions, PACKET)
    exists = position < positions
    counted = exists
    index = tl.full((ROWS,), -1, tl.int32)
    if target is not None:
        index, counted, _ = read_slice_target(
            target, None, row, exists, first_class, classes, all_classes, ignore_index, A
        )
    s = read_statistics(statistics, rows, row, exists, COUNT)
    u = read_statistics(upstream, rows, row, exists, OUTPUTS)
    of_rows = ()
    for k in tl.static_range(COUNT):
        of_rows += (s[k][:, None],)
    upstreams = ()
    for k in tl.static_range(OUTPUTS):
        upstreams += (u[k][:, None],)
    if LOSS.values is None:
        mass, linear, row_weight, index_mass = index_share(LOSS, c, s, target is not None)
        _, softmax = LOSS.finish(s[MAX], s[LOG_SUM], mass, linear, row_weight, c)
    else:
        softmax = s[MAX]
        index_mass = LOSS.index_mass(s[WEIGHT], c)
    read = counted if BY_CLASS else exists  # a packet of neighbouring rows is read as one
    for first in range(0, classes, CLASSES):
        column = first + tl.arange(0, CLASSES)
        in_row = column < classes
        mask = read[:, None] & in_row[None, :]
        at = places(logits, batch, position, column, strides[0], strides[1], BY_CLASS, PACKET)
        z = LOSS.logit(widen(tl.load(at, mask=mask, other=0.0), A), c)
        slope = LOSS.slope(z, c)
        is_target = column[None, :] == index[:, None]
        if LOSS.target_logit is not None:
            slope = tl.where(is_target, slope * LOSS.target_slope(z, c), slope)
            z = tl.where(is_target, of_rows[TARGET], z)
        from_max = z - of_rows[MAX]
        p = tl.exp(from_max - of_rows[LOG_SUM])
        q = tl.where(is_target, index_mass[:, None], 0.0)
        if DENSE:
            soft_place = None
            if soft is not None:
                soft_place = places(soft, batch, position, column, strides[4], strides[5], BY_CLASS, PACKET)
            q += dense_mass(LOSS, c, soft_place, weight, column, in_row, mask, A)
        if LOSS.values is None:
            by_z = (p * softmax[:, None] - q) * upstreams[0]
        else:
            second_from_max = from_max
            second_p = p
            if second is not None:
                at = places(second, batch, position, column, strides[2], strides[3], BY_CLASS, PACKET)
                second_z = LOSS.logit(widen(tl.load(at, mask=mask, other=0.0), A), c)
                second_from_max = second_z - of_rows[SECOND_MAX]
                second_p = tl.exp(second_from_max - of_rows[SECOND_LOG_SUM])
            by_z = LOSS.gradient(from_max, p, q, second_from_max, second_p, of_rows, upstreams, c)
        at = places(gradient, batch, position, column, strides[6], strides[7], BY_CLASS, PACKET)
        value = tl.where(counted[:, None], slope * by_z, 0.0)
        tl.store(at, narrow(value, gradient.dtype.element_ty), mask=exists[:, None] & in_row[None, :])
