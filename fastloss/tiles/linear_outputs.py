"""Numbers of the rows of logits = input @ matrix.T + bias, which are never stored whole: the walk over chunks.

    forward:   for each chunk of rows   logits, their statistics (kept), outputs
    backward:  for each chunk of rows   logits again, G from statistics and upstream,
                                        d_input = G matrix,  d_matrix += G^T input,  d_bias += sum G

4 products of N H C multiply-adds instead of the 3 of stored logits. Where the upstream gradients of a chunk follow from
its own outputs, `forward_backward` takes 3: all in forward. Extra memory: two chunks, the statistics, the gradients.
Rows that count for nothing are left out before the products where that needs no synchronisation.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fastloss.core.arguments import accumulator_dtype
from fastloss.tiles.linear import chunk_rows, gradients_dtype, product_dtype

# Of the logits of one chunk; there are two of its size. Half of what a loss takes that works in place.
_SHARE = 2


class RowFunction(NamedTuple):
    """The row operators' arguments that are no tensors."""

    kernel: str
    parameters: tuple[float, ...]
    left_out: int  # the target of a row that counts for nothing


def row_bounds(
    count: int, matrix: Tensor, input: Tensor, chunk: int, units: Sequence[int] | None = None
) -> tuple[int, ...]:
    """Where the chunks of `count` rows begin, and where the last one ends.

    Args:
        chunk: rows of one; 0: by their bytes.
        units: how many rows belong together, one number after the other; None: each row is by itself.
    """
    row_bytes = _SHARE * len(matrix) * product_dtype(input).itemsize
    chunk = chunk or chunk_rows(count, row_bytes, input.device.type)
    if units is None:
        return (*range(0, count, chunk), count)
    bounds = [0]
    end = 0
    for rows in units:
        if rows and end > bounds[-1] and end + rows - bounds[-1] > chunk:
            bounds.append(end)
        end += rows
    return (*bounds, count)


def _chunks(
    input: Tensor, matrix: Tensor, bias: Tensor | None, bounds: Sequence[int]
) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """(rows, their features, their logits), in the dtype of the products, which matrix and bias have"""
    parts = [slice(begin, end) for begin, end in itertools.pairwise(bounds)]
    buffer = matrix.new_empty(max((part.stop - part.start for part in parts), default=0), len(matrix))
    for part in parts:
        features, logits = input[part].to(matrix.dtype), buffer[: part.stop - part.start]
        if bias is None:
            torch.mm(features, matrix.t(), out=logits)
        else:
            torch.addmm(bias, features, matrix.t(), out=logits)
        yield part, features, logits


def _wide(input: Tensor, matrix: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
    dtype = product_dtype(input)
    return matrix.to(dtype), None if bias is None else bias.to(dtype)


class _Sums:
    """The gradients by input, matrix and bias, of which those that are wanted grow chunk by chunk."""

    def __init__(self, input: Tensor, matrix: Tensor, wanted: Sequence[bool], dtype: torch.dtype) -> None:
        """`matrix` in the dtype of the products, `dtype`: of the results"""
        self.accumulate, self.matrix, self.dtype = accumulator_dtype(input.dtype), matrix, dtype
        self.input = torch.empty_like(input, dtype=dtype, memory_format=torch.contiguous_format) if wanted[0] else None
        self.sum = torch.zeros(matrix.shape, dtype=self.accumulate, device=matrix.device) if wanted[1] else None
        self.bias = matrix.new_zeros(len(matrix), dtype=self.accumulate) if wanted[2] else None

    def add(self, part: slice, features: Tensor, gradient: Tensor) -> None:
        """`gradient`: of the logits of a chunk"""
        if self.input is not None:
            self.input[part] = gradient @ self.matrix
        if self.sum is not None:
            if self.sum.dtype == gradient.dtype:
                self.sum.addmm_(gradient.t(), features)
            else:
                self.sum += gradient.t() @ features
        if self.bias is not None:
            self.bias += gradient.sum(0, dtype=self.accumulate)

    def results(self) -> list[Tensor | None]:
        return [None if x is None else x.to(self.dtype) for x in (self.input, self.sum, self.bias)]


def forward(
    input: Tensor,
    matrix: Tensor,
    bias: Tensor | None,
    target: Tensor,
    f: RowFunction,
    bounds: Sequence[int],
    operators: Any,
) -> tuple[Tensor, Tensor]:
    """(outputs (k, N), statistics (s, N))"""
    classes = len(matrix)
    matrix, bias = _wide(input, matrix, bias)
    outputs, statistics = [], []
    for part, _, logits in _chunks(input, matrix, bias, bounds):
        known = operators.row_statistics(logits, None, target[part], None, *f, 0, classes)
        statistics.append(known)
        outputs.append(operators.row_outputs(known, target[part], *f, classes))
    return torch.cat(outputs, 1), torch.cat(statistics, 1)


def backward(
    input: Tensor,
    matrix: Tensor,
    bias: Tensor | None,
    target: Tensor,
    f: RowFunction,
    bounds: Sequence[int],
    operators: Any,
    statistics: Tensor,
    upstream: Tensor,
    wanted: Sequence[bool],
) -> list[Tensor | None]:
    """The gradients by input, matrix and bias, in their dtype."""
    classes = len(matrix)
    matrix, bias = _wide(input, matrix, bias)
    sums = _Sums(input, matrix, wanted, input.dtype)
    for part, features, logits in _chunks(input, matrix, bias, bounds):
        how = (logits, None, target[part], None, *f, 0, classes)
        gradient = operators.row_gradient(upstream[:, part].contiguous(), statistics[:, part].contiguous(), *how)
        sums.add(part, features, gradient)
    return sums.results()


def forward_backward(
    input: Tensor,
    matrix: Tensor,
    bias: Tensor | None,
    target: Tensor,
    f: RowFunction,
    bounds: Sequence[int],
    operators: Any,
    upstream_of: Callable[[Tensor], Tensor],
    wanted: Sequence[bool],
) -> tuple[Tensor, list[Tensor | None]]:
    """(outputs (k, N), the gradients by input, matrix and bias, in `gradients_dtype`)

    Args:
        upstream_of: the gradients (k, N) of the loss by the outputs (k, N), of which those of a chunk and of the ones
            before it are known, the others 0. It is asked once for each chunk, and only its rows count.
    """
    classes = len(matrix)
    matrix, bias = _wide(input, matrix, bias)
    sums = _Sums(input, matrix, wanted, gradients_dtype(input, None))
    outputs = input.new_zeros(0)
    for part, features, logits in _chunks(input, matrix, bias, bounds):
        how = (None, target[part], None, *f, 0, classes)
        statistics = operators.row_statistics(logits, *how)
        known = operators.row_outputs(statistics, target[part], *f, classes)
        if not part.start:
            outputs = known.new_zeros(len(known), len(input))
        outputs[:, part] = known
        upstream = upstream_of(outputs)[:, part].contiguous()
        sums.add(part, features, operators.row_gradient(upstream, statistics, logits, *how))
    return outputs, sums.results()
