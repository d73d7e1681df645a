"""What the docstring of a loss has to say: a formula, its arguments, shapes, result, errors and source."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest

import fastloss
from fastloss.catalog import TORCH
from fastloss.core.docstrings import arguments, sections

LOSSES = [loss.function for loss in fastloss.losses() if loss.family != TORCH]


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.__name__)
def test_docstring(loss: Callable[..., Any]) -> None:
    parts = sections(loss.__doc__)
    assert {"Args", "Shape", "Returns", "Raises", "Source", "Example"} <= parts.keys()
    assert ":math:" in parts[""] or ".. math::" in parts[""], "no formula"
    described = [name for names, _ in arguments(parts["Args"]) for name in names]
    assert sorted(described) == sorted(inspect.signature(loss).parameters), "each argument once"
    assert "- output:" in parts["Shape"]
