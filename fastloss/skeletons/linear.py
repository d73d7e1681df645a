"""Losses over rows of logits that are a linear function of the input, and never stored whole: arguments to operands.

Not a skeleton of kernels: a composition of matrix products and the row operators (:mod:`fastloss.tiles.linear`).
Multiply-adds in units of N H C (N rows, H features, C classes), of which torch's linear and cross_entropy take 3:

    mean, sum   3, all in forward; a second backward of one forward takes 3 more
    none        On a CPU 3 in forward. Backward looks at the upstream gradient: if it is the same for all rows that
                count, as after .sum() or .mean(), it scales; if not, the gradient of the input is still a scaling of
                its rows, and only logits and d_matrix are computed again, 2 more. Elsewhere looking would wait for
                the device, so forward takes 1 and backward 3; so it does inside torch.compile.

float16 with products in float16 (not on a CPU): mean and sum as none, see `fastloss.tiles.linear.deferred`. With
products in float32 the gradients stay in float32 until they have met the upstream gradient.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from fastloss.core.arguments import (
    SMALL_ON_CPU,
    Empty,
    Invalid,
    Refused,
    Signature,
    autocast_applies,
    check_range,
    readable,
)
from fastloss.core.autograd import Gradients, differentiate, gradient_wanted, scaled
from fastloss.core.dtypes import without_autocast
from fastloss.core.registry import LOSSES
from fastloss.operators.row import NONE, RowOptions, row_layout
from fastloss.skeletons.row import SMALL, Row, batch_shape
from fastloss.tiles.linear import LinearOperands, as_rows, deferred, forward, forward_backward, of_counted_rows


class LinearProblem(NamedTuple):
    """A loss of linear logits without its tensors: input, matrix, bias, target, class weights, where there are any."""

    loss: str
    parameters: tuple[float, ...]
    ignore_index: int
    reduction: int
    positions: int
    chunk: int
    wide: bool
    bias: bool
    weight: bool
    wanted: tuple[int, ...]
    early: bool

    @property
    def outputs(self) -> int:
        return 1

    @property
    def differentiable(self) -> tuple[int, ...]:
        return self.wanted

    @property
    def reduced(self) -> bool:
        return self.reduction != NONE

    def forward(self, namespace: str, tensors: Sequence[Tensor], early: bool) -> tuple[tuple[Tensor], Gradients]:
        operands = self._operands(tensors)
        if early:
            loss, gradients = self._walk(namespace, tensors, self.wanted, None)
            return (loss,), gradients
        if torch.compiler.is_compiling():
            return (getattr(torch.ops, namespace).linear_row_forward(*self._flat(tensors)),), ()
        with without_autocast(tensors[0]):
            return (forward(*operands, getattr(torch.ops, namespace)),), ()

    def gradients(
        self, namespace: str, tensors: Sequence[Tensor], state: Sequence[Tensor], upstream: Tensor
    ) -> Gradients:
        """`state`: for reduction none, the gradients for upstream gradients of 1, if they were made in forward."""
        *_, o = self._operands(tensors)
        common = _common_value(upstream, o) if readable(upstream) and not self.reduced else None
        if common is not None:
            if not state:
                _, state = self._walk(namespace, tensors, self.wanted, None)
            return scaled(state, common, namespace)
        if state and self.wanted[0] == 0 and self.positions == 1:
            of_input = state[0].mul_(of_counted_rows(upstream, o)[:, None])
            rest = self.wanted[1:]
            return of_input, *(self._walk(namespace, tensors, rest, upstream)[1] if rest else ())
        return self._walk(namespace, tensors, self.wanted, upstream)[1]

    def reference(self, tensors: Sequence[Tensor]) -> Tensor:
        input, matrix, bias, o = self._operands(tensors)
        return LOSSES[self.loss].on_operands(o.row, as_rows(F.linear(input, matrix, bias), o))

    def _walk(
        self, namespace: str, tensors: Sequence[Tensor], wanted: tuple[int, ...], upstream: Tensor | None
    ) -> tuple[Tensor, Gradients]:
        """(loss, the gradients by the tensors in the places `wanted`)"""
        flags = [place in wanted for place in range(3 if self.bias else 2)] + [False] * (not self.bias)
        upstream = None if upstream is None else upstream.contiguous()
        operators = getattr(torch.ops, namespace)
        if torch.compiler.is_compiling():
            loss, *every = operators.linear_row_forward_backward(*self._flat(tensors), flags, upstream)
        else:
            with without_autocast(tensors[0]):  # it would round products that are to be in float32
                loss, every = forward_backward(*self._operands(tensors), operators, flags, upstream)
        return loss, [gradient for gradient, flag in zip(every, flags, strict=True) if flag]

    def _tensors(self, tensors: Sequence[Tensor]) -> tuple[Any, ...]:
        """(input, matrix, bias or None, target, weight or None)"""
        input, matrix, *more = tensors
        bias = more.pop(0) if self.bias else None
        return input, matrix, bias, more[0], more[1] if self.weight else None

    def _operands(self, tensors: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor | None, LinearOperands]:
        input, matrix, bias, target, weight = self._tensors(tensors)
        row = RowOptions(target, weight, self.loss, self.parameters, self.ignore_index, self.reduction)
        return input, matrix, bias, LinearOperands(row, self.positions, self.chunk, self.wide)

    def _flat(self, tensors: Sequence[Tensor]) -> tuple[Any, ...]:
        """As the operators take it."""
        how = (self.loss, self.parameters, self.ignore_index, self.reduction, self.positions, self.chunk, self.wide)
        return *self._tensors(tensors), *how


def _common_value(upstream: Tensor, o: LinearOperands) -> Tensor | None:
    """What the upstream gradients (N * D,), on a CPU, of all rows that count are, if they are the same."""
    target = o.row.target
    counted = upstream if target.is_floating_point() else upstream[target != o.row.ignore_index]
    if counted.numel() == 0:
        return upstream.new_ones(())
    return counted[0] if bool((counted == counted[0]).all()) else None


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
        o, row = self.operands, self.operands.row
        given = [self.input, self.matrix, *([] if self.bias is None else [self.bias])]
        wanted = tuple(place for place, x in enumerate(given) if gradient_wanted(x))
        # For reduction none on a CPU, a bet: see the head of this file.
        bet = self.input.is_cpu and not torch.compiler.is_compiling()
        early = bet if row.reduction == NONE else not deferred(self.input)
        problem = LinearProblem(
            row.loss,
            tuple(row.parameters),
            row.ignore_index,
            row.reduction,
            o.positions,
            o.chunk,
            o.wide,
            self.bias is not None,
            row.weight is not None,
            wanted,
            early and bool(wanted),
        )
        tensors = [*given, row.target, *([] if row.weight is None else [row.weight])]
        loss = differentiate(problem, namespace, tensors).to(self.dtype)
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

    def lower(self, args: tuple[Any, ...], kwargs: dict[str, Any], *, automatic: bool) -> LinearRowCall | Refused:
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
        if automatic and input.is_cpu and math.prod(shape) <= SMALL_ON_CPU:
            return SMALL
        if input.shape[-1] == 0:
            return Empty()
        tensors = [t for t in (input, matrix, bias) if t is not None]
        if any(t.layout != torch.strided for t in tensors):
            return Refused("a tensor that is not strided")
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
            return Refused("torch.func, whose transforms the walk over chunks does not support")
        operands = self.row.lower_operands(
            {**bound, "ignore_index": -100 if ignore_index is None else ignore_index},
            shape,
            dtype,
            input.device,
            narrow,
        )
        if isinstance(operands, Refused):
            return operands
        if operands.weight is not None and not operands.target.is_floating_point():
            # the mean's denominator takes the weights of the targets before a kernel sees them
            check_range(operands.target, matrix.shape[0], operands.ignore_index)
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
