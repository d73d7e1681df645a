"""Small plain calls, which take no Python from the arguments to the loss and back to the gradients.

A call is plain if its tensors are contiguous, on a CPU, and nothing in the thread (a mode, a transform, a hook,
autocast, a profiler) wants to see or change what torch does. The first call of its kind goes the long way
(:mod:`fastloss.core.dispatch`), which leaves a :class:`Plan`; `csrc/small_calls.cpp` finds it again and follows it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

LARGEST = 1 << 20  # elements of a small call; beyond, the operators have better memory for gradients


class Plan(NamedTuple):
    """How a call is computed whatever its tensors hold; csrc/small_calls.cpp reads it in this order."""

    skeleton: str
    kernel: str
    parameters: tuple[float, ...]
    operands: tuple[int, ...]  # places among the tensors of the call; -1: a constant, or not there
    constants: tuple[float, ...]
    wanted: tuple[int, ...]  # operands whose gradients are made
    factor: float
    reduced: bool
    reduction: int
    ignore_index: int
    dtype: torch.dtype  # of the returned loss
    gradients: Callable[[Tensor, Sequence[Tensor]], tuple[Tensor, ...]]  # differentiable ones, by the reference


class Calls(Protocol):
    """The small calls of one loss."""

    def call(self, requested: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor | None: ...

    def remember(self, requested: str, args: tuple[Any, ...], kwargs: dict[str, Any], plan: Plan) -> bool: ...


def _load() -> tuple[Callable[[], Calls] | None, str]:
    try:
        from fastloss import _small  # type: ignore[attr-defined]
    except ImportError as error:
        return None, f"_small does not load: {error}"
    if _small.built_with != torch.__version__:
        return None, f"_small was built with torch {_small.built_with}, you have {torch.__version__}"
    return _small.Calls, ""


MAKE, UNAVAILABLE = _load()
"""Makes an empty store for a loss, or None, and why."""
