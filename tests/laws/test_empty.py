"""Laws of batches of which nothing is there: a rank without samples, a batch whose tokens were all filtered away."""

from __future__ import annotations

import math

import pytest
import torch
from cases import CASES, COMPOSED, Case
from outcomes import WAYS, assert_same, is_torchs, outcome
from support import generator

import fastloss

EMPTY = [case for case in CASES if case.batched and case.skeleton in ("pointwise", "outer", "similarity")] + [
    case for case in COMPOSED if case.batched
]
# the first dimension of a sequence of states is time, and `offset` has to be shorter
# and a variance is of two samples at least
NEEDS_SOME = ("rl.temporal_contrastive_loss", "vicreg_loss", "barlow_twins_loss")
OURS = [case for case in EMPTY if case.drop_in is None and case.name not in NEEDS_SOME]
TORCHS = [case for case in CASES if is_torchs(case) and case.batched]
WITH_TERMS = [case for case in OURS if case.return_terms]


def _empty(case: Case):
    return case.make(generator(str(case)), case.with_batch(0), dtype=torch.float32)


@pytest.mark.parametrize("case", OURS, ids=str)
def test_an_empty_batch_has_the_loss_0_and_zero_gradients(case: Case):
    arguments = _empty(case)
    for reduction in case.reductions:
        for way in WAYS if case.fuses else WAYS[:2]:
            masks = [{}]
            if case.masked and reduction != "none":
                with fastloss.backend("reference"):
                    losses = case.call(arguments, "none")
                masks += [{"mask": torch.ones((losses[0] if isinstance(losses, tuple) else losses).shape)}]
            for mask in masks:
                value, gradients = outcome(case, way, arguments, reduction, **mask)
                what = f"{reduction}, {way}, {list(mask)}: {value}, {gradients}"
                assert not isinstance(value, str), what
                assert value.numel() == (0 if reduction == "none" else 1), what
                assert (value == 0).all(), what
                assert all(g is not None and (g == 0).all() for g in gradients.values()), what


@pytest.mark.parametrize("case", TORCHS, ids=str)
def test_an_empty_batch_of_a_drop_in_is_torchs(case: Case):
    arguments = _empty(case)
    for reduction in case.reductions:
        want = outcome(case, "torch", arguments, reduction)
        for way in WAYS if case.fuses else WAYS[:2]:
            assert_same(outcome(case, way, arguments, reduction), want, f"{reduction}, {way}")


@pytest.mark.parametrize("case", WITH_TERMS, ids=str)
def test_the_terms_of_an_empty_batch_are_those_of_one_that_is_masked_out(case: Case):
    for reduction in case.reductions:
        for way in WAYS:
            with fastloss.backend(way):
                _, terms = case.call(_empty(case), reduction, return_terms=True)
            for name, term in terms.items():
                want = {"min": math.inf, "max": -math.inf}.get(name.rpartition("_")[2], 0.0)
                assert term.item() == want, f"{reduction}, {way}: {name} is {term}, expected {want}"
                assert term.dim() == 0 and not term.requires_grad


def test_nothing_to_compare_with():
    """No targets beside the sources, no sources, no keys."""
    for way in WAYS:
        with fastloss.backend(way):
            for sources, targets in ((3, 0), (0, 4)):
                quantiles = torch.randn(5, sources, requires_grad=True)
                loss = fastloss.rl.quantile_huber_loss(quantiles, torch.randn(5, targets))
                loss.backward()
                assert loss == 0 and (quantiles.grad == 0).all(), (way, sources, targets)
            query = torch.randn(5, 4, requires_grad=True)
            labels = torch.arange(5), torch.arange(0)
            for options in ({"labels": labels}, {"target": torch.full((5,), -100)}):
                loss = fastloss.info_nce(query, torch.randn(0, 4), **options)
                loss.backward()
                assert loss == 0 and (query.grad == 0).all(), (way, options)
                query.grad = None
