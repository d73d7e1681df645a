"""Losses over rows of logits that are a linear function of the input, and never stored whole: arguments to operands.

Not a skeleton of kernels: a composition of matrix products and the row operators (:mod:`linear_row_autograd`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.compiler import is_exporting

from fastloss.core.arguments import EMPTY, SMALL_ON_CPU, Invalid, Signature, autocast_applies
from fastloss.operators.row import NONE, row_layout
from fastloss.skeletons.linear_autograd import linear_row_loss
from fastloss.skeletons.row import SMALL, Row, batch_shape
from fastloss.tiles.linear import LinearOperands


class LinearRowCall(NamedTuple):
    """A call of a loss over linear logits, ready to run."""

    input: Tensor  # (N, H)
    matrix: Tensor  # (C * D, H)
    bias: Tensor | None  # (C * D,)
    operands: LinearOperands
    dtype: torch.dtype  # of the returned loss
    shape: torch.Size  # of the returned loss where reduction is none

    @property
    def device_type(self) -> str:
        return self.input.device.type

    def run(self, namespace: str) -> Tensor:
        """Computes the loss with the row operators of a namespace, differentiably."""
        loss = linear_row_loss(self.input, self.matrix, self.bias, self.operands, namespace).to(self.dtype)
        return loss.view(self.shape) if self.operands.row.reduction == NONE else loss


class LinearRow:
    """What :func:`fastloss.core.dispatch.fused` has to know of a row loss of input @ linear_weight.T + linear_bias.

    The loss has the arguments ``input``, ``linear_weight``, ``linear_bias`` and those of the row loss; also ``options``
    and ``accumulate_float32``, see :func:`fastloss.linear_cross_entropy`.

    Args:
        row: the loss of the logits.
    """

    def __init__(self, row: Row) -> None:
        self.row = row

    def attach(self, reference: Callable[..., Any]) -> None:
        self.signature = Signature(reference, self.row.parameters)

    def answer(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """What the reference body answers."""
        return self.signature.reference(*args, **kwargs)

    def lower(self, args: tuple[Any, ...], kwargs: dict[str, Any], *, automatic: bool) -> LinearRowCall | str:
        """`automatic`: the caller did not choose a backend, so torch may have the calls at which it is quicker."""
        bound = self.signature.bind(args, kwargs)
        if bound is None:
            return Invalid("the arguments do not match the signature")
        input, matrix, bias = (bound.get(name) for name in ("input", "linear_weight", "linear_bias"))
        if (
            not isinstance(input, Tensor)
            or not isinstance(matrix, Tensor)
            or not (bias is None or isinstance(bias, Tensor))
        ):
            return Invalid("an argument is missing or is not a tensor")
        if input.dim() not in (1, 2) or matrix.dim() < 2 or input.shape[-1] != matrix.shape[-1]:
            return Invalid("input and linear_weight do not fit")
        if (bias is not None and bias.shape != matrix.shape[:-1]) or (input.dim() == 1 and matrix.dim() > 2):
            return Invalid("linear_bias or the dimensions do not fit")
        shape = torch.Size((*input.shape[:-1], *matrix.shape[:-1]))
        if automatic and input.is_cpu and not is_exporting() and math.prod(shape) <= SMALL_ON_CPU:
            return SMALL
        if input.shape[-1] == 0:
            return EMPTY
        tensors = [t for t in (input, matrix, bias) if t is not None]
        if any(t.layout != torch.strided for t in tensors):
            return "a tensor that is not strided"
        narrow = autocast_applies(input)
        dtype = torch.get_autocast_dtype(input.device.type) if narrow else input.dtype
        for t in tensors:
            if t.device != input.device:
                return Invalid("tensors on several devices")
            if t.dtype != dtype and not (narrow and t.is_floating_point() and t.dtype != torch.float64):
                return Invalid("tensors of several dtypes")
        ignore_index = bound.get("ignore_index")
        target = bound.get("target")
        if ignore_index is not None and isinstance(target, Tensor) and target.shape == shape:
            return Invalid("soft targets have no ignore_index")
        if torch._C._are_functorch_transforms_active():
            return "torch.func, whose transforms the walk over chunks does not support"
        operands = self.row.lower_operands(
            {**bound, "ignore_index": -100 if ignore_index is None else ignore_index},
            shape,
            dtype,
            input.device,
            narrow,
        )
        if isinstance(operands, str):
            return operands
        if operands.target.is_floating_point():
            soft = operands.target.unsqueeze(0) if input.dim() == 1 else operands.target
            operands = operands._replace(target=row_layout(soft.flatten(2) if soft.dim() > 2 else soft))
        matrix = matrix.reshape(-1, matrix.shape[-1]).to(dtype)
        options = bound.get("options")
        summed = getattr(options, "acc_dtype", None)
        return LinearRowCall(
            (input.unsqueeze(0) if input.dim() == 1 else input).to(dtype),
            matrix,
            None if bias is None else bias.reshape(-1).to(dtype),
            LinearOperands(
                operands,
                shape[2:].numel(),
                getattr(options, "batch_chunk_size", None) or 0,
                bool(bound.get("accumulate_float32", True)) if summed is None else summed == torch.float32,
            ),
            torch.float32 if narrow else dtype,
            batch_shape(shape),
        )
