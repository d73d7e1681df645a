"""Policies from what others did: what is learnt of every action or trajectory, each as often as it happens."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from support import assert_close, generator
from torch import Tensor

from fastloss import rl


def _policies(name: str, *shape: int) -> tuple[Tensor, Tensor]:
    """(logits of the policy that is learnt, log-probabilities of the one that acted)."""
    logits, acting = torch.randn(2, *shape, generator=generator(name), dtype=torch.float64)
    return logits, acting.log_softmax(-1)


@pytest.mark.parametrize("clip", [math.inf, 1.5], ids=str)
def test_the_best_imitation_by_weights_is_the_reweighted_policy(clip: float) -> None:
    """Every action as often as it is taken: the minimum is where pi is proportional to mu min(e^(A / T), clip)."""
    advantages, acting = _policies("weighted", 5, 4)
    temperature = 0.6
    best = acting + (advantages / temperature).clamp(max=math.log(clip))
    logits = best.clone().requires_grad_()
    how = {"temperature": temperature, "weight_clip": clip, "mask": acting.exp(), "reduction": "sum"}
    values = torch.randn(5, 1, generator=generator("weighted, values"), dtype=torch.float64).expand(5, 4)
    twin = torch.stack([advantages + values + 1, advantages + values], -1)  # the second is the smaller one
    for loss in (
        rl.awr_loss(logits.log_softmax(-1), advantages, **how),
        rl.awac_loss(logits.log_softmax(-1), twin, values, **how),
    ):
        weights = best.exp().sum()
        # minus the cross-entropy of that policy, in every state times the sum of its weights
        assert_close(loss, -(best.exp() * best.log_softmax(-1)).sum(), torch.float64, terms=weights.item())
        (gradient,) = torch.autograd.grad(loss, logits)
        assert gradient.abs().max() < 1e-14 * weights


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_weights_that_are_no_numbers_of_the_dtype(dtype: torch.dtype) -> None:
    """e^1000 is clipped, e^-1000 is 0; and relative to each other they need no clip."""
    logp = torch.tensor([-1.0, -2.0, -3.0], dtype=dtype, requires_grad=True)
    advantages = torch.tensor([1000.0, -1000.0, 0.0], dtype=dtype)
    of_critics = torch.stack([advantages, advantages + 1], -1)
    zero = torch.zeros_like(advantages)
    for loss, expected in (
        (rl.awr_loss(logp, advantages, weight_clip=20.0, reduction="sum"), [-20.0, 0.0, -1.0]),
        (rl.awac_loss(logp, of_critics, zero, weight_clip=20.0, reduction="sum"), [-20.0, 0.0, -1.0]),
        (rl.awac_loss(logp, of_critics, zero, normalize=True, reduction="sum"), [-3.0, 0.0, 0.0]),
    ):
        (gradient,) = torch.autograd.grad(loss, logp)
        assert_close(gradient, torch.tensor(expected), dtype)


def test_normalized_weights_have_the_mean_1_over_what_counts() -> None:
    random = generator("normalized")
    q, values = 30 * torch.randn(6, 5, 1, generator=random, dtype=torch.float64), torch.zeros(6, 5, dtype=torch.float64)
    logp = -torch.rand(6, 5, generator=random, dtype=torch.float64)
    masks = (None, torch.rand(6, 1, generator=random) < 0.7, torch.rand(6, 5, generator=random, dtype=torch.float64))
    how = {"normalize": True, "weight_clip": math.inf, "return_terms": True}
    for mask in masks:
        if mask is not None and mask.dtype == torch.bool:
            mask[0] = True
        loss, terms = rl.awac_loss(logp, q, values, mask=mask, **how)
        assert terms["weight"].item() == pytest.approx(1.0, rel=1e-12)
        weight = torch.ones(6, 5) if mask is None else mask.expand(6, 5).double()
        shares = (q[..., 0].double() + weight.log()).flatten().softmax(0).reshape(6, 5)
        assert_close(loss, -(shares * logp).sum(), torch.float64)
        # what is added to all of them changes nothing
        assert_close(rl.awac_loss(logp, q + 1e4, values, mask=mask, **how)[0], loss, torch.float32)
    none = rl.awac_loss(logp.requires_grad_(), q, values, mask=torch.zeros(6, 5), normalizer=1.0, normalize=True)
    (gradient,) = torch.autograd.grad(none, logp)
    assert none == 0 and (gradient == 0).all()


def test_impala_in_expectation_over_all_trajectories() -> None:
    """Two steps. With ratios that are not bounded, and whatever the values are, the policy's gradient is that of the
    value of each state that is met, and the critic's minimum that value."""
    first, acting_first = _policies("first step", 3)
    second, acting_second = _policies("second step", 2, 4)  # of two states
    random = generator("trajectories")
    reach = torch.rand(3, 2, generator=random, dtype=torch.float64)
    reach = reach / reach.sum(-1, keepdim=True)
    reward, last_reward = (torch.randn(*shape, generator=random, dtype=torch.float64) for shape in ((3,), (2, 4)))
    gamma = 0.8
    first, second = first.requires_grad_(), second.requires_grad_()

    # what is right
    of_second = (second.softmax(-1) * last_reward).sum(-1)
    of_first = (first.softmax(-1) * (reward + gamma * reach @ of_second.detach())).sum()
    met = acting_first.exp() @ reach
    right = torch.autograd.grad(-of_first - (met * of_second).sum(), (first, second), retain_graph=True)

    every = torch.tensor(list(itertools.product(range(3), range(2), range(4))))  # action, state, action
    a, s, b = every.unbind(-1)
    chance = acting_first.exp()[a] * reach[a, s] * acting_second.exp()[s, b]
    logp = torch.stack([first.log_softmax(-1)[a], second.log_softmax(-1)[s, b]])
    old_logp = torch.stack([acting_first[a], acting_second[s, b]])
    rewards = torch.stack([reward[a], last_reward[s, b]])
    terminated = torch.tensor([[False], [True]]).expand_as(rewards)
    guesses = torch.randn(3, generator=random, dtype=torch.float64)
    of_state = guesses[:2].requires_grad_()
    values = torch.stack([guesses[2].expand_as(of_state[s]), of_state[s]])
    next_values = torch.stack([values[1], torch.full_like(values[1], math.nan)])  # behind the end
    unbounded = {"rho_bar": math.inf, "c_bar": math.inf, "pg_rho_bar": math.inf}
    loss = rl.impala_loss(
        logp, old_logp, rewards, values, next_values, terminated=terminated, gamma=gamma, value_coefficient=1.5,
        mask=chance, reduction="sum", **unbounded,
    )  # fmt: skip
    *found, of_values = torch.autograd.grad(loss, (first, second, of_state), retain_graph=True)
    for gradient, expected in zip(found, right, strict=True):
        assert_close(gradient, expected, torch.float64, terms=10.0)
    assert_close(of_values, 3.0 * met * (of_state - of_second), torch.float64, terms=10.0)


def test_impala_of_the_policy_that_acted_is_advantage_actor_critic() -> None:
    """Ratios are 1: targets and advantages are those of gae; entropies count, packed sequences and time in columns."""
    random = generator("on policy")
    logp, entropy, rewards, values, next_values = torch.randn(5, 9, 4, generator=random, dtype=torch.float64)
    logp, values, entropy = (x.requires_grad_() for x in (logp, values, entropy))
    ends = {name: torch.rand(9, 4, generator=random) < 0.2 for name in ("terminated", "truncated")}
    returns = {"gamma": 0.9, "lambda_": 0.8}
    how = {"value_coefficient": 0.3, "entropy_coefficient": 0.2, "reduction": "none"}
    loss = rl.impala_loss(logp, logp, rewards, values, next_values, entropy, **ends, **returns, **how)
    advantages, targets = rl.gae(rewards, values, next_values, **ends, **returns)
    expected = rl.a2c_loss(logp, advantages, values, targets, entropy, **how)
    assert_close(loss, expected, torch.float64, terms=10.0)
    own, right = (torch.autograd.grad(x.sum(), (logp, values, entropy)) for x in (loss, expected))
    for gradient, of_a2c in zip(own, right, strict=True):
        assert_close(gradient, of_a2c, torch.float64, terms=10.0)

    cut = torch.zeros(9, 4, dtype=torch.bool)
    cut[4] = True
    whole = rl.impala_loss(logp, logp, rewards, values, next_values, truncated=cut, **returns, **how)
    packed = rl.impala_loss(
        logp, logp, rewards, values, next_values, cu_seqlens=torch.tensor([0, 5, 9]), **returns, **how
    )
    columns = rl.impala_loss(
        *(x.T for x in (logp, logp, rewards, values, next_values)), truncated=cut.T, time_dim=1, **returns, **how
    )
    assert_close(packed, whole, torch.float64, terms=10.0)
    assert_close(columns.T, whole, torch.float64, terms=10.0)


def test_constants_of_the_losses_by_other_policies() -> None:
    random = generator("constants of others")
    logp, old_logp, rewards, values, next_values = torch.randn(5, 6, 2, generator=random).requires_grad_().unbind()
    loss = rl.impala_loss(logp, old_logp, rewards, values, next_values)
    assert torch.autograd.grad(loss, (old_logp, rewards, next_values), allow_unused=True) == (None, None, None)
    loss = rl.awr_loss(logp, values) + rl.awac_loss(logp, values[..., None], next_values, normalize=True)
    assert torch.autograd.grad(loss, (values, next_values), allow_unused=True) == (None, None)


def test_the_deterministic_policy_gradient_is_that_of_the_return() -> None:
    """A linear policy and a quadratic return, whose gradient is known."""
    random = generator("deterministic")
    states, target = torch.randn(2, 50, generator=random, dtype=torch.float64)
    slope = torch.randn((), generator=random, dtype=torch.float64).requires_grad_()
    loss = rl.ddpg_actor_loss(-((slope * states - target) ** 2))
    (gradient,) = torch.autograd.grad(loss, slope)
    expected = 2 * (slope * states.square().sum() - states @ target) / 50
    assert_close(gradient, expected, torch.float64, terms=2.0)


def test_what_losses_of_other_policies_do_not_take() -> None:
    row, column = torch.zeros(4), torch.zeros(4, 1)
    for bad in ({"temperature": 0.0}, {"weight_clip": 0.0}, {"temperature": math.nan}):
        with pytest.raises(ValueError, match="must be positive"):
            rl.awr_loss(row, row, **bad)
        with pytest.raises(ValueError, match="must be positive"):
            rl.awac_loss(row, column, row, **bad)
    with pytest.raises(ValueError, match="advantages"):
        rl.awr_loss(row, column)
    with pytest.raises(ValueError, match="q_values"):
        rl.awac_loss(row, row, row)
    with pytest.raises(ValueError, match="values"):
        rl.awac_loss(row, column, column)
    with pytest.raises(ValueError, match="old_logp"):
        rl.impala_loss(row, column, row, row, row)
    with pytest.raises(ValueError, match="rho_bar"):
        rl.impala_loss(row, row, row, row, row, rho_bar=-1.0)
