"""The walk over chunks of the rows of logits = input @ matrix.T + bias, which are never stored whole; its operators.

The products are the BLAS library's, the loss of a chunk is that of the row operators, so that every device and every
row loss takes the same way:

    for each chunk of rows:   logits = input matrix^T + bias     into one buffer
                              loss and gradient G of its rows    in place
                              d_input = G matrix,   d_matrix += G^T input,   d_bias += sum G

Extra memory: the chunk, the gradients that are wanted, and, for halves with `wide`, sums of d_matrix in float32.

The operators are for torch.compile, which must not trace the walk; elsewhere it is called as it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fastloss.core.arguments import accumulator_dtype
from fastloss.operators.row import MEAN, NONE, SUM, RowOperands

# Of the logits of one chunk: enough rows for the matrix products to be as quick as in one piece, and few enough passes
# over the gradient of the matrix. CPU, 1024 x 32000 float32 at H = 512: 16 MiB took 20% more CPU time than 32 or 64,
# and 128 took 7% more; with more classes a chunk has fewer rows, hence 64. Elsewhere not measured.
CHUNK_BYTES = {"cpu": 64 << 20}
CHUNK_BYTES_ELSEWHERE = 256 << 20


class LinearOperands(NamedTuple):
    """What goes with input (N, H), matrix (C * D, H) and bias (C * D) or None; the logits are (N, C, D)."""

    row: RowOperands  # target: (N * D,), or soft (N, C) where D is 1, else (N, C, D)
    positions: int  # D
    chunk: int  # rows of the input; 0: by CHUNK_BYTES
    wide: bool  # sum d_matrix in the accumulator dtype


Gradients = tuple[Tensor | None, Tensor | None, Tensor | None]  # of input, matrix and bias


def chunk_rows(count: int, row_bytes: int, device_type: str) -> int:
    """Rows of a chunk of at most CHUNK_BYTES (or one row); chunks of one call are equally long, to within a row."""
    most = max(1, CHUNK_BYTES.get(device_type, CHUNK_BYTES_ELSEWHERE) // row_bytes)
    chunks = -(-count // most)
    return -(-count // chunks)


def _chunks(
    input: Tensor, matrix: Tensor, bias: Tensor | None, o: LinearOperands
) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """(rows of the input, their logits (n, C * D), their targets); the logits are overwritten by those of the next."""
    count = len(input)
    chunk = o.chunk or chunk_rows(count, len(matrix) * input.element_size(), input.device.type)
    buffer = input.new_empty(min(chunk, count), len(matrix))
    for begin in range(0, count, chunk):
        part = slice(begin, min(begin + chunk, count))
        logits = buffer[: part.stop - begin]
        if bias is None:
            torch.mm(input[part], matrix.t(), out=logits)
        else:
            torch.addmm(bias, input[part], matrix.t(), out=logits)
        target = o.row.target
        per_row = 1 if target.is_floating_point() else o.positions
        yield part, logits, target[begin * per_row : part.stop * per_row]


def as_rows(logits: Tensor, o: LinearOperands) -> Tensor:
    """(n, C * D) as the row operators take it."""
    return logits if o.positions == 1 else logits.view(len(logits), -1, o.positions)


def forward(input: Tensor, matrix: Tensor, bias: Tensor | None, o: LinearOperands, operators: Any) -> Tensor:
    reduction = NONE if o.row.reduction == NONE else SUM
    losses = [
        operators.row_forward(as_rows(logits, o), *o.row._replace(target=target, reduction=reduction))[0]
        for _, logits, target in _chunks(input, matrix, bias, o)
    ]
    return _reduced(losses, o)


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
    """The loss, and its gradients; for reduction none, those of the sum of upstream (N * D,) * losses (default: 1)."""
    accumulate = accumulator_dtype(input.dtype)
    factor = scale = None  # of each chunk's G, (N, 1, D); of the results
    if upstream is not None:
        factor = upstream.view(-1, 1, o.positions)
    elif o.row.reduction == MEAN:
        denominator = _denominator(o, accumulate)
        scale = torch.where(denominator == 0, 0.0, 1 / denominator)  # no row counts: G is 0, and so are the gradients
        if input.dtype == torch.float16:  # whose range a sum over all rows may leave, where the mean does not
            factor, scale = scale.expand(len(input), 1, o.positions), None
    sum_dtype = accumulate if o.wide else input.dtype
    d_input = torch.empty_like(input, memory_format=torch.contiguous_format) if wanted[0] else None
    d_matrix: Tensor | None = None
    d_bias = input.new_zeros(len(matrix), dtype=accumulate) if wanted[2] else None
    losses = []
    for part, logits, target in _chunks(input, matrix, bias, o):
        rows = as_rows(logits, o)
        if o.row.reduction == NONE:
            losses.append(operators.row_forward(rows, *o.row._replace(target=target))[0])
        total = operators.row_forward_backward_(rows, *o.row._replace(target=target, reduction=SUM))
        if o.row.reduction != NONE:
            losses.append(total)
        if factor is not None and o.positions > 1:
            rows.mul_(factor[part])
        if d_input is not None:
            torch.mm(logits, matrix, out=d_input[part])
        if factor is not None and o.positions == 1:  # after the product: the same bits as a scaling in backward
            logits.mul_(factor[part, 0])
            if d_input is not None:
                d_input[part].mul_(factor[part, 0])
        if wanted[1] and (d_matrix is None or sum_dtype != input.dtype):
            product = torch.mm(logits.t(), input[part])
            d_matrix = product.to(sum_dtype) if d_matrix is None else d_matrix.add_(product)
        elif d_matrix is not None:
            d_matrix.addmm_(logits.t(), input[part])
        if d_bias is not None:
            d_bias += logits.sum(0, dtype=accumulate)
    gradients = (d_input, d_matrix, d_bias)
    if scale is not None:
        for gradient in gradients:
            if gradient is not None:
                gradient.mul_(scale)
    d_input, d_matrix, d_bias = (None if g is None else g.to(input.dtype) for g in gradients)
    return _reduced(losses, o), (d_input, d_matrix, d_bias)


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
        o = LinearOperands(RowOperands(*row), positions, chunk, wide)
        return forward(input, matrix, bias, o, getattr(torch.ops, namespace))

    def linear_row_forward_backward(input, matrix, bias, *rest):
        *row, positions, chunk, wide, wanted, upstream = rest
        o = LinearOperands(RowOperands(*row), positions, chunk, wide)
        loss, gradients = forward_backward(input, matrix, bias, o, getattr(torch.ops, namespace), wanted, upstream)
        return loss, *(input.new_empty(0) if g is None else g for g in gradients)

    def loss_without_data(input, matrix, bias, *rest):
        reduction, positions = rest[5:7]
        shape = (input.shape[0] * positions,) if reduction == NONE else ()
        return input.new_empty(shape, dtype=accumulator_dtype(input.dtype))

    def gradients_without_data(input, matrix, bias, *rest):
        wanted = rest[-2]
        shapes = (input.shape, matrix.shape, matrix.shape[:1])
        return loss_without_data(input, matrix, bias, *rest), *(
            input.new_empty(shape if want else (0,)) for shape, want in zip(shapes, wanted, strict=True)
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
