"""The tensors of a trial: numbers, what is special among them, dtypes, and how they lie in memory."""

from __future__ import annotations

import math
import warnings
from typing import Any, TypeGuard

import torch
from torch import Tensor

from .trial import Trial


class NotBuilt(Exception):
    """The case has no arguments of this shape, so there is no call."""


def floating(x: Any) -> TypeGuard[Tensor]:
    return isinstance(x, Tensor) and x.is_floating_point()


# ------------------------------------------------------------------------------------------ numbers


def special_value(kind: str, dtype: torch.dtype) -> float:
    """By name, as some depend on the dtype; other names are numbers."""
    limits = torch.finfo(dtype)
    named = {"subnormal": limits.smallest_normal / 8, "huge": limits.max / 4, "least": limits.smallest_normal}
    named["most"] = limits.max
    return named[kind] if kind in named else float(kind)


def _place(trial: Trial, made: dict[str, Any]) -> None:
    for name, place, kind in trial.special:
        x = made.get(name)
        if not floating(x) or not x.numel():
            continue
        flat = x.reshape(-1).clone()
        if kind.startswith("as "):  # a tie with another argument
            other = made.get(kind[3:])
            if not floating(other) or other.shape != x.shape:
                continue
            flat[place % len(flat)] = other.reshape(-1)[place % len(flat)].to(flat.dtype)
        else:
            flat[place % len(flat)] = special_value(kind, x.dtype)
        made[name] = flat.reshape(x.shape)


def _narrow(x: Tensor, part: str) -> Tensor:
    """What broadcasts to x: a row, a row with a dimension of 1, a column, a number."""
    if not x.dim() or not x.numel():
        return x
    if part == "row":
        return x[0]
    if part == "one row":
        return x[:1]
    if part == "column":
        return x[..., :1]
    return x.reshape(-1)[0]


def to_dtype(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Classes beyond what an integer dtype holds become others, by which nothing is lost: they are of this dtype."""
    if x.is_floating_point() or dtype.is_floating_point or dtype == torch.bool:
        return x.to(dtype) if x.is_floating_point() or not dtype.is_floating_point else x
    limits = torch.iinfo(dtype)
    return torch.where(x < 0, x, x % 100).clamp(limits.min, limits.max).to(dtype)


def each(function: Any, value: Any) -> Any:
    """Of a tensor, or of those in a tuple or dict."""
    if isinstance(value, tuple):
        return tuple(each(function, x) for x in value)
    if isinstance(value, dict):
        return {name: each(function, x) for name, x in value.items()}
    return function(value) if isinstance(value, Tensor) else value


# ------------------------------------------------------------------------------------------ optional tensors


def _optional(trial: Trial, name: str, kind: str, made: dict[str, Any], random: torch.Generator) -> Any:
    first = made[trial.of.differentiable[0]]
    if kind in ("number", "zero"):
        return 0.0 if kind == "zero" else 7.0
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tensor = trial.of.make_optional(name, random, made)
    except Exception:  # the call itself raises; what then matters is that it does
        tensor = torch.ones(first.shape, dtype=torch.bool if name == "mask" else first.dtype)
    if kind == "all":
        return torch.ones_like(tensor)
    if kind == "nothing":
        return torch.zeros_like(tensor)
    if kind == "weights" and tensor.dtype == torch.bool:  # a mask of numbers, some of them 0
        return tensor.to(first.dtype) * 0.5
    if kind == "integers":
        return tensor.to(torch.int64)
    if kind == "row" and tensor.dim() > 1 and len(tensor):
        return tensor[0]
    if kind == "misfit":
        return torch.ones((*tensor.shape, 3), dtype=tensor.dtype)
    return tensor


def _hide(trial: Trial, made: dict[str, Any]) -> None:
    mask = made.get("mask")
    if not isinstance(mask, Tensor):
        return
    for name, x in made.items():
        if trial.layouts.get(name) == "expanded":  # it would be NaN where it counts, too
            continue
        if name != "mask" and floating(x) and x.shape == mask.shape and name in trial.of.differentiable:
            made[name] = torch.where(mask != 0, x, math.nan)


# ------------------------------------------------------------------------------------------ layouts


def _at_every_third(x: Tensor) -> Tensor:
    return torch.zeros((*x.shape, 3), dtype=x.dtype)[..., 1].copy_(x)


def _between_others(x: Tensor) -> Tensor:
    """Rows of a larger tensor, from its second column on: no address is a multiple of a vector."""
    if not x.dim():
        return torch.zeros(3, dtype=x.dtype)[1].copy_(x)
    return torch.zeros((*x.shape[:-1], x.shape[-1] + 3), dtype=x.dtype)[..., 1 : 1 + x.shape[-1]].copy_(x)


def _transposed(x: Tensor) -> Tensor:
    return x.transpose(-1, -2).contiguous().transpose(-1, -2) if x.dim() > 1 else x


def _reversed(x: Tensor) -> Tensor:
    """The dimensions lie in memory in the opposite order."""
    order = tuple(reversed(range(x.dim())))
    return x.permute(order).contiguous().permute(order)


def _channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else _transposed(x)


def _expanded(x: Tensor) -> Tensor:
    return x[:1].expand(x.shape) if x.dim() and x.numel() else x


LAYOUTS = {
    "transposed": _transposed,
    "every third": _at_every_third,
    "between others": _between_others,
    "reversed": _reversed,
    "channels last": _channels_last,
    "expanded": _expanded,
}


# ------------------------------------------------------------------------------------------ all of it


def make(trial: Trial) -> dict[str, Any]:
    """The arguments by name, on the CPU. NotBuilt: this shape is not for this case."""
    random = torch.Generator().manual_seed(trial.seed)
    case = trial.of
    try:
        made = case.build(random, case.shape if trial.shape is None else trial.shape)
    except Exception as error:  # builders index and multiply shapes as they like
        raise NotBuilt from error
    for name, x in made.items():
        if not floating(x):
            continue
        if trial.rounded:
            x = x.round(decimals=1)
        x = x * trial.scale.get(name, 1.0)
        if name in case.domain:
            x = x.clamp(*case.domain[name])
        made[name] = x
    for name, part in trial.narrow.items():
        if isinstance(made.get(name), Tensor):
            made[name] = _narrow(made[name], part)
    base = getattr(torch, trial.dtype)
    made = each(lambda x: x.to(base) if x.is_floating_point() else x, made)
    for name, dtype in trial.dtypes.items():
        if name in made:
            made[name] = each(lambda x, dtype=dtype: to_dtype(x, getattr(torch, dtype)), made[name])
    _place(trial, made)
    for name, kind in trial.optional.items():
        made[name] = _optional(trial, name, kind, made, random)
    if trial.hidden:
        _hide(trial, made)
    for name, layout in trial.layouts.items():
        if isinstance(made.get(name), Tensor):
            made[name] = LAYOUTS[layout](made[name])
    return made
