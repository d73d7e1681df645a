"""Several numbers of each row of logits that are a linear function of the input, and never stored whole.

As :mod:`fastloss.skeletons.row_outputs`, of input @ matrix.T + bias: a composition of matrix products and the row
operators (:mod:`fastloss.tiles.linear_outputs`). With a :class:`Head`, a loss of these numbers is what comes back, and
its gradients are made in forward, from one product for the logits instead of two. Not for calls inside torch.compile
and torch.func, which would look into the walk over chunks: whoever calls such a function asks
`fastloss.core.autograd.pure` first, and stores the logits there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from fastloss.core.arguments import (
    DEVICES,
    DTYPES,
    Empty,
    Invalid,
    Refused,
    Signature,
    check_range,
    differentiation_refused,
    leaves,
    wraps,
)
from fastloss.core.autograd import Gradients, differentiate, gradient_wanted, pure
from fastloss.core.dtypes import without_autocast
from fastloss.core.registry import LOSSES
from fastloss.skeletons.row_outputs import LEFT_OUT
from fastloss.tiles.linear import deferred
from fastloss.tiles.linear_outputs import RowFunction, backward, forward, forward_backward, row_bounds


class LinearOutputsProblem(NamedTuple):
    """A call without its tensors: input (N, H), matrix (C, H), target (N,) and, if there is one, bias (C,)."""

    kernel: str
    parameters: tuple[float, ...]
    bounds: tuple[int, ...]
    wanted: tuple[int, ...]

    @property
    def outputs(self) -> int:
        return 1

    @property
    def differentiable(self) -> tuple[int, ...]:
        return self.wanted

    @property
    def early(self) -> bool:
        return False

    @property
    def reduced(self) -> bool:
        return False

    def forward(self, namespace: str, tensors: Sequence[Tensor], early: bool) -> tuple[tuple[Tensor], Gradients]:
        input, matrix, target, bias = self._operands(tensors)
        with without_autocast(input):
            outputs, statistics = forward(
                input, matrix, bias, target, self._function, self.bounds, getattr(torch.ops, namespace)
            )
        return (outputs,), (statistics,)

    def gradients(
        self, namespace: str, tensors: Sequence[Tensor], state: Sequence[Tensor], upstream: Tensor
    ) -> Gradients:
        input, matrix, target, bias = self._operands(tensors)
        wanted = (0 in self.wanted, 1 in self.wanted, 3 in self.wanted)
        how = (self._function, self.bounds, getattr(torch.ops, namespace), *state, upstream, wanted)
        with without_autocast(input):
            found = backward(input, matrix, bias, target, *how)
        return [gradient for gradient in found if gradient is not None]

    def reference(self, tensors: Sequence[Tensor]) -> Tensor:
        input, matrix, target, bias = self._operands(tensors)
        row = LOSSES[self.kernel]
        parameters = dict(zip(row.parameters, self.parameters, strict=True))
        return row.signature.reference(F.linear(input, matrix, bias), target, **parameters)

    @property
    def _function(self) -> RowFunction:
        return RowFunction(self.kernel, self.parameters, LEFT_OUT)

    def _operands(self, tensors: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        input, matrix, target, *more = tensors
        return input, matrix, target, more[0] if more else None


class Head(NamedTuple):
    """A loss of the outputs of the rows, whose gradient by those of a chunk of rows depends on no later row."""

    loss: Callable[[Tensor, Sequence[Tensor]], Tensor]  # (outputs (k, N), others) -> ()
    others: tuple[Tensor, ...]  # what else it is of
    units: Sequence[int] | None  # how many rows belong together; None: each row is by itself


def has_gradients_early(input: Tensor) -> bool:
    """Whether a loss of the outputs of this input may have a :class:`Head`: not where torch looks into the walk or
    records it, nor in float16 whose products have to know the loss scale."""
    return not pure() and not leaves() and not deferred(input)


class LinearHeadProblem(NamedTuple):
    """A loss of the outputs: tensors as in LinearOutputsProblem, with the head's others behind them."""

    kernel: str
    parameters: tuple[float, ...]
    bounds: tuple[int, ...]
    wanted: tuple[int, ...]
    bias: bool
    loss: Callable[[Tensor, Sequence[Tensor]], Tensor]

    @property
    def outputs(self) -> int:
        return 2  # the loss, and the numbers that it is of

    @property
    def differentiable(self) -> tuple[int, ...]:
        return self.wanted

    @property
    def early(self) -> bool:
        return True

    @property
    def reduced(self) -> bool:
        return True

    def forward(self, namespace: str, tensors: Sequence[Tensor], early: bool) -> tuple[tuple[Tensor, ...], Gradients]:
        input, matrix, target, bias, others = self._operands(tensors)
        how = (RowFunction(self.kernel, self.parameters, LEFT_OUT), self.bounds, getattr(torch.ops, namespace))
        if not early:
            with without_autocast(input):
                outputs, _ = forward(input, matrix, bias, target, *how)
            return (self.loss(outputs, others), outputs), ()
        flags = (0 in self.wanted, 1 in self.wanted, self.bias and 3 in self.wanted)
        with without_autocast(input):
            outputs, found = forward_backward(
                input, matrix, bias, target, *how, lambda known: self._upstream(known, others)[0], flags
            )
        _, *by_others = self._upstream(outputs, others)
        last = 3 + self.bias
        return (self.loss(outputs, others), outputs), [
            *(gradient for gradient in found if gradient is not None),
            *(by_others[place - last] for place in self.wanted if place >= last),
        ]

    def _upstream(self, outputs: Tensor, others: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """The gradients of the loss by the outputs and by the others."""
        last = 3 + self.bias
        with torch.enable_grad():
            leaf = outputs.detach().requires_grad_()
            some = [
                x.detach().requires_grad_() if last + k in self.wanted else x.detach() for k, x in enumerate(others)
            ]
            loss = self.loss(leaf, some)
            leaves = [leaf, *(x for x in some if x.requires_grad)]
            found = iter(torch.autograd.grad(loss, leaves, materialize_grads=True))
        return next(found), *(next(found) if x.requires_grad else x for x in some)

    def gradients(
        self, namespace: str, tensors: Sequence[Tensor], state: Sequence[Tensor], upstream: Tensor
    ) -> Gradients:
        raise AssertionError("the gradients are made in forward, and scaled")

    def reference(self, tensors: Sequence[Tensor]) -> Tensor:
        input, matrix, target, bias, others = self._operands(tensors)
        row = LOSSES[self.kernel]
        parameters = dict(zip(row.parameters, self.parameters, strict=True))
        return self.loss(row.signature.reference(F.linear(input, matrix, bias), target, **parameters), others)

    def _operands(self, tensors: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor, Tensor | None, Sequence[Tensor]]:
        input, matrix, target, *more = tensors
        bias = more.pop(0) if self.bias else None
        return input, matrix, target, bias, more


class LinearOutputsCall(NamedTuple):
    """A call, ready to run."""

    tensors: tuple[Tensor, ...]
    kernel: str
    parameters: tuple[float, ...]
    bounds: tuple[int, ...]
    head: Head | None

    @property
    def device_type(self) -> str:
        return self.tensors[0].device.type

    def run(self, namespace: str) -> Any:
        """(outputs, N), differentiable by input, matrix and bias; with a head (its loss, outputs)."""
        others = () if self.head is None else self.head.others
        tensors = (*self.tensors, *others)
        wanted = tuple(place for place, x in enumerate(tensors) if place != 2 and gradient_wanted(x))
        how = (self.kernel, self.parameters, self.bounds, wanted)
        if self.head is None:
            return differentiate(LinearOutputsProblem(*how), namespace, tensors)
        return differentiate(LinearHeadProblem(*how, len(self.tensors) == 4, self.head.loss), namespace, tensors)


class LinearOutputs:
    """What :func:`fastloss.core.dispatch.fused` has to know of a row function of input @ matrix.T + bias.

    Its arguments are ``input``, ``matrix``, ``target``, ``bias``, the hyper-parameters of the row function, ``chunk``,
    how many rows have logits at a time, and ``head``, a :class:`Head` or None.

    Args:
        kernel: the name of the function of the logits.
    """

    def __init__(self, kernel: str) -> None:
        self.kernel = kernel

    def attach(self, reference: Callable[..., Any]) -> None:
        self.signature = Signature(reference, LOSSES[self.kernel].parameters)

    def answer(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """What the reference body answers."""
        return self.signature.reference(*args, **kwargs)

    def lower(self, args: tuple[Any, ...], kwargs: dict[str, Any], *, automatic: bool) -> LinearOutputsCall | Refused:
        bound = self.signature.bind(args, kwargs)
        if bound is None:
            return Invalid("the arguments do not match the signature")
        given = [bound.get(name) for name in ("input", "matrix", "target", "bias")]
        tensors = [x for x in given if isinstance(x, Tensor)]
        if len(tensors) != len([x for x in given if x is not None]) or len(tensors) < 3:
            return Invalid("an argument is missing or is not a tensor")
        input, matrix, target, *bias = tensors
        if input.dim() != 2 or matrix.dim() != 2 or input.shape[1] != matrix.shape[1] or len(target) != len(input):
            return Invalid("input, matrix and target do not fit")
        if 0 in input.shape or 0 in matrix.shape:
            return Empty()
        if any(x.device != input.device for x in tensors) or any(x.dtype != input.dtype for x in (matrix, *bias)):
            return Invalid("tensors on several devices or of several dtypes")
        if input.dtype not in DTYPES or input.device.type not in DEVICES:
            return Refused(f"no kernels for {input.dtype} on {input.device.type}")
        if any(x.layout != torch.strided or wraps(x) for x in tensors):
            return Refused("a tensor that holds others, or is not strided")
        parameters = self.signature.parameter_values(bound)
        if isinstance(parameters, Refused):
            return parameters
        reason = differentiation_refused()
        if reason is not None:
            return reason
        target = target.long().contiguous()
        if input.is_cuda:
            check_range(target, len(matrix), LEFT_OUT)
        head = bound.get("head")
        chunk = int(bound.get("chunk") or 0)
        bounds = row_bounds(len(input), matrix, input, chunk, None if head is None else head.units)
        return LinearOutputsCall((input, matrix, target, *bias), self.kernel, tuple(parameters), bounds, head)
