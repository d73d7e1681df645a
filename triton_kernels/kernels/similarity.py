"""The kernels over all pairs of two sets of vectors. They know no loss.

z[i, j] = <a_i, b_j>, in tiles (ROWS, COLUMNS) that are recomputed wherever they are needed; the scale is in a already.
A program owns rows of a and walks over b, so nothing is added up across programs: the same bits on every run.

An excluded pair is not there: (i, i) if ALONE, j = dropped_a[i], i = dropped_b[j], labels_a[i] = labels_b[j]. What a
call does not have is None, and its code is left out.
"""

# mypy: disable-error-code="operator,index"
# Device code: under one constexpr a name is a tensor, under another it is None.

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def similarities(
    a, b, bias, row, column, rows, columns, width, a_stride, b_stride,
    dropped_a, dropped_b, labels_a, labels_b,
    ALONE: tl.constexpr, DEPTH: tl.constexpr, PRECISION: tl.constexpr, A: tl.constexpr, ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):  # fmt: skip
    """(z, is the pair there?) of the rows of a and of the rows of b (the columns) with these numbers."""
    z = tl.zeros((ROWS, COLUMNS), dtype=A)
    for start in range(0, width, DEPTH):
        k = start + tl.arange(0, DEPTH)
        inside_a = (row < rows)[:, None] & (k < width)[None, :]
        inside_b = (column < columns)[None, :] & (k < width)[:, None]
        left = tl.load(a + row[:, None] * a_stride + k[None, :], mask=inside_a, other=0.0)
        right = tl.load(b + column[None, :] * b_stride + k[:, None], mask=inside_b, other=0.0)
        z = tl.dot(left, right, z, input_precision=PRECISION, out_dtype=A)
    if bias is not None:
        z += tl.load(bias)
    there = (row < rows)[:, None] & (column < columns)[None, :]
    if ALONE:
        there = there & (row[:, None] != column[None, :])
    if dropped_a is not None:
        dropped = tl.load(dropped_a + row, mask=row < rows, other=-1)
        there = there & (dropped[:, None] != column[None, :])
    if dropped_b is not None:
        dropped = tl.load(dropped_b + column, mask=column < columns, other=-1)
        there = there & (dropped[None, :] != row[:, None])
    if labels_a is not None:
        of_row = tl.load(labels_a + row, mask=row < rows, other=0)
        of_column = tl.load(labels_b + column, mask=column < columns, other=0)
        there = there & (of_row[:, None] != of_column[None, :])
    return z, there


@triton.jit
def sum_kernel(
    a, b, bias, dropped_a, labels_a, labels_b, result, rows, columns, width, a_stride, b_stride,
    PAIR: tl.constexpr, ALONE: tl.constexpr, DEPTH: tl.constexpr, PRECISION: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """result[i]: log(sum_j exp(z[i, j])), or sum_j loss(z[i, j]) of a PAIR: z -> (loss, slope)."""
    A: tl.constexpr = tl.float64 if a.dtype.element_ty == tl.float64 else tl.float32
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    largest = tl.full((ROWS,), float("-inf"), dtype=A)
    total = tl.zeros((ROWS,), dtype=A)
    for start in range(0, columns, COLUMNS):
        column = start + tl.arange(0, COLUMNS).to(tl.int64)
        z, there = similarities(
            a, b, bias, row, column, rows, columns, width, a_stride, b_stride, dropped_a, None, labels_a, labels_b,
            ALONE, DEPTH, PRECISION, A, ROWS, COLUMNS,
        )  # fmt: skip
        if PAIR is None:
            z = tl.where(there, z, float("-inf"))
            new = tl.maximum(largest, tl.max(z, 1))
            shift = tl.where(new == float("-inf"), 0.0, new)  # nothing is there yet: -inf - -inf is NaN
            total = total * tl.exp(largest - shift) + tl.sum(tl.exp(z - shift[:, None]), 1)
            largest = new
        else:
            loss, _ = PAIR(z)
            total += tl.sum(tl.where(there, loss, 0.0), 1)
    if PAIR is None:
        total = largest + tl.log(total)
    tl.store(result + row, total, mask=row < rows)


@triton.jit
def gradient_kernel(
    a, b, bias, dropped_a, dropped_b, labels_a, labels_b, shift_a, shift_b, factor_a, factor_b, gradient, weight_sum,
    rows, columns, width, a_stride, b_stride, gradient_stride,
    PAIR: tl.constexpr, ALONE: tl.constexpr, DEPTH: tl.constexpr, PRECISION: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, OUTPUTS: tl.constexpr,
):  # fmt: skip
    """gradient[i, :] = sum_j W[i, j] b_j for OUTPUTS of the elements of each vector; weight_sum[i] = sum_j W[i, j].

    W[i, j] = factor_a[i] exp(z[i, j] - shift_a[i]) + factor_b[j] exp(z[i, j] - shift_b[j]), one part or both; of a
    PAIR its slope times factor_a[i] or factor_b[j].
    """
    A: tl.constexpr = tl.float64 if a.dtype.element_ty == tl.float64 else tl.float32
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    element = tl.program_id(1) * OUTPUTS + tl.arange(0, OUTPUTS)
    if shift_a is not None:
        shift_of_row = tl.load(shift_a + row, mask=row < rows, other=0.0)
    if factor_a is not None:
        factor_of_row = tl.load(factor_a + row, mask=row < rows, other=0.0)
    total = tl.zeros((ROWS, OUTPUTS), dtype=A)
    weights = tl.zeros((ROWS,), dtype=A)
    for start in range(0, columns, COLUMNS):
        column = start + tl.arange(0, COLUMNS).to(tl.int64)
        z, there = similarities(
            a, b, bias, row, column, rows, columns, width, a_stride, b_stride, dropped_a, dropped_b, labels_a,
            labels_b, ALONE, DEPTH, PRECISION, A, ROWS, COLUMNS,
        )  # fmt: skip
        weight = tl.zeros((ROWS, COLUMNS), dtype=A)
        if PAIR is None:
            z = tl.where(there, z, float("-inf"))
            if shift_a is not None:
                weight += factor_of_row[:, None] * tl.exp(z - shift_of_row[:, None])
            if shift_b is not None:
                shift = tl.load(shift_b + column, mask=column < columns, other=0.0)
                factor = tl.load(factor_b + column, mask=column < columns, other=0.0)
                weight += factor[None, :] * tl.exp(z - shift[None, :])
        else:
            _, slope = PAIR(z)
            if factor_a is not None:
                slope *= factor_of_row[:, None]
            if factor_b is not None:
                slope *= tl.load(factor_b + column, mask=column < columns, other=0.0)[None, :]
            weight = slope
        weight = tl.where(there, weight, 0.0)
        if weight_sum is not None:
            weights += tl.sum(weight, 1)
        values = tl.load(
            b + column[:, None] * b_stride + element[None, :],
            mask=(column < columns)[:, None] & (element < width)[None, :], other=0.0,
        )  # fmt: skip
        total = tl.dot(weight, values, total, input_precision=PRECISION, out_dtype=A)
    tl.store(
        gradient + row[:, None] * gradient_stride + element[None, :], total,
        mask=(row < rows)[:, None] & (element < width)[None, :],
    )  # fmt: skip
    if weight_sum is not None:
        tl.store(weight_sum + row, weights, mask=(row < rows) & (tl.program_id(1) == 0))
