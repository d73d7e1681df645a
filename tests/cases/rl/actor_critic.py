"""Actors and critics; the oracles go step by step."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from cases.case import MASKED, Arguments, Case, Shape, normal, uniform
from cases.rl.temporal import step_by_step, transitions

CRITICS = (3, 4, 2)
OF_ACTIONS = (3, 4, 5, 2)


def _number(generator: torch.Generator) -> Tensor:
    return uniform(generator, 0.1, 0.5)


def _actor(generator: torch.Generator, shape: Shape) -> Arguments:
    q_values = normal(generator, *shape, shift=3.0)
    return {"logp": uniform(generator, -3.0, 0.0, *shape[:-1]), "q_values": q_values, "alpha": _number(generator)}


def _discrete_actor(generator: torch.Generator, shape: Shape) -> Arguments:
    logp = normal(generator, *shape[:-1]).log_softmax(-1)
    return {"logp": logp, "q_values": normal(generator, *shape, shift=3.0)}


def _critic(generator: torch.Generator, shape: Shape) -> Arguments:
    made = {name: normal(generator, *shape) for name in ("q_values", "next_q_values")}
    made["next_logp"] = uniform(generator, -3.0, 0.0, *shape[:-1])
    return {**made, "alpha": _number(generator), **transitions(generator, shape[:-1])}


def _discrete_critic(generator: torch.Generator, shape: Shape) -> Arguments:
    made = {"q_values": normal(generator, *shape[:-2], shape[-1]), "next_q_values": normal(generator, *shape)}
    made["next_logp"] = normal(generator, *shape[:-1]).log_softmax(-1)
    return {**made, **transitions(generator, shape[:-2])}


def _deterministic(generator: torch.Generator, shape: Shape) -> Arguments:
    return {name: normal(generator, *shape) for name in ("q_values", "next_q_values")} | transitions(
        generator, shape[:-1]
    )


def _temperature(generator: torch.Generator, shape: Shape) -> Arguments:
    return {"log_alpha": normal(generator, scale=0.3), "logp": uniform(generator, -3.0, 0.0, *shape)}


def _all_actions(generator: torch.Generator, shape: Shape) -> Arguments:
    return {"log_alpha": normal(generator, scale=0.3), "logp": normal(generator, *shape).log_softmax(-1)}


def _sac_actor(logp: Tensor, q_values: Tensor, alpha: Any = 0.2, discrete: bool = False) -> Tensor:
    least = torch.minimum(q_values[..., 0], q_values[..., 1])
    if discrete:
        return torch.einsum("...a,...a->...", logp.exp(), alpha * logp - least.detach())
    return alpha * logp - least


def _sac_critic(alpha: Any = 0.2, discrete: bool = False, **given: Any) -> Tensor:
    def one(q_values: Tensor, next_q_values: Tensor, next_logp: Tensor) -> tuple[Tensor, Tensor]:
        value = next_q_values.min(-1).values - alpha * next_logp
        return q_values, (next_logp.exp() * value).sum() if discrete else value

    return step_by_step(one)(**given)


def _sac_alpha(log_alpha: Tensor, logp: Tensor, target_entropy: float, discrete: bool = False) -> Tensor:
    entropy = -(logp.exp() * logp).sum(-1) if discrete else -logp
    return log_alpha.exp() * (entropy - target_entropy)


CASES = [
    Case(
        "rl.sac_actor_loss", _actor, CRITICS, ("logp", "q_values"), oracle=_sac_actor, optional=MASKED, twice=False,
        magnitude=8.0,
    ),
    Case(
        "rl.sac_actor_loss", _discrete_actor, OF_ACTIONS, ("logp",), variant="discrete", oracle=_sac_actor,
        options={"discrete": True}, optional=MASKED, magnitude=8.0,
    ),
    Case("rl.sac_critic_loss", _critic, CRITICS, ("q_values",), oracle=_sac_critic, optional=MASKED, magnitude=16.0),
    Case(
        "rl.sac_critic_loss", _discrete_critic, OF_ACTIONS, ("q_values",), variant="discrete", oracle=_sac_critic,
        options={"discrete": True}, optional=MASKED, magnitude=16.0,
    ),
    Case(
        "rl.sac_alpha_loss", _temperature, (3, 4), ("log_alpha",), oracle=_sac_alpha, optional=MASKED,
        options={"target_entropy": -2.0}, magnitude=8.0,
    ),
    Case(
        "rl.sac_alpha_loss", _all_actions, (3, 4, 5), ("log_alpha",), variant="discrete", oracle=_sac_alpha,
        options={"target_entropy": -1.0, "discrete": True}, optional=MASKED, magnitude=8.0,
    ),
    *(
        Case(
            name, lambda generator, shape: {"q_values": normal(generator, *shape, shift=3.0)}, (3, 4), ("q_values",),
            oracle=lambda q_values: -q_values, optional=MASKED, twice=False,
        )
        for name in ("rl.td3_actor_loss", "rl.ddpg_actor_loss")
    ),
    Case(
        "rl.td3_critic_loss", _deterministic, CRITICS, ("q_values",), optional=MASKED, magnitude=16.0,
        oracle=step_by_step(lambda q_values, next_q_values: (q_values, next_q_values.min())),
    ),
]  # fmt: skip
