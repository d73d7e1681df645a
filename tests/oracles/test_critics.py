"""Critics against too large values: a soft policy's fixed point, subsets of an ensemble, truncated distributions."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from support import assert_close, generator

import fastloss
from fastloss import rl


def _soft_values(rewards: torch.Tensor, after: torch.Tensor, temperature: float, gamma: float) -> torch.Tensor:
    """Soft value iteration on a deterministic process."""
    q = torch.zeros_like(rewards)
    for _ in range(400):
        q = rewards + gamma * temperature * torch.logsumexp(q / temperature, -1)[after]
    return q


def test_munchausens_fixed_point_is_that_of_a_lower_temperature() -> None:
    """With alpha and T and no clip, q less alpha T log pi is the soft q of the temperature (1 - alpha) T, and so the
    policy is; shown by Vieillard et al., and used here as the oracle."""
    random = generator("Munchausen's process")
    rewards = torch.randn(4, 3, generator=random, dtype=torch.float64)
    after = torch.randint(4, (4, 3), generator=random)
    alpha, temperature, gamma = 0.6, 0.5, 0.9
    lower = (1 - alpha) * temperature
    soft = _soft_values(rewards, after, lower, gamma)
    log_policy = torch.log_softmax(soft / lower, -1)
    q = soft + alpha * temperature * log_policy
    every, rows = torch.arange(3).expand(4, 3), q[:, None].expand(4, 3, 3)
    how = {"gamma": gamma, "reduction": "none", "munchausen_coefficient": alpha, "temperature": temperature,
           "log_policy_clip": -math.inf, "target_q_values": rows}  # fmt: skip
    for loss in (
        rl.q_learning(rows, every, rewards, q[after], **how),
        rl.dqn_loss(rows, every, rewards, q[after], delta=None, **how),
    ):
        assert loss.abs().max() < 1e-24
    # and a coefficient of 0 is soft Q-learning of the temperature itself
    soft = _soft_values(rewards, after, temperature, gamma)
    how |= {"munchausen_coefficient": 0.0}
    assert rl.q_learning(soft[:, None].expand(4, 3, 3), every, rewards, soft[after], **how).abs().max() < 1e-24


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_what_munchausen_adds_is_clipped(dtype: torch.dtype) -> None:
    """At the paper's temperature nearly every action but the best one meets the clip, one that there is not, too."""
    target_q = torch.tensor([[0.0, 4.0], [0.0, -math.inf], [1.0, 1.0]], dtype=dtype)
    actions, zero = torch.tensor([0, 1, 0]), torch.zeros(3, dtype=dtype)
    losses = rl.q_learning(torch.zeros(3, 2, dtype=dtype), actions, zero, target_q, target_q_values=target_q, gamma=0.0,
                           reduction="none")  # fmt: skip
    exact = torch.tensor([0.9, 0.9, 0.9 * 0.03 * math.log(2)], dtype=torch.float64) ** 2
    assert_close(losses, exact, dtype, terms=1.0)


@pytest.mark.parametrize("nothing", [math.inf, -math.inf, math.nan], ids=str)
def test_critics_do_not_look_behind_an_end(nothing: float) -> None:
    one, ended = torch.ones(1), torch.tensor([True])
    q = torch.tensor([[3.0, 0.0]], requires_grad=True)
    action, nowhere = torch.tensor([0]), torch.full((1, 2), nothing)
    sure = torch.tensor([[9.0, 0.0]])  # log pi is 0
    losses = [
        rl.q_learning(q, action, one, nowhere, ended, target_q_values=sure),
        rl.dqn_loss(q, action, one, nowhere, None, ended, delta=None, target_q_values=sure),
        rl.redq_critic_loss(q[:, :1], one, nowhere, one, ended),
        # one quantile of level 1/2: half of Huber's loss, which is half of the square below 1e9
        4 * rl.tqc_critic_loss(q[:, None, :1], one, nowhere[:, None], one, ended, drop=1, kappa=1e9),
    ]
    for loss in losses:
        (gradient,) = torch.autograd.grad(loss, q, retain_graph=True)
        torch.testing.assert_close(loss, torch.tensor(4.0))
        torch.testing.assert_close(gradient, torch.tensor([[4.0, 0.0]]))


def test_the_subset_of_an_ensemble_is_any_subset() -> None:
    """All of them, as often as each other, the same for the whole batch, and again with the same generator."""
    random = generator("ensemble")
    next_q, zero = torch.randn(3, 5, generator=random, dtype=torch.float64), torch.zeros(3, dtype=torch.float64)
    subsets = list(itertools.combinations(range(5), 2))
    least = torch.stack([next_q[:, list(pair)].amin(-1) for pair in subsets])  # (10, 3)
    seen = torch.zeros(len(subsets))
    one = torch.zeros(3, 1, dtype=torch.float64)
    for _ in range(600):
        state = random.get_state()
        loss = rl.redq_critic_loss(one, zero, next_q, zero, gamma=1.0, reduction="none", generator=random)
        again = rl.redq_critic_loss(
            one, zero, next_q, zero, gamma=1.0, reduction="none", generator=torch.Generator().set_state(state)
        )
        assert torch.equal(loss, again)
        which = (least.square() - loss).abs().amax(-1) < 1e-12  # several subsets may have one minimum
        assert which.any()
        seen += which / which.sum()
    # 60 of each are expected, if the minima do not coincide; those that do are counted together by their sum
    assert seen.sum() == pytest.approx(600) and seen.min() > 60 - 6 * 60**0.5
    expected = least.square().mean(0)
    torch.manual_seed(0)
    drawn = torch.stack([rl.redq_critic_loss(one, zero, next_q, zero, gamma=1.0, reduction="none") for _ in range(600)])
    assert ((drawn.mean(0) - expected).abs() < 6 * drawn.std(0) / 600**0.5 + 1e-12).all()


def test_one_critic_that_drops_nothing_is_quantile_regression() -> None:
    random = generator("quantiles")
    own, others = torch.randn(2, 6, 7, generator=random, dtype=torch.float64)
    rewards, logp = torch.randn(2, 6, generator=random, dtype=torch.float64)
    how = {"gamma": 0.5, "alpha": 0.3, "drop": 0, "reduction": "none"}
    loss = rl.tqc_critic_loss(own[:, None], rewards, others[:, None], logp, **how)
    target = rewards[:, None] + 0.5 * (others - 0.3 * logp[:, None])
    assert_close(loss, rl.quantile_huber_loss(own, target, reduction="none") / 7, torch.float64)
    # whose quantile it is does not matter, nor the order
    pooled = torch.randn(6, 12, generator=random, dtype=torch.float64)
    shuffled = pooled[:, torch.randperm(12, generator=random)].reshape(6, 4, 3)
    how["drop"] = 1
    first, second = (
        rl.tqc_critic_loss(own[:, None], rewards, x, logp, **how) for x in (pooled.view(6, 4, 3), shuffled)
    )
    assert torch.equal(first, second)
    # and the largest ones do not either, infinite or not
    least = pooled.sort(-1).values
    least[:, 8:] = math.inf
    assert torch.equal(rl.tqc_critic_loss(own[:, None], rewards, least.view(6, 4, 3), logp, **how), first)
    assert (
        "quantile_huber_loss by"
        in fastloss.explain(rl.tqc_critic_loss, own[:, None], rewards, pooled.view(6, 4, 3), logp).reason
    )


def test_what_these_critics_do_not_take() -> None:
    q, one, action = torch.ones(4, 3), torch.ones(4), torch.zeros(4, dtype=torch.int64)
    with pytest.raises(ValueError, match="subset"):
        rl.redq_critic_loss(q, one, q, one, subset=4)
    with pytest.raises(ValueError, match="next_logp"):
        rl.redq_critic_loss(q, one, q, torch.ones(4, 1))
    with pytest.raises(ValueError, match="drop"):
        rl.tqc_critic_loss(q[:, None], one, q[:, None], one, drop=3)
    with pytest.raises(ValueError, match="next_quantiles"):
        rl.tqc_critic_loss(q[:, None], one, q, one)
    with pytest.raises(ValueError, match="next_logp"):
        rl.tqc_critic_loss(q[:, None], one, q[:, None], torch.ones(4, 1))
    with pytest.raises(ValueError, match="either selector or target_q_values"):
        rl.dqn_loss(q, action, one, q, q, target_q_values=q)
    for bad in ({"temperature": 0.0}, {"log_policy_clip": 0.5}):
        with pytest.raises(ValueError, match="temperature"):
            rl.q_learning(q, action, one, q, target_q_values=q, **bad)
        rl.q_learning(q, action, one, q, **bad)  # not looked at
    with pytest.raises(ValueError, match="target_q_values"):
        rl.q_learning(q, action, one, q, target_q_values=q[:, :2])
