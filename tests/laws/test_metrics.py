"""The terms beside a loss."""

from __future__ import annotations

import math

import pytest
import torch
from cases import CASES
from support import a_mask, assert_close, each_backend, generator, to

import fastloss

pytestmark = pytest.mark.usefixtures("small_tiles")
WITH_TERMS = [case for case in CASES if case.return_terms and case.differentiable]


@each_backend
@pytest.mark.parametrize("case", WITH_TERMS, ids=str)
def test_terms(case, backend, device):
    made = case.make(generator(str(case)))
    mask = a_mask(case, case.call(made, "none").shape)
    hows = [(None, case.reduced), (mask, case.reduced), (mask, "none")] if case.masked else [(None, case.reduced)]
    for mask_or_none, reduction in hows:
        for dtype in (torch.float64, torch.float32):
            more = {"return_terms": True} | ({} if mask_or_none is None else {"mask": mask_or_none})
            arguments = to(made, device, dtype)
            with fastloss.backend("reference"):
                loss64, terms64 = case.call(to(arguments, "cpu", torch.float64), reduction, **more)
            leaf = {case.differentiable[0]: arguments[case.differentiable[0]].requires_grad_()}
            with fastloss.backend(backend):
                loss, terms = case.call({**arguments, **leaf}, reduction, **to(more, device))
            assert_close(loss, loss64, dtype, terms=case.magnitude)
            assert loss.requires_grad
            assert terms.keys() == terms64.keys()
            for name, term in terms.items():
                assert not term.requires_grad
                assert term.shape == ()
                assert_close(term, terms64[name], dtype, name, max(1.0, case.magnitude))


@each_backend
@pytest.mark.parametrize("case", [case for case in WITH_TERMS if case.skeleton], ids=str)
def test_terms_of_nan_are_nan(case, backend, device):
    """As the reference's are: a smallest or largest one, too, is not that of the numbers that are left."""
    made = to(case.make(generator(str(case))), device, torch.float32)
    name = case.differentiable[0]
    spoilt = made[name].clone()
    spoilt.view(-1)[spoilt.numel() // 2] = math.nan
    with fastloss.backend("reference"):
        _, wanted = case.call({**made, name: spoilt}, case.reduced, return_terms=True)
    with fastloss.backend(backend):
        _, terms = case.call({**made, name: spoilt}, case.reduced, return_terms=True)
    assert {term for term in terms if terms[term].isnan()} == {term for term in wanted if wanted[term].isnan()}


@pytest.mark.parametrize("case", [case for case in WITH_TERMS if case.skeleton or case.composed], ids=str)
def test_terms_under_transforms_are_the_references(case):
    arguments = case.make(generator(str(case)))
    name = case.differentiable[0]

    def f(x):
        return case.call({**arguments, name: x}, case.reduced, return_terms=True)

    _, terms = torch.func.vmap(f)(torch.stack([arguments[name]] * 2))
    with fastloss.backend("reference"):
        _, wanted = f(arguments[name])
    for term, values in terms.items():
        assert_close(values, wanted[term].expand(2), torch.float64, term, case.magnitude)
