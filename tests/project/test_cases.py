"""The table of the losses (tests/cases) says of each what its signature says."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest
import torch
from cases import CASES, NO_LOSSES, ONE_OF_EACH, RETURNS, TABLES, Case, one_of_each
from support import generator

import fastloss

PUBLIC = {loss.name for loss in fastloss.losses()}


def test_every_public_loss_is_in_the_table():
    every = [*CASES, *RETURNS]
    assert {case.name for case in every} == PUBLIC - NO_LOSSES
    assert NO_LOSSES <= PUBLIC
    assert len({str(case) for case in every}) == len(every), "a name twice"


@pytest.mark.parametrize("case", [*CASES, *RETURNS], ids=str)
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


@pytest.mark.parametrize("case", [*ONE_OF_EACH, *one_of_each(RETURNS)], ids=str)
def test_every_tensor_of_a_signature_is_in_a_case(case: Case) -> None:
    """A mask or weight that no case names is one that no law meets."""
    kinds = {name: str(parameter.annotation) for name, parameter in case.parameters.items()}
    tensors = {name for name, kind in kinds.items() if "Tensor" in kind and "Callable" not in kind}
    cases = [other for other in (*CASES, *RETURNS) if other.name == case.name]
    assert tensors <= {name for other in cases for name in (*other.make(generator("")), *other.optional)}


@pytest.mark.parametrize("family", TABLES)
def test_a_case_is_in_the_file_of_its_family(family: str) -> None:
    assert {case.family for case in TABLES[family]} == {family}


def test_modules_are_public_where_their_functions_are() -> None:
    for name in fastloss.nn.__all__:
        assert getattr(fastloss, name) is getattr(fastloss.nn, name)


TESTS = Path(__file__).parent.parent


def test_a_laws_name_occurs_once() -> None:
    """Whoever reads a failure finds its law by the name; and a law that is written again is one that should have run
    over more cases."""
    files = [file for pattern in ("test_*.py", "lane_*.py") for file in TESTS.rglob(pattern)]
    names = Counter(name for file in files for name in re.findall(r"^def (test_\w+)\(", file.read_text(), re.M))
    assert len(names) > 300
    assert [name for name, count in names.items() if count > 1] == []


def test_tests_are_in_the_folder_of_their_kind() -> None:
    assert list(TESTS.glob("test_*.py")) == []
