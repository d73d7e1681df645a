"""Log-probabilities and entropies at the edges: numbers of many digits, and integrals over the noise."""

from __future__ import annotations

import math

import mpmath
import numpy
import pytest
import torch
from mpmath import mpf
from support import assert_close, generator
from torch import Tensor

from fastloss import rl

DTYPES = pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)


def _exact(mean: float, log_std: float, u: float, squashed: bool) -> tuple[float, ...]:
    """The log-probability, and its derivatives by mean, log_std and u."""
    with mpmath.workdps(80):
        m, s, x = mpf(mean), mpmath.exp(mpf(log_std)), mpf(u)
        z = (x - m) / s
        value = -z * z / 2 - mpf(log_std) - mpmath.log(2 * mpmath.pi) / 2
        of_u = -z / s
        if squashed:
            # -log(1 - tanh^2), which would have no digits left at 80 of them either
            value += 2 * mpmath.log(mpmath.cosh(x))
            of_u += 2 * mpmath.tanh(x)
        return tuple(map(float, (value, z / s, z * z - 1, of_u)))


def _compare(found: Tensor, arguments: list[Tensor], squashed: bool = False) -> None:
    """Element by element, because they differ by orders of magnitude."""
    results = [found, *(x.flatten() for x in torch.autograd.grad(found.sum(), arguments))]
    for i, numbers in enumerate(zip(*(x.flatten().tolist() for x in arguments), strict=True)):
        for result, expected in zip(results, _exact(*numbers, squashed), strict=True):
            assert_close(result[i], torch.tensor(expected, dtype=torch.float64), found.dtype, f"{numbers}")


@DTYPES
def test_deviations_that_are_no_numbers_of_float32(dtype: torch.dtype) -> None:
    log_std = torch.tensor([-60.0, -40.0, -1.0, 0.0, 30.0, 60.0], dtype=dtype)
    actions = (2.5 * log_std.double().exp()).to(dtype)
    arguments = [x[:, None].requires_grad_() for x in (torch.zeros_like(actions), log_std, actions)]
    _compare(rl.gaussian_log_prob(*arguments), arguments)
    # e^-100 and e^100 and their squares are none; at the mean there is no distance to be divided
    log_std = torch.tensor([[-100.0], [100.0]], dtype=dtype, requires_grad=True)
    mean = torch.ones(2, 1, dtype=dtype, requires_grad=True)
    found = rl.gaussian_log_prob(mean, log_std, mean.detach())
    assert_close(found, torch.tensor([100.0, -100.0]).double() - math.log(2 * math.pi) / 2, dtype)
    of_mean, of_deviation = torch.autograd.grad(found.sum(), (mean, log_std))
    assert (of_mean == 0).all() and (of_deviation == -1).all()


@DTYPES
def test_samples_that_tanh_rounds_to_the_ends(dtype: torch.dtype) -> None:
    u = torch.tensor([0.0, 1e-8, 0.3, 3.0, 9.0, 12.0, 40.0, 300.0, 1e4], dtype=dtype)
    u = torch.cat([u, -u[1:]])
    mean, log_std = 0.9 * u + 0.5, torch.linspace(-1, 2, len(u), dtype=dtype)
    arguments = [x[:, None].requires_grad_() for x in (mean, log_std, u)]
    found = rl.tanh_gaussian_log_prob(*arguments[:2], pre_tanh=arguments[2])
    _compare(found, arguments, squashed=True)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_actions_at_the_ends_are_finite_and_so_is_their_gradient(dtype: torch.dtype) -> None:
    """They count as the numbers beside them, of the dtype of the arithmetic."""
    arithmetic = dtype if dtype.itemsize > 2 else torch.float32
    beside = 1 - torch.finfo(arithmetic).eps / 2
    actions = torch.tensor([[1.0], [-1.0], [beside], [-beside]], dtype=dtype, requires_grad=True)
    mean, log_std = (torch.full((4, 1), x, dtype=dtype, requires_grad=True) for x in (0.25, 0.5))
    found = rl.tanh_gaussian_log_prob(mean, log_std, actions)
    gradients = torch.autograd.grad(found.sum(), (mean, log_std, actions))
    assert found.isfinite().all() and all(gradient.isfinite().all() for gradient in gradients)
    assert (gradients[2][:2] == 0).all()
    for i, sign in enumerate((1, -1, 1, -1)):
        with mpmath.workdps(80):
            u = float(mpmath.atanh(mpf(sign * beside)))
        # the arithmetic's u has a rounding, of which the density has its square
        assert_close(found[i], torch.tensor(_exact(0.25, 0.5, u, True)[0], dtype=torch.float64), dtype, terms=100.0)


@DTYPES
def test_actions_are_what_samples_become(dtype: torch.dtype) -> None:
    random = generator("actions of samples")
    mean, log_std, u = (torch.randn(50, 3, generator=random, dtype=torch.float64).to(dtype) for _ in range(3))
    of_actions = rl.tanh_gaussian_log_prob(mean, log_std, (0.5 * u).tanh())
    assert_close(of_actions, rl.tanh_gaussian_log_prob(mean.double(), log_std.double(), pre_tanh=0.5 * u.double()),
                 dtype, terms=1e3)  # fmt: skip


def _noise() -> tuple[Tensor, Tensor]:
    """(values, weights) of a standard normal variable: Gauss-Hermite's, exact for polynomials of degree 239."""
    nodes, weights = numpy.polynomial.hermite_e.hermegauss(120)
    return torch.from_numpy(nodes), torch.from_numpy(weights / math.sqrt(2 * math.pi))


def test_entropies_are_expectations_of_log_probabilities() -> None:
    """Of samples mean + std z, and in the same way differentiable by both: what the actor of SAC minimises."""
    z, weights = _noise()
    random = generator("expectations")
    mean = torch.randn(7, 2, generator=random, dtype=torch.float64).requires_grad_()
    log_std = (-1.2 + 0.2 * torch.randn(7, 2, generator=random, dtype=torch.float64)).requires_grad_()
    # the dimensions have their noise independently: one of them at a time
    samples = mean[..., None] + log_std.exp()[..., None] * z
    flat = [x[..., None].expand_as(samples)[..., None] for x in (mean, log_std)]
    for log_prob, entropy in (
        (rl.gaussian_log_prob(*flat, samples[..., None]), rl.gaussian_entropy(log_std)),
        (rl.tanh_gaussian_log_prob(*flat, pre_tanh=samples[..., None]), rl.tanh_gaussian_entropy(mean, log_std)),
    ):
        expected = -(log_prob * weights).sum((-2, -1))
        assert_close(entropy, expected, torch.float64, terms=10.0)
        own, right = (
            torch.autograd.grad(x.sum(), (mean, log_std), retain_graph=True, materialize_grads=True)
            for x in (entropy, expected)
        )
        for gradient, of_expectation in zip(own, right, strict=True):
            assert_close(gradient, of_expectation, torch.float64, terms=10.0)


def test_scores_have_no_expectation() -> None:
    """E grad log pi = 0, over the actions of the policy: what makes baselines harmless."""
    z, weights = _noise()
    mean, log_std = torch.tensor([[0.3]], dtype=torch.float64), torch.tensor([-0.4], dtype=torch.float64)
    mean, log_std = mean.expand(len(z), 1).clone().requires_grad_(), log_std.requires_grad_()
    u = (mean + log_std.exp() * z[:, None]).detach()
    for loss in (
        rl.gaussian_log_prob(mean, log_std, u, mask=weights, reduction="sum"),
        rl.tanh_gaussian_log_prob(mean, log_std, pre_tanh=u, mask=weights, reduction="sum"),
        rl.tanh_gaussian_log_prob(mean, log_std, u.tanh(), mask=weights * (u.abs() < 4)[:, 0], reduction="sum"),
    ):
        of_mean, of_deviation = torch.autograd.grad(loss, (mean, log_std))
        assert of_mean.sum().abs() < 1e-6 and of_deviation.abs() < 1e-6
    logits = torch.randn(1, 6, generator=generator("scores"), dtype=torch.float64).requires_grad_()
    logp = rl.categorical_log_prob(logits.expand(6, 6), torch.arange(6))
    assert logp.exp().sum().item() == pytest.approx(1.0, rel=1e-14)
    (gradient,) = torch.autograd.grad((logp.exp().detach() * logp).sum(), logits)
    assert gradient.abs().max() < 1e-15


def _squashed_entropy(mean: float, log_std: float) -> float:
    """By the integral over u, in pieces."""
    with mpmath.workdps(25):
        m, s = mpf(mean), mpmath.exp(mpf(log_std))
        pieces = sorted(
            {*(mpf(x) for x in range(-12, 13)), *((x - m) / s for x in (-9, -3, 0, 3, 9) if abs(x - m) < 12 * s)}
        )
        expected = mpmath.quad(lambda z: mpmath.npdf(z) * mpmath.log(mpmath.cosh(m + s * z)), pieces)
        return float(mpf(log_std) + mpmath.log(2 * mpmath.pi * mpmath.e) / 2 - 2 * expected)


@DTYPES
@pytest.mark.parametrize(("mean", "log_std"), [(0.0, -8.0), (-1.5, -0.01), (0.25, 0.01), (2.0, 1.0), (-20.0, 5.0)])
def test_the_entropy_of_a_squashed_policy(dtype: torch.dtype, mean: float, log_std: float) -> None:
    given = (torch.tensor([[x]], dtype=dtype) for x in (mean, log_std))
    exact = torch.tensor([_squashed_entropy(mean, torch.tensor(log_std, dtype=dtype).item())], dtype=torch.float64)
    assert_close(rl.tanh_gaussian_entropy(*given), exact, dtype, terms=4.0)


@DTYPES
def test_the_entropy_of_a_squashed_policy_at_the_edges(dtype: torch.dtype) -> None:
    """At most that of the uniform distribution; with next to no deviation the mean's alone; far out finite."""
    mean, log_std = torch.meshgrid(torch.linspace(-6, 6, 25), torch.linspace(-5, 5, 41), indexing="ij")
    entropy = rl.tanh_gaussian_entropy(mean.to(dtype)[..., None], log_std.to(dtype)[..., None])
    assert 0.67 < entropy.max() <= math.log(2)
    mean = torch.tensor([[0.0], [3.0], [-1e4]], dtype=dtype, requires_grad=True)
    log_std = torch.full((3, 1), -200.0, dtype=dtype, requires_grad=True)
    entropy = rl.tanh_gaussian_entropy(mean, log_std)
    log_cosh = torch.logaddexp(mean, -mean).double() - math.log(2)
    assert_close(entropy, -200 + 0.5 * math.log(2 * math.pi * math.e) - 2 * log_cosh[:, 0], dtype)
    of_mean, of_deviation = torch.autograd.grad(entropy.sum(), (mean, log_std))
    assert_close(of_mean, -2 * mean.double().tanh(), dtype)
    assert_close(of_deviation, torch.ones(3, 1).double(), dtype)


def test_actions_that_a_policy_does_not_have() -> None:
    logits = torch.tensor([[0.0, 0.0, -math.inf]] * 2, requires_grad=True)
    found = rl.categorical_log_prob(logits, torch.tensor([0, 2]))
    assert found[0].item() == pytest.approx(-math.log(2)) and found[1] == -math.inf
    (gradient,) = torch.autograd.grad(found[0], logits)
    torch.testing.assert_close(gradient, torch.tensor([[0.5, -0.5, 0.0], [0.0, 0.0, 0.0]]))
    for bad in (-1, 3):
        with pytest.raises(IndexError):
            rl.categorical_log_prob(logits, torch.tensor([0, bad]))
    assert rl.categorical_log_prob(logits, torch.tensor([0, -1]), mask=torch.tensor([1, 0])).isfinite().all()


def test_a_deviation_for_all_states() -> None:
    random = generator("for all states")
    mean, u = torch.randn(2, 4, 3, generator=random, dtype=torch.float64)
    log_std = torch.randn(3, generator=random, dtype=torch.float64).requires_grad_()
    for function, samples in ((rl.gaussian_log_prob, (u,)), (rl.tanh_gaussian_log_prob, (None, u)),
                              (rl.tanh_gaussian_entropy, ())):  # fmt: skip
        of_all, of_each = function(mean, log_std, *samples), function(mean, log_std.expand(4, 3), *samples)
        assert torch.equal(of_all, of_each)
        (gradient,) = torch.autograd.grad(of_all.sum(), log_std)
        assert gradient.shape == (3,) and gradient.isfinite().all()


def test_what_log_probabilities_do_not_take() -> None:
    x, column = torch.zeros(4, 2), torch.zeros(4, 1)
    with pytest.raises(ValueError, match="log_std"):
        rl.gaussian_log_prob(x, column, x)
    for bad in (column, torch.zeros(2), torch.zeros(())):
        with pytest.raises(ValueError, match="actions"):
            rl.gaussian_log_prob(x, x, bad)
        with pytest.raises(ValueError, match="pre_tanh"):
            rl.tanh_gaussian_log_prob(x, x, pre_tanh=bad)
    for both in ((), (x, x)):
        with pytest.raises(ValueError, match="either actions or pre_tanh"):
            rl.tanh_gaussian_log_prob(x, x, *both)
    with pytest.raises(ValueError, match="log_std"):
        rl.gaussian_entropy(torch.zeros(()))
    with pytest.raises(ValueError, match="integers"):
        rl.categorical_log_prob(x, torch.zeros(4))
