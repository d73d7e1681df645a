"""What the docstring of a loss has to say: a formula, its arguments, shapes, result, errors and source."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Callable
from typing import Any

import pytest

import fastloss.losses
from fastloss.nn.documentation import arguments, sections

FILES = [info.name for info in pkgutil.walk_packages(fastloss.losses.__path__, "fastloss.losses.") if not info.ispkg]
LOSSES = [getattr(file, name) for file in map(importlib.import_module, FILES) for name in file.__all__]


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.__name__)
def test_docstring(loss: Callable[..., Any]) -> None:
    parts = sections(loss.__doc__)
    assert {"Args", "Shape", "Returns", "Raises", "Source", "Example"} <= parts.keys()
    assert ":math:" in parts[""] or ".. math::" in parts[""], "no formula"
    described = [name for names, _ in arguments(parts["Args"]) for name in names]
    assert sorted(described) == sorted(inspect.signature(loss).parameters), "each argument once"
    assert "- output:" in parts["Shape"]
