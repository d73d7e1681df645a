"""Recurrences over time, y_t = b_t + a_t y_(t+1): from arguments to operands, and what the bodies share.

A function of this skeleton gives tensors of the shape of its first argument, and not a loss: returns, advantages.
"""

from __future__ import annotations

import math
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
    differentiation_refused,
    readable,
    wraps,
)
from fastloss.core.autograd import Gradients, differentiate, gradient_wanted
from fastloss.core.dtypes import widened
from fastloss.core.memo import Run, places
from fastloss.core.registry import BY_KERNEL, LOSSES
from fastloss.operators.scan import ScanOptions, accumulator

_EPS = 1e-8  # beside a standard deviation, as in stable-baselines3 and CleanRL


# ------------------------------------------------------------------------------------------ steps


class Steps:
    """Where trajectories end, and which steps there are, in the shape of the first operand.

    Attributes:
        terminated, truncated, there: of bool, or None.
        starts: of the sequences of a ragged batch, and its end; int64, or None.

    Raises:
        ValueError: for shapes and dtypes that do not fit.
        TypeError: for what is no tensor.
    """

    def __init__(
        self,
        first: Tensor,
        terminated: Tensor | None,
        truncated: Tensor | None,
        mask: Tensor | None,
        cu_seqlens: Tensor | None,
        time_dim: int,
    ) -> None:
        if not -first.dim() <= time_dim < first.dim():
            raise ValueError(f"time_dim must be a dimension of {tuple(first.shape)}, got {time_dim}")
        self.shape, self.device, self.time_dim = first.shape, first.device, time_dim % first.dim()
        self.terminated = _boolean(terminated, "terminated", first)
        self.truncated = _boolean(truncated, "truncated", first)
        self.there = _boolean(mask, "mask", first)
        self.starts = None if cu_seqlens is None else _starts(cu_seqlens, first, self.time_dim)

    def counted(self, *operands: Any) -> tuple[Any, ...]:
        """Operands in the dtype of the arithmetic, detached or not, 0 where a step is not there."""
        operands = widened(*operands)
        if self.there is None:
            return operands
        return tuple(torch.where(self.there, x, 0) if isinstance(x, Tensor) else x for x in operands)

    def alive(self, dtype: torch.dtype) -> Tensor | float:
        """0 where an episode has terminated, else 1."""
        return 1.0 if self.terminated is None else (~self.terminated).to(dtype)

    def _last(self) -> Tensor:
        """Whether a step is the last of its sequence, there or not."""
        if self.starts is None:
            view = [1] * len(self.shape)
            view[self.time_dim] = self.shape[self.time_dim]
            steps = torch.arange(self.shape[self.time_dim], device=self.device).view(view)
            return (steps == self.shape[self.time_dim] - 1).expand(self.shape)
        ends = torch.zeros(self.shape[0] + 1, dtype=torch.bool, device=self.device)
        ends = ends.index_fill(0, self.starts, True)[1:]
        return ends.view(-1, *[1] * (len(self.shape) - 1)).expand(self.shape)

    def follows(self, dtype: torch.dtype) -> Tensor:
        """1 where a trajectory goes on behind a step, else 0."""
        last = self._last()
        if self.there is None:
            follows = ~last
        else:  # is there a step later in the sequence?
            later = recurrence(self.there.float(), (~last).float(), self.time_dim, True)
            follows = (shifted(later, 1, self.time_dim, True) > 0) & ~last
        for ended in (self.terminated, self.truncated):
            if ended is not None:
                follows = follows & ~ended
        return follows.to(dtype)

    def handed_on(self, coefficients: Tensor, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """(inputs, coefficients) that hand y on where a step is not there, within its sequence."""
        if self.there is None:
            return inputs, coefficients
        passes = (~self._last()).to(inputs.dtype)
        return torch.where(self.there, inputs, 0), torch.where(self.there, coefficients, passes)

    def next(self, y: Tensor, follows: Tensor) -> Tensor:
        """y of the next step, 0 where none follows."""
        return torch.where(follows != 0, shifted(y, 1, self.time_dim, True), 0)

    def output(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        return (x if self.there is None else torch.where(self.there, x, 0)).to(dtype)


def _boolean(x: Any, name: str, first: Tensor) -> Tensor | None:
    if x is None:
        return None
    if not isinstance(x, Tensor):
        raise TypeError(f"{name} must be a tensor, got {type(x).__name__}")
    if x.device != first.device:
        raise ValueError(f"{name} is on {x.device}, the rewards are on {first.device}")
    x = x if x.dtype == torch.bool else x != 0
    if x.shape == first.shape:
        return x
    if x.dim() > first.dim() or any(n not in (1, m) for n, m in zip(x.shape[::-1], first.shape[::-1], strict=False)):
        raise ValueError(f"{name} {tuple(x.shape)} does not broadcast to {tuple(first.shape)}")
    return x.expand(first.shape)


def _starts(cu_seqlens: Any, first: Tensor, time_dim: int) -> Tensor:
    if not isinstance(cu_seqlens, Tensor):
        raise TypeError(f"cu_seqlens must be a tensor, got {type(cu_seqlens).__name__}")
    if cu_seqlens.dim() != 1 or cu_seqlens.dtype not in (torch.int32, torch.int64) or time_dim != 0:
        raise ValueError("cu_seqlens must be (sequences + 1,) integers, and time_dim 0, where sequences are packed")
    if cu_seqlens.device != first.device:
        raise ValueError(f"cu_seqlens is on {cu_seqlens.device}, the rewards are on {first.device}")
    if readable(cu_seqlens):
        total = first.shape[0]
        ends = cu_seqlens[:1], cu_seqlens[-1:]
        if not len(cu_seqlens) or ends[0] != 0 or ends[1] != total or (cu_seqlens.diff() < 0).any():
            raise ValueError(f"cu_seqlens must rise from 0 to the number of steps, {total}")
    return cu_seqlens.to(torch.int64).contiguous()


# ------------------------------------------------------------------------------------------ in torch


def shifted(x: Tensor, steps: int, dim: int, reverse: bool) -> Tensor:
    """x of `steps` steps earlier in the order of the scan, 0 before its beginning."""
    length = x.shape[dim]
    edge = torch.zeros_like(x.narrow(dim, 0, steps))
    parts = [x.narrow(dim, steps, length - steps), edge] if reverse else [edge, x.narrow(dim, 0, length - steps)]
    return torch.cat(parts, dim)


def composed(a: Tensor, y: Tensor) -> Tensor:
    """a y, and 0 where a cuts an infinity or a NaN off; its derivative by a is y elsewhere."""
    return a * torch.where((a == 0) & ~y.isfinite(), 0, y)


def recurrence(inputs: Tensor, coefficients: Tensor, dim: int, reverse: bool) -> Tensor:
    """y = inputs + coefficients y', by doubling the number of steps that are composed: log2(T) passes."""
    y, a = inputs, coefficients
    steps = 1
    while steps < y.shape[dim]:
        y = y + composed(a, shifted(y, steps, dim, reverse))
        a = composed(a, shifted(a, steps, dim, reverse))
        steps *= 2
    return y


def normalized(x: Tensor, there: Tensor | None) -> Tensor:
    """(x - mean) / (standard deviation + 1e-8), with N - 1, over the elements that are there; 0 for the others."""
    if there is None:
        count = max(1, math.prod(x.shape))
        centred = x - x.sum() / count
        variance = centred.square().sum() / max(1, count - 1)
        return centred / (variance.sqrt() + _EPS)
    number = there.sum().to(x.dtype)
    mean = torch.where(there, x, 0).sum() / number.clamp(min=1)
    centred = torch.where(there, x - mean, 0)
    variance = centred.square().sum() / (number - 1).clamp(min=1)
    return centred / (variance.sqrt() + _EPS)


# ------------------------------------------------------------------------------------------ calls


class ScanProblem(NamedTuple):
    """A linear recurrence without its tensors: the inputs and, if they are no number, the coefficients."""

    loss: str
    coefficient: float  # where it is a number
    time_dim: int
    reverse: bool
    output: int
    wanted: tuple[int, ...]
    early: bool = False
    outputs: int = 1
    reduced: bool = False

    @property
    def differentiable(self) -> tuple[int, ...]:
        return self.wanted

    def forward(self, namespace: str, tensors: Sequence[Tensor], early: bool) -> tuple[tuple[Tensor], Gradients]:
        return (self._scanned(namespace, tensors, self.reverse, self.output),), ()

    def gradients(
        self, namespace: str, tensors: Sequence[Tensor], state: Sequence[Tensor], upstream: Tensor
    ) -> Gradients:
        """By the adjoint scan, which goes the other way: z = upstream + a' z', and dz/da = z times the next y."""
        found = []
        inputs, wide = tensors[0], DTYPES.index(accumulator(tensors))
        adjoint = [upstream.to(accumulator(tensors))]
        if len(tensors) > 1:
            adjoint.append(shifted(tensors[1].expand(inputs.shape), 1, self.time_dim, not self.reverse))
        z = self._scanned(namespace, adjoint, not self.reverse, wide)
        for place in self.wanted:
            if place == 0:
                found.append(z.to(inputs.dtype))
            else:
                y = self._scanned(namespace, tensors, self.reverse, wide)
                following = shifted(y, 1, self.time_dim, self.reverse)
                by_coefficient = z * torch.where((tensors[1] == 0) & ~following.isfinite(), 0, following)
                found.append(by_coefficient.sum_to_size(tensors[1].shape).to(tensors[1].dtype))
        return tuple(found)

    def reference(self, tensors: Sequence[Tensor]) -> Tensor:
        coefficients = tensors[1] if len(tensors) > 1 else self.coefficient
        how = {"time_dim": self.time_dim, "reverse": self.reverse}
        return LOSSES[self.loss].signature.reference(tensors[0], coefficients, **how)

    def _scanned(self, namespace: str, tensors: Sequence[Tensor], reverse: bool, output: int) -> Tensor:
        shape = tensors[0].shape
        operands = [flattened(x.expand(shape), self.time_dim) for x in tensors]
        present, constants = (3, (0.0, 0.0)) if len(tensors) > 1 else (1, (0.0, self.coefficient))
        options = ScanOptions(
            constants, present, None, None, None, None, self.loss, (), self.time_dim if len(shape) < 3 else 1,
            reverse, 1, output,
        )  # fmt: skip
        (y,) = getattr(torch.ops, namespace).scan(operands, *options)
        return y.view(shape) if y.shape != shape else y


class ScanCall(NamedTuple):
    """A call of a scan, ready for the operator."""

    operands: list[Tensor]
    options: ScanOptions
    shape: torch.Size
    dtype: torch.dtype
    normalize: bool
    problem: ScanProblem | None  # where it is differentiated

    @property
    def device_type(self) -> str:
        return self.operands[0].device.type

    def run(self, namespace: str) -> Any:
        if self.problem is not None:
            return differentiate(self.problem, namespace, self.operands)
        return self._finished(self.operands, self.options, namespace)

    def _finished(self, operands: list[Tensor], options: ScanOptions, namespace: str) -> Any:
        with torch.no_grad():  # targets are constants
            outputs = getattr(torch.ops, namespace).scan(operands, *options)
            if self.normalize:
                outputs[0] = normalized(outputs[0], options.there)
                outputs = [x.to(self.dtype) for x in outputs]
            if outputs[0].shape != self.shape:
                outputs = [x.view(self.shape) for x in outputs]
        return outputs[0] if len(outputs) == 1 else tuple(outputs)

    def repeated(self, tensors: list[Tensor], namespace: str) -> Run | None:
        """Only if operands and flags are the caller's own tensors; starts are looked at in every call."""
        o = self.options
        if self.problem is not None or o.starts is not None:
            return None
        flags = [x for x in (o.terminated, o.truncated, o.there) if x is not None]
        found = places([*self.operands, *flags], tensors)
        if found is None:
            return None
        count = len(self.operands)
        given = [x is not None for x in (o.terminated, o.truncated, o.there)]
        scan = getattr(torch.ops, namespace).scan.default
        before, after = o[:2], o[6:]
        # no_grad takes 2 us; what requires a gradient is part of a call's description
        plain = not self.normalize and not any(x.requires_grad for x in (*self.operands, *flags))
        one = o.outputs == 1

        def run(tensors: list[Tensor]) -> Any:
            mine = [tensors[k] for k in found]
            rest = iter(mine[count:])
            three = [next(rest) if there else None for there in given]
            if plain:
                outputs = scan(mine[:count], *before, *three, None, *after)
                return outputs[0] if one else tuple(outputs)
            options = o._replace(terminated=three[0], truncated=three[1], there=three[2])
            return self._finished(mine[:count], options, namespace)

        return run

    def plan_if_small(self, tensors: list[Tensor]) -> None:
        return None


class ComposedCall(NamedTuple):
    """A call that is differentiated: coefficients and inputs in torch, and the linear scan, which has an adjoint."""

    body: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    device_type: str

    def run(self, namespace: str) -> Any:
        return self.body(*self.args, **self.kwargs)

    def repeated(self, tensors: list[Tensor], namespace: str) -> None:
        return None

    def plan_if_small(self, tensors: list[Tensor]) -> None:
        return None


def flattened(x: Tensor, time_dim: int) -> Tensor:
    """Of more than two dimensions, (outer, steps, inner)."""
    if x.dim() < 3:
        return x
    shape = x.shape
    return x.reshape(math.prod(shape[:time_dim]), shape[time_dim], math.prod(shape[time_dim + 1 :]))


class Scan:
    """What :func:`fastloss.core.dispatch.fused` has to know of a recurrence over time.

    The functor (csrc/losses) and the Triton helper are found under the function's own name. These arguments mean the
    same in every function that has them: ``terminated``, ``truncated``, ``mask``, ``cu_seqlens``, ``time_dim``,
    ``reverse`` and ``normalize``, which is of the first output.

    Args:
        operands: names of the arguments of each step, in the functor's order, and 0 for those that are None. The first
            is a tensor, which the others have the shape of.
        rates: those of the operands that may be a number, or a tensor that broadcasts.
        outputs: how many tensors the function gives.
        parameters: the hyper-parameters that the kernels take, in the order in which they take them.
        differentiable: the operands that have a gradient; the body detaches the others.
        linear: is this the recurrence itself, whose adjoint the skeleton knows? The derivatives of the others are made
            of it, by their bodies.
    """

    repeats = True  # a call like an earlier one may skip the lowering

    def __init__(
        self,
        *,
        operands: tuple[str, ...],
        rates: tuple[str, ...],
        outputs: int = 1,
        parameters: Mapping[str, Hyper] | None = None,
        differentiable: tuple[str, ...] = (),
        linear: bool = False,
    ) -> None:
        self.operands = operands
        self.rates = rates
        self.outputs = outputs
        self.parameters = parameters or {}
        self.differentiable = differentiable
        self.linear = linear

    def attach(self, reference: Callable[..., Any]) -> None:
        self.signature = Signature(reference, self.parameters)
        LOSSES[self.signature.name] = BY_KERNEL[self.signature.name] = self

    def answer(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """What the reference body answers."""
        return self.signature.reference(*args, **kwargs)

    def lower(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], *, automatic: bool
    ) -> ScanCall | ComposedCall | Refused:
        bound = self.signature.bind(args, kwargs)
        if bound is None:
            return Invalid("the arguments do not match the signature")
        reason = differentiation_refused()
        if reason is not None:
            return reason
        defaults = self.signature.defaults
        first = bound.get(self.operands[0])
        if not isinstance(first, Tensor):
            return Invalid(f"{self.operands[0]} is no tensor")
        operands: list[Tensor] = []
        constants, wanted, dtype = [], [], first.dtype
        present = 0
        for k, name in enumerate(self.operands):
            value = bound.get(name, defaults.get(name))
            if isinstance(value, Tensor):
                reason = _refused(value, name, first)
                if reason is not None:
                    return reason
                if value.shape != first.shape:
                    if name not in self.rates:
                        return Invalid(f"{name} has another shape than {self.operands[0]}")
                    try:
                        value.expand(first.shape)
                    except RuntimeError:
                        return Invalid(f"{name} does not broadcast to {self.operands[0]}")
                if name in self.differentiable and gradient_wanted(value):
                    wanted.append(len(operands))
                if value.dtype is not dtype and (value.dim() or name not in self.rates):
                    dtype = torch.promote_types(dtype, value.dtype)
                operands.append(value)
                constants.append(0.0)
                present |= 1 << k
            elif value is None and name not in self.rates:
                constants.append(0.0)
            elif isinstance(value, (int, float)) and name in self.rates:
                constants.append(float(value))
            else:
                return Invalid(f"{name} is neither a tensor nor a number")
        if not first.dim():
            return Invalid(f"{self.operands[0]} has no dimension of time")
        if wanted and not self.linear:
            return ComposedCall(self.signature.reference, args, kwargs, first.device.type)
        if first.numel() == 0:
            return Empty()
        parameters = self.signature.parameter_values(bound)
        if isinstance(parameters, Refused):
            return parameters
        ended = (bound.get("terminated"), bound.get("truncated"), bound.get("mask"), bound.get("cu_seqlens"))
        steps = Steps(first, *ended, bound.get("time_dim", 0))
        reverse = bool(bound.get("reverse", True))
        normalize = bool(bound.get("normalize", False))
        output = DTYPES.index(accumulator(operands) if normalize else dtype)
        loss, time_dim = self.signature.name, steps.time_dim
        if wanted:
            problem = ScanProblem(loss, constants[-1], time_dim, reverse, output, tuple(wanted))
            return ScanCall(operands, None, first.shape, dtype, False, problem)  # type: ignore[arg-type]
        packed = steps.starts is not None and first.dim() > 2  # (total, inner)
        shape = first.shape

        def laid_out(x: Tensor) -> Tensor:
            x = flattened(x if x.shape == shape else x.expand(shape), time_dim)
            return x[0] if packed else x

        terminated, truncated, there = (
            None if x is None else laid_out(x) for x in (steps.terminated, steps.truncated, steps.there)
        )
        options = ScanOptions(
            tuple(constants), present, terminated, truncated, there, steps.starts, loss, tuple(parameters),
            1 if len(shape) > 2 and not packed else time_dim, reverse, self.outputs, output,
        )  # fmt: skip
        operands = [laid_out(x) for x in operands]
        return ScanCall(operands, options, shape, dtype, normalize, None)


def _refused(x: Tensor, name: str, first: Tensor) -> Refused | None:
    """Why the kernels do not take this operand."""
    if x.device != first.device:
        return Invalid("the operands are on different devices")
    if x.dtype not in DTYPES:
        return Refused(f"no kernels for {name} of {x.dtype}")
    if x.layout is not torch.strided:
        return Refused(f"no kernels for the layout {x.layout}")
    if wraps(x):
        return Refused(f"no kernels for {type(x).__name__}")
    return None if x.device.type in DEVICES else Refused(f"no kernels for {x.device.type} tensors")
