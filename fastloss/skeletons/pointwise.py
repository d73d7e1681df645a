"""Losses that take each element alone, then a reduction: from arguments to operands."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fastloss.core.arguments import (
    DEVICES,
    DTYPES,
    SMALL,
    Domain,
    Empty,
    Hyper,
    Invalid,
    Refused,
    Signature,
    accumulator_dtype,
    autocast_applies,
    differentiation_refused,
    reduction_of,
    small,
    warn,
    wraps,
)
from fastloss.core.autograd import Gradients, differentiable, differentiate, gradient_wanted
from fastloss.core.backends import NAMESPACES
from fastloss.core.dtypes import in_float32
from fastloss.core.memo import Run, picked, places
from fastloss.core.reductions import AGGREGATIONS, check_fit, weights
from fastloss.core.registry import BY_KERNEL, LOSSES
from fastloss.core.small import LARGEST, Plan
from fastloss.operators.pointwise import MAX_DIMENSIONS, broadcast_shape

_CODES = {dtype: code for code, dtype in enumerate(DTYPES)}
_NARROW = (torch.int8, torch.int16)  # which the kernels take as int32
_OPERAND_DTYPES = frozenset((*DTYPES, torch.bool, torch.uint8, torch.int32, torch.int64))


class _Operators(NamedTuple):
    """Overloads: one takes a microsecond less than the packet of all that have its name."""

    pointwise: Any
    pointwise_backward: Any


_OPERATORS = {
    namespace: _Operators(
        getattr(torch.ops, namespace).pointwise.default, getattr(torch.ops, namespace).pointwise_backward.default
    )
    for namespace in NAMESPACES
}


class PointwiseProblem(NamedTuple):
    """A pointwise loss without its tensors: the operands that are tensors, then the others among the arguments, then
    the scale."""

    loss: str  # the kernel's name
    constants: tuple[float, ...]
    parameters: tuple[float, ...]
    present: int
    wanted_operands: int
    masked: bool
    factor: float
    reduced: bool
    measure: bool
    dtype: int
    wanted: tuple[int, ...]
    differentiable: tuple[int, ...]
    early: bool
    weight: int  # place of the tensor that multiplies the losses; -1: there is none
    scale: int
    function: str  # the loss's name
    names: tuple[str, ...]  # of the operands that are tensors, among the arguments
    others: tuple[str, ...]  # of the other arguments that are tensors
    rest: tuple[tuple[str, Any], ...]  # the arguments that are none

    @property
    def outputs(self) -> int:
        return 2 if self.measure else 1

    def forward(
        self, namespace: str, tensors: Sequence[Tensor], early: bool
    ) -> tuple[tuple[Tensor, ...], Sequence[Tensor]]:
        loss, metrics, gradients = _OPERATORS[namespace].pointwise(
            *self.operands(tensors, self.wanted_operands if early else 0), self.reduced, self.measure, self.dtype
        )
        return ((loss, metrics) if self.measure else (loss,)), gradients

    def gradients(
        self, namespace: str, tensors: Sequence[Tensor], state: Sequence[Tensor], upstream: Tensor
    ) -> Gradients:
        """An upstream gradient is one more factor of the elements, whether they have one each or one in all."""
        operator = _OPERATORS[namespace].pointwise_backward
        return operator(upstream, *self.operands(tensors, self.wanted_operands))

    def reference(self, tensors: Sequence[Tensor]) -> Tensor:
        arguments = dict(zip((*self.names, *self.others), tensors, strict=False))
        if self.measure:
            arguments["return_terms"] = False  # type: ignore[assignment]
        return LOSSES[self.function].signature.reference(**{**dict(self.rest), **arguments})

    def operands(self, tensors: Sequence[Tensor], wanted: int) -> tuple[Any, ...]:
        """Those of `pointwise_backward` after the upstream gradient, with which `pointwise` begins."""
        return (
            tensors[: len(self.names)],
            tensors[self.weight] if self.weight >= 0 else None,
            tensors[self.scale] if self.scale >= 0 else None,
            self.loss,
            self.constants,
            self.parameters,
            self.present,
            wanted,
            self.masked,
            self.factor,
        )


class PointwisePlan(NamedTuple):
    """How a call is computed, whatever its tensors hold."""

    problem: PointwiseProblem
    dtype: torch.dtype  # of the returned loss
    metrics: Mapping[str, str] | None  # the terms to return beside the loss

    def run(self, tensors: Sequence[Tensor], namespace: str) -> Any:
        """The loss, or (loss, terms), differentiably."""
        result = differentiate(self.problem, namespace, tensors)
        if self.metrics is None:
            return result if result.dtype is self.dtype else result.to(self.dtype)
        loss, metrics = result
        return loss.to(self.dtype), dict(zip(self.metrics, metrics.to(self.dtype).unbind(), strict=True))


class PointwiseCall(NamedTuple):
    """A call of a pointwise loss, ready for an operator."""

    tensors: list[Tensor]  # as its problem wants them
    plan: PointwisePlan

    @property
    def device_type(self) -> str:
        return self.tensors[0].device.type

    def run(self, namespace: str) -> Any:
        return self.plan.run(self.tensors, namespace)

    def repeated(self, tensors: list[Tensor], namespace: str) -> Run | None:
        """Only if the operands are the caller's own tensors, each once, and there are no others."""
        plan, found = self.plan, self._places(tensors)
        return None if found is None else picked(lambda tensors: plan.run(tensors, namespace), found)

    def _places(self, tensors: list[Tensor]) -> list[int] | None:
        return places(self.tensors, tensors) if len(self.tensors) == len(self.plan.problem.names) else None

    def plan_if_small(self, tensors: list[Tensor]) -> Plan | None:
        p, found, first = self.plan.problem, self._places(tensors), tensors[0]
        alike = all(x.shape == first.shape and x.dtype is first.dtype and x.is_contiguous() for x in tensors)
        if found is None or not alike or p.measure or (p.wanted and not p.early) or first.numel() > LARGEST:
            return None
        operands = iter(found)
        numbers = range(len(p.constants))
        return Plan(
            "pointwise",
            p.loss,
            p.parameters,
            tuple(next(operands) if p.present >> k & 1 else -1 for k in numbers),
            p.constants,
            tuple(k for k in numbers if p.wanted_operands >> k & 1),
            p.factor,
            p.reduced,
            0,
            0,
            self.plan.dtype,
            lambda upstream, tensors: tuple(differentiable(p, upstream, [tensors[k] for k in found])),
        )


class Pointwise:
    """What :func:`fastloss.core.dispatch.fused` has to know of a loss that takes each element alone.

    The functor (csrc/losses) and the Triton helper are found under the function's own name. These arguments mean the
    same in every loss that has them: ``reduction``, ``size_average``, ``reduce``, ``mask``, ``normalizer``,
    ``aggregation``, ``return_terms``.

    Args:
        operands: names of the arguments that are taken element by element and broadcast, in the functor's order. A
            number is taken for a tensor of that value.
        fill: the value that stands for None of an optional operand.
        parameters: the hyper-parameters that the kernels take, in the order in which they take them.
        differentiable: the operands that have a gradient; default: all. The body detaches the others.
        shapes: "broadcast": the operands broadcast; "warn": the first two should have one shape, torch warns otherwise;
            "equal": they have to, or the body answers.
        weight: name of the argument of weights that multiply the losses.
        mean_of_weights: is the mean of weighted losses sum(weight * loss) / sum(weight), or sum(weight * loss) / count?
        variant: name of a string argument, and its values: each is another formula, whose kernel is
            "<function>_<value>".
        domain: what the kernels check of the operands, and how a CPU raises.
        metrics: name and kind ("mean", "part", "min", "max") of what ``return_terms`` returns, in the functor's order.
        batchmean: is reduction="batchmean" the sum divided by the length of the first dimension?
        drop_in: torch has this loss as one kernel, which answers for small inputs on a CPU.
        autocast: the device types on which autocast runs the loss in float32, as it does with torch's.
        weighted_autocast: the same for calls with a weight, which torch composes of other functions; default: the same.
        prepare: rewrites the arguments of a call (by name, defaults not filled in) before they are lowered, or says why
            they cannot be. Its result must be as good an argument of the body, and the same if prepared again. What it
            does depends on what :func:`fastloss.core.memo.describe` sees, or it replaces a tensor. Operands that it
            makes of others, in torch, are differentiated through: statistics of a sequence, say.
    """

    repeats = True  # a call like an earlier one may skip the lowering

    def __init__(
        self,
        *,
        operands: tuple[str, ...],
        fill: Mapping[str, float] | None = None,
        parameters: Mapping[str, Hyper] | None = None,
        differentiable: tuple[str, ...] | None = None,
        shapes: str = "broadcast",
        weight: str = "",
        mean_of_weights: bool = True,
        variant: tuple[str, tuple[str, ...]] | None = None,
        domain: Domain | None = None,
        metrics: Mapping[str, str] | None = None,
        batchmean: bool = False,
        drop_in: bool = False,
        autocast: tuple[str, ...] = DEVICES,
        weighted_autocast: tuple[str, ...] | None = None,
        prepare: Callable[[dict[str, Any]], dict[str, Any] | Refused] | None = None,
    ) -> None:
        self.operands = operands
        self.fill = fill or {}
        self.parameters = parameters or {}
        self.differentiable = operands if differentiable is None else differentiable
        self.shapes = shapes
        self.weight = weight
        self.mean_of_weights = mean_of_weights
        self.variant = variant
        self.domain = domain
        self.metrics = metrics or {}
        self.batchmean = batchmean
        self.drop_in = drop_in
        self.autocast = autocast
        self.weighted_autocast = autocast if weighted_autocast is None else weighted_autocast
        self.prepare = prepare

    def attach(self, reference: Callable[..., Any]) -> None:
        self.signature = Signature(reference, self.parameters)
        defaults = self.signature.defaults
        self._how = "aggregation" if "aggregation" in defaults else "reduction"
        self._default_reduction = defaults.get(self._how, "mean")
        name = self.signature.name
        LOSSES[name] = self
        self.kernels = (name,) if self.variant is None else tuple(f"{name}_{value}" for value in self.variant[1])
        BY_KERNEL.update(dict.fromkeys(self.kernels, self))
        self._may_differ = tuple(name in self.differentiable for name in self.operands)

    def kernel_name(self, bound: Mapping[str, Any]) -> str | None:
        """None if there is no formula of the name that the caller gives."""
        if self.variant is None:
            return self.signature.name
        argument, values = self.variant
        value = bound.get(argument, self.signature.defaults[argument])
        return f"{self.signature.name}_{value}" if value in values else None

    def lower(self, args: tuple[Any, ...], kwargs: dict[str, Any], *, automatic: bool) -> PointwiseCall | Refused:
        """`automatic`: the caller did not choose a backend, so torch may have the calls at which it is quicker."""
        if automatic and self.drop_in and small(args[0] if args else kwargs.get(self.operands[0])):
            return SMALL
        bound = self.signature.bind(args, kwargs)
        if bound is None:
            return Invalid("the arguments do not match the signature")
        given = bound
        if self.prepare is not None:
            prepared = self.prepare(bound)
            if isinstance(prepared, Refused):
                return prepared
            bound = prepared
        kernel = self.kernel_name(bound)
        if kernel is None:
            return Invalid(f"there is no such {self.variant[0]}")  # type: ignore[index]
        reason = differentiation_refused()
        if reason is not None:
            return reason
        tensors: list[Tensor] = []
        names, constants, places = [], [], []
        present = wanted = 0
        for k, name in enumerate(self.operands):
            value = bound.get(name)
            if value is None:
                value = self.fill.get(name)
            if isinstance(value, Tensor):
                tensors.append(value.int() if value.dtype in _NARROW else value)
                names.append(name)
                constants.append(0.0)
                present |= 1 << k
                if self._may_differ[k] and gradient_wanted(value):
                    wanted |= 1 << k
                    places.append(len(names) - 1)
            elif isinstance(value, (int, float)):
                constants.append(float(value))
            else:
                return Invalid(f"{name} is neither a tensor nor a number")
        if not tensors:
            return Invalid("no operand is a tensor")
        first = tensors[0]
        reason = _refused(tensors)
        if reason is not None:
            return reason
        parameters = self.signature.parameter_values(bound)
        if isinstance(parameters, Refused):
            return parameters
        try:
            shape = broadcast_shape(tensors)
        except RuntimeError:
            return Invalid("the operands do not broadcast")
        if len(shape) > MAX_DIMENSIONS:
            return Refused(f"{len(shape)} dimensions; the kernels take up to {MAX_DIMENSIONS}")
        if 0 in shape:
            return Empty()
        if self.shapes != "broadcast" and len(tensors) > 1 and tensors[1].shape != first.shape:
            if self.shapes == "equal":
                return Invalid("the shapes of the first two arguments differ")
            _warn_of_broadcasting(tensors[1], first)

        if self._how == "aggregation":
            how = bound.get("aggregation", self._default_reduction)
        else:
            how = reduction_of(bound, self._default_reduction)
        weighting = self._weighting(how, shape, bound, first)
        if isinstance(weighting, Refused):
            return weighting
        weight, masked, factor, scale = weighting
        if torch.compiler.is_compiling() and how not in ("none", "sum", "token-sum"):
            # As a number, the factor would be a constant of the graph: each shape would be compiled, or not exported.
            inverse = torch.full((), factor, dtype=torch.float64, device=first.device)
            factor, scale = 1.0, inverse if scale is None else scale * inverse

        of_caller = tensors
        if given is not bound:  # what was made of halves is float32; the loss has the dtype of what it was made of
            of_caller = [x for x in map(given.get, self.operands) if isinstance(x, Tensor)]
        dtype = _result_type(of_caller, expanded=self.shapes == "warn")
        code = _CODES.get(dtype)
        if code is None:
            return Invalid("no operand is floating-point")
        if code > 1 and self._narrows(first, weight if self.weight else None):
            dtype, code = torch.float32, 0
        measure = bool(bound.get("return_terms", False))
        if measure and torch._C._are_functorch_transforms_active():
            return Refused("return_terms under a transform of torch.func")
        others = {name: value for name, value in bound.items() if name not in names and isinstance(value, Tensor)}
        twice = [place for place, name in enumerate(names) if name in self.differentiable]
        # In the order of the problem: the operands, the other arguments (the weight is one of them), the scale.
        every = [*tensors, *others.values()]
        problem = PointwiseProblem(
            kernel,
            tuple(constants),
            tuple(parameters),
            present,
            wanted,
            masked,
            factor,
            how != "none",
            measure,
            code,
            tuple(places),
            tuple(twice),
            how != "none" and all(tensors[place].dtype != torch.float16 for place in places),
            -1 if weight is None else next(place for place, x in enumerate(every) if x is weight),
            -1 if scale is None else len(every),
            self.signature.name,
            tuple(names),
            tuple(others),
            tuple((name, value) for name, value in bound.items() if not isinstance(value, Tensor)),
        )
        plan = PointwisePlan(problem, dtype, self.metrics if measure else None)
        return PointwiseCall(every if scale is None else [*every, scale], plan)

    def _weighting(
        self, how: Any, shape: torch.Size, bound: dict[str, Any], first: Tensor
    ) -> tuple[Tensor | None, bool, float, Tensor | None] | Refused:
        """(weight, does it mask, factor, scale) for losses of a shape."""
        mask, weight = bound.get("mask"), bound.get(self.weight)
        plain = mask is None and weight is None and bound.get("normalizer") is None
        if plain and (how == "mean" or (how == "token-mean" and self._how == "aggregation")):
            return None, False, 1.0 / math.prod(shape), None
        normalizer = bound.get("normalizer")
        check_fit(shape, first.device, normalizer, mask=mask)
        if mask is not None and mask.dtype in _NARROW:
            bound["mask"] = mask = mask.int()
        for x in (mask, weight):
            if x is None:
                continue
            if not isinstance(x, Tensor) or x.device != first.device:
                return Invalid("the weights are no tensor on the device of the operands")
            if x.dtype not in _OPERAND_DTYPES:
                return Refused(f"no kernels for weights of {x.dtype}")
            if x.requires_grad:
                return Refused("the weights require a gradient")
        if weight is not None:
            if weight.shape != first.shape or weight.shape != shape:
                return Invalid("the weights do not have the shape of the input")
            if how == "mean" and not self.mean_of_weights:
                return weight, False, 1.0 / math.prod(shape), None
            if how == "mean":
                return weight, False, 1.0, weight.sum(dtype=accumulator_dtype(weight.dtype)).reciprocal()
            return (weight, False, 1.0, None) if how in ("none", "sum") else Invalid(f"no reduction {how!r}")
        if how == "batchmean" and self.batchmean:
            return None, False, 1.0 / (first.shape[0] if first.dim() else 1), None
        if how not in ("mean", "sum", *AGGREGATIONS) or (self._how == "reduction" and how in AGGREGATIONS[1:]):
            return Invalid(f"no reduction {how!r}")
        try:
            factor, scale = weights(how, shape, mask, normalizer)
        except ValueError as error:
            return Invalid(str(error))
        if scale is not None and scale.requires_grad:
            return Refused("the normalizer requires a gradient")
        if scale is not None:
            scale = scale.to(first.device)
        return mask, mask is not None, factor, scale

    def answer(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """What the reference body answers; under autocast in float32, as torch's own losses.

        Raises:
            ValueError: for a mask or a normalizer that does not fit the losses, as in `lower`.
        """
        first = args[0] if args else kwargs.get(self.operands[0])
        if kwargs and (kwargs.get("mask") is not None or isinstance(kwargs.get("normalizer"), Tensor)):
            self._check_fit(args, kwargs)
        if isinstance(first, Tensor) and autocast_applies(first):
            weight = (self.signature.bind(args, kwargs) or {}).get(self.weight) if self.weight else None
            if self._narrows(first, weight):
                args = tuple(in_float32(x) for x in args)
                kwargs = {name: in_float32(x) for name, x in kwargs.items()}
        return self.signature.reference(*args, **kwargs)

    def _check_fit(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        bound = self.signature.bind(args, kwargs)
        if bound is None:
            return  # the body raises Python's error
        tensors = [x for x in map(bound.get, self.operands) if isinstance(x, Tensor)]
        try:
            shape = broadcast_shape(tensors)
        except RuntimeError:
            shape = tensors[0].shape  # the body rearranges the others, or says that they do not broadcast
        check_fit(shape, tensors[0].device, bound.get("normalizer"), mask=bound.get("mask"))

    def _narrows(self, first: Tensor, weight: Any) -> bool:
        """Whether autocast has the loss in float32."""
        devices = self.autocast if weight is None else self.weighted_autocast
        return first.device.type in devices and autocast_applies(first)


def _refused(tensors: list[Tensor]) -> Refused | None:
    """Why the kernels do not take these tensors as operands."""
    device = tensors[0].device
    for x in tensors:
        if x.dtype not in _OPERAND_DTYPES:
            return Refused(f"no kernels for {x.dtype}")
        if x.layout is not torch.strided:
            return Refused(f"no kernels for the layout {x.layout}")
        if wraps(x):
            return Refused(f"no kernels for {type(x).__name__}")
        if x.device != device:
            if x.dim() == 0 and x.is_cpu:
                return Refused("a 0-d operand on the CPU beside one on a device")
            return Invalid("the operands are on different devices")
    return None if device.type in DEVICES else Refused(f"no kernels for {device.type} tensors")


def _category(dtype: torch.dtype) -> int:
    return 2 if dtype.is_floating_point else 0 if dtype == torch.bool else 1


def _result_type(tensors: list[Tensor], expanded: bool) -> torch.dtype:
    """What torch makes of an operation on all of these, of which 0-d ones count less, unless expanded before.

    (torch.result_type takes two, and Dynamo does not trace it.)
    """
    first = tensors[0].dtype
    if all(x.dtype is first for x in tensors):
        return first
    dtypes: list[torch.dtype | None] = [None, None]  # of 0-d tensors, of the others
    for x in tensors:
        place = expanded or x.dim() > 0
        known = dtypes[place]
        dtypes[place] = x.dtype if known is None else torch.promote_types(known, x.dtype)
    zero, whole = dtypes
    if zero is None or whole is None:
        return zero or whole  # type: ignore[return-value]
    return zero if _category(zero) > _category(whole) else whole


def _warn_of_broadcasting(target: Tensor, input: Tensor) -> None:
    warn(
        f"Using a target size ({target.size()}) that is different to the input size ({input.size()}). "
        "This will likely lead to incorrect results due to broadcasting. "
        "Please ensure they have the same size.",
        stacklevel=5,
    )
