"""From the arguments of a loss, as users pass them, to the operands of a skeleton's operators (:mod:`fastloss.ops`).

A lowering answers in one of three ways: the operands; an :class:`Invalid` call, which the reference body turns into
torch's own error (or handles, where torch has a special case); or a plain string, the reason why the kernels do not
compute this valid call.
"""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fastloss import ops

# Up to here torch's own two kernels take less time than the Python around a fused one. Measured, forward and backward
# of a float32 (N, 16): see bench/results.
SMALL_ON_CPU = 4096
_SMALL = f"up to {SMALL_ON_CPU} logits on a CPU, torch's own kernels are quicker than the way to ours"

_DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


class Invalid(str):
    """Why torch's own checks and special cases should have this call."""


EMPTY = Invalid("there are no logits, so there is nothing to launch")


@dataclass(frozen=True)
class Parameter:
    """A hyper-parameter of a kernel: a number in [low, high]; None stands for 0."""

    default: float
    low: float = 0.0
    high: float = math.inf


@dataclass(frozen=True)
class RowSpec:
    """What the decorator knows of a loss over rows of logits."""

    name: str
    arguments: tuple[str, ...]
    positional: int
    parameters: dict[str, Parameter]
    weight: str
    reference: Callable[..., Tensor]

    @functools.cached_property
    def defaults(self) -> list[float]:
        return [parameter.default for parameter in self.parameters.values()]

    def on_operands(self, call: RowOperands, logits: Tensor) -> Tensor:
        """The reference body on a skeleton's operands, in terms of `logits` (which may be differentiated)."""
        target = call.target
        if not target.is_floating_point() and logits.dim() == 3:
            target = target.view(logits.shape[0], logits.shape[2])
        weight = None if call.weight is None else call.weight.to(logits.dtype)
        parameters = dict(zip(self.parameters, call.parameters, strict=True))
        reduction = {number: name for name, number in ops.REDUCTIONS.items()}[call.reduction]
        loss = self.reference(
            logits, target, **{self.weight: weight}, ignore_index=call.ignore_index, reduction=reduction, **parameters
        )
        return loss.reshape(-1) if call.reduction == ops.NONE else loss


class RowOperands(NamedTuple):
    """The operands of a row operator after the logits, in its order."""

    target: Tensor
    weight: Tensor | None
    loss: str
    parameters: list[float]
    ignore_index: int
    reduction: int


class RowCall(NamedTuple):
    """A call of a loss over rows of logits, ready for an operator."""

    logits: Tensor  # (rows, C) or (N, C, D)
    operands: RowOperands
    inplace: bool
    dtype: torch.dtype  # of the returned loss
    shape: torch.Size  # of the returned loss where reduction is none


def _bind(spec: RowSpec, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any] | None:
    """Arguments by name; None if Python would raise a TypeError."""
    if len(args) > spec.positional:
        return None
    bound = dict(zip(spec.arguments, args, strict=False))
    for name, value in kwargs.items():
        if name not in spec.arguments or name in bound:
            return None
        bound[name] = value
    return bound


def _parameters(spec: RowSpec, bound: dict[str, Any]) -> list[float] | str:
    values = list(spec.defaults)
    for i, (name, parameter) in enumerate(spec.parameters.items()):
        if name not in bound:
            continue
        value = bound[name]
        if isinstance(value, Tensor):
            return f"{name} is a tensor; the kernels take a Python number"
        values[i] = 0.0 if value is None else float(value)
        if not parameter.low <= values[i] <= parameter.high:
            return Invalid(f"{name} is out of range")
    return values


def _class_contiguous(logits: Tensor) -> bool:
    """Are (N, C, d1 .. dk) logits better seen as rows: channels last, (batch, time, C) transposed, or one d each?"""
    return logits.stride(1) == 1 or logits.shape[2:].numel() == 1


def _rows(matrix: Tensor, class_contiguous: bool) -> Tensor:
    """(C), (N, C) or (N, C, d1 .. dk) -> (rows, C) or (N, C, D), without a copy where a kernel can read the layout."""
    if matrix.dim() == 1:
        matrix = matrix.unsqueeze(0)
    elif matrix.dim() > 2:
        matrix = matrix.movedim(1, -1).flatten(0, -2) if class_contiguous else matrix.flatten(2)
    return ops.row_layout(matrix)


def lower_row(spec: RowSpec, args: tuple[Any, ...], kwargs: dict[str, Any], *, automatic: bool) -> RowCall | str:
    """Operands of a row loss with torch's conventions: input, target, weight, ignore_index, reduction.

    `automatic`: the caller did not choose a backend, so a call may be declined because torch is quicker at it.
    """
    logits = args[0] if args else kwargs.get("input")
    if automatic and isinstance(logits, Tensor) and logits.numel() <= SMALL_ON_CPU and logits.is_cpu:
        return _SMALL
    bound = _bind(spec, args, kwargs)
    if bound is None:
        return Invalid("the arguments do not match the signature")
    target, weight = bound.get("target"), bound.get(spec.weight)
    reduction_name = bound.get("reduction", "mean")
    size_average, reduce = bound.get("size_average"), bound.get("reduce")
    if size_average is not None or reduce is not None:
        reduction_name = torch.nn._reduction.legacy_get_string(size_average, reduce)
    reduction = ops.REDUCTIONS.get(reduction_name)
    ignore_index = bound.get("ignore_index", -100)
    if not isinstance(logits, Tensor) or not isinstance(target, Tensor) or reduction is None:
        return Invalid("an argument is missing or has no meaning")
    shape, dim = logits.shape, logits.dim()
    if dim == 0 or logits.device != target.device or not isinstance(ignore_index, int):
        return Invalid("an argument does not fit the others")
    batch = shape[:1] if dim == 2 else shape[:0] if dim == 1 else shape[:1] + shape[2:]
    soft = target.shape == shape
    if soft:
        if not target.is_floating_point() or ignore_index >= 0:
            return Invalid("soft targets are floating-point and have no ignore_index")
    elif target.shape != batch:
        return Invalid("input and target do not match")
    elif target.dtype != torch.int64:
        return Invalid("index targets are int64")
    if logits.numel() == 0:
        return EMPTY
    if not logits.is_floating_point():
        return Invalid("the logits are not floating-point")
    if logits.dtype not in _DTYPES:
        return f"no kernels for {logits.dtype}"
    if logits.layout != torch.strided:
        return f"no kernels for the layout {logits.layout}"
    if logits.device.type not in ops.DEVICES:
        return f"no kernels for {logits.device.type} tensors"
    parameters = _parameters(spec, bound)
    if isinstance(parameters, str):
        return parameters
    classes = shape[1] if dim > 1 else shape[0]
    narrow = ops.autocast_applies(logits)
    if weight is not None:
        if not isinstance(weight, Tensor) or weight.shape != (classes,) or weight.device != logits.device:
            return Invalid("the class weights do not match the logits")
        if weight.dtype != logits.dtype and not (narrow and weight.is_floating_point()):
            return Invalid("the class weights have another dtype than the logits")
        if weight.requires_grad:
            return "the class weights require a gradient"
        weight = weight.to(ops.accumulator_dtype(logits.dtype)).contiguous()
    if soft and target.requires_grad:
        return "the soft targets require a gradient"
    if soft and target.dtype != logits.dtype:
        return f"soft targets of {target.dtype} for logits of {logits.dtype}"
    if torch.autograd.forward_ad._current_level >= 0:
        return "forward-mode differentiation"
    if logits.is_cuda and not soft and os.environ.get("FASTLOSS_VALIDATE") == "1":
        _validate(target, classes, ignore_index)
    class_contiguous = dim > 2 and _class_contiguous(logits)
    return RowCall(
        _rows(logits, class_contiguous),
        RowOperands(
            _rows(target, class_contiguous) if soft else target.reshape(-1).contiguous(),
            weight,
            spec.name,
            parameters,
            ignore_index,
            reduction,
        ),
        bool(bound.get("inplace", False)),
        torch.float32 if narrow else logits.dtype,
        batch,
    )


def _validate(target: Tensor, classes: int, ignore_index: int) -> None:
    """A readable error before a launch, at the price of a synchronisation; opt-in by FASTLOSS_VALIDATE=1."""
    wrong = ((target < 0) | (target >= classes)) & (target != ignore_index)
    if wrong.any():
        raise IndexError(f"Target {target[wrong][0].item()} is out of bounds.")
