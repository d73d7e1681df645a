"""The pointwise operators: schemas, shapes without data (meta), vmap rules.

Element i of the broadcast shape of `operands` has the loss f_i loss_i, with f_i = factor * weight_i * scale_i.

``operands``: the tensors among the loss's operands; bit k of ``present`` is set if operand k is one. The others have
the value ``constants[k]``. They broadcast, may differ in dtype (float64, float32, float16, bfloat16, bool, uint8,
int32, int64) and have any layout.
``weight``, ``scale``: broadcast to the operands; missing ones are 1. If ``masked``, an element of weight 0 is not
there, whatever it holds.
``wanted``: bit k is set if the gradient of operand k is wanted; a subset of ``present``.
``loss``: if ``reduce``, the sum, 0-d and in the accumulator dtype (float64 if an operand is float64, else float32);
else elementwise, in the dtype with the number ``dtype`` (in ``fastloss.core.arguments.DTYPES``).
``metrics``: what the loss measures besides, reduced, if ``measure``; else empty.
``gradients``: f_i times the derivative by each wanted operand, in its dtype, and of the whole shape: broadcasting is
undone by autograd.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fastloss.core.arguments import DTYPES
from fastloss.core.registry import BY_KERNEL

MAX_DIMENSIONS = 8  # as in csrc/layout.h

_OPERANDS = "Tensor[] operands, Tensor? weight, Tensor? scale, str loss, float[] constants, float[] parameters"
_HOW = "int present, int wanted, bool masked, float factor"
SCHEMAS = {
    "pointwise": f"({_OPERANDS}, {_HOW}, bool reduce, bool measure, int dtype) -> "
    "(Tensor loss, Tensor metrics, Tensor[] gradients)",
    "pointwise_backward": f"(Tensor upstream, {_OPERANDS}, {_HOW}) -> Tensor[]",
}


# ------------------------------------------------------------------------------------------ shapes, allocation
#
# For the operators without data, and for the launchers in Triton.


def accumulator(operands: Sequence[Tensor]) -> torch.dtype:
    return torch.float64 if any(x.dtype == torch.float64 for x in operands) else torch.float32


def broadcast_shape(operands: Sequence[Tensor]) -> torch.Size:
    shape = operands[0].shape
    if all(x.shape == shape for x in operands):
        return shape  # most calls; torch.broadcast_shapes takes 12 us
    return torch.broadcast_shapes(*(x.shape for x in operands))


def is_dense(tensor: Tensor) -> bool:
    """Whether the elements fill a block of memory, each once."""
    if tensor.is_contiguous():
        return True
    expected = 1
    for stride, size in sorted((s, n) for s, n in zip(tensor.stride(), tensor.shape, strict=True) if n != 1):
        if stride != expected:
            return False
        expected *= size
    return True


def _empty(layouts: Sequence[Tensor], shape: torch.Size, dtype: torch.dtype) -> Tensor:
    """In the layout of the first of the tensors that has one for every element, else contiguous."""
    for x in layouts:
        if x.shape == shape and is_dense(x):
            return torch.empty_strided(shape, x.stride(), dtype=dtype, device=x.device)
    return layouts[0].new_empty(shape, dtype=dtype)


def empty_gradients(operands: Sequence[Tensor], present: int, wanted: int) -> list[Tensor]:
    shape = broadcast_shape(operands)
    numbers = [k for k in range(present.bit_length()) if present >> k & 1]
    return [_empty((x,), shape, x.dtype) for k, x in zip(numbers, operands, strict=True) if wanted >> k & 1]


def empty_results(operands: Sequence[Tensor], reduce: bool, metrics: int, dtype: int) -> tuple[Tensor, Tensor]:
    """(loss, metrics)"""
    accumulate = accumulator(operands)
    if reduce:
        loss = operands[0].new_empty((), dtype=accumulate)
    else:
        loss = _empty(operands, broadcast_shape(operands), DTYPES[dtype])
    return loss, operands[0].new_empty((metrics,), dtype=accumulate)


def _meta_pointwise(
    operands, weight, scale, loss, constants, parameters, present, wanted, masked, factor, reduce, measure, dtype
):
    metrics = len(BY_KERNEL[loss].metrics) if measure else 0
    results = empty_results(operands, reduce, metrics, dtype)
    return *results, empty_gradients(operands, present, wanted)


def _meta_pointwise_backward(
    upstream, operands, weight, scale, loss, constants, parameters, present, wanted, masked, factor
):
    return empty_gradients(operands, present, wanted)


META: dict[str, Any] = {"pointwise": _meta_pointwise, "pointwise_backward": _meta_pointwise_backward}


# ------------------------------------------------------------------------------------------ vmap
#
# A batch of calls is one call with one more dimension in front, without reduction; each entry is then summed.


def _batched(operand: Tensor | None, dim: int | None, dims: int) -> Tensor | None:
    """With the batch in front of `dims` dimensions (of one entry's broadcast shape)."""
    if operand is None or dim is None:
        return operand
    operand = operand.movedim(dim, 0)
    return operand.reshape(operand.shape[0], *[1] * (dims + 1 - operand.dim()), *operand.shape[1:])


def _all_batched(operands, weight, scale, in_dims):
    entry_dims = max(x.dim() - (dim is not None) for x, dim in zip(operands, in_dims[0], strict=True))
    batched = [_batched(x, dim, entry_dims) for x, dim in zip(operands, in_dims[0], strict=True)]
    return batched, _batched(weight, in_dims[1], entry_dims), _batched(scale, in_dims[2], entry_dims), entry_dims


def _expanded(operands: list[Tensor], size: int, entry_dims: int) -> list[Tensor]:
    """So that the broadcast shape has the batch even if only the weight or the upstream has it."""
    first = operands[0]
    if all(x.dim() <= entry_dims for x in operands):
        first = first.expand(size, *[-1 if k >= 0 else 1 for k in range(first.dim() - entry_dims, first.dim())])
    return [first, *operands[1:]]


def vmap_rules(ops: Any) -> dict[str, Any]:
    def pointwise(info, in_dims, operands, weight, scale, *rest):
        *how, reduce, measure, dtype = rest
        if measure:
            raise NotImplementedError("fastloss: vmap over the metrics of a loss; call it with return_terms=False")
        operands, weight, scale, entry_dims = _all_batched(operands, weight, scale, in_dims)
        operands = _expanded(operands, info.batch_size, entry_dims)
        wide = DTYPES.index(accumulator(operands))
        loss, metrics, gradients = ops.pointwise(operands, weight, scale, *how, False, False, wide if reduce else dtype)
        if reduce:
            loss = loss.reshape(info.batch_size, -1).sum(1)
        return (loss, metrics, gradients), (0, None, [0] * len(gradients))

    def pointwise_backward(info, in_dims, upstream, operands, weight, scale, *how):
        operands, weight, scale, entry_dims = _all_batched(operands, weight, scale, in_dims[1:])
        operands = _expanded(operands, info.batch_size, entry_dims)
        upstream = _batched(upstream, in_dims[0], entry_dims)
        gradients = ops.pointwise_backward(upstream, operands, weight, scale, *how)
        return gradients, [0] * len(gradients)

    return {"pointwise": pointwise, "pointwise_backward": pointwise_backward}
