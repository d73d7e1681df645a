"""The table of the losses (tests/cases) says of each what its signature says."""

from __future__ import annotations

import pytest
import torch
from cases import CASES, ONE_OF_EACH, TABLES, Case
from support import generator

import fastloss

PUBLIC = {
    *fastloss.functional.__all__,
    *(f"rl.{name}" for name in fastloss.rl.__all__),
    *(f"alignment.{name}" for name in fastloss.alignment.__all__),
}


def test_every_public_loss_is_in_the_table():
    assert {case.name for case in CASES} == PUBLIC
    assert len({str(case) for case in CASES}) == len(CASES), "a name twice"


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_case_and_its_signature(case: Case) -> None:
    made = case.make(generator(str(case)))
    declared = {*made, *case.options, *case.optional, *case.differentiable, *case.indices}
    assert declared <= case.parameters.keys()
    assert {*case.differentiable, *case.indices} <= made.keys()
    assert case.domain.keys() <= case.parameters.keys()
    assert all(made[name].dtype == torch.float64 for name in case.differentiable)
    assert (case.skeleton is not None) == hasattr(case.loss, "resolve")
    for how in case.reductions:
        value = case.call(made, how)
        assert (value[0] if isinstance(value, tuple) else value).isfinite().all()
    for name in case.optional:
        reduction = next(how for how in case.reductions if name == "weight" or how.endswith("mean"))
        case.call({**made, name: case.make_optional(name, generator(name), made)}, reduction)
    for name, (low, high) in case.domain.items():
        if name in made:
            assert ((made[name] >= low) & (made[name] <= high)).all()


@pytest.mark.parametrize("case", ONE_OF_EACH, ids=str)
def test_every_tensor_of_a_signature_is_in_a_case(case: Case) -> None:
    """A mask or weight that no case names is one that no law meets."""
    kinds = {name: str(parameter.annotation) for name, parameter in case.parameters.items()}
    tensors = {name for name, kind in kinds.items() if "Tensor" in kind and "Callable" not in kind}
    cases = [other for other in CASES if other.name == case.name]
    assert tensors <= {name for other in cases for name in (*other.make(generator("")), *other.optional)}


@pytest.mark.parametrize("family", TABLES)
def test_a_case_is_in_the_file_of_its_family(family: str) -> None:
    assert {case.family for case in TABLES[family]} == {family}
