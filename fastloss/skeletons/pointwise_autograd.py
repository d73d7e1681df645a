"""Autograd of the pointwise losses: one pass where the reduction is scalar, two where it is not; double backward.

With a scalar reduction, forward already writes the gradients of the reduced loss, and backward hands them on, scaled in
place if the upstream gradient is not 1. They cannot be used again, so a second backward (``retain_graph=True``)
recomputes them. As for rows, eager mode has Functions of its own (`_Eager`), whose backward may keep state on `ctx`;
:mod:`torch.func` and torch.compile use `_Pure`. Derivatives beyond the first are those of the reference body.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.autograd import Function

from fastloss.core.autograd import transformed
from fastloss.operators import NAMESPACES
from fastloss.operators.pointwise import PointwiseOperands

if TYPE_CHECKING:
    from fastloss.skeletons.pointwise import Pointwise, PointwisePlan

REFERENCES: dict[str, Pointwise] = {}
"""The reference body of every pointwise loss, by its function's name."""


class Operators:
    """The operators of a namespace. An overload takes a microsecond less than the packet of all that have its name."""

    def __init__(self, namespace: str) -> None:
        operators = getattr(torch.ops, namespace)
        self.namespace = namespace
        self.pointwise = operators.pointwise.default
        self.pointwise_backward = operators.pointwise_backward.default
        self.scale_ = operators.scale_.default


OPERATORS = {namespace: Operators(namespace) for namespace in NAMESPACES}


def pointwise_loss(plan: PointwisePlan, tensors: Sequence[Tensor], operators: Operators) -> Any:
    """The loss, or (loss, metrics)."""
    if torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active():
        return _pure(plan, tensors, operators.namespace)
    if plan.wanted:
        return _apply(plan, operators, *tensors)
    loss, metrics, _ = operators.pointwise(tensors, *plan.operands)
    return loss if plan.metrics is None else (loss, metrics)


def _wanted(operands: PointwiseOperands) -> list[int]:
    """Places, among the tensors, of those whose gradients are wanted."""
    numbers = [k for k in range(operands.present.bit_length()) if operands.present >> k & 1]
    return [place for place, k in enumerate(numbers) if operands.wanted >> k & 1]


def _spread(gradients: Sequence[Tensor], wanted: Sequence[int], tensors: Sequence[Tensor]) -> list[Tensor | None]:
    """The gradients in the places of the tensors, each with the shape of its tensor."""
    result: list[Tensor | None] = [None] * len(tensors)
    for place, gradient in zip(wanted, gradients, strict=True):
        shape = tensors[place].shape
        result[place] = gradient if gradient.shape == shape else gradient.sum_to_size(shape)
    return result


def _scale(gradients: Sequence[Tensor], upstream: Tensor, operators: Operators) -> None:
    """Gradients of any dense layout times the upstream gradient, in place."""
    if not upstream.is_cpu:
        for gradient in gradients:  # as the block of memory that it is
            operators.scale_(gradient.as_strided((1, gradient.numel()), (gradient.numel(), 1)), upstream)
    elif type(upstream) is not Tensor or upstream.item() != 1.0:  # a FakeTensor has no value
        for gradient in gradients:
            gradient.mul_(upstream)


class _Eager(Function):
    """operands -> loss, or (loss, metrics). The gradients of a reduced loss are made in forward."""

    @staticmethod
    def forward(ctx: Any, plan: PointwisePlan, operators: Operators, *tensors: Tensor) -> Any:
        operands = plan.operands
        once = operands if operands.reduce else operands._replace(wanted=0)
        loss, metrics, gradients = operators.pointwise(tensors, *once)
        # The operands are torch's to keep (or to offload, or to recompute), and nowhere else in ctx. The weights are
        # saved too, so that torch complains if they are overwritten before backward.
        ctx.save_for_backward(*tensors, *plan.weights)
        ctx.plan, ctx.operators, ctx.ready = plan, operators, gradients if operands.reduce else None
        if plan.metrics is None:
            return loss
        ctx.mark_non_differentiable(metrics)
        return loss, metrics

    @staticmethod
    def backward(ctx: Any, upstream: Tensor, *_: Any) -> tuple[Any, ...]:
        plan = ctx.plan
        operands = plan.operands
        tensors = ctx.saved_tensors[: len(plan.names)]
        if transformed(upstream):
            return None, None, *_differentiable(plan.fused, plan.rest, plan.names, operands, upstream, tensors)
        if not operands.reduce:
            gradients = ctx.operators.pointwise_backward(upstream, tensors, *operands[:9])
        else:
            gradients, ctx.ready = ctx.ready, None
            if gradients is None:  # handed on by an earlier backward
                _, _, gradients = ctx.operators.pointwise(tensors, *operands._replace(measure=False))
            _scale(gradients, upstream, ctx.operators)
        return None, None, *_spread(gradients, plan.wanted, tensors)


# Function.apply itself, without the Python around it (3 us) that looks for torch.func: there is none here.
_apply = super(Function, _Eager).apply


def _differentiable(
    fused: Pointwise,
    bound: Mapping[str, Any],
    names: Sequence[str],
    operands: PointwiseOperands,
    upstream: Tensor,
    tensors: Sequence[Tensor],
) -> list[Tensor | None]:
    """The gradients as differentiable functions of the upstream gradient and the operands, by the reference body."""
    places = _wanted(operands)

    def loss(*some: Tensor) -> Tensor:
        values = dict(zip(names, tensors, strict=True))
        values.update((names[place], x) for place, x in zip(places, some, strict=True))
        return fused.reference_on(bound, values)

    value, pullback = torch.func.vjp(loss, *(tensors[place] for place in places))  # type: ignore[misc]
    result: list[Tensor | None] = [None] * len(tensors)
    for place, gradient in zip(places, pullback(upstream.to(value.dtype)), strict=True):
        result[place] = gradient
    return result


# ------------------------------------------------------------------------------------------ transforms, torch.compile
#
# Both want every tensor among the arguments of a Function, and nothing else that is not a constant. So the arguments of
# the loss travel as names and values: those of the tensors first, then the others.


def _pure(plan: PointwisePlan, tensors: Sequence[Tensor], namespace: str) -> Any:
    more = tuple(name for name, value in plan.rest.items() if isinstance(value, Tensor))
    statics = tuple((name, value) for name, value in plan.rest.items() if name not in more)
    operands = plan.operands
    loss, metrics, *_ = _Pure.apply(
        (plan.fused.signature.name, namespace, plan.names, more, statics),
        tuple(operands[2:]),
        operands.weight,
        operands.scale,
        *tensors,
        *(plan.rest[name] for name in more),
    )
    return loss if plan.metrics is None else (loss, metrics)


def _count_known(rest: tuple[Any, ...]) -> int:
    """How many gradients forward has made: all that are wanted, if the loss is reduced."""
    operands = PointwiseOperands(None, None, *rest)
    return bin(operands.wanted).count("1") if operands.reduce else 0


def _without_context(inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    """Dynamo (2.13) tells from the number of parameters whether forward takes a ctx, and so gives one to *inputs."""
    return inputs if isinstance(inputs[0], tuple) else inputs[1:]


class _Pure(Function):
    """(..., operands) -> (loss, metrics, gradients of a reduced loss by the wanted operands)."""

    generate_vmap_rule = True

    @staticmethod
    def forward(*inputs: Any) -> Any:
        description, rest, weight, scale, *tensors = _without_context(inputs)
        operands = PointwiseOperands(weight, scale, *rest)
        _, namespace, names, *_ = description
        once = operands if operands.reduce else operands._replace(wanted=0)
        loss, metrics, gradients = getattr(torch.ops, namespace).pointwise(list(tensors[: len(names)]), *once)
        return loss, metrics, *gradients

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.description, ctx.rest, *tensors = inputs
        ctx.mark_non_differentiable(*output[1:])
        ctx.save_for_backward(*output[2:], *tensors)

    @staticmethod
    def backward(ctx: Any, upstream: Tensor, *_: Any) -> tuple[Any, ...]:
        count = _count_known(ctx.rest)
        weight, scale, *tensors = ctx.saved_tensors[count:]
        gradients = _Twice.apply(
            ctx.description, ctx.rest, upstream, weight, scale, *ctx.saved_tensors[:count], *tensors
        )
        _, _, names, *_ = ctx.description
        operands = PointwiseOperands(weight, scale, *ctx.rest)
        spread = _spread(gradients, _wanted(operands), tensors[: len(names)])
        return None, None, None, None, *spread, *[None] * (len(tensors) - len(names))


class _Twice(Function):
    """The gradients of `_Pure`, themselves differentiable: through the reference body."""

    generate_vmap_rule = True

    @staticmethod
    def forward(*inputs: Any) -> Any:
        description, rest, upstream, weight, scale, *more = _without_context(inputs)
        count = _count_known(rest)
        known, tensors = more[:count], more[count:]
        operands = PointwiseOperands(weight, scale, *rest)
        _, namespace, names, *_ = description
        if operands.reduce:
            return tuple((gradient * upstream).to(gradient.dtype) for gradient in known)
        operators = getattr(torch.ops, namespace)
        return tuple(operators.pointwise_backward(upstream, list(tensors[: len(names)]), *operands[:9]))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.description, ctx.rest, upstream, weight, scale, *more = inputs
        ctx.save_for_backward(upstream, weight, scale, *more[_count_known(ctx.rest) :])

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Any, ...]:
        upstream, weight, scale, *tensors = ctx.saved_tensors
        name, _, names, more, statics = ctx.description
        operands = PointwiseOperands(weight, scale, *ctx.rest)
        fused = REFERENCES[name]
        bound = {**dict(statics), **dict(zip(more, tensors[len(names) :], strict=True))}
        shapes = [tensors[place].shape for place in _wanted(operands)]
        # torch has losses that refuse to be differentiated by all of their operands
        places = [place for place, operand in enumerate(names) if operand in fused.differentiable]

        def gradients(upstream: Tensor, *some: Tensor) -> tuple[Tensor, ...]:
            values = list(tensors[: len(names)])
            for place, x in zip(places, some, strict=True):
                values[place] = x
            found = _differentiable(fused, bound, names, operands, upstream, values)
            return tuple(gradient for gradient in found if gradient is not None)

        # the cotangents are of the whole shape, the reference's gradients of the shapes of the operands
        cotangents = tuple(
            c if c.shape == shape else c.sum_to_size(shape) for c, shape in zip(cotangents, shapes, strict=True)
        )
        _, pullback = torch.func.vjp(gradients, upstream, *(tensors[place] for place in places))  # type: ignore[misc]
        of_upstream, *found = pullback(cotangents)
        of_operands: list[Tensor | None] = [None] * len(names)
        for place, gradient in zip(places, found, strict=True):
            of_operands[place] = gradient
        return (
            None, None, of_upstream, None, None, *[None] * _count_known(ctx.rest), *of_operands,
            *[None] * (len(tensors) - len(names)),
        )  # fmt: skip
