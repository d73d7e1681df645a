"""Auxiliary predictions and curiosity; the oracles are torch's operations."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from cases.case import MASKED, Arguments, Case, Shape, normal


def _pair(*names: str):
    return lambda generator, shape: {name: normal(generator, *shape) for name in names}


def _inverse(generator: torch.Generator, shape: Shape) -> Arguments:
    actions = torch.randint(shape[-1], shape[:-1], generator=generator)
    return {"input": normal(generator, *shape), "actions": actions}


def _icm(generator: torch.Generator, shape: Shape) -> Arguments:
    inverse = _inverse(generator, (*shape[:-1], 3))
    return {**_pair("input", "target")(generator, shape), "inverse": inverse["input"], "actions": inverse["actions"]}


def _distance(input: Tensor, target: Tensor) -> Tensor:
    return (input - target).norm(dim=-1) ** 2


def _action(input: Tensor, actions: Tensor) -> Tensor:
    if actions.is_floating_point():
        return _distance(input, actions)
    return input.logsumexp(-1) - (F.one_hot(actions, input.shape[-1]) * input).sum(-1)


def _curiosity(input: Tensor, target: Tensor, inverse: Tensor, actions: Tensor, beta: float) -> Tensor:
    return beta * _distance(input, target) / 2 + (1 - beta) * _action(inverse, actions)


VECTORS, BOTH = (3, 4, 5), _pair("input", "target")
CASES = [
    Case(
        "rl.reward_prediction_loss", _pair("input", "rewards"), (3, 4), ("input",), optional=MASKED, magnitude=8.0,
        oracle=lambda input, rewards: (input - rewards) ** 2,
    ),
    Case("rl.next_state_loss", BOTH, VECTORS, ("input",), oracle=_distance, optional=MASKED, magnitude=16.0),
    Case(
        "rl.inverse_dynamics_loss", _inverse, VECTORS, ("input",), indices=("actions",), oracle=_action,
        optional=MASKED, magnitude=8.0,
    ),
    Case(
        "rl.icm_loss", _icm, VECTORS, ("input", "inverse"), indices=("actions",), options={"beta": 0.3},
        oracle=_curiosity, optional=MASKED, magnitude=16.0,
    ),
    Case(
        "rl.rnd_loss", BOTH, VECTORS, ("input",), oracle=lambda input, target: ((input - target) ** 2).mean(-1),
        optional=MASKED, magnitude=8.0,
    ),
]  # fmt: skip
