"""Ensembles of critics; the oracles go step by step, and over the pairs of quantiles."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from cases.case import MASKED, Arguments, Case, Shape, normal, uniform
from cases.rl.temporal import step_by_step, transitions


def _critics(generator: torch.Generator, shape: Shape) -> Arguments:
    made = {name: normal(generator, *shape) for name in ("q_values", "next_q_values")}
    made["next_logp"] = uniform(generator, -3.0, 0.0, *shape[:-1])
    return {**made, "alpha": uniform(generator, 0.1, 0.5), **transitions(generator, shape[:-1])}


def _distributions(generator: torch.Generator, shape: Shape) -> Arguments:
    *steps, critics, quantiles = shape
    made = {"quantiles": normal(generator, *shape), "next_quantiles": normal(generator, *steps, critics + 1, quantiles)}
    made["next_logp"] = uniform(generator, -3.0, 0.0, *steps)
    return {**made, "alpha": uniform(generator, 0.1, 0.5), **transitions(generator, tuple(steps))}


def _redq(alpha: Any, subset: int, **given: Any) -> Tensor:
    """Of all critics: the choice of some has a test in oracles/."""

    def one(q_values: Tensor, next_q_values: Tensor, next_logp: Tensor) -> tuple[Tensor, Tensor]:
        assert len(next_q_values) == subset
        return q_values, next_q_values.sort().values[0] - alpha * next_logp

    return step_by_step(one)(**given)


def _tqc(quantiles, rewards, next_quantiles, next_logp, terminated, gamma, alpha, drop, kappa) -> Tensor:
    shape, losses = rewards.shape, []
    flat = (x.flatten(0, len(shape) - 1) for x in (quantiles, next_quantiles))
    numbers = (x.flatten() for x in (rewards, next_logp, terminated, gamma))
    for own, others, r, logp, ended, g in zip(*flat, *numbers, strict=True):
        pooled = sorted(others.flatten().tolist())[: others.numel() - drop * len(others)]
        targets = [r + (0.0 if ended else g * (z - alpha * logp)) for z in pooled]
        loss = torch.zeros((), dtype=torch.float64)
        for critic in own:
            pairs = []
            for i, theta in enumerate(critic):
                for y in targets:
                    u = y - theta
                    huber = u**2 / 2 if u.abs() <= kappa else kappa * (u.abs() - kappa / 2)
                    pairs.append(((i + 0.5) / len(critic) - (1.0 if u < 0 else 0.0)).__abs__() * huber)
            loss = loss + sum(pairs) / len(pairs)
        losses.append(loss)
    return torch.stack(losses).reshape(shape)


CASES = [
    Case(
        "rl.redq_critic_loss", _critics, (3, 4, 3), ("q_values",), options={"subset": 3}, oracle=_redq, optional=MASKED,
        magnitude=16.0,
    ),
    Case(
        "rl.tqc_critic_loss", _distributions, (3, 4, 2, 5), ("quantiles",), options={"drop": 2, "kappa": 0.8},
        oracle=_tqc, optional=MASKED, magnitude=8.0, twice=False,
    ),
]  # fmt: skip
