"""Laws of operands of several dtypes, with autocast and without: the dtypes of results and gradients."""

from __future__ import annotations

import itertools

import pytest
import torch
from cases import CASES, COMPOSED, Case, one_of_each
from outcomes import WAYS, described, is_torchs, outcome, shapes
from support import generator

import fastloss

ONE = one_of_each([case for case in CASES if case.skeleton and case.fuses])
DROP_INS = [case for case in ONE if is_torchs(case)]
OURS = [case for case in ONE if case.drop_in is None] + one_of_each(COMPOSED)
FLOATING = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


def _mixtures(case: Case, shape, optional: str | None):
    """Arguments in which one tensor has another dtype than the others."""
    for base, other in itertools.product((torch.float32, torch.bfloat16), FLOATING):
        arguments = case.make(generator(f"{case} {optional}"), shape, dtype=base)
        if optional:
            arguments[optional] = case.make_optional(optional, generator(f"{case} {optional} 2"), arguments).to(base)
        for name, value in arguments.items():
            if isinstance(value, torch.Tensor) and value.is_floating_point():
                yield f"{name} of {other}, others of {base}", {**arguments, name: value.to(other)}


@pytest.mark.parametrize("autocast", [None, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("case", DROP_INS, ids=str)
def test_drop_ins_have_torchs_dtypes_for_every_mixture(case: Case, autocast: torch.dtype | None):
    for shape, optional in itertools.product(shapes(case), [None, *case.optional]):
        for what, arguments in _mixtures(case, shape, optional):
            for reduction in ("none", case.reduced):
                want = described(outcome(case, "torch", arguments, reduction, autocast))
                for way in WAYS:
                    got = outcome(case, way, arguments, reduction, autocast)
                    if isinstance(got[1], fastloss.BackendError):
                        continue  # an explicit backend may leave a mixture to torch, and says so
                    assert described(got) == want, f"{what}, {optional}, {reduction}, {way}, {shape}: {got}"


@pytest.mark.parametrize("autocast", [None, torch.bfloat16], ids=str)
@pytest.mark.parametrize("case", OURS, ids=str)
def test_our_losses_have_one_answer_for_every_mixture(case: Case, autocast: torch.dtype | None):
    """That of the reference; under autocast float32, unless an operand is a double."""
    for shape in shapes(case):
        for what, arguments in _mixtures(case, shape, None):
            want = outcome(case, "reference", arguments, case.reduced, autocast)
            for way in WAYS[1:]:
                got = outcome(case, way, arguments, case.reduced, autocast)
                if isinstance(got[1], fastloss.BackendError):
                    continue
                assert described(got) == described(want), f"{what}, {way}, {shape}: {got}, expected {want}"
