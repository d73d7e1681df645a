"""All losses as data: :func:`losses`. It reads them off the functions themselves; nothing is listed here."""

from __future__ import annotations

import functools
import importlib
import pkgutil
import re
import sys
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any, NamedTuple

import torch

import fastloss.losses as package
from fastloss import functional, nn
from fastloss.core.backends import COMPOSITE, KERNELS
from fastloss.core.docstrings import sections
from fastloss.nn.base import FunctionLoss
from fastloss.sections import SECTIONS

__all__ = ["LossInfo", "losses"]

TORCH = "torch"
"""The family of those that are torch's own functions."""


class LossInfo(NamedTuple):
    """What is known of a loss."""

    name: str
    """Below ``fastloss``: ``"rl.ppo_clip_loss"``."""
    family: str
    """The file below ``fastloss.losses``, as ``"rl.policy"``; ``"torch"`` for torch's own functions."""
    sections: tuple[str, ...]
    """The sections of :data:`fastloss.sections.SECTIONS` that name it."""
    backends: tuple[str, ...]
    """Those that have kernels for it, after ``"reference"``; ``("composite",)`` if it is made of others, each with
    backends of its own: :func:`fastloss.explain` names them."""
    module: str | None
    """The name of its Module in ``fastloss.nn``. None: it has none (advantages, log-probabilities)."""
    source: str
    """The paper; of torch's own, torch's page."""
    summary: str
    """The first sentence of its docstring."""
    function: Callable[..., Any]


def _plain(text: str) -> str:
    """One line, without the roles of reStructuredText."""
    return re.sub(r":\w+:`([^`]*)`", r"\1", " ".join(text.split())).replace("``", "")


def _backends(function: Callable[..., Any]) -> tuple[str, ...]:
    if hasattr(function, "resolve"):
        return ("reference", *KERNELS)
    return (COMPOSITE,) if hasattr(function, "parts") else ("reference",)


def _functions() -> Iterator[tuple[str, str, Callable[..., Any]]]:
    """(name, family, function)"""
    for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        if not found.ispkg:
            family = found.name.removeprefix(f"{package.__name__}.")
            room = family.rpartition(".")[0]
            file = importlib.import_module(found.name)
            for name in file.__all__:
                yield ".".join(filter(None, (room, name))), family, getattr(file, name)
    for name in functional.__all__:
        if getattr(torch.nn.functional, name, None) is getattr(functional, name):
            yield name, TORCH, getattr(functional, name)


@functools.cache
def losses() -> tuple[LossInfo, ...]:
    """All losses, and what belongs to them (returns, advantages, log-probabilities), as data.

    Returns:
        Of each a :class:`fastloss.catalog.LossInfo`, family by family.

    Example:
        >>> [loss.name for loss in losses() if loss.family == "metric"]
        ['batch_hard_triplet_loss', 'semi_hard_triplet_loss']
    """
    modules: dict[Any, str] = {}
    for name in nn.__all__:
        value = getattr(nn, name)
        modules[value.function if issubclass(value, FunctionLoss) else name.lower()] = name
    found = []
    for name, family, function in _functions():
        parts = sections(function.__doc__)
        paragraph = _plain(parts[""].partition("\n\n")[0])
        found.append(
            LossInfo(
                name,
                family,
                tuple(number for number, (_, names) in SECTIONS.items() if name in names.split()),
                _backends(function),
                modules.get(name.replace("_", "") if family == TORCH else function),
                f"torch.nn.functional.{name}" if family == TORCH else _plain(parts.get("Source", "")),
                paragraph.partition(". ")[0].rstrip(".") + ".",
                function,
            )
        )
    return tuple(found)


class _Package(ModuleType):
    """The package of the losses, which also is the function that lists them: both are called ``fastloss.losses``."""

    def __call__(self) -> tuple[LossInfo, ...]:
        return losses()


sys.modules[package.__name__].__class__ = _Package
