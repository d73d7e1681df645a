"""Distillation of policies: its minimum, its limits, and a teacher that is certain beyond the digits of its dtype."""

from __future__ import annotations

import math

import pytest
import torch
from support import assert_close, generator

import fastloss
from fastloss import rl


@pytest.mark.parametrize("reverse", [False, True])
def test_the_best_pupil_is_the_teacher(reverse: bool) -> None:
    """At its policy the divergence and its gradient are 0; anywhere else the divergence is larger."""
    random = generator("teacher")
    values, other = torch.randn(2, 6, 4, generator=random, dtype=torch.float64)
    how = {"reverse": reverse, "reduction": "none"}
    logits = (values / 0.3 + 7.0).requires_grad_()
    loss = rl.policy_distillation_loss(logits, values, temperature=0.3, **how)
    assert loss.abs().max() < 1e-14 and torch.autograd.grad(loss.sum(), logits)[0].abs().max() < 1e-14
    assert (rl.policy_distillation_loss(other, values, temperature=0.3, **how) > 0).all()

    mean, log_std = values.clone().requires_grad_(), (0.3 * other).requires_grad_()
    loss = rl.gaussian_policy_distillation_loss(mean, log_std, mean.detach(), log_std.detach(), **how)
    gradients = torch.autograd.grad(loss.sum(), (mean, log_std))
    assert (loss == 0).all() and all((gradient == 0).all() for gradient in gradients)
    assert (rl.gaussian_policy_distillation_loss(other, log_std, mean, log_std, **how) > 0).all()


def test_both_directions_in_expectation_over_the_actions() -> None:
    """E log p / pi, over the teacher's actions or over its pupil's; of Gaussian policies by log-probabilities."""
    random = generator("directions")
    logits, values = torch.randn(2, 5, 4, generator=random, dtype=torch.float64)
    every = torch.arange(4).expand(5, 4)
    pupil, teacher = (rl.categorical_log_prob(x[:, None].expand(5, 4, 4), every) for x in (logits, values / 0.5))
    # tanh or not: actions of the policy that the expectation is over, at nodes of the noise
    z = torch.linspace(-10, 10, 2001, dtype=torch.float64)[:, None]
    weights = torch.exp(-0.5 * z.square()) * (20 / 2000) / math.sqrt(2 * math.pi)
    mean, log_std, of_mean, of_log_std = 0.5 * torch.randn(4, 3, 1, 1, generator=random, dtype=torch.float64)
    for reverse in (False, True):
        ahead, behind = (pupil, teacher) if reverse else (teacher, pupil)
        found = rl.policy_distillation_loss(logits, values, temperature=0.5, reverse=reverse, reduction="none")
        assert_close(found, (ahead.exp() * (ahead - behind)).sum(-1), torch.float64, terms=10.0)

        found = rl.gaussian_policy_distillation_loss(
            *(x[:, 0] for x in (mean, log_std, of_mean, of_log_std)), reverse=reverse, reduction="none"
        )
        u = mean + log_std.exp() * z if reverse else of_mean + of_log_std.exp() * z
        policies = [[x.expand_as(u) for x in policy] for policy in ((mean, log_std), (of_mean, of_log_std))]
        for log_prob in (rl.gaussian_log_prob, rl.tanh_gaussian_log_prob):
            own, teachers = (log_prob(*policy, **({"pre_tanh": u} if log_prob is rl.tanh_gaussian_log_prob else
                                                  {"actions": u})) for policy in policies)  # fmt: skip
            difference = own - teachers if reverse else teachers - own
            assert_close(found, (weights[:, 0] * difference).sum(-1), torch.float64, terms=100.0)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_a_teacher_that_is_certain(dtype: torch.dtype) -> None:
    """Values of 900 at the paper's temperature are logits of 90000, which float16 does not have."""
    values = torch.tensor([[900.0, 100.0, -math.inf]], dtype=dtype, requires_grad=True)
    logits = torch.tensor([[0.5, 2.0, -1.0]], dtype=dtype, requires_grad=True)
    loss = rl.policy_distillation_loss(logits, values, temperature=0.01)
    log_policy = logits.detach().double().log_softmax(-1)
    assert_close(loss, -log_policy[0, 0], dtype)
    (gradient, of_teacher) = torch.autograd.grad(loss, (logits, values), allow_unused=True)
    assert_close(gradient, log_policy.exp() - torch.tensor([[1.0, 0.0, 0.0]]), dtype, terms=1.0)
    assert of_teacher is None and loss.dtype == dtype


def test_what_distillation_of_policies_takes() -> None:
    x, row = torch.randn(90, 80), torch.randn(80)
    assert "forward_kl by" in fastloss.explain(rl.policy_distillation_loss, x.clone().requires_grad_(), x).reason
    for bad in (0.0, -1.0, math.nan):
        with pytest.raises(ValueError, match="temperature"):
            rl.policy_distillation_loss(x, x, temperature=bad)
    for shape in ((90, 1), (80,), ()):
        with pytest.raises(ValueError, match="shape"):
            rl.policy_distillation_loss(x, torch.zeros(shape))
        with pytest.raises(ValueError, match="shape"):
            rl.gaussian_policy_distillation_loss(x, row, torch.zeros(shape), row)
    with pytest.raises(ValueError, match="teacher_log_std"):
        rl.gaussian_policy_distillation_loss(x, row, x, torch.zeros(90, 1))
    # a deviation for all states has a gradient of its own shape, and a teacher has none
    deviation, teacher = row.clone().requires_grad_(), x.clone().requires_grad_()
    loss = rl.gaussian_policy_distillation_loss(x, deviation, teacher, row)
    gradient, of_teacher = torch.autograd.grad(loss, (deviation, teacher), allow_unused=True)
    assert gradient.shape == (80,) and of_teacher is None
