"""Policy gradients; the oracles are torch.distributions'. Means are far from 0: what cancels has no digits."""

from __future__ import annotations

import torch
from torch import Tensor

from cases.case import MASKED, Arguments, Case, Shape, normal, uniform


def _of_steps(generator: torch.Generator, shape: Shape) -> Arguments:
    return {"logp": uniform(generator, -3.0, 0.0, *shape), "advantages": uniform(generator, 0.5, 2.0, *shape)}


def _logits(generator: torch.Generator, shape: Shape) -> Arguments:
    return {"logits": normal(generator, *shape)}


def _with_actions(generator: torch.Generator, shape: Shape) -> Arguments:
    actions = torch.randint(shape[-1], shape[:-1], generator=generator)
    return {**_logits(generator, shape), "actions": actions, "advantages": uniform(generator, 0.5, 2.0, *shape[:-1])}


def _actor_critic(generator: torch.Generator, shape: Shape) -> Arguments:
    more = {name: normal(generator, *shape) for name in ("values", "returns")}
    return {**_of_steps(generator, shape), **more, "entropy": uniform(generator, 0.5, 2.0, *shape)}


def _policy_gradient(logits: Tensor, actions: Tensor, advantages: Tensor) -> Tensor:
    return -torch.distributions.Categorical(logits=logits).log_prob(actions) * advantages


def _a2c(logp, advantages, values, returns, entropy, value_coefficient, entropy_coefficient):
    return -logp * advantages + value_coefficient * (returns - values) ** 2 - entropy_coefficient * entropy


CASES = [
    Case(
        "rl.reinforce_loss", _of_steps, (3, 4), ("logp",), oracle=lambda logp, advantages: -logp * advantages,
        optional=MASKED, twice=False,
    ),
    Case(
        "rl.policy_gradient_loss", _with_actions, (3, 4, 5), ("logits",), indices=("actions",),
        oracle=_policy_gradient, optional=MASKED, magnitude=8.0,
    ),
    Case(
        "rl.entropy_loss", _logits, (3, 4, 5), ("logits",),
        oracle=lambda logits: -torch.distributions.Categorical(logits=logits).entropy(), optional=MASKED, magnitude=4.0,
    ),
    Case(
        "rl.a2c_loss", _actor_critic, (3, 4), ("logp", "values", "entropy"), oracle=_a2c, optional=MASKED,
        options={"value_coefficient": 0.7, "entropy_coefficient": 0.1}, magnitude=8.0, twice=False,
    ),
]  # fmt: skip
