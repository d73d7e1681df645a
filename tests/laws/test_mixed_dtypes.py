"""Laws of operands of several dtypes, with autocast and without: the dtypes of results and gradients."""

from __future__ import annotations

import itertools

import pytest
import torch
from cases import CASES, COMPOSED, RETURNS, Case, one_of_each
from outcomes import WAYS, assert_same, described, is_torchs, outcome, shapes
from support import generator

import fastloss

ONE = one_of_each([case for case in CASES if case.skeleton and case.fuses])
DROP_INS = [case for case in ONE if is_torchs(case)]
RATES = [case for case in RETURNS if case.variant == "everything"]  # whose rates are tensors, too
OURS = [case for case in ONE if case.drop_in is None] + one_of_each(COMPOSED)
WITH_TERMS = one_of_each([case for case in CASES if case.return_terms and case.differentiable])
# Differences of what is given: where both are integers, they are taken before anything is widened.
DIFFERENCES = [case for case in OURS if case.skeleton == "pointwise" and len(case.differentiable) == 2]
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


@pytest.mark.parametrize("case", RATES, ids=str)
def test_returns_have_one_dtype_for_every_mixture(case: Case):
    """Rates of a step are operands like the others."""
    for what, arguments in _mixtures(case, case.shape, None):
        want = outcome(case, "reference", arguments, "none")
        for way in WAYS[1:]:
            got = outcome(case, way, arguments, "none")
            assert described(got) == described(want), f"{what}, {way}: {got}, expected {want}"


@pytest.mark.parametrize("case", WITH_TERMS, ids=str)
def test_terms_have_one_dtype(case: Case):
    """The loss's, at the first call and at the next ones, which skip the lowering."""
    for dtype in FLOATING:
        arguments = case.make(generator(str(case)), dtype=dtype)
        dtypes = {}
        for way in WAYS if case.fuses else WAYS[:2]:
            with fastloss.backend(way):
                for call in range(3):
                    loss, terms = case.call(arguments, case.reduced, return_terms=True)
                    dtypes[way, call] = {"loss": loss.dtype, **{name: term.dtype for name, term in terms.items()}}
        want = dtypes["reference", 0]
        assert {key: found for key, found in dtypes.items() if found != want} == {}, want


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16], ids=str)
@pytest.mark.parametrize("case", DIFFERENCES, ids=str)
def test_differences_of_narrow_integers_do_not_wrap_around(case: Case, dtype: torch.dtype):
    limits = torch.iinfo(dtype)
    for shape in shapes(case):
        arguments = case.make(generator(f"{case} {dtype}"), shape, dtype=torch.float32)
        wide = {
            name: (x * limits.max).clamp(limits.min, limits.max).round().long() if name in case.differentiable else x
            for name, x in arguments.items()
        }
        narrow = {name: x.to(dtype) if name in case.differentiable else x for name, x in wide.items()}
        want = outcome(case, "reference", wide, case.reduced)
        for way in WAYS:
            got = outcome(case, way, narrow, case.reduced)
            if not isinstance(got[1], fastloss.BackendError):
                assert_same(got, want, f"{way}, {shape}", case.magnitude)
