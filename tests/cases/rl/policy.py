"""The losses of policies.

Losses of both signs have a mean far from 0, also with one operand made a row or a number: what cancels has no digits.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from cases.case import MASKED, Arguments, Build, Case, Shape, normal
from cases.rl.value import clipped_value_loss, value_triple

SHAPE = (7, 37)
TOKENS = ("none", "token-mean", "token-sum")
SEQUENCES = (*TOKENS, "seq-mean-token-sum", "seq-mean-token-mean", "seq-mean-token-sum-norm")


def log_probabilities(generator: torch.Generator, shape: Shape) -> Tensor:
    return -0.05 - 3 * torch.rand(shape, generator=generator, dtype=torch.float64)


def _policy(generator: torch.Generator, shape: Shape) -> Arguments:
    logp = log_probabilities(generator, shape)
    old_logp = logp + normal(generator, *shape, scale=0.4)
    return {"logp": logp, "old_logp": old_logp, "advantages": normal(generator, *shape, shift=-1.5)}


def _actor_critic(generator: torch.Generator, shape: Shape) -> Arguments:
    entropy = normal(generator, *shape, shift=1.0, scale=0.1)
    return {**_policy(generator, shape), **value_triple(generator, shape), "entropy": entropy}


def _unclipped_values(generator: torch.Generator, shape: Shape) -> Arguments:
    values, returns = normal(generator, *shape), normal(generator, *shape)
    return {**_policy(generator, shape), "values": values, "returns": returns}


def _ppo_clip(
    logp: Tensor,
    old_logp: Tensor,
    advantages: Tensor,
    clip: float = 0.2,
    clip_high: float | None = None,
    dual_clip: float | None = None,
    log_ratio_clamp: float = 20.0,
) -> Tensor:
    """The paper's objective, to be maximised; then its negative."""
    ratio = (logp - old_logp).clamp(-log_ratio_clamp, log_ratio_clamp).exp()
    bounded = ratio.clamp(1 - clip, 1 + (clip if clip_high is None else clip_high))
    objective = torch.minimum(ratio * advantages, bounded * advantages)
    if dual_clip is not None:
        objective = torch.where(advantages < 0, torch.maximum(objective, dual_clip * advantages), objective)
    return -objective


def _ppo(
    values: Tensor,
    returns: Tensor,
    entropy: Tensor | float = 0.0,
    old_values: Tensor | None = None,
    value_coefficient: float = 0.5,
    entropy_coefficient: float = 0.0,
    value_clip: float = 0.2,
    **policy: Any,
) -> Tensor:
    clip = math.inf if old_values is None else value_clip
    value_loss = clipped_value_loss(values, values if old_values is None else old_values, returns, clip)
    return _ppo_clip(**policy) + value_coefficient * value_loss - entropy_coefficient * entropy


def _clip_case(variant: str = "", reductions: tuple[str, ...] = TOKENS, **options: Any) -> Case:
    return Case(
        "rl.ppo_clip_loss", _policy, SHAPE, ("logp",), "pointwise", variant, options, oracle=_ppo_clip,
        optional=MASKED, reductions=reductions,
    )  # fmt: skip


def _ppo_case(variant: str, build: Build, differentiable: tuple[str, ...], **options: Any) -> Case:
    return Case(
        "rl.ppo_loss", build, SHAPE, differentiable, "pointwise", variant, options, oracle=_ppo, optional=MASKED,
        reductions=TOKENS, twice=False,
    )  # fmt: skip


CASES = [
    _clip_case(reductions=SEQUENCES),
    _clip_case("asymmetric", clip=0.1, clip_high=0.4),
    _clip_case("dual clip", dual_clip=1.3),
    _clip_case("clamped ratio", log_ratio_clamp=0.3),
    _ppo_case(
        "", _actor_critic, ("logp", "values", "entropy"), value_coefficient=0.7, entropy_coefficient=0.01,
        clip_high=0.3, dual_clip=2.0, value_clip=0.4,
    ),
    _ppo_case("plain", _unclipped_values, ("logp", "values")),
]  # fmt: skip
