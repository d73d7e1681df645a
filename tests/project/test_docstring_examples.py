"""The examples of docstrings run, and give what they say."""

from __future__ import annotations

import doctest
import importlib
import math
import pkgutil
import re

import pytest
import torch

import fastloss
import fastloss.functions
import fastloss.losses

MODULES = [
    info.name
    for package in (fastloss.losses, fastloss.functions)
    for info in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
    if not info.ispkg
] + ["fastloss.catalog"]
NUMBER = re.compile(r"-?\d+\.\d*(?:e[+-]?\d+)?")


class Checker(doctest.OutputChecker):
    """Numbers to 6 digits: the last ones are the backend's."""

    def check_output(self, want: str, got: str, optionflags: int) -> bool:
        if "..." in want:
            return super().check_output(want, got, optionflags | doctest.ELLIPSIS)
        numbers = [[float(x) for x in NUMBER.findall(text)] for text in (want, got)]
        same = len(numbers[0]) == len(numbers[1]) and all(
            math.isclose(a, b, rel_tol=1e-6, abs_tol=1e-6) for a, b in zip(*numbers, strict=True)
        )
        return same and super().check_output(NUMBER.sub("#", want), NUMBER.sub("#", got), optionflags)


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_of_a_file(name: str) -> None:
    module = importlib.import_module(name)
    runner = doctest.DocTestRunner(checker=Checker(), optionflags=doctest.NORMALIZE_WHITESPACE)
    said: list[str] = []
    for public in module.__all__:
        value = getattr(module, public)
        given = {**vars(module), "torch": torch, "fastloss": fastloss}
        for test in doctest.DocTestFinder(recurse=False).find(value, public, module, given):
            is_result = isinstance(value, type) and hasattr(value, "_fields")  # what a function returns
            assert test.examples or is_result, f"{test.name} has none"
            runner.run(test, out=said.append)
    assert not said, "".join(said)
