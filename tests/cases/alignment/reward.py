"""The losses of reward models, and the penalty for leaving a reference."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from cases.case import MASKED, Arguments, Build, Case, Shape, normal
from cases.rl.policy import TOKENS, log_probabilities

SHAPE = (7, 37)


def _rewards(generator: torch.Generator, shape: Shape) -> Arguments:
    return {"chosen_rewards": normal(generator, *shape), "rejected_rewards": normal(generator, *shape)}


def _rewards_and_margin(generator: torch.Generator, shape: Shape) -> Arguments:
    return {**_rewards(generator, shape), "margin": normal(generator, *shape[-1:], shift=1.0, scale=0.3)}


def _near_reference(shift: float) -> Build:
    def make(generator: torch.Generator, shape: Shape) -> Arguments:
        ref_logp = log_probabilities(generator, shape)
        return {"logp": ref_logp + normal(generator, *shape, shift=shift, scale=0.5), "ref_logp": ref_logp}

    return make


def _reward_model(
    chosen_rewards: Tensor, rejected_rewards: Tensor, margin: Any = 0.0, center_coefficient: float = 0.0
) -> Tensor:
    ranking = (1 + (rejected_rewards + margin - chosen_rewards).exp()).log()
    return ranking + center_coefficient * (chosen_rewards + rejected_rewards) ** 2


def _kl(logp: Tensor, ref_logp: Tensor, kind: str = "k1", log_ratio_clamp: float = 20.0) -> Tensor:
    d = logp - ref_logp
    bounded = d.clamp(-log_ratio_clamp, log_ratio_clamp)
    return {"k1": d, "k2": d**2 / 2, "k3": (-bounded).exp() - 1 + bounded, "abs": d.abs()}[kind]


def _reward_case(variant: str = "", build: Build = _rewards, **options: Any) -> Case:
    return Case(
        "alignment.reward_model_loss", build, SHAPE, ("chosen_rewards", "rejected_rewards"), "pointwise", variant,
        options, oracle=_reward_model, optional=MASKED,
    )  # fmt: skip


def _kl_case(kind: str, twice: bool, **options: Any) -> Case:
    variant = ", ".join([kind, *(f"{key} {value}" for key, value in options.items())])
    return Case(
        "alignment.kl_penalty", _near_reference(4.0 if kind == "k1" else 0.3), SHAPE, ("logp",), "pointwise", variant,
        {"kind": kind, **options}, oracle=_kl, optional=MASKED, reductions=TOKENS, twice=twice,
    )  # fmt: skip


def _sampled(generator: torch.Generator, shape: Shape) -> Arguments:
    return {**_near_reference(0.3)(generator, shape), "rewards": normal(generator, *shape, shift=2.0)}


CASES = [
    Case(
        "alignment.rlhf_loss",
        _sampled,
        SHAPE,
        ("logp",),
        options={"beta": 0.3},
        optional=MASKED,
        magnitude=8.0,
        oracle=lambda logp, ref_logp, rewards, beta: beta * (logp - ref_logp) - rewards,
        derivative=False,  # the gradient is that of an expectation: see oracles/test_reinforcement.py
    ),
    _reward_case(),
    _reward_case("margin and center", _rewards_and_margin, center_coefficient=0.01),
    _kl_case("k1", twice=False),
    _kl_case("k2", twice=True),
    _kl_case("k3", twice=True),
    _kl_case("k3", twice=True, log_ratio_clamp=0.6),
    _kl_case("abs", twice=False),
]
