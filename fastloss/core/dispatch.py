"""The whole choice of backend: the decorator of fused losses, and what users set and ask.

A call of a fused loss goes: bind the arguments -> lower them to the operands of a skeleton, or find out why they do not
fit -> select a backend -> run its operators. :mod:`fastloss.skeletons` has the lowering and the autograd. The body of
the loss, in torch, is the reference backend: it answers what no kernel can, and every kernel is tested against it.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import threading
from collections.abc import Callable, Iterator
from typing import Any, Protocol, TypeVar, cast

import torch
from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function

from fastloss.core import arguments, environment, memo, small, torch_losses
from fastloss.core.arguments import Refused
from fastloss.core.backends import CHOICES, KERNELS, NAMES, NONE, Explanation, unavailable

Run = Callable[[], Any]

Loss = TypeVar("Loss", bound=Callable[..., Any])


class BackendError(RuntimeError):
    """An explicitly chosen backend cannot run a call; the message says why."""


# ------------------------------------------------------------------------------------------ what the user asks for


_default = environment.BACKEND.read()
_local = threading.local()  # not a ContextVar: torch.compile cannot trace one, and does guard on this


def _requested() -> str:
    name = getattr(_local, "backend", None)
    return _default if name is None else name


@contextlib.contextmanager
def backend(name: str) -> Iterator[None]:
    """Chooses the backend of every fused loss inside the ``with`` block, in this thread.

    Args:
        name: ``"auto"``, ``"reference"`` (torch), ``"cpu"`` (C++), ``"triton"`` or ``"cuda"`` (CUDA C++). The default
            is the environment variable ``FASTLOSS_BACKEND``, else ``"auto"``.

    Raises:
        ValueError: for another name.
        BackendError: from a loss inside the block that the chosen backend cannot compute, with the reason. Only
            ``"auto"`` lets another backend answer.
    """
    if name not in NAMES:
        raise ValueError(f"fastloss.backend: unknown backend {name!r}; choose one of {', '.join(NAMES)}")
    before = getattr(_local, "backend", None)
    _local.backend = name
    try:
        yield
    finally:
        _local.backend = before


def explain(loss: Callable[..., Any], *args: Any, **kwargs: Any) -> Explanation:
    """Tells which backend ``loss(*args, **kwargs)`` would use, and why, without computing it.

    Args:
        loss: a function of :mod:`fastloss.functional` or a loss Module.

    Returns:
        The backend and the reason; the backend ``"none"`` where the call raises, because torch has to answer it (with
        an error or a special case of its own) and another backend was chosen explicitly.

    Raises:
        BackendError: as the call itself, where the backend that was chosen cannot run it.

    Of a loss that is made of others the backend is ``"composite"``, or ``"reference"`` where all of it is torch's; the
    reason names the fused parts that this call has, and who answers each.

    Example:
        >>> print(fastloss.explain(fastloss.cross_entropy, logits, target))  # doctest: +SKIP
        cpu: the first of (cpu) that runs on cpu tensors
    """
    if isinstance(loss, torch.nn.Module):
        loss, args, kwargs = loss.bind(*args, **kwargs)  # type: ignore[operator]
    parts = getattr(loss, "parts", None)
    if parts is not None:
        return parts(args, kwargs)
    resolve = getattr(loss, "resolve", None)
    if resolve is None:
        return Explanation("reference", f"{getattr(loss, '__name__', loss)} has no fused kernels")
    return resolve(args, kwargs)[0]


@contextlib.contextmanager
def listening() -> Iterator[list[tuple[str, Explanation]]]:
    """Inside, fused losses are not computed by kernels: they say who would answer them, to the list, and their bodies
    answer. For calls on fake tensors."""
    before = getattr(_local, "parts", None)
    heard: list[tuple[str, Explanation]] = []
    _local.parts = heard
    try:
        yield heard
    finally:
        _local.parts = before


# ------------------------------------------------------------------------------------------ selection

_EXPLICIT_REFERENCE = Explanation("reference", "chosen explicitly")


class Call(Protocol):
    """A call of a loss, lowered to the operators of a skeleton."""

    @property
    def device_type(self) -> str: ...

    def run(self, namespace: str) -> Any: ...


class RepeatableCall(Call, Protocol):
    """A call of a skeleton that has `repeats`: one of the same description may skip the lowering."""

    def repeated(self, tensors: list[Tensor], namespace: str) -> memo.Run | None:
        """What computes a call that differs from this one in what its tensors hold; None: there is more to it.

        Args:
            tensors: those among the arguments of this call.
        """

    def plan_if_small(self, tensors: list[Tensor]) -> small.Plan | None:
        """The same for calls on a CPU that are small and plain; None: this one is not."""


class Skeleton(Protocol):
    """What a loss says of itself, such as :class:`fastloss.skeletons.row.Row`."""

    def attach(self, reference: Callable[..., Any]) -> None: ...

    def lower(self, args: tuple[Any, ...], kwargs: dict[str, Any], *, automatic: bool) -> Call | Refused: ...

    def answer(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any: ...


def _select(requested: str, call: Call | Refused) -> Explanation:
    """The backend of a lowered call; a BackendError if an explicit one cannot run it."""
    if isinstance(call, Refused):
        if requested == "auto" or isinstance(call, arguments.Empty):
            return call.explanation
        why = f"fastloss: backend {requested!r} cannot run this call: {call.reason}"
        if isinstance(call, arguments.Invalid):
            return Explanation(NONE, why)
        raise BackendError(why)
    return _chosen(requested, call.device_type)


def _chosen(requested: str, device: str) -> Explanation:
    chosen = CHOICES[requested, device]
    if chosen is None:
        reason = unavailable(requested, device)
        raise BackendError(f"fastloss: backend {requested!r} cannot run this call: {reason}")
    return chosen


def answering(tensor: Tensor) -> Explanation:
    """Which backend computes on a tensor, for what is made of a loss's operators without being one."""
    requested, device = _requested(), tensor.device.type
    if requested == "reference":
        return _EXPLICIT_REFERENCE
    if arguments.leaves():
        return arguments.LEAVES.explanation
    if device not in arguments.DEVICES:
        return Explanation("reference", f"no kernels for {device} tensors")
    return _chosen(requested, device)


def namespace_for(tensor: Tensor) -> str:
    """Its operators' namespace; "": torch's own."""
    chosen = answering(tensor)
    return "" if chosen.backend == "reference" else KERNELS[chosen.backend].namespace


def by_operators(function: Loss) -> Loss:
    """Lets `explain` tell which backend answers a function that runs operators by :func:`namespace_for` of its first
    argument."""
    (first, *_) = inspect.signature(function).parameters

    def resolve(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Explanation]:
        return (answering(args[0] if args else kwargs[first]),)

    function.resolve = resolve  # type: ignore[attr-defined]
    return function


def _overridden(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether an argument wants to answer torch's functions itself."""
    some = has_torch_function(args) or (kwargs and has_torch_function(tuple(kwargs.values())))
    return bool(some and arguments.overriding(args, kwargs))


def fused(skeleton: Skeleton) -> Callable[[Loss], Loss]:
    """Gives a loss its fused kernels; the decorated body remains the reference backend.

    Args:
        skeleton: says which kernels the loss runs on and what its arguments are to them.
    """

    def decorate(reference: Loss) -> Loss:
        skeleton.attach(reference)
        counterpart = getattr(torch_losses, reference.__name__, None)
        torchs_arguments = set(inspect.signature(counterpart).parameters) if counterpart is not None else set()
        # Of the other skeletons the lowering looks at more than a description has, and computes tensors.
        known = memo.Plans() if getattr(skeleton, "repeats", False) else None
        plain = small.MAKE() if known is not None and small.MAKE is not None else None

        def resolve(
            args: tuple[Any, ...], kwargs: dict[str, Any], requested: str | None = None
        ) -> tuple[Explanation, Call | Refused | None]:
            """What becomes of a call, which `explain` tells and the loss does: by which backend, and the call as it was
            lowered, or why it was not; None: nobody asked."""
            requested = _requested() if requested is None else requested
            if requested == "reference":
                return _EXPLICIT_REFERENCE, None
            call: Call | Refused
            if _overridden(args, kwargs):
                call = arguments.OVERRIDDEN
            elif arguments.leaves():
                call = arguments.LEAVES
            else:
                call = skeleton.lower(args, kwargs, automatic=requested == "auto")
            return _select(requested, call), call

        @functools.wraps(reference)
        def loss(*args: Any, **kwargs: Any) -> Any:
            requested = _requested()
            if plain is not None and not torch.compiler.is_compiling():
                result = plain.call(requested, args, kwargs)
                if result is not None:
                    return result
            parts = getattr(_local, "parts", None)
            if parts is not None:
                parts.append((reference.__name__, resolve(args, kwargs, requested)[0]))
                return skeleton.answer(args, kwargs)
            described = memo.describe(requested, args, kwargs) if known is not None else None
            if known is not None and described is not None:
                run = known.get(described[0])
                if run is not None:
                    return run(described[1])
            warnings_before = arguments.warnings_given()
            chosen, call = resolve(args, kwargs, requested)
            if call is arguments.OVERRIDDEN:
                # torch's own function where it takes the call: that is the one which subclasses know
                theirs = counterpart is not None and torchs_arguments.issuperset(kwargs)
                function: Any = counterpart if theirs else loss
                return handle_torch_function(function, arguments.overriding(args, kwargs), *args, **kwargs)
            if call is None or isinstance(call, Refused) or chosen.backend == "reference":
                result = skeleton.answer(args, kwargs)
                if chosen.backend == NONE:  # torch has no error of its own for this call
                    raise BackendError(chosen.reason)
                return result
            namespace = KERNELS[chosen.backend].namespace
            if known is not None and described is not None and arguments.warnings_given() == warnings_before:
                repeatable = cast(RepeatableCall, call)
                plan = repeatable.plan_if_small(described[1]) if chosen.backend == "cpu" else None
                if plain is not None and plan is not None:
                    plain.remember(requested, args, kwargs, plan)
                else:
                    run = repeatable.repeated(described[1], namespace)
                    if run is not None:
                        known.remember(described[0], run)
            return call.run(namespace)

        loss.resolve = resolve  # type: ignore[attr-defined]
        return loss  # type: ignore[return-value]

    return decorate
