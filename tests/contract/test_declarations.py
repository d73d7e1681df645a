"""What C++ says of its functors, and what it numbers, is what Python has declared: no more, no less, in one order."""

from __future__ import annotations

import dataclasses
import inspect
import math
from typing import Any

import pytest
import torch
from cases import FUSED, Case, one_of_each
from outcomes import WAYS, assert_same, outcome, shapes
from support import generator

import fastloss
from fastloss.core.arguments import DTYPES, Refused
from fastloss.core.registry import BY_KERNEL, LOSSES
from fastloss.operators.pointwise import MAX_DIMENSIONS
from fastloss.operators.row import REDUCTIONS
from fastloss.skeletons.outer import Outer
from fastloss.skeletons.pointwise import Pointwise
from fastloss.skeletons.row import Row
from fastloss.skeletons.row_outputs import RowOutputs
from fastloss.skeletons.scan import Scan

host = pytest.importorskip("fastloss._host", reason="the C++ part is not built")

CONTRACTS = {"pointwise": Pointwise, "row": (Row, RowOutputs), "outer": Outer, "scan": Scan}
POINTWISE = sorted(kernel for kernel, loss in BY_KERNEL.items() if isinstance(loss, Pointwise))


def described(loss: Any) -> dict[str, Any]:
    """What its functor should say, by the declaration."""
    parameters = len(loss.parameters)
    if isinstance(loss, (Row, RowOutputs)):
        shapes = {"outputs": loss.outputs, "statistics": loss.statistics, "two_rows": loss.two_rows}
        return {"parameters": parameters, "modulated": loss.index_targets_only, **shapes}
    if isinstance(loss, Outer):
        return {"operands": len(loss.operands), "parameters": parameters}
    if isinstance(loss, Scan):
        return {"operands": len(loss.operands), "parameters": parameters, "outputs": loss.outputs}
    return {
        "operands": len(loss.operands),
        "parameters": parameters,
        "metrics": list(loss.metrics.values()),
        "requirement": None if loss.domain is None else loss.domain.requirement,
        "raises_value_error": loss.domain is None or loss.domain.error is ValueError,
    }


@pytest.mark.parametrize("contract", CONTRACTS)
def test_functors_are_what_is_declared(contract: str):
    declared = {kernel: described(loss) for kernel, loss in BY_KERNEL.items() if isinstance(loss, CONTRACTS[contract])}
    assert host.describe()[contract] == declared
    assert host.describe().keys() == CONTRACTS.keys()


def test_python_and_cpp_number_alike():
    numbers = host.numbers()
    assert numbers["dtypes"] == {str(dtype).removeprefix("torch."): code for code, dtype in enumerate(DTYPES)}
    assert numbers["reductions"] == REDUCTIONS
    assert numbers["limits"]["dimensions"] == MAX_DIMENSIONS


def test_the_limits_hold_what_is_declared():
    """A loss that does not fit fails when C++ is compiled; where it is not, here."""
    limits = host.numbers()["limits"]
    for kernel, loss in BY_KERNEL.items():
        operands = getattr(loss, "operands", ())
        assert len(operands) <= limits["outer_operands" if isinstance(loss, Outer) else "operands"], kernel
        assert len(getattr(loss, "metrics", ())) <= limits["metrics"], kernel


def moving(kernel: str) -> set[str]:
    """The operands by which the functor has a derivative."""
    loss = BY_KERNEL[kernel]
    random = generator(kernel)
    # the defaults of these switch a part of some losses off
    switched_off = ("label_smoothing", "entropy_coefficient", "beta")
    bound = {name: 0.1 for name in switched_off if name in loss.parameters}
    found = set()
    for sign in (1, -1) * 50:
        # between 0 and 1, as probabilities and variances are, or -1 and 0, as log-probs are; half of them at an end
        operands = torch.rand(len(loss.operands), generator=random, dtype=torch.float64)
        operands = torch.where(torch.rand(operands.shape, generator=random) < 0.5, operands, operands.round()) * sign
        parameters = loss.signature.parameter_values(bound)
        _, derivatives, _, _ = host.evaluate_pointwise(kernel, operands.tolist(), parameters)
        found |= {name for name, d in zip(loss.operands, derivatives, strict=True) if d != 0}
    return found


@pytest.mark.parametrize("name", sorted({BY_KERNEL[kernel].signature.name for kernel in POINTWISE}))
def test_functors_differentiate_what_is_declared_and_nothing_else(name: str):
    """A functor leaves the derivatives of constants alone, so that they are 0 whatever the operands. Each variant may
    leave some, too; together they have all."""
    loss = LOSSES[name]
    assert set().union(*(moving(kernel) for kernel in loss.kernels)) == set(loss.differentiable) & set(loss.operands)


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_every_name_that_is_declared_is_an_argument(name: str):
    """And bounds of hyper-parameters hold their defaults."""
    loss = LOSSES[name]
    arguments = inspect.signature(loss.signature.reference).parameters
    names = [*getattr(loss, "operands", ()), *getattr(loss, "fill", ()), *getattr(loss, "differentiable", ())]
    names += loss.signature.parameters
    names += [argument for argument in (getattr(loss, "weight", ""),) if argument]
    assert set(names) <= set(arguments)
    assert set(getattr(loss, "differentiable", ())) <= set(getattr(loss, "operands", ()))
    assert not isinstance(loss.signature.parameter_values({}), Refused)
    variant = getattr(loss, "variant", None)
    if variant is not None:
        assert loss.signature.defaults[variant[0]] in variant[1]


def hypers(case: Case) -> list[str]:
    loss = LOSSES.get(case.loss.__name__)
    return [] if loss is None or not hasattr(loss, "signature") else list(loss.signature.parameters)


@pytest.mark.parametrize("value", [None, math.nan, "1"], ids=str)
@pytest.mark.parametrize("case", [case for case in one_of_each(FUSED) if hypers(case)], ids=str)
def test_an_odd_hyper_parameter_means_what_it_means_to_the_body(case: Case, value: Any):
    """Or the error is the body's: no kernel takes a number for None that the body does not."""
    shape = shapes(case)[-1]
    for name in hypers(case):
        arguments = {**case.make(generator(f"{case} {name}"), shape, dtype=torch.float32)}
        changed = dataclasses.replace(case, options={**case.options, name: value})
        want = outcome(changed, "reference", arguments, case.reduced)
        for way in WAYS[1:]:
            got = outcome(changed, way, arguments, case.reduced)
            if way == "auto" or not isinstance(got[1], fastloss.BackendError):
                assert_same(got, want, f"{name}={value!r}, {way}", case.magnitude)
