"""Losses over all pairs of a source and a target element within a row: from arguments to operands."""

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
    autocast_applies,
    differentiation_refused,
    wraps,
)
from fastloss.core.autograd import Gradients, differentiate, gradient_wanted
from fastloss.core.reductions import check_fit, weights
from fastloss.core.registry import BY_KERNEL, LOSSES
from fastloss.operators.outer import OuterOptions, accumulator


class OuterProblem(NamedTuple):
    """A loss over pairs without its tensors: source, target, operands and, if there are any, the rows' factors."""

    loss: str
    parameters: tuple[float, ...]
    factor: float
    reduced: bool
    operands: int  # how many there are
    wanted: tuple[int, ...]
    early: bool

    @property
    def outputs(self) -> int:
        return 1

    @property
    def differentiable(self) -> tuple[int, ...]:
        return self.wanted

    def forward(self, namespace: str, tensors: Sequence[Tensor], early: bool) -> tuple[tuple[Tensor], Gradients]:
        operator = getattr(torch.ops, namespace).outer
        loss, gradient = operator(tensors[0], *self._operands(tensors), early)
        return (loss,), (gradient,) if early else ()

    def gradients(
        self, namespace: str, tensors: Sequence[Tensor], state: Sequence[Tensor], upstream: Tensor
    ) -> Gradients:
        """By the same operator: the upstream gradients of the rows are factors of the rows."""
        source, operands = tensors[0], self._operands(tensors)
        factor = upstream.to(accumulator(source, operands.target)).expand(source.shape[:1])
        if operands.row_factor is not None:  # a row of factor 0 is not there, whatever its upstream gradient
            factor = torch.where(operands.row_factor != 0, factor * operands.row_factor, 0)
        operands = operands._replace(row_factor=factor.contiguous())
        return (getattr(torch.ops, namespace).outer(source, *operands, True)[1],)

    def reference(self, tensors: Sequence[Tensor]) -> Tensor:
        return LOSSES[self.loss].on_operands(self._operands(tensors), tensors[0])

    def _operands(self, tensors: Sequence[Tensor]) -> OuterOptions:
        end = 2 + self.operands
        row_factor = tensors[end] if len(tensors) > end else None
        operands = list(tensors[2:end])
        return OuterOptions(tensors[1], operands, row_factor, self.loss, self.parameters, self.factor, self.reduced)


class OuterCall(NamedTuple):
    """A call of a loss over pairs, ready for an operator."""

    source: Tensor  # (rows, N)
    operands: OuterOptions
    dtype: torch.dtype  # of the returned loss
    shape: torch.Size  # of the returned loss where reduction is none

    @property
    def device_type(self) -> str:
        return self.source.device.type

    def run(self, namespace: str) -> Tensor:
        """Computes the loss with the operators of a namespace, differentiably."""
        o = self.operands
        wanted = (0,) if gradient_wanted(self.source) else ()
        early = bool(wanted) and o.reduce and self.source.dtype != torch.float16
        problem = OuterProblem(o.loss, tuple(o.parameters), o.factor, o.reduce, len(o.operands), wanted, early)
        factors = () if o.row_factor is None else (o.row_factor,)
        loss = differentiate(problem, namespace, (self.source, o.target, *o.operands, *factors))
        if loss.dtype != self.dtype:
            loss = loss.to(self.dtype)
        return loss if self.operands.reduce or loss.shape == self.shape else loss.view(self.shape)


class Outer:
    """What :func:`fastloss.core.dispatch.fused` has to know of a loss over all pairs of elements within a row.

    The first two arguments are the sources (*, N), which are differentiated, and the targets (*, M), which are not. The
    functor (csrc/losses) and the Triton helper are found under the function's own name. These arguments mean
    the same in every loss: ``reduction``, ``weights``, ``mask``, ``normalizer``.

    Args:
        operands: names of the arguments that belong to a source, (N) or (*, N), in the functor's order; constants.
        parameters: the hyper-parameters that the kernels take, in the order in which they take them.
        prepare: rewrites the arguments of a call (by name, defaults not filled in) before they are lowered. Its result
            must be as good an argument of the body.
    """

    def __init__(
        self,
        *,
        operands: tuple[str, ...],
        parameters: Mapping[str, Hyper],
        prepare: Callable[[dict[str, Any]], dict[str, Any]] | None = None,
    ) -> None:
        self.operands = operands
        self.parameters = parameters
        self.prepare = prepare

    def attach(self, reference: Callable[..., Any]) -> None:
        self.signature = Signature(reference, self.parameters)
        self._names = (*self.signature.arguments[:2], *self.operands)
        LOSSES[self.signature.name] = BY_KERNEL[self.signature.name] = self

    def answer(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """What the reference body answers.

        Raises:
            ValueError: for weights, a mask or a normalizer that do not fit the rows, as in `lower`.
        """
        source = args[0] if args else kwargs.get(self._names[0])
        if isinstance(source, Tensor):
            tensors = {name: kwargs.get(name) for name in ("mask", "weights")}
            check_fit(source.shape[:-1], source.device, kwargs.get("normalizer"), **tensors)
        return self.signature.reference(*args, **kwargs)

    def on_operands(self, call: OuterOptions, source: Tensor) -> Tensor:
        """The reference body on a skeleton's operands, in terms of `source` (which may be differentiated)."""
        arguments = dict(zip(self._names, (source, call.target, *call.operands), strict=True))
        parameters = dict(zip(self.parameters, call.parameters, strict=True))
        losses = self.signature.reference(**arguments, **parameters, mask=call.row_factor, reduction="none")
        return (losses.sum() if call.reduce else losses) * call.factor

    def lower(self, args: tuple[Any, ...], kwargs: dict[str, Any], *, automatic: bool) -> OuterCall | Refused:
        bound = self.signature.bind(args, kwargs)
        if bound is None:
            return Invalid("the arguments do not match the signature")
        if self.prepare is not None:
            bound = self.prepare(bound)
        reason = differentiation_refused()
        if reason is not None:
            return reason
        tensors: list[Any] = [bound.get(name) for name in self._names]
        reason = _refused(tensors, self._names)
        if reason is not None:
            return reason
        source, target, *operands = tensors
        rows = source.shape[:-1]
        if source.dim() == 0 or target.dim() == 0 or target.shape[:-1] != rows:
            return Invalid("source and target differ in a dimension other than the last")
        if any(x.shape != source.shape and x.shape != source.shape[-1:] for x in operands):
            return Invalid("an operand of the sources does not have their shape")
        if source.numel() == 0 or target.numel() == 0:
            return Empty()
        parameters = self.signature.parameter_values(bound)
        if isinstance(parameters, Refused):
            return parameters
        reduction = bound.get("reduction", "mean")
        if reduction not in ("none", "mean", "sum"):
            return Invalid(f"no reduction {reduction!r}")
        weighting = _weighting(reduction, rows, bound, source, accumulator(source, target))
        if isinstance(weighting, Refused):
            return weighting
        factor, row_factor = weighting
        return OuterCall(
            _rows(source),
            OuterOptions(
                _rows(_constant(target)),
                [_constant(x) if x.dim() == 1 else _rows(_constant(x)) for x in operands],
                row_factor,
                self.signature.name,
                parameters,
                factor,
                reduction != "none",
            ),
            torch.float32 if autocast_applies(source) else torch.promote_types(source.dtype, target.dtype),
            rows,
        )


def _refused(tensors: list[Any], names: tuple[str, ...]) -> Refused | None:
    """Why the kernels do not take these as source, target and operands."""
    for x, name in zip(tensors, names, strict=True):
        if not isinstance(x, Tensor):
            return Invalid(f"{name} is no tensor")
        if x.device != tensors[0].device:
            return Invalid("the tensors are on different devices")
        if x.dtype not in DTYPES:
            return Refused(f"no kernels for {name} of {x.dtype}")
        if x.layout is not torch.strided:
            return Refused(f"no kernels for the layout {x.layout}")
        if wraps(x):
            return Refused(f"no kernels for {type(x).__name__}")
    device = tensors[0].device.type
    return None if device in DEVICES else Refused(f"no kernels for {device} tensors")


def _constant(tensor: Tensor) -> Tensor:
    return tensor.detach() if tensor.requires_grad else tensor


def _rows(tensor: Tensor) -> Tensor:
    """(*, N) -> (rows, N)"""
    return tensor if tensor.dim() == 2 else tensor.reshape(-1, tensor.shape[-1])


def _weighting(
    reduction: str, rows: torch.Size, bound: dict[str, Any], source: Tensor, dtype: torch.dtype
) -> tuple[float, Tensor | None] | Refused:
    """(factor of all rows, factors of the rows or None)"""
    mask, row_weights, normalizer = bound.get("mask"), bound.get("weights"), bound.get("normalizer")
    check_fit(rows, source.device, normalizer, mask=mask, weights=row_weights)
    for x in (mask, row_weights):
        if x is None:
            continue
        if x.requires_grad:
            return Refused("the weights of the rows require a gradient")
        if x.is_complex():
            return Invalid("the weights of the rows are complex")
    try:
        factor, scale = weights(reduction, rows, mask, normalizer)
    except ValueError as error:
        return Invalid(str(error))
    if scale is not None and scale.requires_grad:
        return Refused("the normalizer requires a gradient")
    total = None if scale is None else scale.to(source.device)
    for x in (row_weights, mask):
        if x is not None:  # 0 stays 0, whatever the scale; which a half would round, if it were multiplied as it is
            x = x.to(dtype)
            total = x if total is None else torch.where(x != 0, total * x, 0)
    if total is not None:
        total = total.to(dtype).expand(rows).reshape(-1).contiguous()
    return factor, total
