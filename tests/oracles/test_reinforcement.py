"""Policies and values against closed forms: a small decision process, of which everything can be enumerated."""

from __future__ import annotations

import math

import pytest
import torch
from support import assert_close, generator
from torch import Tensor

import fastloss
from fastloss import rl


def process(name: str, states: int = 4, actions: int = 3) -> tuple[Tensor, Tensor]:
    """(P (S, A, S), r (S, A)) of a Markov decision process."""
    random = generator(name)
    transitions = torch.rand(states, actions, states, generator=random, dtype=torch.float64).pow(3)
    rewards = torch.randn(states, actions, generator=random, dtype=torch.float64)
    return transitions / transitions.sum(-1, keepdim=True), rewards


GAMMA = 0.9


def test_the_policy_gradient_is_that_of_the_expected_return_with_any_baseline() -> None:
    """All states and actions, weighted by how often they are met: sum d(s) pi(a|s) ell has the gradient of -J."""
    transitions, rewards = process("policy gradient")
    states, actions = rewards.shape
    random = generator("policy gradient, logits")
    logits = torch.randn(states, actions, generator=random, dtype=torch.float64).requires_grad_()
    start = torch.full((states,), 1 / states, dtype=torch.float64)

    probs = logits.softmax(-1)
    of_policy = torch.einsum("sa,sat->st", probs, transitions)
    resolvent = torch.linalg.inv(torch.eye(states, dtype=torch.float64) - GAMMA * of_policy)
    values = resolvent @ (probs * rewards).sum(-1)
    (right,) = torch.autograd.grad(-(start @ values), logits, retain_graph=True)

    visits = (start @ resolvent).detach()
    q = (rewards + GAMMA * transitions @ values).detach()
    every_action = torch.arange(actions).expand(states, actions)
    of_each = logits[:, None].expand(states, actions, actions)
    weights = (visits[:, None] * probs).detach()
    for baseline in (torch.zeros(states), values.detach(), torch.randn(states, generator=random)):
        advantages = q - baseline[:, None]
        logp = logits.log_softmax(-1)
        for loss in (
            rl.policy_gradient_loss(of_each, every_action, advantages, mask=weights, reduction="sum"),
            rl.reinforce_loss(logp, advantages, mask=weights, reduction="sum"),
            rl.a2c_loss(logp, advantages, q, q, mask=weights, reduction="sum", value_coefficient=3.0),
        ):
            (found,) = torch.autograd.grad(loss, logits, retain_graph=True)
            assert_close(found, right, torch.float64, terms=10.0)
    # the entropy's gradient, by differences of logits and expectations
    entropy = -(probs * probs.log()).sum(-1)
    (right,) = torch.autograd.grad(-entropy.sum(), logits, retain_graph=True)
    (found,) = torch.autograd.grad(rl.entropy_loss(logits, reduction="sum"), logits)
    assert_close(found, right, torch.float64, terms=1.0)


def test_temporal_differences_vanish_at_the_fixed_points() -> None:
    """The values of a policy for TD and expected Sarsa, those of the best one for Q-learning in all its forms."""
    transitions, rewards = process("fixed points")
    states, actions = rewards.shape
    # deterministic transitions, because a loss takes the square of one sample's error
    after = transitions.argmax(-1)  # (S, A)
    probs = torch.rand(states, actions, generator=generator("policy"), dtype=torch.float64)
    probs = probs / probs.sum(-1, keepdim=True)
    of_policy, best = torch.zeros(2, states, actions, dtype=torch.float64)
    for _ in range(400):
        of_policy = rewards + GAMMA * (probs * of_policy).sum(-1)[after]
        best = rewards + GAMMA * best.max(-1).values[after]
    every = torch.arange(actions).expand(states, actions)

    def rows(table: Tensor) -> Tensor:
        return table[:, None].expand(states, actions, actions)

    how = {"gamma": GAMMA, "reduction": "none"}
    losses = [
        rl.expected_sarsa(rows(of_policy), every, rewards, of_policy[after], probs[after], **how),
        rl.q_learning(rows(best), every, rewards, best[after], **how),
        rl.double_q_learning(rows(best), every, rewards, best[after], 2 * best[after], **how),
        rl.dqn_loss(rows(best), every, rewards, best[after], delta=None, **how),
        rl.td_learning(of_policy, rewards, (probs * of_policy).sum(-1)[after], **how),
        rl.cql_loss(rows(best), every, rewards, best[after], conservative_coefficient=0.0, **how),
    ]
    for loss in losses:
        assert loss.abs().max() < 1e-24
    # a soft policy, whose value has its entropy: the critic of SAC at alpha, Q soft
    alpha = 0.3
    soft = torch.zeros(states, actions, dtype=torch.float64)
    for _ in range(400):
        soft = rewards + GAMMA * alpha * torch.logsumexp(soft / alpha, -1)[after]
    logp = torch.log_softmax(soft / alpha, -1)
    twin = torch.stack([soft, soft + 1], -1)  # the second is the larger one
    loss = rl.sac_critic_loss(soft[..., None], rewards, twin[after], logp[after], alpha=alpha, discrete=True, **how)
    assert loss.abs().max() < 1e-24
    # and the actor's loss is least at that policy: -alpha logsumexp
    logits = (soft / alpha).clone().requires_grad_()
    loss = rl.sac_actor_loss(logits.log_softmax(-1), twin, alpha=alpha, discrete=True, reduction="none")
    assert_close(loss, -alpha * torch.logsumexp(soft / alpha, -1), torch.float64, terms=10.0)
    (gradient,) = torch.autograd.grad(loss.sum(), logits)
    assert gradient.abs().max() < 1e-14


def test_expectiles_lie_between_mean_and_maximum() -> None:
    """iql_value_loss has its minimum there: at 1/2 the mean of q, near 1 its largest value."""
    q = torch.tensor([0.0, 1.0, 5.0], dtype=torch.float64)
    grid = torch.linspace(-1, 6, 7001, dtype=torch.float64)
    for tau, where in ((0.5, 2.0), (0.9999, 5.0)):
        losses = rl.iql_value_loss(grid[:, None].expand(-1, 3), q.expand(len(grid), 3)[..., None], tau=tau,
                                   reduction="none").mean(-1)  # fmt: skip
        assert abs(grid[losses.argmin()] - where) < 0.01
    assert rl.iql_value_loss(torch.zeros(1), torch.tensor([[3.0, 2.0]]), tau=0.5) == 2.0


@pytest.mark.parametrize("nothing", [math.inf, -math.inf, math.nan], ids=str)
def test_what_follows_an_end_is_not_looked_at(nothing: float) -> None:
    one, ended = torch.ones(1), torch.tensor([True])
    nowhere = torch.full((1, 2), nothing)
    q = torch.tensor([[3.0, 0.0]], requires_grad=True)
    action = torch.tensor([0])
    losses = [
        rl.td_learning(q[:, 0], one, nowhere[:, 0], ended),
        rl.q_learning(q, action, one, nowhere, ended),
        rl.double_q_learning(q, action, one, nowhere, nowhere, ended),
        rl.expected_sarsa(q, action, one, nowhere, torch.full((1, 2), 0.5), ended),
        rl.dqn_loss(q, action, one, nowhere, None, ended, delta=None),
        rl.sac_critic_loss(q[:, :1], one, nowhere, one, ended),
        rl.td3_critic_loss(q[:, :1], one, nowhere, ended),
    ]
    for loss in losses:
        (gradient,) = torch.autograd.grad(loss, q, retain_graph=True)
        assert loss == 4.0 and torch.equal(gradient, torch.tensor([[4.0, 0.0]]))


def test_actions_that_there_are_not() -> None:
    """-inf in the next state: no maximum, no expectation; in logits: probability 0, and no gradient."""
    one, action = torch.ones(1), torch.tensor([0])
    next_q = torch.tensor([[2.0, -math.inf]])
    assert rl.q_learning(torch.ones(1, 2), action, one, next_q, gamma=0.5) == 1.0
    assert rl.expected_sarsa(torch.ones(1, 2), action, one, next_q, torch.tensor([[1.0, 0.0]]), gamma=0.5) == 1.0
    logits = torch.tensor([[0.0, 0.0, -math.inf]], requires_grad=True)
    for loss in (rl.entropy_loss(logits), rl.policy_gradient_loss(logits, action, one)):
        assert loss.isfinite()
        (gradient,) = torch.autograd.grad(loss, logits)
        assert gradient.isfinite().all() and gradient[0, 2] == 0
    logp = logits.detach().log_softmax(-1).requires_grad_()
    for q in (torch.ones(1, 3, 2), torch.tensor([[[1.0], [1.0], [math.inf]]])):
        loss = rl.sac_actor_loss(logp, q, discrete=True)
        (gradient,) = torch.autograd.grad(loss, logp)
        assert loss.isfinite() and gradient[:, :2].isfinite().all()
    for bad in (-1, 2):
        with pytest.raises(IndexError):
            rl.q_learning(torch.ones(1, 2), torch.tensor([bad]), one, next_q)
        with pytest.raises(IndexError):
            rl.policy_gradient_loss(torch.ones(1, 2), torch.tensor([bad]), one)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_priorities_of_replay(dtype: torch.dtype) -> None:
    """The errors beside the loss of deep Q-networks; a weight of 0 takes a step out."""
    random = generator("priorities")
    q, next_q = torch.randn(2, 5, 3, generator=random, dtype=torch.float64).to(dtype)
    actions, rewards = torch.tensor([0, 1, 2, 1, 0]), torch.arange(5.0).to(dtype)
    loss, found = rl.dqn_loss(q.requires_grad_(), actions, rewards, next_q, reduction="none", return_td_errors=True)
    d = (q.double()[range(5), actions] - rewards.double() - 0.99 * next_q.double().max(-1).values).detach()
    assert_close(found, d, dtype, terms=8.0)
    assert_close(loss, torch.where(d.abs() < 1, d**2 / 2, d.abs() - 0.5), dtype, terms=8.0)
    assert found.dtype == dtype and not found.requires_grad
    weights = torch.tensor([1.0, 0.0, 2.0, 0.0, 0.5], dtype=dtype)
    hole = torch.where((weights == 0)[:, None], math.nan, q.detach()).requires_grad_()
    weighted = rl.dqn_loss(hole, actions, rewards, next_q, weights=weights, reduction="sum")
    assert_close(weighted, (weights.double() * loss.detach().double()).sum(), dtype, terms=8.0)
    assert (torch.autograd.grad(weighted, hole)[0][weights == 0] == 0).all()


@pytest.mark.parametrize("name", ["td_learning", "q_learning", "reinforce_loss", "sac_critic_loss", "a2c_loss"])
def test_a_column_beside_a_row_is_refused(name: str) -> None:
    """(N, 1) and (N,) broadcast to N x N errors, and nobody notices."""
    row, column, q = torch.ones(4), torch.ones(4, 1), torch.ones(4, 2)
    action = torch.zeros(4, dtype=torch.int64)
    calls = {
        "td_learning": (row, column, row),
        "q_learning": (q, action, column, q),
        "reinforce_loss": (row, column),
        "sac_critic_loss": (q, column, q, row),
        "a2c_loss": (row, row, column, row),
    }
    with pytest.raises(ValueError, match=r"shape|beside|must"):
        getattr(rl, name)(*calls[name])


def test_smoothed_actions_are_near_and_within() -> None:
    """Bounds, no gradient, and the deviation of a clipped normal distribution."""
    actions = torch.zeros(20000, 2, requires_grad=True)
    random = torch.Generator().manual_seed(0)
    found = rl.smoothed_actions(actions, generator=random)
    assert not found.requires_grad and found.abs().max() <= 0.5
    # P(|z| > 2.5) is 0.0124: the variance of what is clipped there is 0.0394
    assert abs(found.std() - 0.1986) < 0.004
    high = torch.tensor([0.1, 0.2])
    found = rl.smoothed_actions(actions, low=-high, high=high, generator=random)
    assert torch.equal(found.amax(0), high) and torch.equal(found.amin(0), -high)


def test_parts_of_the_actor_critic_losses_are_fused() -> None:
    q, action, one = torch.randn(90, 80), torch.zeros(90, dtype=torch.int64), torch.ones(90)
    assert "huber_loss by" in fastloss.explain(rl.dqn_loss, q, action, one, q).reason
    assert "cross_entropy by" in fastloss.explain(rl.cql_loss, q, action, one, q).reason
    assert "expectile_loss by" in fastloss.explain(rl.iql_value_loss, one, q).reason


def test_squashed_scales_and_counts() -> None:
    x = torch.cat([torch.zeros(1), torch.logspace(-8, 8, 33)]).double()
    for sign in (1.0, -1.0):
        y = rl.symlog(sign * x)
        assert_close(y, torch.tensor([sign * math.log1p(v) for v in x.tolist()]).double(), torch.float32)
        torch.testing.assert_close(rl.symexp(y), sign * x, rtol=1e-12, atol=1e-20)
    bonus = rl.count_bonus(torch.tensor([1, 4, 9]), scale=3.0)
    torch.testing.assert_close(bonus, torch.tensor([3.0, 1.5, 1.0]))
    assert rl.count_bonus(torch.tensor(0), offset=0.01).item() == pytest.approx(10.0)


def test_free_nats_are_of_the_whole_state() -> None:
    """Each of 8 variables is below a nat, their sum is not; below it nothing has a gradient."""
    random = generator("free nats")
    post = torch.randn(5, 8, 4, generator=random, dtype=torch.float64).requires_grad_()
    near = (post.detach() + 0.01).requires_grad_()
    loss = rl.kl_balance(post, near, free_nats=1.0)
    assert_close(loss, torch.tensor(1.1, dtype=torch.float64), torch.float64)
    assert all((g == 0).all() for g in torch.autograd.grad(loss, (post, near)))
    prior = torch.zeros(5, 8, 4, dtype=torch.float64, requires_grad=True)
    of_prior, of_post = (rl.kl_balance(post, prior, dyn=dyn, rep=1 - dyn, free_nats=0.0) for dyn in (1.0, 0.0))
    # one value, and each side learns from its part alone
    assert_close(of_prior, of_post, torch.float64)
    assert (torch.autograd.grad(of_prior, post)[0] == 0).all() and (torch.autograd.grad(of_post, prior)[0] == 0).all()


def test_the_actions_of_inverse_models_may_be_vectors() -> None:
    x, a = torch.tensor([[1.0, 2.0], [0.0, 1.0]], requires_grad=True), torch.tensor([[0.0, 2.0], [3.0, 1.0]])
    assert rl.inverse_dynamics_loss(x, a, reduction="sum") == 10.0
    features = torch.zeros(2, 3)
    assert rl.icm_loss(features, features, x, a, beta=0.5) == 2.5
    with pytest.raises(ValueError, match="shape"):
        rl.inverse_dynamics_loss(x, a[:, :1])


def test_the_gradient_of_rlhf_is_that_of_its_objective() -> None:
    """Every answer, weighted by its probability."""
    random = generator("answers")
    logits, ref, rewards = torch.randn(3, 6, generator=random, dtype=torch.float64)
    logp, ref_logp = logits.requires_grad_().log_softmax(0), ref.log_softmax(0)
    objective = -(logp.exp() * rewards).sum() + 0.3 * (logp.exp() * (logp - ref_logp)).sum()
    probs = logp.exp().detach()
    for baseline in (0.0, 5.0):
        loss = fastloss.alignment.rlhf_loss(logp, ref_logp, rewards - baseline, beta=0.3, mask=probs, reduction="sum")
        assert_close(loss, objective + baseline, torch.float64, terms=8.0)
        found, right = (torch.autograd.grad(x, logits, retain_graph=True)[0] for x in (loss, objective))
        assert_close(found, right, torch.float64, terms=8.0)


def test_what_no_loss_takes() -> None:
    zeros, actions = torch.zeros(2, 3), torch.zeros(2, dtype=torch.int64)
    rewards = torch.zeros(2)
    with pytest.raises(IndexError):  # torch's ignore_index is no action
        rl.inverse_dynamics_loss(zeros, torch.tensor([-100, 0]))
    assert rl.inverse_dynamics_loss(zeros, torch.tensor([-100, 0]), mask=torch.tensor([0, 1])).isfinite()
    with pytest.raises(ValueError, match="selector"):
        rl.double_q_learning(zeros, actions, rewards, zeros, zeros[:, :2])
    with pytest.raises(ValueError, match="next_q_values"):
        rl.q_learning(zeros, actions, rewards, torch.zeros(2, 4))
    with pytest.raises(ValueError, match="delta"):
        rl.td_learning(rewards, rewards, rewards, delta=-1.0)
    with pytest.raises(ValueError, match="free_nats"):
        rl.kl_balance(torch.zeros(1, 2, 3), torch.zeros(1, 2, 3), free_nats=-1.0)
