"""The three skeleton kernels of the row losses. They know no loss.

Rows are cut into packets of 16 bytes, and tiles are (packets, PACKET): each packet lies in one thread, is one 128-bit
access, and is reduced without a shuffle. A row that starts or ends between two 16-byte addresses (an odd C, a view)
has EDGES: its body starts `head` elements later, at the first aligned address, and what lies before and after the
body, fewer than PACKET elements each, is a tile (2, PACKET) of its own. Without that an odd C costs one access
per element. Masks are per packet, so that they never split one.

MODE "forward" writes loss and state, "forward_backward" loss and gradient, "backward" the gradient from the state.
A pointer that a mode or option does not need is None, and its code is left out.

An index target outside [0, C) trips a device assert where the launcher asks for debug=True, and gives NaN elsewhere.
What the assert costs, as compiled for sm_90: one barrier a program and up to 8 registers.
"""

# mypy: disable-error-code="operator,index"
# Device code: under one constexpr a name is a tensor, under another it is None.

from __future__ import annotations

import triton
import triton.language as tl

from .row_tiles import (
    absorb,
    carried,
    elements_before_packet,
    index_spread,
    lowest,
    max_packets,
    modulated_mass,
    read_index_target,
    read_logits,
    read_mass,
    read_tile,
    resident_sums,
    row_body,
    row_scale,
    strided_body,
    sum_mass,
    tile_gradient,
    weighted,
)


@triton.jit(
    do_not_specialize=[
        "rows", "classes", "logits_stride", "target_stride", "gradient_stride", "ignore_index", "coefficients",
    ],
)  # fmt: skip
def resident_kernel(
    logits, target, weight, state, grad_loss, denominator, loss, gradient,
    rows, classes, logits_stride, target_stride, gradient_stride, ignore_index, coefficients,
    LOSS: tl.constexpr, MODE: tl.constexpr, SOFT: tl.constexpr, DENSE: tl.constexpr,
    IN_PLACE: tl.constexpr, ROWS: tl.constexpr, PACKETS: tl.constexpr, PACKET: tl.constexpr, EDGES: tl.constexpr,
    BASE_ALIGNED: tl.constexpr, TARGET_ALIGNED: tl.constexpr, GRADIENT_ALIGNED: tl.constexpr,
):  # fmt: skip
    """ROWS rows of logits (rows, classes) a program; they are read once and stay in registers."""
    A: tl.constexpr = tl.float64 if logits.dtype.element_ty == tl.float64 else tl.float32
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    exists = row < rows
    index = None
    counted = exists
    row_weight = tl.full((ROWS,), 1.0, A)
    if not SOFT:
        index, counted, row_weight = read_index_target(target, weight, row, exists, classes, ignore_index, A)
        index = index[:, None, None]

    head = tl.zeros((ROWS,), tl.int32)
    if EDGES:
        head = elements_before_packet(logits + row * logits_stride, PACKET)
    packets = (classes - head) // PACKET
    body = row_body(logits, row, logits_stride, head, PACKET, EDGES, PACKET > 1, BASE_ALIGNED)[:, None, None]
    target_body = None
    if SOFT:
        target_body = row_body(target, row, target_stride, head, PACKET, EDGES, TARGET_ALIGNED, BASE_ALIGNED)
        target_body = target_body[:, None, None]

    packet = tl.arange(0, PACKETS)[None, :, None]
    lane = tl.arange(0, PACKET)[None, None, :]
    offset = packet * PACKET + lane
    column = head[:, None, None] + offset
    inside = tl.broadcast_to(packet < packets[:, None, None], column.shape)
    mask = inside & counted[:, None, None]
    z, q = read_tile(LOSS, coefficients, body, target_body, weight, offset, column, mask, A, DENSE, "evict_first")
    if EDGES:
        side = tl.arange(0, 2)[None, :, None]
        edge_offset = tl.where(side == 0, lane - PACKET, packets[:, None, None] * PACKET + lane)
        edge_column = head[:, None, None] + edge_offset
        edge_inside = (edge_column >= 0) & (edge_column < classes)
        edge_mask = edge_inside & counted[:, None, None]
        edge_z, edge_q = read_tile(
            LOSS, coefficients, body, target_body, weight, edge_offset, edge_column, edge_mask, A, DENSE, "evict_first"
        )

    linear = tl.zeros((ROWS,), A)
    mass = tl.zeros((ROWS,), A)
    if MODE == "backward":
        top = tl.load(state + row, mask=counted, other=0.0)
        log_sum = tl.load(state + rows + row, mask=counted, other=0.0)
        if DENSE:
            mass = tl.sum(sum_mass(q, mask, z, 2), axis=1)
            if EDGES:
                mass += tl.sum(sum_mass(edge_q, edge_mask, edge_z, 2), axis=1)
        if LOSS.modulation is not None:
            at_index = index_spread(z, mask, column, index, top)
            if EDGES:
                at_index += index_spread(edge_z, edge_mask, edge_column, index, top)
    else:
        top = max_packets(z)
        if EDGES:
            top = tl.maximum(top, max_packets(edge_z))
        total, mass, linear, at_index = resident_sums(z, q, mask, column, index, top, DENSE)
        if EDGES:
            edge_sums = resident_sums(edge_z, edge_q, edge_mask, edge_column, index, top, DENSE)
            total += edge_sums[0]
            mass += edge_sums[1]
            linear += edge_sums[2]
            at_index += edge_sums[3]
        log_sum = tl.log(total)
    index_mass = tl.zeros((ROWS,), A)
    if not SOFT:
        index_mass = LOSS.index_mass(row_weight, coefficients)
        if LOSS.modulation is not None:
            index_mass, linear = modulated_mass(LOSS, coefficients, index_mass, at_index - log_sum)
        elif MODE != "backward":
            linear += index_mass * at_index
        mass += index_mass
    row_loss, coefficient = LOSS.finish(top, log_sum, mass, linear, row_weight, coefficients)

    if MODE != "backward":
        tl.store(loss + row, tl.where(counted, row_loss, 0.0), mask=exists)
    if MODE == "forward":
        tl.store(state + row, tl.where(counted, top, 0.0), mask=exists)
        tl.store(state + rows + row, tl.where(counted, log_sum, 0.0), mask=exists)
    else:
        if IN_PLACE:
            tl.debug_barrier()  # no thread may still be reading what another one overwrites
        scale = row_scale(grad_loss, denominator, row, exists, A) + tl.zeros((ROWS,), A)
        coefficient = (coefficient * scale)[:, None, None]
        index_mass = (index_mass * scale)[:, None, None]
        scale = scale[:, None, None]
        top = top[:, None, None]
        log_sum = log_sum[:, None, None]
        gradient_body = row_body(gradient, row, gradient_stride, head, PACKET, EDGES, GRADIENT_ALIGNED, BASE_ALIGNED)
        gradient_body = gradient_body[:, None, None]
        value = tile_gradient(
            LOSS, coefficients, z, q, column, index, top, log_sum, coefficient, scale, index_mass, DENSE
        )
        value = tl.where(mask, value, 0.0).to(gradient.dtype.element_ty)
        tl.store(gradient_body + offset, value, mask=inside & exists[:, None, None])
        if EDGES:
            value = tile_gradient(
                LOSS,
                coefficients,
                edge_z,
                edge_q,
                edge_column,
                index,
                top,
                log_sum,
                coefficient,
                scale,
                index_mass,
                DENSE,
            )
            value = tl.where(edge_mask, value, 0.0).to(gradient.dtype.element_ty)
            tl.store(gradient_body + edge_offset, value, mask=edge_inside & exists[:, None, None])


@triton.jit(
    do_not_specialize=[
        "rows", "classes", "logits_stride", "target_stride", "gradient_stride", "ignore_index", "coefficients",
    ],
)  # fmt: skip
def streaming_kernel(
    logits, target, weight, state, grad_loss, denominator, loss, gradient,
    rows, classes, logits_stride, target_stride, gradient_stride, ignore_index, coefficients,
    LOSS: tl.constexpr, MODE: tl.constexpr, SOFT: tl.constexpr, DENSE: tl.constexpr,
    IN_PLACE: tl.constexpr, PACKETS: tl.constexpr, PACKET: tl.constexpr, EDGES: tl.constexpr,
    BASE_ALIGNED: tl.constexpr, TARGET_ALIGNED: tl.constexpr, GRADIENT_ALIGNED: tl.constexpr,
):  # fmt: skip
    """One row of logits (rows, classes) a program: online softmax over tiles, then a second loop for the gradient.

    The second loop walks backwards, so that it starts with the tiles that are the likeliest to be still in a cache.
    """
    A: tl.constexpr = tl.float64 if logits.dtype.element_ty == tl.float64 else tl.float32
    FIRST_READ: tl.constexpr = "evict_last" if MODE == "forward_backward" else "evict_first"
    row = tl.program_id(0).to(tl.int64)
    head = 0
    if EDGES:
        head = elements_before_packet(logits + row * logits_stride, PACKET)
    packets = (classes - head) // PACKET
    body = row_body(logits, row, logits_stride, head, PACKET, EDGES, True, BASE_ALIGNED)
    target_body = None
    if SOFT:
        target_body = row_body(target, row, target_stride, head, PACKET, EDGES, TARGET_ALIGNED, BASE_ALIGNED)
    gradient_body = None
    if MODE != "forward":
        gradient_body = row_body(gradient, row, gradient_stride, head, PACKET, EDGES, GRADIENT_ALIGNED, BASE_ALIGNED)
    edge_offset = None
    edge_column = None
    edge_mask = None
    if EDGES:
        lane = tl.arange(0, PACKET)[None, :]
        edge_offset = tl.where(tl.arange(0, 2)[:, None] == 0, lane - PACKET, packets * PACKET + lane)
        edge_column = head + edge_offset
        edge_mask = (edge_column >= 0) & (edge_column < classes)

    index = None
    row_weight = tl.full((), 1.0, A)
    if not SOFT:
        index, counted, row_weight = read_index_target(target, weight, row, row < rows, classes, ignore_index, A)
        if counted == 0:
            ignore_row(gradient_body, loss, state, row, rows, packets, edge_offset, edge_mask, MODE, PACKETS, PACKET)
            return

    tile = tl.arange(0, PACKETS)[:, None]
    whole = packets // PACKETS * PACKETS  # packets in tiles that need no mask
    if EDGES:
        edge_z, edge_q = read_tile(
            LOSS, coefficients, body, target_body, weight, edge_offset, edge_column, edge_mask, A, DENSE, "evict_first"
        )
    linear = tl.zeros((), A)
    mass = tl.zeros((), A)
    if MODE == "backward":
        top = tl.load(state + row)
        log_sum = tl.load(state + rows + row)
        if DENSE:
            mass = row_total_mass(
                LOSS, coefficients, target_body, weight, head, packets, classes, A, SOFT, PACKETS, PACKET
            )
            if EDGES and (SOFT or weight is not None):
                mass += tl.sum(sum_mass(edge_q, edge_mask, edge_z, 1), axis=0)
    else:
        tops = tl.zeros((PACKETS,), A) + lowest(A)
        totals = tl.zeros((PACKETS,), A)
        masses = tl.zeros((PACKETS,), A)
        linears = tl.zeros((PACKETS,), A)
        for first in range(0, whole, PACKETS):
            offset = (first + tile) * PACKET + tl.arange(0, PACKET)[None, :]
            z, q = read_tile(
                LOSS, coefficients, body, target_body, weight, offset, head + offset, None, A, DENSE, FIRST_READ
            )
            tops, totals, masses, linears = absorb(z, q, None, tops, totals, masses, linears, DENSE, 1)
        if whole < packets:
            offset = (whole + tile) * PACKET + tl.arange(0, PACKET)[None, :]
            mask = tl.broadcast_to(whole + tile < packets, offset.shape)
            z, q = read_tile(
                LOSS, coefficients, body, target_body, weight, offset, head + offset, mask, A, DENSE, FIRST_READ
            )
            tops, totals, masses, linears = absorb(z, q, mask, tops, totals, masses, linears, DENSE, 1)
        top = tl.max(tops, axis=0)
        if EDGES:
            top = tl.maximum(top, tl.max(tl.max(edge_z, axis=1), axis=0))
        total = tl.sum(totals * tl.exp(tops - top), axis=0)
        mass = tl.sum(masses, axis=0)
        linear = tl.sum(linears + carried(masses, tops - top), axis=0)
        if EDGES:
            total += tl.sum(tl.sum(tl.exp(edge_z - top), axis=1), axis=0)
            if DENSE:
                mass += tl.sum(sum_mass(edge_q, edge_mask, edge_z, 1), axis=0)
                linear += tl.sum(tl.sum(weighted(edge_q, edge_z - top, edge_mask), axis=1), axis=0)
        log_sum = tl.where(total == 0.0, float("nan"), tl.log(total))  # 0: every logit is -inf
    index_mass = tl.zeros((), A)
    if not SOFT:
        index_mass = LOSS.index_mass(row_weight, coefficients)
        if LOSS.modulation is not None or MODE != "backward":
            x_index = tl.load(logits + row * logits_stride + index, mask=index >= 0, other=0.0).to(A)
            at_index = LOSS.logit(x_index, coefficients) - top
            if LOSS.modulation is not None:
                index_mass, linear = modulated_mass(LOSS, coefficients, index_mass, at_index - log_sum)
            else:
                linear += index_mass * at_index
        mass += index_mass
    row_loss, coefficient = LOSS.finish(top, log_sum, mass, linear, row_weight, coefficients)

    if MODE != "backward":
        tl.store(loss + row, row_loss)
    if MODE == "forward":
        tl.store(state + row, top)
        tl.store(state + rows + row, log_sum)
    else:
        if IN_PLACE:
            tl.debug_barrier()  # no thread may still be reading what another one overwrites
        scale = row_scale(grad_loss, denominator, row, row < rows, A)
        coefficient *= scale
        index_mass *= scale
        if whole < packets:
            offset = (whole + tile) * PACKET + tl.arange(0, PACKET)[None, :]
            mask = tl.broadcast_to(whole + tile < packets, offset.shape)
            z, q = read_tile(
                LOSS, coefficients, body, target_body, weight, offset, head + offset, mask, A, DENSE, "evict_first"
            )
            value = tile_gradient(
                LOSS, coefficients, z, q, head + offset, index, top, log_sum, coefficient, scale, index_mass, DENSE
            )
            tl.store(gradient_body + offset, value.to(gradient.dtype.element_ty), mask=mask)
        for done in range(0, whole, PACKETS):
            offset = (whole - PACKETS - done + tile) * PACKET + tl.arange(0, PACKET)[None, :]
            z, q = read_tile(
                LOSS, coefficients, body, target_body, weight, offset, head + offset, None, A, DENSE, "evict_first"
            )
            value = tile_gradient(
                LOSS, coefficients, z, q, head + offset, index, top, log_sum, coefficient, scale, index_mass, DENSE
            )
            tl.store(gradient_body + offset, value.to(gradient.dtype.element_ty))
        if EDGES:
            value = tile_gradient(
                LOSS,
                coefficients,
                edge_z,
                edge_q,
                edge_column,
                index,
                top,
                log_sum,
                coefficient,
                scale,
                index_mass,
                DENSE,
            )
            tl.store(gradient_body + edge_offset, value.to(gradient.dtype.element_ty), mask=edge_mask)


@triton.jit
def ignore_row(
    gradient_body, loss, state, row, rows, packets, edge_offset, edge_mask,
    MODE: tl.constexpr, PACKETS: tl.constexpr, PACKET: tl.constexpr,
):  # fmt: skip
    """Zeros for a row of the streaming kernel whose target is ignore_index; its logits are not read."""
    if MODE != "backward":
        tl.store(loss + row, 0.0)
    if MODE == "forward":
        tl.store(state + row, 0.0)
        tl.store(state + rows + row, 0.0)
    else:
        for first in range(0, packets, PACKETS):
            packet = first + tl.arange(0, PACKETS)[:, None]
            offset = packet * PACKET + tl.arange(0, PACKET)[None, :]
            mask = tl.broadcast_to(packet < packets, offset.shape)
            tl.store(gradient_body + offset, tl.zeros(offset.shape, gradient_body.dtype.element_ty), mask=mask)
        if edge_offset is not None:
            zeros = tl.zeros(edge_offset.shape, gradient_body.dtype.element_ty)
            tl.store(gradient_body + edge_offset, zeros, mask=edge_mask)


@triton.jit
def row_total_mass(
    LOSS: tl.constexpr, coefficients, target_body, weight, head, packets, classes,
    A: tl.constexpr, SOFT: tl.constexpr, PACKETS: tl.constexpr, PACKET: tl.constexpr,
):  # fmt: skip
    """sum_j q_j over the packets of a row; over all classes where q is the same for each of them."""
    if SOFT or weight is not None:
        masses = tl.zeros((PACKETS,), A)
        for first in range(0, packets, PACKETS):
            packet = first + tl.arange(0, PACKETS)[:, None]
            offset = packet * PACKET + tl.arange(0, PACKET)[None, :]
            mask = tl.broadcast_to(packet < packets, offset.shape)
            q = read_mass(LOSS, coefficients, target_body, weight, offset, head + offset, mask, mask, A, "evict_last")
            masses += tl.sum(q, axis=1)
        return tl.sum(masses, axis=0)
    else:
        return LOSS.mass(tl.full((), 1.0, A), tl.full((), 0.0, A), coefficients) * classes.to(A)


@triton.jit(
    do_not_specialize=[
        "rows", "classes", "positions", "blocks", "ignore_index", "logits_batch", "logits_class",
        "target_batch", "target_class", "gradient_batch", "gradient_class", "coefficients",
    ],
)  # fmt: skip
def strided_kernel(
    logits, target, weight, state, grad_loss, denominator, loss, gradient,
    rows, classes, positions, blocks, logits_batch, logits_class, target_batch, target_class,
    gradient_batch, gradient_class, ignore_index, coefficients,
    LOSS: tl.constexpr, MODE: tl.constexpr, SOFT: tl.constexpr, DENSE: tl.constexpr,
    IN_PLACE: tl.constexpr, CLASSES: tl.constexpr, POSITIONS: tl.constexpr, PACKET: tl.constexpr,
    ALIGNED: tl.constexpr, TARGET_ALIGNED: tl.constexpr, GRADIENT_ALIGNED: tl.constexpr,
):  # fmt: skip
    """POSITIONS neighbours along D of logits (N, C, D) a program: online softmax over blocks of CLASSES classes, then a
    second loop for the gradient. Row n * D + d of loss and state is the position d of batch n."""
    A: tl.constexpr = tl.float64 if logits.dtype.element_ty == tl.float64 else tl.float32
    batch = tl.program_id(0).to(tl.int64) // blocks
    start = tl.program_id(0) % blocks * POSITIONS
    position = start + tl.arange(0, POSITIONS)
    row = batch * positions + position
    if ALIGNED:
        positions = positions // PACKET * PACKET  # the value is the same; the compiler learns that it is a multiple
    exists = position < positions
    index = None
    counted = exists
    row_weight = tl.full((POSITIONS,), 1.0, A)
    if not SOFT:
        index, counted, row_weight = read_index_target(target, weight, row, exists, classes, ignore_index, A)
        index = index[None, :]

    lane = tl.arange(0, POSITIONS)[None, :]
    block = tl.arange(0, CLASSES)[:, None]
    body = strided_body(logits, batch, logits_batch, start, PACKET, ALIGNED)
    if ALIGNED:
        logits_class = logits_class // PACKET * PACKET
    target_body = None
    if SOFT:
        target_body = strided_body(target, batch, target_batch, start, PACKET, TARGET_ALIGNED)
        if TARGET_ALIGNED:
            target_class = target_class // PACKET * PACKET

    top = tl.zeros((POSITIONS,), A) + lowest(A)
    mass = tl.zeros((POSITIONS,), A)
    linear = tl.zeros((POSITIONS,), A)
    if MODE == "backward":
        top = tl.load(state + row, mask=counted, other=0.0)
        log_sum = tl.load(state + rows + row, mask=counted, other=0.0)
        if DENSE:
            for first in range(0, classes, CLASSES):
                column = first + block
                in_row = column < classes
                mask = in_row & exists[None, :]
                target_offset = column.to(tl.int64) * target_class + lane
                q = read_mass(
                    LOSS, coefficients, target_body, weight, target_offset, column, in_row, mask, A, "evict_last"
                )
                mass += sum_mass(q, mask, mask, 0)
        if LOSS.modulation is not None:
            at_class = batch * logits_batch + tl.maximum(tl.reshape(index, [POSITIONS]), 0).to(tl.int64) * logits_class
            z_index = LOSS.logit(tl.load(logits + at_class + position, mask=counted, other=0.0).to(A), coefficients)
    else:
        total = tl.zeros((POSITIONS,), A)
        z_index = tl.zeros((POSITIONS,), A)
        for first in range(0, classes, CLASSES):
            column = first + block
            in_row = column < classes
            mask = in_row & exists[None, :]
            offset = column.to(tl.int64) * logits_class + lane
            z = read_logits(LOSS, coefficients, body + offset, mask, A, "evict_last")
            q = tl.zeros((), A)
            if DENSE:
                target_offset = column.to(tl.int64) * target_class + lane
                q = read_mass(
                    LOSS, coefficients, target_body, weight, target_offset, column, in_row, mask, A, "evict_last"
                )
            top, total, mass, linear = absorb(z, q, mask, top, total, mass, linear, DENSE, 0)
            if not SOFT:
                z_index += tl.sum(tl.where(column == index, z, 0.0), axis=0)
        log_sum = tl.where(total == 0.0, float("nan"), tl.log(total))  # 0: every logit is -inf
    index_mass = tl.zeros((POSITIONS,), A)
    if not SOFT:
        index_mass = LOSS.index_mass(row_weight, coefficients)
        if LOSS.modulation is not None:
            index_mass, linear = modulated_mass(LOSS, coefficients, index_mass, z_index - top - log_sum)
        elif MODE != "backward":
            linear += index_mass * (z_index - top)
        mass += index_mass
    row_loss, coefficient = LOSS.finish(top, log_sum, mass, linear, row_weight, coefficients)

    if MODE != "backward":
        tl.store(loss + row, tl.where(counted, row_loss, 0.0), mask=exists)
    if MODE == "forward":
        tl.store(state + row, tl.where(counted, top, 0.0), mask=exists)
        tl.store(state + rows + row, tl.where(counted, log_sum, 0.0), mask=exists)
    else:
        if IN_PLACE:
            tl.debug_barrier()  # no thread may still be reading what another one overwrites
        scale = row_scale(grad_loss, denominator, row, exists, A)
        coefficient = (coefficient * scale)[None, :]
        index_mass = (index_mass * scale)[None, :]
        scale = (scale + tl.zeros((POSITIONS,), A))[None, :]
        top = top[None, :]
        log_sum = log_sum[None, :]
        gradient_body = strided_body(gradient, batch, gradient_batch, start, PACKET, GRADIENT_ALIGNED)
        if GRADIENT_ALIGNED:
            gradient_class = gradient_class // PACKET * PACKET
        last = (classes - 1) // CLASSES * CLASSES
        for done in range(0, classes, CLASSES):  # backwards: the classes read last are the likeliest to be in a cache
            column = last - done + block
            in_row = column < classes
            mask = in_row & exists[None, :]
            z = read_logits(
                LOSS, coefficients, body + (column.to(tl.int64) * logits_class + lane), mask, A, "evict_first"
            )
            q = tl.zeros((), A)
            if DENSE:
                target_offset = column.to(tl.int64) * target_class + lane
                q = read_mass(
                    LOSS, coefficients, target_body, weight, target_offset, column, in_row, mask, A, "evict_first"
                )
            value = tile_gradient(
                LOSS, coefficients, z, q, column, index, top, log_sum, coefficient, scale, index_mass, DENSE
            )
            value = tl.where(counted[None, :], value, 0.0).to(gradient.dtype.element_ty)
            tl.store(gradient_body + (column.to(tl.int64) * gradient_class + lane), value, mask=mask)
