"""Temporal differences; the oracles go step by step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cases.case import MASKED, Arguments, Build, Case, Shape, normal, uniform

STEPS = (3, 4)
ACTIONS = (3, 4, 5)


def transitions(generator: torch.Generator, shape: Shape) -> Arguments:
    """Rewards, whether the step was the last, and a discount of each."""
    return {
        "rewards": normal(generator, *shape),
        "terminated": torch.rand(shape, generator=generator) < 0.3,
        "gamma": uniform(generator, 0.5, 1.0, *shape),
    }


def step_by_step(target: Callable[..., Tensor], delta: float | None = None) -> Callable[..., Tensor]:
    """Losses of each step by a function of one step: (arguments of the step) -> (prediction, value that follows)."""

    def oracle(rewards: Tensor, terminated: Tensor, gamma: Any = 0.99, delta: float | None = delta, **of_steps: Any):
        shape, losses = rewards.shape, []
        options = {name: x for name, x in of_steps.items() if not isinstance(x, Tensor)}
        flat = {name: x.reshape(-1, *x.shape[len(shape) :]) for name, x in of_steps.items() if isinstance(x, Tensor)}
        discounts = torch.as_tensor(gamma, dtype=rewards.dtype).expand(shape).reshape(-1)
        for i, r in enumerate(rewards.reshape(-1)):
            prediction, value = target(**{name: x[i] for name, x in flat.items()}, **options)
            y = r if terminated.reshape(-1)[i] else r + discounts[i] * value
            losses.append(_error(prediction, y.detach(), delta).sum())
        return torch.stack(losses).reshape(shape)

    return oracle


def _error(prediction: Tensor, target: Tensor, delta: float | None) -> Tensor:
    d = prediction - target
    if delta is None:
        return d**2
    return torch.where(d.abs() <= delta, d**2 / 2, delta * (d.abs() - delta / 2))


def with_steps(*names: str) -> Build:
    """Numbers of each step beside the transitions."""

    def make(generator: torch.Generator, shape: Shape) -> Arguments:
        return {**{name: normal(generator, *shape) for name in names}, **transitions(generator, shape)}

    return make


def _of_actions(*names: str) -> Build:
    """Numbers of each step and action beside the transitions."""

    def make(generator: torch.Generator, shape: Shape) -> Arguments:
        made = {name: normal(generator, *shape) for name in ("q_values", "next_q_values", *names)}
        made["actions"] = torch.randint(shape[-1], shape[:-1], generator=generator)
        if "next_probs" in names:
            made["next_probs"] = made["next_probs"].softmax(-1)
        return {**made, **transitions(generator, shape[:-1])}

    return make


def _weighted(build: Build) -> Build:
    return lambda generator, shape: {**build(generator, shape), "weights": uniform(generator, 0.1, 2.0, *shape[:-1])}


def _trajectories(generator: torch.Generator, shape: Shape) -> Arguments:
    made = with_steps("values", "next_values")(generator, shape)
    return {**made, "truncated": torch.rand(shape, generator=generator) < 0.2}


def _n_step(values, rewards, next_values, terminated, truncated, gamma, n, time_dim, delta=None):
    """Sums of rewards as far as the trajectory goes, one start at a time; (B, T)."""
    losses = []
    for b in range(rewards.shape[0]):
        for t in range(rewards.shape[1]):
            total, discount = 0.0, 1.0
            for k in range(t, min(t + n, rewards.shape[1])):
                total, discount = total + discount * rewards[b, k], discount * gamma[b, k]
                last = k + 1 in (t + n, rewards.shape[1]) or terminated[b, k] or truncated[b, k]
                if last:
                    total = total + (0.0 if terminated[b, k] else discount * next_values[b, k])
                    break
            losses.append(_error(values[b, t], total, delta))
    return torch.stack(losses).reshape(values.shape)


def _of_states(values, next_values):
    return values, next_values


def _q_learning(q_values, actions, next_q_values):
    return q_values[actions], next_q_values.max()


def _double(q_values, actions, next_q_values, selector):
    return q_values[actions], next_q_values[selector.argmax()]


def _sarsa(q_values, actions, next_q_values, next_probs):
    return q_values[actions], (next_q_values * next_probs).sum()


def _dqn(weights: Tensor, **given: Any) -> Tensor:
    return weights * step_by_step(_double, 1.0)(**given)


def _munchausen(actions, rewards, next_q_values, target_q_values, temperature, log_policy_clip, munchausen_coefficient,
                **given):  # fmt: skip
    """The reward with its bonus, and the expectation under the soft policy of the value with its entropy."""
    log_policy = torch.distributions.Categorical(logits=target_q_values / temperature).log_prob(actions)
    bonus = torch.minimum(torch.maximum(temperature * log_policy, torch.full_like(log_policy, log_policy_clip)),
                          torch.zeros_like(log_policy))  # fmt: skip

    def one(q_values, actions, next_q_values):
        policy = torch.softmax(next_q_values / temperature, -1)
        return q_values[actions], (policy * (next_q_values - temperature * policy.log())).sum()

    given = {**given, "actions": actions, "next_q_values": next_q_values}
    weights = given.pop("weights", torch.ones_like(rewards))
    return weights * step_by_step(one)(rewards=rewards + munchausen_coefficient * bonus, **given)


def _cql(q_values, actions, selector=None, conservative_coefficient=1.0, temperature=1.0, **given):
    more = {} if selector is None else {"selector": selector}
    td = step_by_step(_q_learning if selector is None else _double)(q_values=q_values, actions=actions, **more, **given)
    soft = temperature * (q_values / temperature).exp().sum(-1).log()
    return td + conservative_coefficient * (soft - (F.one_hot(actions, q_values.shape[-1]) * q_values).sum(-1))


def _iql(values: Tensor, q_values: Tensor, tau: float) -> Tensor:
    d = q_values.min(-1).values - values
    return (tau - (d < 0).double()).abs() * d**2


def _critics(generator: torch.Generator, shape: Shape) -> Arguments:
    return {"values": normal(generator, *shape[:-1]), "q_values": normal(generator, *shape)}


def _case(name: str, build: Build, oracle: Callable[..., Tensor], variant: str = "", **options: Any) -> Case:
    of_actions = "actions" in build(torch.Generator(), (1, 1, 2)) if name != "td_learning" else False
    return Case(
        f"rl.{name}", build, ACTIONS if of_actions else STEPS, ("q_values" if of_actions else "values",), None, variant,
        options, indices=("actions",) if of_actions else (), oracle=oracle, optional=MASKED, magnitude=8.0,
        twice=options.get("delta") is None and name != "dqn_loss",
    )  # fmt: skip


CASES = [
    _case("td_learning", with_steps("values", "next_values"), step_by_step(_of_states)),
    _case("q_learning", _of_actions(), step_by_step(_q_learning), delta=0.7),
    _case(
        "q_learning", _of_actions("target_q_values"), _munchausen, "Munchausen", temperature=0.3, log_policy_clip=-0.5,
        munchausen_coefficient=0.7,
    ),
    _case("double_q_learning", _of_actions("selector"), step_by_step(_double)),
    _case("expected_sarsa", _of_actions("next_probs"), step_by_step(_sarsa)),
    _case("dqn_loss", _weighted(_of_actions("selector")), _dqn),
    _case(
        "dqn_loss", _weighted(_of_actions("target_q_values")), _munchausen, "Munchausen", temperature=0.5,
        log_policy_clip=-1.0, munchausen_coefficient=0.9, delta=1.0,
    ),
    _case("cql_loss", _of_actions("selector"), _cql, conservative_coefficient=0.5, temperature=0.8),
    Case(
        "rl.n_step_td", _trajectories, (3, 6), ("values",), options={"n": 3, "time_dim": 1}, oracle=_n_step,
        optional=MASKED, magnitude=8.0,
    ),
    Case(
        "rl.iql_value_loss", _critics, (3, 4, 2), ("values",), options={"tau": 0.8}, oracle=_iql, optional=MASKED,
        magnitude=8.0,
    ),
]  # fmt: skip
