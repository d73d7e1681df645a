"""Predicted distributions against scipy, numerical integrals and limits."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from support import assert_close, generator

import fastloss

stats = pytest.importorskip("scipy.stats")
integrate = pytest.importorskip("scipy.integrate")


def test_crps_is_the_integral_of_squared_distances_of_distributions() -> None:
    for mean, scale, target in ((0.3, 1.2, 1.5), (-1.0, 0.4, -1.1)):
        normal = stats.norm(mean, scale)
        exact = integrate.quad(lambda x, n=normal: n.cdf(x) ** 2, -30, target)[0]
        exact += integrate.quad(lambda x, n=normal: n.sf(x) ** 2, target, 30)[0]
        found = fastloss.crps(*(torch.tensor(x, dtype=torch.float64) for x in (mean, target, scale)))
        assert math.isclose(found, exact, rel_tol=1e-7)
    members = torch.randn(7, generator=generator("members"), dtype=torch.float64)
    points = members.sort().values.tolist()
    steps = [-30.0, *points, 30.0]
    exact = 0.0
    for k, (low, high) in enumerate(itertools.pairwise(steps)):
        below, above = max(0.0, min(high, 0.2) - low), max(0.0, high - max(low, 0.2))
        exact += (k / 7) ** 2 * below + (1 - k / 7) ** 2 * above
    assert_close(
        fastloss.crps(members, torch.tensor(0.2, dtype=torch.float64)),
        torch.tensor(exact, dtype=torch.float64),
        torch.float64,
        terms=8.0,
    )


def test_ensembles_of_one_number_have_the_energy_score_of_the_crps() -> None:
    x, t = torch.randn(3, 6, generator=generator("x")), torch.randn(3, generator=generator("t"))
    for fair in (False, True):
        assert_close(
            fastloss.energy_score(x[..., None], t[:, None], fair=fair), fastloss.crps(x, t, fair=fair).double(),
            torch.float32, terms=1.0,
        )  # fmt: skip
    same = torch.ones(2, 3, 2, requires_grad=True)
    fastloss.energy_score(same, torch.ones(2, 2)).backward()
    assert (same.grad == 0).all()


def test_counts_and_tails_against_scipy() -> None:
    x, t, r = torch.tensor([0.3, 1.5]).double(), torch.tensor([4.0, 0.0]).double(), torch.tensor([0.7, 3.0]).double()
    mean = x.exp()
    exact = -stats.nbinom(r.numpy(), (r / (r + mean)).numpy()).logpmf(t.numpy())
    for given, options in ((x, {}), (mean, {"log_input": False})):
        found = fastloss.negative_binomial_nll_loss(given, t, r, reduction="none", **options)
        assert_close(found, torch.from_numpy(exact), torch.float64, terms=8.0)
    df = torch.tensor([1.5, 30.0, 120.0, 1e7, 1e12]).double()
    x = torch.full_like(df, 0.8)
    exact = torch.from_numpy(-stats.t(df.numpy(), 0.0, 1.3).logpdf(x.numpy()))
    for dtype in (torch.float64, torch.float32):
        given = (y.to(dtype) for y in (x, torch.zeros_like(x), torch.full_like(x, 1.3), df))
        found = fastloss.student_t_nll_loss(*given, reduction="none")
        assert ((found - exact).abs() < (1e-6 if dtype == torch.float64 else 5e-6)).all()
    normal = -stats.norm(0, 1.3).logpdf(0.8)
    assert math.isclose(found[-1], normal, rel_tol=1e-5)


def test_bins_of_a_logistic_distribution_have_all_its_mass() -> None:
    """Over the 256 values of a pixel the probabilities add up to 1, wherever the prediction is; none is 0."""
    values = torch.linspace(-1, 1, 256, dtype=torch.float64)
    z = torch.zeros(256, 1).double()
    for at, scale in ((0.1, 0.05), (3.0, 0.2), (-1.0, 1e-3)):
        losses = fastloss.elbo_loss(
            torch.full((256, 1), at).double(), values[:, None], z, z, recon_kind="logistic", scale=scale,
            reduction="none",
        )  # fmt: skip
        assert losses.isfinite().all() and math.isclose((-losses).exp().sum(), 1.0, rel_tol=1e-9)


def test_free_bits_and_bounds() -> None:
    mu = torch.zeros(1, 2, requires_grad=True)
    x = torch.zeros(1, 1)
    loss, terms = fastloss.elbo_loss(x, x, mu, torch.zeros(1, 2), free_bits=0.5, return_terms=True)
    loss.backward()
    assert loss == 1.0 and terms["kl"] == 0 and (mu.grad == 0).all()
    log_p, log_q = torch.randn(5, 8, generator=generator("p")), torch.randn(5, 8, generator=generator("q"))
    assert (fastloss.iwae_loss(log_p, log_q, reduction="none") <= (log_q - log_p).mean(1) + 1e-6).all()


def test_mixtures_far_from_all_components_are_finite() -> None:
    mu = torch.zeros(1, 2, 1, requires_grad=True)
    loss = fastloss.mdn_loss(torch.zeros(1, 2), mu, torch.zeros(1, 2, 1), torch.full((1, 1), 1e4))
    loss.backward()
    assert loss.isfinite() and mu.grad.isfinite().all()
    assert fastloss.gaussian_kl(torch.zeros(2, 3), torch.full((2, 3), 1e-4)) >= 0


@pytest.mark.parametrize("logvar", [-60.0, -100.0, -160.0, 100.0])
def test_the_divergence_of_narrow_and_wide_normals_is_finite(logvar: float) -> None:
    """Their ratio is an ordinary number, where the precision of one is not a float32."""
    std = math.exp(logvar / 2)
    offsets = torch.tensor([0.0, 0.5, -2.0], dtype=torch.float64) * std
    found = []
    for dtype in (torch.float64, torch.float32):
        mu, narrow = offsets.to(dtype).requires_grad_(), torch.full((3,), logvar, dtype=dtype, requires_grad=True)
        other = torch.zeros(3, dtype=dtype), torch.full((3,), logvar + 0.25, dtype=dtype)
        losses = fastloss.gaussian_kl(mu, narrow, *other, reduction="none")
        of_mu, of_logvar = torch.autograd.grad(losses.sum(), (mu, narrow))
        found.append((losses, of_mu.double() * std, of_logvar))
    for exact, actual in zip(*found, strict=True):
        assert_close(actual, exact.detach(), torch.float32)
