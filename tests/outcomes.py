"""What a call of a loss comes to, as seen from outside: results to compare between backends and sizes."""

from __future__ import annotations

import contextlib
import inspect
from typing import TYPE_CHECKING, Any

import torch
from support import BACKENDS, accumulator_dtype
from torch import Tensor

import fastloss

if TYPE_CHECKING:
    from cases import Case

# above and below the size up to which "auto" leaves a call on a CPU to torch, in the terms of `Case.shape`
_LARGE = {"pointwise": (70, 80), "row": (150, 37), "outer": (40, 19, 23), "similarity": (90, 75, 12)}
_SMALL = {"pointwise": (6, 8), "row": (7, 37), "outer": (4, 5, 6), "similarity": (9, 8, 12)}
WAYS = ("reference", "auto", *(name for name, device in BACKENDS if device == "cpu"))


def is_torchs(case: Case) -> bool:
    """Does torch's function take all that the case gives? It has no z_loss, for one."""
    return case.drop_in is not None and set(case.options) <= set(inspect.signature(case.drop_in).parameters)


def shapes(case: Case) -> list[tuple[int, ...]]:
    """A small and a large shape; one where the case is of a special one."""
    if case.skeleton == "linear":
        return [case.shape, (300, *case.shape[1:])]
    if case.skeleton not in _LARGE or len(case.shape) != len(_LARGE[case.skeleton]):
        return [case.shape]
    if case.name == "rl.temporal_contrastive_loss":  # its rows are the product of the first two numbers
        return [case.shape, (13, 9, 12)]
    return [_SMALL[case.skeleton], _LARGE[case.skeleton]]


def outcome(
    case: Case, way: str, arguments: dict[str, Any], reduction: str, autocast: torch.dtype | None = None, **more: Any
) -> tuple[Any, ...]:
    """("raises", exception), or (loss, gradients by name): of a backend, of "auto", or of "torch", torch's function."""
    leaves = {
        name: arguments[name].detach().clone().requires_grad_()
        for name in case.differentiable
        if isinstance(arguments.get(name), Tensor) and arguments[name].is_floating_point()
    }
    context = contextlib.nullcontext() if autocast is None else torch.autocast("cpu", dtype=autocast)
    try:
        with fastloss.backend("reference" if way == "torch" else way), context:
            if way == "torch":
                value = case.drop_in(**{**arguments, **leaves}, **{**case.how(reduction), **more})
            else:
                value = case.call({**arguments, **leaves}, reduction, **more)
        value = value[0] if isinstance(value, tuple) else value
        gradients = (
            torch.autograd.grad(value.double().sum(), list(leaves.values()), allow_unused=True) if leaves else ()
        )
    except Exception as error:  # of which kind is what is compared
        return "raises", error
    return value.detach(), dict(zip(leaves, gradients, strict=True))


def described(result: tuple[Any, ...]) -> str:
    """Dtypes, shapes, the type of the exception: what has to be equal everywhere."""
    first, second = result
    if isinstance(first, str):
        return f"raises {type(second).__name__}"
    gradients = {name: None if g is None else (g.dtype, tuple(g.shape)) for name, g in second.items()}
    return f"{first.dtype} {tuple(first.shape)} {gradients}"


def assert_same(got: tuple[Any, ...], want: tuple[Any, ...], what: str, magnitude: float = 1.0) -> None:
    """One description, and values within the rounding of their dtypes."""
    assert described(got) == described(want), f"{what}: {described(got)} ({got[1]}), expected {described(want)}"
    if isinstance(want[0], str):
        return
    for name, a, b in [("loss", got[0], want[0])] + [(name, g, want[1][name]) for name, g in got[1].items()]:
        if a is None:
            continue
        eps = torch.finfo(a.dtype).eps
        rounding = 8 * eps + 256 * torch.finfo(accumulator_dtype(a.dtype)).eps
        finite = b.isfinite()
        scale = max(magnitude, b[finite].abs().max().item() if finite.any() else 0.0)
        assert torch.allclose(a, b, rounding, rounding * scale, equal_nan=True), f"{what}, {name}: {a}, expected {b}"
