"""Losses over one row of logits at a time, with the softmax over the classes: from arguments to operands."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fastloss.core.arguments import (
    DEVICES,
    DTYPES,
    SMALL,
    Empty,
    Hyper,
    Invalid,
    Refused,
    Signature,
    accumulator_dtype,
    autocast_applies,
    check_range,
    differentiation_refused,
    reduction_of,
    small,
    wraps,
)
from fastloss.core.autograd import (
    Gradients,
    differentiable,
    differentiate,
    differentiate_in_place,
    gradient_wanted,
)
from fastloss.core.memo import Run, picked, places
from fastloss.core.registry import BY_KERNEL, LOSSES
from fastloss.core.small import LARGEST, Plan
from fastloss.operators.row import (
    COMMON_STATISTICS,
    MEAN,
    NONE,
    REDUCTIONS,
    RowOptions,
    denominator,
    row_count,
    row_layout,
)


def _is_index(value: Any) -> bool:
    """Whether torch takes it as a class index."""
    return isinstance(value, int) and not isinstance(value, bool) and -(2**63) <= value < 2**63


class RowProblem(NamedTuple):
    """A row loss without its tensors, which are the logits, the target and, if there are any, the class weights."""

    loss: str
    parameters: tuple[float, ...]
    ignore_index: int
    reduction: int
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
        operators = getattr(torch.ops, namespace)
        operator = operators.row_forward_backward if early else operators.row_forward
        loss, known = operator(*self._operands(tensors), self.reduction)
        return (loss,), (known,)

    def forward_in_place(self, namespace: str, tensors: Sequence[Tensor]) -> Tensor:
        """The loss; the logits become its gradient."""
        return getattr(torch.ops, namespace).row_forward_backward_(*self._operands(tensors), self.reduction)

    def gradients(
        self, namespace: str, tensors: Sequence[Tensor], state: Sequence[Tensor], upstream: Tensor
    ) -> Gradients:
        logits, target, weight, *how = self._operands(tensors)
        if self.reduction == MEAN:
            upstream = upstream / denominator(logits, target, weight, self.ignore_index)
        if self.reduced:
            upstream = upstream.to(state[0].dtype).expand(row_count(logits))
        row_backward = getattr(torch.ops, namespace).row_backward
        return (row_backward(upstream.contiguous(), logits, target, weight, *state, *how),)

    def reference(self, tensors: Sequence[Tensor]) -> Tensor:
        logits, *operands = self._operands(tensors)
        return LOSSES[self.loss].on_operands(RowOptions(*operands, self.reduction), logits)  # type: ignore[call-arg]

    def _operands(self, tensors: Sequence[Tensor]) -> tuple[Any, ...]:
        """Those of the row operators before the reduction."""
        weight = tensors[2] if len(tensors) > 2 else None
        return tensors[0], tensors[1], weight, self.loss, self.parameters, self.ignore_index


class RowCall(NamedTuple):
    """A call of a loss over rows of logits, ready for an operator."""

    logits: Tensor  # (rows, C) or (N, C, D)
    operands: RowOptions
    inplace: bool
    dtype: torch.dtype  # of the returned loss
    shape: torch.Size  # of the returned loss where reduction is none

    @property
    def device_type(self) -> str:
        return self.logits.device.type

    @property
    def _problem(self) -> RowProblem:
        o = self.operands
        wanted = (0,) if gradient_wanted(self.logits) else ()
        early = bool(wanted) and o.reduction != NONE and self.logits.dtype != torch.float16
        return RowProblem(o.loss, tuple(o.parameters), o.ignore_index, o.reduction, wanted, early)

    @property
    def _tensors(self) -> tuple[Tensor, ...]:
        o = self.operands
        return (self.logits, o.target) if o.weight is None else (self.logits, o.target, o.weight)

    def run(self, namespace: str) -> Tensor:
        """Computes the loss with the operators of a namespace, differentiably."""
        problem = self._problem
        run = differentiate_in_place if self.inplace and problem.early else differentiate
        loss = run(problem, namespace, self._tensors)
        if loss.dtype != self.dtype:
            loss = loss.to(self.dtype)
        return loss.view(self.shape) if self.operands.reduction == NONE and self.shape != loss.shape else loss

    def repeated(self, tensors: list[Tensor], namespace: str) -> Run | None:
        """Only if the operands are the caller's own tensors, each once, and on a CPU, where the kernel looks at the
        targets itself."""
        problem, dtype, found = self._problem, self.dtype, self._places(tensors)
        if found is None:
            return None

        def run(tensors: Sequence[Tensor]) -> Tensor:
            loss = differentiate(problem, namespace, tensors)
            return loss if loss.dtype is dtype else loss.to(dtype)

        return picked(run, found)

    def plan_if_small(self, tensors: list[Tensor]) -> Plan | None:
        p, found = self._problem, self._places(tensors)
        if found is None or (p.wanted and not p.early) or self.logits.numel() > LARGEST:
            return None
        if not all(x.is_contiguous() for x in tensors):
            return None
        return Plan(
            "row",
            p.loss,
            p.parameters,
            (*found, -1)[:3],
            (),
            p.wanted,
            1.0,
            p.reduced,
            p.reduction,
            p.ignore_index,
            self.dtype,
            lambda upstream, tensors: tuple(differentiable(p, upstream, [tensors[k] for k in found])),
        )

    def _places(self, tensors: list[Tensor]) -> list[int] | None:
        own = self.logits.is_cpu and self.logits.dim() == 2 and not self.inplace
        return places(self._tensors, tensors) if own else None


class Row:
    """What :func:`fastloss.core.dispatch.fused` has to know of a loss over rows of logits.

    The loss has torch's conventions: ``input``, ``target``, ``ignore_index``, ``reduction``. The functor
    (csrc/losses/contracts/row.h) and the Triton helper are found under the function's own name.

    Args:
        parameters: the hyper-parameters that the kernels take, in the order in which they take them.
        weight: name of the argument that holds the class weights.
        index_targets_only: the kernels know no target that is spread over the classes: class probabilities and
            ``label_smoothing`` are the reference's.
        drop_in: torch has this loss as a kernel or two, which answer for small inputs on a CPU.
        outputs: numbers that a row gives.
        sums: sums over the classes that are the functor's own.
        two_rows: the loss compares each row of logits with a second one.
    """

    repeats = True  # a call like an earlier one may skip the lowering
    expectations = 0  # those are of outputs in steps (row_outputs.py)

    def __init__(
        self,
        *,
        parameters: Mapping[str, Hyper],
        weight: str = "weight",
        index_targets_only: bool = False,
        drop_in: bool = False,
        outputs: int = 1,
        sums: int = 0,
        two_rows: bool = False,
    ) -> None:
        self.parameters = parameters
        self.weight = weight
        self.index_targets_only = index_targets_only
        self.drop_in = drop_in
        self.outputs = outputs
        self.two_rows = two_rows
        self.statistics = COMMON_STATISTICS + 2 * two_rows + sums

    def attach(self, reference: Callable[..., Any]) -> None:
        self.signature = Signature(reference, self.parameters)
        LOSSES[self.signature.name] = BY_KERNEL[self.signature.name] = self

    def answer(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """What the reference body answers."""
        return self.signature.reference(*args, **kwargs)

    def on_operands(self, call: RowOptions, logits: Tensor) -> Tensor:
        """The reference body on a skeleton's operands, in terms of `logits` (which may be differentiated)."""
        target = call.target
        if not target.is_floating_point() and logits.dim() == 3:
            target = target.view(logits.shape[0], logits.shape[2])
        weight = None if call.weight is None else call.weight.to(logits.dtype)
        parameters = dict(zip(self.parameters, call.parameters, strict=True))
        reduction = {number: name for name, number in REDUCTIONS.items()}[call.reduction]
        loss = self.signature.reference(
            logits, target, **{self.weight: weight}, ignore_index=call.ignore_index, reduction=reduction, **parameters
        )
        return loss.reshape(-1) if call.reduction == NONE else loss

    def lower(self, args: tuple[Any, ...], kwargs: dict[str, Any], *, automatic: bool) -> RowCall | Refused:
        """`automatic`: the caller did not choose a backend, so torch may have the calls at which it is quicker."""
        logits = args[0] if args else kwargs.get("input")
        if automatic and self.drop_in and small(logits):
            return SMALL
        bound = self.signature.bind(args, kwargs)
        if bound is None:
            return Invalid("the arguments do not match the signature")
        if not isinstance(logits, Tensor):
            return Invalid("an argument is missing or has no meaning")
        narrow = autocast_applies(logits)
        if logits.layout != torch.strided:
            return Refused(f"no kernels for the layout {logits.layout}")
        if wraps(logits) or wraps(bound.get("target")):
            return Refused(f"no kernels for {type(logits).__name__} and {type(bound.get('target')).__name__}")
        operands = self.lower_operands(bound, logits.shape, logits.dtype, logits.device, narrow)
        if isinstance(operands, Refused):
            return operands
        class_contiguous = logits.dim() > 2 and _class_contiguous(logits)
        return RowCall(
            _rows(logits, class_contiguous),
            operands._replace(target=_rows(operands.target, class_contiguous))
            if operands.target.is_floating_point()
            else operands,
            bool(bound.get("inplace", False)),
            torch.float32 if narrow else logits.dtype,
            batch_shape(logits.shape),
        )

    def lower_operands(
        self, bound: dict[str, Any], shape: torch.Size, dtype: torch.dtype, device: torch.device, narrow: bool
    ) -> RowOptions | Refused:
        """The operands that go with logits of (C), (N, C) or (N, C, d1 .. dk); soft targets are left as they are.

        narrow: autocast applies, so that class weights may have another dtype than the logits.
        """
        target, weight = bound.get("target"), bound.get(self.weight)
        reduction = REDUCTIONS.get(reduction_of(bound, "mean"))
        ignore_index = bound.get("ignore_index", -100)
        if not isinstance(target, Tensor) or reduction is None:
            return Invalid("an argument is missing or has no meaning")
        if len(shape) == 0 or device != target.device or not _is_index(ignore_index):
            return Invalid("an argument does not fit the others")
        soft = target.shape == shape
        if soft:
            if not target.is_floating_point() or ignore_index >= 0:
                return Invalid("soft targets are floating-point and have no ignore_index")
        elif target.shape != batch_shape(shape):
            return Invalid("input and target do not match")
        elif target.dtype != torch.int64 and (target.dtype != torch.uint8 or len(shape) > 2):
            return Invalid("index targets are int64, or uint8 for logits of one or two dimensions")
        if 0 in shape:
            return Empty()
        if not dtype.is_floating_point:
            return Invalid("the logits are not floating-point")
        if dtype not in DTYPES:
            return Refused(f"no kernels for {dtype}")
        if device.type not in DEVICES:
            return Refused(f"no kernels for {device.type} tensors")
        if self.index_targets_only and (soft or bound.get("label_smoothing")):
            return Refused("the kernels of this loss have no class probabilities and label smoothing")
        parameters = self.signature.parameter_values(bound)
        if isinstance(parameters, Refused):
            return parameters
        classes = shape[1] if len(shape) > 1 else shape[0]
        if weight is not None:
            if not isinstance(weight, Tensor) or weight.shape != (classes,) or weight.device != device:
                return Invalid("the class weights do not match the logits")
            if weight.dtype != dtype and not (narrow and weight.is_floating_point() and weight.dtype != torch.float64):
                return Invalid("the class weights have another dtype than the logits")
            if weight.requires_grad:
                return Refused("the class weights require a gradient")
            weight = weight.to(accumulator_dtype(dtype)).contiguous()
        if soft and target.requires_grad:
            return Refused("the soft targets require a gradient")
        if soft and target.dtype != dtype:
            return Refused(f"soft targets of {target.dtype} for logits of {dtype}")
        reason = differentiation_refused()
        if reason is not None:
            return reason
        if device.type == "cuda" and not soft:
            check_range(target, classes, ignore_index)  # on a CPU the kernel does
        target = target if soft else target.reshape(-1).long().contiguous()
        return RowOptions(target, weight, self.signature.name, parameters, ignore_index, reduction)


def batch_shape(shape: torch.Size) -> torch.Size:
    """(C), (N, C) or (N, C, d1 .. dk) without the classes."""
    # slices: a torch.Size made of symbols, under torch.export, has numbers in it
    return shape[:0] if len(shape) == 1 else shape[:1] + shape[2:]  # type: ignore[return-value]


def _class_contiguous(logits: Tensor) -> bool:
    """Are (N, C, d1 .. dk) logits better seen as rows: channels last, (batch, time, C) transposed, or one d each?"""
    return logits.stride(1) == 1 or logits.shape[2:].numel() == 1


def _rows(matrix: Tensor, class_contiguous: bool) -> Tensor:
    """(C), (N, C) or (N, C, d1 .. dk) -> (rows, C) or (N, C, D), without a copy where a kernel can read the layout."""
    if matrix.dim() == 1:
        matrix = matrix.unsqueeze(0)
    elif matrix.dim() > 2:
        matrix = matrix.movedim(1, -1).flatten(0, -2) if class_contiguous else matrix.flatten(2)
    return row_layout(matrix)
