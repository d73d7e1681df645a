"""Remembers how calls were lowered, so that a small loss does not pay for it at every step of a training run.

Lowering depends on the arguments' shapes, dtypes, devices, layouts, numbers and strings, and on little else;
:func:`describe` is all of it, as a key. A plan found under that key is what lowering would come to. It holds no tensor.
Whatever this module does not know (a mask, a subclass of Tensor, autocast, torch.compile, torch.func, forward mode) is
not remembered and takes the whole way.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any

import torch
from torch import Tensor

_CAPACITY = 256  # plans of one loss; a program that has more shapes than that starts again
_PLAIN = frozenset((int, float, bool, str, type(None)))

Run = Callable[[list[Tensor]], Any]
"""Computes a call from the tensors among its arguments, in the order of the arguments."""


def places(operands: Sequence[Tensor], tensors: Sequence[Tensor]) -> list[int] | None:
    """Where the operands of a lowered call are among the tensors of the caller's; None unless each is one of these, and
    each of these one operand."""
    found = [k for x in operands for k, own in enumerate(tensors) if _same(x, own)]
    return found if len(operands) == len(tensors) and sorted(found) == list(range(len(tensors))) else None


def _same(x: Tensor, other: Tensor) -> bool:
    if x is other:
        return True
    memory = x.data_ptr() == other.data_ptr() and x.dtype is other.dtype
    return memory and x.shape == other.shape and x.stride() == other.stride() and x.requires_grad == other.requires_grad


def picked(run: Run, places: list[int]) -> Run:
    """`run` of operands, as one of the caller's tensors."""
    return run if places == sorted(places) else lambda tensors: run([tensors[k] for k in places])


def describe(requested: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Hashable, list[Tensor]] | None:
    """(all that the lowering of a call depends on, the tensors among its arguments), or None: not to be remembered.

    Args:
        requested: the backend that the user asks for.
    """
    if (
        torch.compiler.is_compiling()
        or torch._C._are_functorch_transforms_active()
        or torch.autograd.forward_ad._current_level >= 0
        or torch._C._is_any_autocast_enabled()
        or torch._C._get_tracing_state() is not None  # of torch.jit: sizes are tensors
    ):
        return None
    key: list[Any] = [requested, torch.is_grad_enabled(), *kwargs]
    tensors: list[Tensor] = []
    for x in (*args, *kwargs.values()) if kwargs else args:
        kind = type(x)
        if kind is Tensor or kind is torch.nn.Parameter:
            if x.is_nested:
                return None
            key.append((x.shape, x.dtype, x.device, x.layout, x.requires_grad, x.is_contiguous() or x.stride()))
            tensors.append(x)
        elif kind in _PLAIN:
            key.append(kind)  # 1, 1.0 and True are equal, and so are 0.0 and -0.0
            key.append(x or str(x))
        else:
            return None
    return tuple(key), tensors


class Plans:
    """The plans of one loss, by key. Threads may race for a plan: all of them come to the same."""

    def __init__(self) -> None:
        self._known: dict[Hashable, Run] = {}
        self.get = self._known.get

    def remember(self, key: Hashable, run: Run) -> None:
        if len(self._known) >= _CAPACITY:
            self._known.clear()
        self._known[key] = run
