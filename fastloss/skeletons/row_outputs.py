"""Several numbers of each row of logits, by the row operators in steps: statistics, outputs, gradient.

What stands on it is not a loss yet but what losses are made of: a function (logits (rows, C), index target (rows,) or
None, second row of logits or None, hyper-parameters) -> (outputs, rows), in the accumulator dtype. Where the function
says how a logit enters the softmax, it takes ``candidates`` (rows, K), too, and their logits as they enter come after
the outputs: (outputs + K, rows). Forward reads the logits once (for expectations under the softmax once more, from a
cache) and keeps a few numbers of each row; backward reads them once and writes the gradient. So the upstream gradients
of all outputs may be anything, and what is made of them is O(rows).

A row whose target is :data:`LEFT_OUT` is neither read nor, but for a gradient of 0, written. A row has the same bits in
every batch, at every place in it, for any number of threads, and with or without a gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fastloss.core.arguments import (
    DEVICES,
    DTYPES,
    Empty,
    Hyper,
    Invalid,
    Refused,
    Signature,
    check_range,
    differentiation_refused,
    wraps,
)
from fastloss.core.autograd import Gradients, differentiate, gradient_wanted
from fastloss.core.registry import BY_KERNEL, LOSSES
from fastloss.operators.row import COMMON_STATISTICS, row_layout

_OPERANDS = ("logits", "target", "second")
LEFT_OUT = -(2**63)  # the target of a row that counts for nothing; no index of a class is near it


class RowOutputsProblem(NamedTuple):
    """A call without its tensors: the logits, then target, second row and candidates, where there are any."""

    kernel: str
    parameters: tuple[float, ...]
    has_target: bool
    has_second: bool
    has_candidates: bool
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
        operators = getattr(torch.ops, namespace)
        logits, target, second, candidates = self._operands(tensors)
        classes = logits.shape[1]
        statistics = operators.row_statistics(logits, second, target, None, *self._how, 0, classes)
        outputs = operators.row_outputs(statistics, target, *self._how, classes)
        if candidates is not None:
            chosen = logits.gather(1, candidates).to(outputs.dtype)
            entering = self._entering(chosen, *self.parameters)[0].t()
            if target is not None:
                entering = entering.masked_fill(target == LEFT_OUT, 0)
            outputs = torch.cat([outputs, entering])
        return (outputs,), (statistics,)

    def gradients(
        self, namespace: str, tensors: Sequence[Tensor], state: Sequence[Tensor], upstream: Tensor
    ) -> Gradients:
        logits, target, second, candidates = self._operands(tensors)
        row_gradient = getattr(torch.ops, namespace).row_gradient
        count = self._declaration.outputs
        operands = (upstream[:count].contiguous(), *state, logits, second, target, None)
        gradient = row_gradient(*operands, *self._how, 0, logits.shape[1])
        if candidates is not None:
            slope = self._entering(logits.gather(1, candidates).to(upstream.dtype), *self.parameters)[1]
            added = upstream[count:].t() * slope
            if target is not None:
                added = added.masked_fill((target == LEFT_OUT)[:, None], 0)
            gradient.scatter_add_(1, candidates, added.to(gradient.dtype))  # ours: the operator made it
        return (gradient,)

    def reference(self, tensors: Sequence[Tensor]) -> Tensor:
        logits, target, second, candidates = self._operands(tensors)
        parameters = dict(zip(self._declaration.parameters, self.parameters, strict=True))
        more = {} if candidates is None else {"candidates": candidates}
        return self._declaration.signature.reference(logits, target, second, **more, **parameters)

    @property
    def _entering(self) -> Callable[..., tuple[Tensor, Tensor]]:
        assert self._declaration.entering is not None  # or a call with candidates does not fit the signature
        return self._declaration.entering

    @property
    def _declaration(self) -> RowOutputs:
        return LOSSES[self.kernel]

    @property
    def _how(self) -> tuple[str, tuple[float, ...], int]:
        return self.kernel, self.parameters, LEFT_OUT

    def _operands(self, tensors: Sequence[Tensor]) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor | None]:
        logits, *more = tensors
        given = (self.has_target, self.has_second, self.has_candidates)
        target, second, candidates = (more.pop(0) if there else None for there in given)
        return logits, target, second, candidates


class RowOutputsCall(NamedTuple):
    """A call, ready for the operators."""

    logits: Tensor  # (rows, C)
    target: Tensor | None  # (rows,)
    second: Tensor | None  # (rows, C)
    candidates: Tensor | None  # (rows, K)
    kernel: str
    parameters: tuple[float, ...]

    @property
    def device_type(self) -> str:
        return self.logits.device.type

    def run(self, namespace: str) -> Tensor:
        """(outputs + K, rows), differentiable by the logits."""
        wanted = (0,) if gradient_wanted(self.logits) else ()
        more = (self.target, self.second, self.candidates)
        has_target, has_second, has_candidates = (x is not None for x in more)
        problem = RowOutputsProblem(self.kernel, self.parameters, has_target, has_second, has_candidates, wanted)
        return differentiate(problem, namespace, [self.logits, *(x for x in more if x is not None)])


class RowOutputs:
    """What :func:`fastloss.core.dispatch.fused` has to know of such a function.

    Its first arguments are ``logits``, ``target``, ``second``; the functor (csrc/losses/contracts/row.h) and the Triton
    helper are found under its name.

    Args:
        parameters: the hyper-parameters that the kernels take, in the order in which they take them.
        outputs: numbers that a row gives.
        sums: sums over the classes that are the functor's own.
        expectations: those that need the softmax itself, and a second reading of the row.
        two_rows: there is a second row of logits, a constant.
        entering: (logits, hyper-parameters) -> (the logits as they enter the softmax, their derivative by the logits);
            of functions that take candidates.
    """

    index_targets_only = False

    def __init__(
        self,
        *,
        parameters: Mapping[str, Hyper],
        outputs: int = 1,
        sums: int = 0,
        expectations: int = 0,
        two_rows: bool = False,
        entering: Callable[..., tuple[Tensor, Tensor]] | None = None,
    ) -> None:
        self.parameters = parameters
        self.outputs = outputs
        self.two_rows = two_rows
        self.entering = entering
        self.expectations = expectations
        self.statistics = COMMON_STATISTICS + 2 * two_rows + sums + expectations

    def attach(self, reference: Callable[..., Any]) -> None:
        self.signature = Signature(reference, self.parameters)
        LOSSES[self.signature.name] = BY_KERNEL[self.signature.name] = self

    def answer(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """What the reference body answers."""
        return self.signature.reference(*args, **kwargs)

    def lower(self, args: tuple[Any, ...], kwargs: dict[str, Any], *, automatic: bool) -> RowOutputsCall | Refused:
        bound = self.signature.bind(args, kwargs)
        if bound is None:
            return Invalid("the arguments do not match the signature")
        logits, target, second, candidates = (bound.get(name) for name in (*_OPERANDS, "candidates"))
        if not isinstance(logits, Tensor) or logits.dim() != 2:
            return Invalid("the logits are not (rows, classes)")
        for x, shape in ((target, logits.shape[:1]), (second, logits.shape)):
            if x is not None and (not isinstance(x, Tensor) or x.shape != shape or x.device != logits.device):
                return Invalid("an argument does not fit the logits")
        if candidates is not None and (not isinstance(candidates, Tensor) or candidates.shape[:-1] != logits.shape[:1]):
            return Invalid("the candidates do not fit the logits")
        if self.two_rows != (second is not None) or (second is not None and second.dtype != logits.dtype):
            return Invalid("the second row of logits does not fit the first")
        if 0 in logits.shape:
            return Empty()
        if logits.dtype not in DTYPES:
            return Refused(f"no kernels for {logits.dtype}")
        if logits.device.type not in DEVICES:
            return Refused(f"no kernels for {logits.device.type} tensors")
        if any(x is not None and (x.layout != torch.strided or wraps(x)) for x in (logits, target, second, candidates)):
            return Refused("a tensor that holds others, or is not strided")
        parameters = self.signature.parameter_values(bound)
        if isinstance(parameters, Refused):
            return parameters
        if second is not None and gradient_wanted(second):
            return Refused("the second row of logits requires a gradient")
        reason = differentiation_refused()
        if reason is not None:
            return reason
        if target is not None:
            target = target.long().contiguous()
            if logits.is_cuda:
                check_range(target, logits.shape[1], LEFT_OUT)  # on a CPU the kernel does
        if candidates is not None:
            candidates = candidates.long()
        second = None if second is None else row_layout(second.detach())
        return RowOutputsCall(row_layout(logits), target, second, candidates, self.signature.name, tuple(parameters))
