"""Policies from what others did. Means are far from 0: what cancels has no digits."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from cases.case import MASKED, Arguments, Case, Shape, normal, uniform


def _data(generator: torch.Generator, shape: Shape) -> Arguments:
    return {"logp": uniform(generator, -3.0, -0.1, *shape), "advantages": normal(generator, *shape, scale=2.0)}


def _critics(generator: torch.Generator, shape: Shape) -> Arguments:
    made = {"logp": uniform(generator, -3.0, -0.1, *shape[:-1]), "values": normal(generator, *shape[:-1])}
    return {**made, "q_values": normal(generator, *shape, shift=0.5)}


def _trajectories(generator: torch.Generator, shape: Shape) -> Arguments:
    made = {name: uniform(generator, -2.0, -0.1, *shape) for name in ("logp", "old_logp")}
    made |= {name: normal(generator, *shape) for name in ("rewards", "values", "next_values")}
    made |= {name: torch.rand(shape, generator=generator) < 0.2 for name in ("terminated", "truncated")}
    return {**made, "entropy": uniform(generator, 0.5, 2.0, *shape)}


def _packed(generator: torch.Generator, shape: Shape) -> Arguments:
    rates = {name: uniform(generator, 0.7, 1.0, *shape) for name in ("gamma", "lambda_")}
    return {**_trajectories(generator, shape), **rates, "cu_seqlens": torch.tensor([0, shape[0] // 3, shape[0]])}


def _awr(logp: Tensor, advantages: Tensor, temperature: float, weight_clip: float) -> Tensor:
    weights = [min(math.exp(a / temperature), weight_clip) for a in advantages.flatten().tolist()]
    return -logp * torch.tensor(weights, dtype=logp.dtype).reshape(logp.shape)


def _awac(logp, q_values, values, temperature, weight_clip, normalize=False) -> Tensor:
    weights = ((q_values.min(-1).values - values) / temperature).exp()
    if normalize:
        weights = weights / weights.mean()
    return -logp * torch.where(weights > weight_clip, weight_clip, weights)


def _corrected(logp, old_logp, rewards, values, next_values, terminated, truncated, gamma, lambda_, rho_bar, c_bar,
               pg_rho_bar, cu_seqlens=None):  # fmt: skip
    """(targets, advantages) of (T, B) by the sum over the steps that follow, each with the product of its traces."""
    time, batch = rewards.shape
    gamma, lambda_ = (torch.as_tensor(rate, dtype=rewards.dtype).expand(time, batch) for rate in (gamma, lambda_))
    ratios = (logp - old_logp).exp()
    goes_on = ~(terminated | truncated)
    goes_on[[end - 1 for end in ([time] if cu_seqlens is None else cu_seqlens.tolist()) if end]] = False
    of_next = torch.where(terminated, 0, gamma * next_values)
    advantages, errors = torch.zeros_like(values), torch.zeros_like(values)
    for b in range(batch):
        for t in range(time):
            trace = 1.0
            for k in range(t, time):
                delta = rewards[k, b] + of_next[k, b] - values[k, b]
                errors[t, b] += trace * ratios[k, b].clamp(max=rho_bar) * delta
                trace = trace * gamma[k, b] * lambda_[k, b] * ratios[k, b].clamp(max=c_bar)
                if not goes_on[k, b]:
                    break
        for t in range(time):
            behind = gamma[t, b] * lambda_[t, b] * errors[t + 1, b] if goes_on[t, b] else 0.0
            one_step = rewards[t, b] + of_next[t, b] + behind - values[t, b]
            advantages[t, b] = ratios[t, b].clamp(max=pg_rho_bar) * one_step
    return values + errors, advantages


def _impala(logp, old_logp, rewards, values, next_values, terminated, truncated, entropy, value_coefficient,
            entropy_coefficient, **how) -> Tensor:  # fmt: skip
    constants = (x.detach() for x in (logp, old_logp, rewards, values, next_values))
    targets, advantages = _corrected(*constants, terminated, truncated, **how)
    return -advantages * logp + value_coefficient * (targets - values) ** 2 - entropy_coefficient * entropy


AWAC = {"temperature": 0.8, "weight_clip": 3.0}
IMPALA = {"value_coefficient": 0.7, "entropy_coefficient": 0.1, "rho_bar": 1.3, "c_bar": 0.9, "pg_rho_bar": 1.1}
CASES = [
    Case(
        "rl.awr_loss", _data, (3, 4), ("logp",), options={"temperature": 0.7, "weight_clip": 5.0}, oracle=_awr,
        optional=MASKED, magnitude=8.0, twice=False,
    ),
    Case(
        "rl.awac_loss", _critics, (3, 4, 2), ("logp",), options=AWAC, oracle=_awac, optional=MASKED, magnitude=8.0,
        twice=False,
    ),
    # whose weights are of the whole batch
    Case(
        "rl.awac_loss", _critics, (3, 4, 2), ("logp",), None, "normalize", {**AWAC, "normalize": True}, oracle=_awac,
        optional=MASKED, magnitude=8.0, twice=False, batched=False,
    ),
    # no derivative of its value, whose targets and ratios are constants
    *(
        Case(
            "rl.impala_loss", build, (7, 5), ("logp", "values", "entropy"), None, variant, {**IMPALA, **rates},
            oracle=_impala, optional=MASKED, magnitude=16.0, derivative=False, twice=False, batched=False,
        )
        for variant, build, rates in (("", _trajectories, {"gamma": 0.9, "lambda_": 0.95}), ("packed", _packed, {}))
    ),
]  # fmt: skip
