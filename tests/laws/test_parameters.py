"""Law of hyper-parameters: at the edges of its domain and beyond, a number means to every backend what it means to the
reference, or the backend says that it leaves it to the reference."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from cases import FUSED, Case
from outcomes import WAYS, assert_same, described, outcome
from support import generator

import fastloss
from fastloss.core.registry import LOSSES

INF = math.inf
# 0 may be a switch; the next are 0, and without an inverse, in float32; those at the end overflow there.
EDGES = (0.0, 1e-50, 1e-40, 1e-30, 1e30, 1e50)
# What a temperature of 1e-6 makes of a logit is rounded by more than differences of the logits: nothing to compare.
ROUNDED = {("cross_entropy", "temperature"): 1e-6}


def parameters() -> list[tuple[Case, str]]:
    """Every hyper-parameter of every loss, once, with a case of the loss."""
    found = {}
    for case in FUSED:
        declaration = LOSSES.get(case.name.rpartition(".")[2])
        for name in getattr(declaration, "parameters", ()):
            found.setdefault((case.name, name), (case, name))
    return list(found.values())


def edges(case: Case, name: str) -> list[Any]:
    if isinstance(case.parameters[name].default, bool):
        return [False, True]
    parameter = LOSSES[case.name.rpartition(".")[2]].parameters[name]
    if parameter.choices:
        return [*parameter.choices, "another"]
    numbers = {*EDGES, *(-x for x in EDGES), parameter.low, parameter.high, INF, -INF}
    least = ROUNDED.get((case.name, name), 0.0)
    return [*(x for x in sorted(numbers) if x <= 0 or x > least), math.nan]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(("case", "name"), parameters(), ids=str)
def test_the_edges_of_a_parameter_mean_the_same_everywhere(case: Case, name: str, dtype: torch.dtype):
    arguments = case.make(generator(f"{case} {name}"), dtype=dtype)
    for number in edges(case, name):
        what = f"{name}={number}"
        want = outcome(case, "reference", arguments, case.reduced, **{name: number})
        refusals = set()
        for way in WAYS[1:]:
            got = outcome(case, way, arguments, case.reduced, **{name: number})
            if way != "auto":
                refusals.add(isinstance(got[1], fastloss.BackendError))
            if isinstance(got[1], fastloss.BackendError):
                assert way != "auto", f"{what}: {got}"
            elif isinstance(want[0], str) or not want[0].isfinite().all():  # the reference has overflowed on its way
                assert described(got) == described(want), f"{what}, {way}: {got}, expected {want}"
            else:
                assert_same(got, want, f"{what}, {way}", case.magnitude)
        assert len(refusals) <= 1, f"{what}: the backends differ in what they refuse"
