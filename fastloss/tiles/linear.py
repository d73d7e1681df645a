"""The walk over chunks of the rows of logits = input @ matrix.T + bias, which are never stored whole; its operators.

The products are the BLAS library's, the loss of a chunk is that of the row operators, so that every device and every
row loss takes the same way:

    for each chunk of rows:   logits = input matrix^T + bias     into one buffer
                              loss and gradient G of its rows    in place
                              d_input = G matrix,   d_matrix += G^T input,   d_bias += sum G

Extra memory: the chunk, the gradients that are wanted, and, for halves, what is kept in float32: with `wide` the sums
of d_matrix; on a CPU also a copy of the matrix, see `product_dtype`.

Rows that are ignored get features of zeros: G is exactly 0 there, but 0 * NaN in G^T input would be NaN.

The operators are for torch.compile, which must not trace the walk; elsewhere it is called as it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fastloss.core.arguments import accumulator_dtype, known_to_be_false
from fastloss.core.dtypes import without_autocast
from fastloss.operators.row import MEAN, NONE, SUM, RowOptions

# Of the logits of one chunk: enough rows for the matrix products to be as quick as in one piece, and few enough passes
# over the gradient of the matrix. CPU, 1024 x 32000 float32 at H = 512: 16 MiB took 20% more CPU time than 32 or 64,
# and 128 took 7% more; with more classes a chunk has fewer rows, hence 64. Elsewhere not measured.
CHUNK_BYTES = {"cpu": 64 << 20}
CHUNK_BYTES_ELSEWHERE = 256 << 20


class LinearOperands(NamedTuple):
    """What goes with input (N, H), matrix (C * D, H) and bias (C * D) or None; the logits are (N, C, D)."""

    row: RowOptions  # target: (N * D,), or soft (N, C) where D is 1, else (N, C, D)
    positions: int  # D
    chunk: int  # rows of the input; 0: by CHUNK_BYTES
    wide: bool  # sum d_matrix in the accumulator dtype


Gradients = tuple[Tensor | None, Tensor | None, Tensor | None]  # of input, matrix and bias


def chunk_rows(count: int, row_bytes: int, device_type: str) -> int:
    """Rows of a chunk of at most CHUNK_BYTES (or one row); chunks of one call are equally long, to within a row."""
    most = max(1, CHUNK_BYTES.get(device_type, CHUNK_BYTES_ELSEWHERE) // row_bytes)
    chunks = -(-count // most)
    return -(-count // chunks)


def product_dtype(input: Tensor) -> torch.dtype:
    """The dtype of the matrix products, the logits and G: on a CPU float32 for halves.

    The products of halves of torch's CPU builds are slower than float32's where the processor has no instructions for
    them (AVX-512 without BF16, 512 x 512 x 32000: 4 to 5 times for the logits, 60 to 120 times for G matrix), and they
    round logits and G; so float32 costs a conversion and nothing else.
    """
    return accumulator_dtype(input.dtype) if input.is_cpu else input.dtype


def deferred(input: Tensor) -> bool:
    """Whether the gradients of a scalar reduction wait for the upstream gradient, which may be a loss scale.

    G in float16, divided by the rows of a mean, is lost in float16's subnormals before a factor of 65536 arrives, and
    its products overflow if it is not divided. So where products are in float16 backward computes the logits again,
    knowing the factor. Products in float32 keep everything until then.
    """
    return product_dtype(input) == torch.float16


def gradients_dtype(input: Tensor, upstream: Tensor | None) -> torch.dtype:
    """float32 instead of float16, whose range is too small, until the upstream gradient has been multiplied in."""
    return product_dtype(input) if input.dtype == torch.float16 and upstream is None else input.dtype


def _rows_per_chunk(input: Tensor, matrix: Tensor, o: LinearOperands) -> int:
    row_bytes = len(matrix) * product_dtype(input).itemsize
    return min(len(input), o.chunk or chunk_rows(len(input), row_bytes, input.device.type))


def _ignored(o: LinearOperands) -> Tensor | None:
    """Which rows of the input (N,) count for nothing; None if it is known that all count."""
    target = o.row.target
    if target.is_floating_point():
        return None
    ignored = (target == o.row.ignore_index).view(-1, o.positions).all(1)
    return None if known_to_be_false(ignored) else ignored


def _chunks(
    input: Tensor, matrix: Tensor, bias: Tensor | None, o: LinearOperands
) -> Iterator[tuple[slice, Tensor, Tensor, Tensor]]:
    """(rows, their features, their logits (n, C * D), their targets); `matrix` and `bias` are in the product's dtype.

    The logits are overwritten by those of the next chunk.
    """
    count, chunk = len(input), _rows_per_chunk(input, matrix, o)
    ignored = _ignored(o)
    buffer = matrix.new_empty(chunk, len(matrix))
    for begin in range(0, count, chunk):
        part = slice(begin, min(begin + chunk, count))
        logits = buffer[: part.stop - begin]
        features = input[part].to(matrix.dtype)
        if ignored is not None:
            features = features.masked_fill(ignored[part, None], 0)
        if bias is None:
            torch.mm(features, matrix.t(), out=logits)
        else:
            torch.addmm(bias, features, matrix.t(), out=logits)
        target = o.row.target
        soft = target.is_floating_point()
        target = target[begin : part.stop] if soft else target[begin * o.positions : part.stop * o.positions]
        yield part, features, logits, target.to(matrix.dtype) if soft else target


def as_rows(logits: Tensor, o: LinearOperands) -> Tensor:
    """(n, C * D) as the row operators take it."""
    return logits if o.positions == 1 else logits.view(len(logits), -1, o.positions)


def forward(input: Tensor, matrix: Tensor, bias: Tensor | None, o: LinearOperands, operators: Any) -> Tensor:
    reduction = NONE if o.row.reduction == NONE else SUM
    matrix, bias = _for_products(input, matrix, bias)
    losses = [
        operators.row_forward(as_rows(logits, o), *o.row._replace(target=target, reduction=reduction))[0]
        for _, _, logits, target in _chunks(input, matrix, bias, o)
    ]
    return _reduced(losses, o)


def _for_products(input: Tensor, matrix: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
    dtype = product_dtype(input)
    return matrix.to(dtype), None if bias is None else bias.to(dtype)


def _reduced(losses: list[Tensor], o: LinearOperands) -> Tensor:
    if o.row.reduction == NONE:
        return torch.cat(losses)
    total = torch.stack(losses).sum()
    return total / _denominator(o, total.dtype) if o.row.reduction == MEAN else total


def _denominator(o: LinearOperands, dtype: torch.dtype) -> Tensor:
    """What the mean divides by, as in the row operators; stays on the device."""
    target, weight = o.row.target, o.row.weight
    if target.is_floating_point():
        rows = target.numel() // target.shape[1]
        return torch.full((), rows, dtype=dtype, device=target.device)
    counted = target != o.row.ignore_index
    return counted.sum().to(dtype) if weight is None else (weight[target * counted] * counted).sum()


def forward_backward(
    input: Tensor,
    matrix: Tensor,
    bias: Tensor | None,
    o: LinearOperands,
    operators: Any,
    wanted: Sequence[bool],
    upstream: Tensor | None = None,
) -> tuple[Tensor, Gradients]:
    """The loss, and its gradients in `gradients_dtype`, times `upstream` (default: 1): () or, for none, (N * D,)."""
    accumulate = accumulator_dtype(input.dtype)
    factor = scale = None  # of each chunk's G, (N, 1, D); of the results
    if o.row.reduction == NONE:
        factor = None if upstream is None else of_counted_rows(upstream, o).view(-1, 1, o.positions)
    else:
        scale = upstream
        if o.row.reduction == MEAN:
            denominator = _denominator(o, accumulate)
            mean = torch.where(denominator == 0, 0.0, 1 / denominator)  # no row counts: G is 0, as are the gradients
            scale = mean if upstream is None else mean * upstream
        if scale is not None and deferred(input):  # the sum over all rows may leave float16's range
            factor, scale = scale.expand(len(input), 1, o.positions), None
    dtype = gradients_dtype(input, upstream)
    matrix, bias = _for_products(input, matrix, bias)
    one_chunk = _rows_per_chunk(input, matrix, o) == len(input)
    sum_dtype = accumulate if o.wide and not one_chunk else matrix.dtype
    d_input = torch.empty_like(input, dtype=dtype, memory_format=torch.contiguous_format) if wanted[0] else None
    d_matrix: Tensor | None = None
    d_bias = input.new_zeros(len(matrix), dtype=accumulate) if wanted[2] else None
    losses = []
    for part, features, logits, target in _chunks(input, matrix, bias, o):
        rows = as_rows(logits, o)
        if o.row.reduction == NONE:
            losses.append(operators.row_forward(rows, *o.row._replace(target=target))[0])
        total = operators.row_forward_backward_(rows, *o.row._replace(target=target, reduction=SUM))
        if o.row.reduction != NONE:
            losses.append(total)
        if factor is not None and o.positions > 1:
            rows.mul_(factor[part])
        if d_input is not None:
            _d_input(d_input[part], logits, matrix, scale if factor is None else factor[part, 0], o)
        if factor is not None and o.positions == 1:  # after the product: the same bits as a scaling in backward
            logits.mul_(factor[part, 0])
        if wanted[1] and (d_matrix is None or sum_dtype != matrix.dtype):
            product = torch.mm(logits.t(), features)
            d_matrix = product.to(sum_dtype) if d_matrix is None else d_matrix.add_(product)
        elif d_matrix is not None:
            d_matrix.addmm_(logits.t(), features)
        if d_bias is not None:
            d_bias += logits.sum(0, dtype=accumulate)
    for gradient in (d_matrix, d_bias):
        if gradient is not None and scale is not None:
            gradient.mul_(scale)
    d_matrix, d_bias = (None if g is None else g.to(dtype) for g in (d_matrix, d_bias))
    return _reduced(losses, o), (d_input, d_matrix, d_bias)


def _d_input(out: Tensor, logits: Tensor, matrix: Tensor, factor: Tensor | None, o: LinearOperands) -> None:
    """G matrix * factor into `out`, rounded once. The factor of several positions a row is in G already."""
    same = out.dtype == matrix.dtype
    product = torch.mm(logits, matrix, out=out) if same else torch.mm(logits, matrix)
    if factor is not None and (o.positions == 1 or factor.dim() == 0):
        product.mul_(factor)
    if not same:
        out.copy_(product)


def of_counted_rows(upstream: Tensor, o: LinearOperands) -> Tensor:
    """The upstream gradients (N * D,) with 0 for the rows that are ignored, whose upstream may be anything."""
    target = o.row.target
    return upstream if target.is_floating_point() else upstream.masked_fill(target == o.row.ignore_index, 0)


# ------------------------------------------------------------------------------------------ operators

_OPERANDS = (
    "Tensor input, Tensor matrix, Tensor? bias, Tensor target, Tensor? weight, str loss, float[] parameters, "
    "int ignore_index, int reduction, SymInt positions, SymInt chunk, bool wide"
)


def _register(namespace: str) -> torch.library.Library:
    library = torch.library.Library(namespace, "FRAGMENT")
    tags = (torch.Tag.needs_exact_strides, torch.Tag.pt2_compliant_tag)

    def linear_row_forward(input, matrix, bias, *rest):
        *row, positions, chunk, wide = rest
        o = LinearOperands(RowOptions(*row), positions, chunk, wide)
        with without_autocast(input):
            return forward(input, matrix, bias, o, getattr(torch.ops, namespace))

    def linear_row_forward_backward(input, matrix, bias, *rest):
        *row, positions, chunk, wide, wanted, upstream = rest
        o = LinearOperands(RowOptions(*row), positions, chunk, wide)
        with without_autocast(input):
            loss, gradients = forward_backward(input, matrix, bias, o, getattr(torch.ops, namespace), wanted, upstream)
        dtype = gradients_dtype(input, upstream)
        return loss, *(input.new_empty(0, dtype=dtype) if g is None else g for g in gradients)

    def loss_without_data(input, matrix, bias, *rest):
        reduction, positions = rest[5:7]
        shape = (input.shape[0] * positions,) if reduction == NONE else ()
        return input.new_empty(shape, dtype=accumulator_dtype(input.dtype))

    def gradients_without_data(input, matrix, bias, *rest):
        wanted, upstream = rest[-2:]
        dtype = gradients_dtype(input, upstream)
        shapes = (input.shape, matrix.shape, matrix.shape[:1])
        return loss_without_data(input, matrix, bias, *rest), *(
            input.new_empty(shape if want else (0,), dtype=dtype) for shape, want in zip(shapes, wanted, strict=True)
        )

    gradients = "bool[] wanted, Tensor? upstream) -> (Tensor loss, Tensor d_input, Tensor d_matrix, Tensor d_bias)"
    for name, schema, function, fake in (
        ("linear_row_forward", f"({_OPERANDS}) -> Tensor", linear_row_forward, loss_without_data),
        (
            "linear_row_forward_backward",
            f"({_OPERANDS}, {gradients}",
            linear_row_forward_backward,
            gradients_without_data,
        ),
    ):
        library.define(name + schema, tags=tags)
        library.impl(name, function, "CompositeExplicitAutograd")
        torch.library.register_fake(f"{namespace}::{name}", fake, lib=library)
    return library


_LIBRARIES = [_register(namespace) for namespace in ("fastloss", "fastloss_triton")]  # alive as long as the module
