"""From the arguments of a loss, as users pass them, to the operands of a skeleton's operators: what skeletons share.

A skeleton (:mod:`fastloss.skeletons`) lowers a call to a call of its operators, or to the reason why not:
:class:`Invalid`, which the reference body turns into torch's own error (or handles, where torch has a special case), or
:class:`Refused`, where the kernels do not compute this valid call.
"""

from __future__ import annotations

import inspect
import math
import threading
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fastloss.core import environment
from fastloss.core.backends import Explanation
from fastloss.core.small import MAKE

# Up to here torch's own kernels take less time than the long way to ours.
SMALL_ON_CPU = 4096

DEVICES = ("cpu", "cuda", "xpu")  # for whose tensors there are kernels
# Beyond these a number is 0, infinite, or has an infinite inverse where the arithmetic is float32; 0 is a switch.
_SMALLEST, _LARGEST = torch.finfo(torch.float32).smallest_normal, torch.finfo(torch.float32).max
DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)  # numbered so in csrc


class Refused:
    """What lowering comes to where the kernels do not compute a call, though it is a good one: the reason."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        self.explanation = Explanation("reference", self._say.format(reason))

    _say = "{}"


class Invalid(Refused):
    """Torch's own checks and special cases should have this call."""

    _say = "left to torch: {}"


class Empty(Invalid):
    """There are no elements, so there is nothing to launch."""

    def __init__(self) -> None:
        super().__init__("there are no elements, so there is nothing to launch")


SMALL = Refused(f"up to {SMALL_ON_CPU} elements on a CPU, torch's own kernel is quicker than the way to ours")
OVERRIDDEN = Refused("an argument has a __torch_function__ of its own")
# An operator of ours would be a hole in such a program: no gradient passes it, and it does not load without fastloss.
LEAVES = Refused("an exported or traced program keeps torch's own operators, which load and train anywhere")


@dataclass(frozen=True)
class Hyper:
    """A hyper-parameter of a kernel: a number in [low, high], whose default is that of the loss's signature.

    none: what None stands for, where the loss takes it: a number, or the name of a hyper-parameter before this one.
    choices: it is one of these strings instead, and the kernels get its place among them. For a part of a formula that
        every variant has; a formula of its own is a variant.
    """

    low: float = 0.0
    high: float = math.inf
    none: float | str | None = None
    choices: tuple[str, ...] = ()


@dataclass(frozen=True)
class Domain:
    """What the operands of a loss have to be, and what is raised where they are not. A GPU's kernels trap with it."""

    requirement: str
    error: type[Exception] = ValueError


class Signature:
    """The arguments of a reference body, and what they mean to every skeleton."""

    def __init__(self, reference: Callable[..., Any], parameters: Mapping[str, Hyper]) -> None:
        declared = inspect.signature(reference).parameters
        self.name = reference.__name__
        self.reference = reference
        self.arguments = tuple(declared)
        self.defaults = {name: p.default for name, p in declared.items() if p.default is not p.empty}
        self.parameters = dict(parameters)
        self._positional = sum(p.kind is not inspect.Parameter.KEYWORD_ONLY for p in declared.values())

    def bind(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any] | None:
        """Arguments by name; None if Python would raise a TypeError."""
        if len(args) > self._positional:
            return None
        bound = dict(zip(self.arguments, args, strict=False))
        for name, value in kwargs.items():
            if name not in self.arguments or name in bound:
                return None
            bound[name] = value
        return bound

    def parameter_values(self, bound: dict[str, Any]) -> list[float] | Refused:
        """The hyper-parameters in the kernels' order, or why not."""
        values: dict[str, float] = {}
        for name, hyper in self.parameters.items():
            value = bound.get(name, self.defaults.get(name))
            if hyper.choices:
                if not isinstance(value, str) or value not in hyper.choices:
                    return Invalid(f"{name} is none of {', '.join(hyper.choices)}")
                values[name] = float(hyper.choices.index(value))
                continue
            if value is None:
                value = values[hyper.none] if isinstance(hyper.none, str) else hyper.none
            if isinstance(value, Tensor):
                return Refused(f"{name} is a tensor; the kernels take a Python number")
            if not isinstance(value, (int, float)):
                return Invalid(f"{name} is not a number")
            if not hyper.low <= value <= hyper.high:
                return Invalid(f"{name} is out of range")
            if value and not _SMALLEST <= abs(value) <= _LARGEST and not math.isinf(value):
                return Refused(f"{name} is no normal number of float32, in which the kernels compute")
            values[name] = float(value)
        return list(values.values())


def small(tensor: Any) -> bool:
    """Whether torch's own loss is quicker on this tensor: on a small one, in a program that compiles it, which fuses it
    with what is around it, and where the call would not be plain (:mod:`fastloss.core.small`)."""
    if not isinstance(tensor, Tensor) or not tensor.is_cpu or tensor.numel() > SMALL_ON_CPU:
        return False
    traced = torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active()
    return traced or MAKE is None or not tensor.is_contiguous()


def reduction_of(bound: dict[str, Any], default: str) -> Any:
    """The reduction that the caller asks for, in torch's present or deprecated way."""
    size_average, reduce = bound.get("size_average"), bound.get("reduce")
    if size_average is not None or reduce is not None:
        _warned()
        return torch.nn._reduction.legacy_get_string(size_average, reduce)
    return bound.get("reduction", default)


def warn(message: str, stacklevel: int) -> None:
    """Torch's warning of what a call probably does not mean; torch.compile (2.13) cannot trace one."""
    if not torch.compiler.is_compiling():
        _warned()
        warnings.warn(message, stacklevel=stacklevel + 1)


_warnings = threading.local()


def _warned() -> None:
    if not torch.compiler.is_compiling():
        _warnings.given = warnings_given() + 1


def warnings_given() -> int:
    """How many warnings lowering has given in this thread: a call that was warned of is, if it comes again."""
    return getattr(_warnings, "given", 0)


def overriding(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, ...]:
    """The arguments that want to answer torch's functions themselves.

    A TorchFunctionMode (torch.set_default_device makes one) is no reason to leave the kernels: it sees their operators.
    """
    return tuple(x for x in (*args, *kwargs.values()) if _overrides(type(x)))


def wraps(x: Any) -> bool:
    """Whether it is a tensor that holds other tensors (DTensor, a jagged NestedTensor). No kernel sees through it."""
    return type(x) not in _PLAIN and hasattr(type(x), "__tensor_flatten__")


_PLAIN = (Tensor, torch.nn.Parameter)


def _overrides(kind: type) -> bool:
    if kind in _PLAIN:
        return False
    override = getattr(kind, "__torch_function__", None)
    return override is not None and override is not torch._C._disabled_torch_function_impl


def leaves() -> bool:
    """Whether the call is recorded in a program that leaves the process, by torch.export or torch.jit.trace."""
    return torch.compiler.is_exporting() or torch._C._get_tracing_state() is not None


def readable(tensor: Tensor) -> bool:
    """Whether its values may decide what a call does: not where that waits for a device, or where it is traced."""
    return (
        tensor.is_cpu
        and type(tensor) in _PLAIN
        and not torch.compiler.is_compiling()
        and not torch._C._are_functorch_transforms_active()
        and torch._C._len_torch_dispatch_stack() == 0
        and torch._C._get_tracing_state() is None
    )


def valueless(tensor: Tensor) -> bool:
    """Whether its values cannot decide anything, not even by waiting for them: of meta and fake tensors, in
    torch.compile, under vmap."""
    if torch.compiler.is_compiling() or tensor.is_meta or hasattr(tensor, "fake_mode"):
        return True
    vmap = torch._C._functorch.TransformType.Vmap
    return any(transform.key() == vmap for transform in torch._C._functorch.get_interpreter_stack() or ())


def check_range(index: Tensor, count: int, ignored: int) -> None:
    """Torch's IndexError for an index outside [0, count) that is not `ignored`, where that costs no synchronisation; on
    a device only with FASTLOSS_VALIDATE=1, which asks for one."""
    if not readable(index) and not (index.is_cuda and environment.VALIDATE.read()):
        return
    wrong = ((index < 0) | (index >= count)) & (index != ignored)
    if wrong.any():
        raise IndexError(f"Target {index[wrong][0].item()} is out of bounds.")


def accumulator_dtype(dtype: torch.dtype) -> torch.dtype:
    """float64 for float64, float32 for everything narrower."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def autocast_applies(tensor: Tensor) -> bool:
    """Whether autocast would run a loss on `tensor` in float32."""
    device = tensor.device.type  # asked only where torch knows autocast: it raises for meta tensors, for example
    return tensor.dtype != torch.float64 and device in DEVICES and torch.is_autocast_enabled(device)


def known_to_be_false(mask: Tensor) -> bool:
    """Whether no element of `mask` is true; False also where finding out would wait for a device or break a trace."""
    if torch.compiler.is_compiling() or torch.jit.is_tracing() or torch._C._are_functorch_transforms_active():
        return False
    has_values = mask.is_cpu and type(mask) is Tensor and not torch._C._len_torch_dispatch_stack()
    return has_values and not bool(mask.any())


def differentiation_refused() -> Refused | None:
    """Why the autograd of the kernels cannot serve the transforms that are active now."""
    if torch.autograd.forward_ad._current_level >= 0:
        return Refused("forward-mode differentiation")
    if not torch._C._are_functorch_transforms_active():
        return None
    if torch.compiler.is_compiling():
        return Refused("torch.func inside torch.compile, where Dynamo (2.13) would take our gradient for a constant")
    functionalize = torch._C._functorch.TransformType.Functionalize
    if any(transform.key() == functionalize for transform in torch._C._functorch.get_interpreter_stack() or ()):
        return Refused("torch.func.functionalize, which has no rule for an autograd Function")
    return None
