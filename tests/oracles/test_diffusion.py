"""Diffusion: conversions, weightings and ends of the schedule, against their definitions and scipy."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from support import assert_close, generator
from torch import Tensor

from fastloss import diffusion
from fastloss.functions.diffusion import PREDICTIONS
from fastloss.losses.diffusion.denoising import WEIGHTINGS


def _noised(name: str) -> tuple[Tensor, Tensor, Tensor, dict[str, Tensor]]:
    random = generator(name)
    x0, eps = (torch.randn(6, 4, generator=random, dtype=torch.float64) for _ in range(2))
    a = 0.05 + 0.9 * torch.rand(6, generator=random, dtype=torch.float64)
    column = a[:, None]
    v = column.sqrt() * eps - (1 - column).sqrt() * x0
    return diffusion.add_noise(x0, eps, a), a, eps, {"eps": eps, "x0": x0, "v": v}


@pytest.mark.parametrize(("source", "to"), [*itertools.product(PREDICTIONS, PREDICTIONS)])
def test_conversions_of_true_predictions(source: str, to: str) -> None:
    x_t, a, _, right = _noised("conversions")
    found = diffusion.convert_prediction(right[source], x_t, a, source=source, to=to)
    assert_close(found, right[to], torch.float64, terms=20.0)


@pytest.mark.parametrize("weighting", [kind for kind in WEIGHTINGS if kind != "uniform"])
def test_a_weighting_is_of_the_sample_whatever_is_predicted(weighting: str) -> None:
    """The same wrong prediction, said as noise, sample or velocity, costs the same."""
    x_t, a, eps, right = _noised("weightings")
    wrong = right["v"] + 0.3 * torch.randn(6, 4, generator=generator("wrong"), dtype=torch.float64)
    costs = [
        diffusion.diffusion_loss(
            diffusion.convert_prediction(wrong, x_t, a, source="v", to=kind),
            right["x0"], eps, a, prediction_type=kind, weighting=weighting,
        )
        for kind in PREDICTIONS
    ]  # fmt: skip
    for cost in costs[1:]:
        assert_close(cost, costs[0], torch.float64)


@pytest.mark.parametrize("a", [0.0, 1.0])
def test_velocities_at_the_ends_of_a_schedule(a: float) -> None:
    """Nothing but noise, or none: weights of v are finite, and so are those of the noise where the bound is."""
    x, e = torch.ones(2, 3), torch.full((2, 3), 2.0)
    end = torch.full((2,), a)
    for weighting in WEIGHTINGS:
        pred = torch.zeros(2, 3, requires_grad=True)
        loss = diffusion.diffusion_loss(pred, x, e, end, prediction_type="v", weighting=weighting)
        loss.backward()
        assert loss.isfinite() and pred.grad.isfinite().all()
    x_t, v = (e, -x) if a == 0 else (x, e)
    for kind, right in (("x0", x), ("eps", e)):
        assert torch.equal(diffusion.convert_prediction(v, x_t, end, source="v", to=kind), right)
    loss = diffusion.diffusion_loss(torch.zeros(2, 3), x, e, end, weighting="min_snr")
    assert loss == (4.0 if a == 0 else 0.0)


def test_times_and_weights_of_a_flow() -> None:
    times = diffusion.flow_times(
        4000, mean=0.5, std=0.7, like=torch.zeros(0, dtype=torch.float64), generator=generator("t")
    )
    logits = torch.logit(times)
    assert abs(logits.mean() - 0.5) < 0.06 and abs(logits.std() - 0.7) < 0.05
    assert diffusion.flow_times(7, distribution="uniform").shape == (7,)
    ends = torch.tensor([0.0, 1.0])
    v = torch.ones(2, 3, requires_grad=True)
    loss = diffusion.flow_matching_loss(v, torch.zeros(2, 3), torch.zeros(2, 3), ends, weighting="logit_normal")
    loss.backward()
    assert loss == 0 and (v.grad == 0).all()


def test_pairs_are_those_of_the_least_sum() -> None:
    x0, x1 = (torch.randn(5, 2, generator=generator(name)) for name in ("x0", "x1"))
    pairs = diffusion.optimal_pairs(x0, x1)
    costs = {p: float((x0[list(p)] - x1).square().sum()) for p in itertools.permutations(range(5))}
    assert math.isclose(costs[tuple(pairs.tolist())], min(costs.values()), rel_tol=1e-6)


def test_guidance_rescaled_has_the_conditional_deviation() -> None:
    u, c = (torch.randn(3, 50, generator=generator(name)) for name in "uc")
    assert_close(diffusion.classifier_free_guidance(u, c, 3.0), (3 * c - 2 * u).double(), torch.float32)
    rescaled = diffusion.classifier_free_guidance(u, c, 3.0, rescale=1.0)
    assert_close(rescaled.std(1), c.std(1).double(), torch.float32, terms=4.0)
    assert diffusion.classifier_free_guidance(torch.zeros(1, 2), torch.zeros(1, 2), 3.0, rescale=1.0).isfinite().all()


def test_the_score_of_a_normal_density_is_found_by_slices() -> None:
    """For s(x) = -A x of standard normal samples the loss is least at A = 1: its gradient by A is A xx' - vv'."""
    random = generator("slices")
    x = torch.randn(7, 3, generator=random, dtype=torch.float64)
    v = torch.randn(2, 7, 3, generator=random, dtype=torch.float64)
    a = torch.randn(3, 3, generator=random, dtype=torch.float64).requires_grad_()
    loss = diffusion.sliced_score_matching_loss(lambda x: -x @ a.T, x, directions=v)
    (gradient,) = torch.autograd.grad(loss, a)
    right = a.detach() @ x.T @ x / 7 - torch.einsum("pni,pnj->ij", v, v) / 14
    assert_close(gradient, right, torch.float64, terms=5.0)
    with torch.no_grad():
        assert_close(diffusion.sliced_score_matching_loss(lambda x: -x @ a.T, x, directions=v), loss, torch.float64)


def test_denoising_scores_and_consistency_at_the_answer() -> None:
    noise, sigma = torch.randn(4, 3), torch.rand(4) + 0.5
    for weighting in ("sigma_squared", "uniform"):
        loss = diffusion.denoising_score_matching_loss(-noise / sigma[:, None], noise, sigma, weighting=weighting)
        assert loss < 1e-10
    for c in (0.0, None, 1.0):
        pred = noise.clone().requires_grad_()
        loss = diffusion.consistency_loss(pred, noise, c=c)
        loss.backward()
        assert loss == 0 and (pred.grad == 0).all()
