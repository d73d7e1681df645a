"""Distillation of policies; the oracles are torch.distributions'."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions import Categorical, Normal, kl_divergence

from cases.case import MASKED, Arguments, Case, Shape, normal


def _logits(generator: torch.Generator, shape: Shape) -> Arguments:
    return {name: normal(generator, *shape) for name in ("logits", "teacher_logits")}


def _gaussians(generator: torch.Generator, shape: Shape) -> Arguments:
    made = {name: normal(generator, *shape) for name in ("mean", "teacher_mean")}
    return {**made, **{name: normal(generator, *shape, scale=0.3) for name in ("log_std", "teacher_log_std")}}


def _divergence(student, teacher, reverse: bool) -> Tensor:
    return kl_divergence(student, teacher) if reverse else kl_divergence(teacher, student)


def _categorical(logits: Tensor, teacher_logits: Tensor, temperature: float, reverse: bool = False) -> Tensor:
    return _divergence(Categorical(logits=logits), Categorical(logits=teacher_logits / temperature), reverse)


def _gaussian(mean, log_std, teacher_mean, teacher_log_std, reverse: bool = False) -> Tensor:
    pair = Normal(mean, log_std.exp()), Normal(teacher_mean, teacher_log_std.exp())
    return _divergence(*pair, reverse).sum(-1)


CASES = [
    *(
        Case(
            "rl.policy_distillation_loss", _logits, (3, 4, 5), ("logits",), None, variant,
            {"temperature": 0.7, **options}, oracle=_categorical, optional=MASKED, magnitude=8.0,
        )
        for variant, options in (("", {}), ("reverse", {"reverse": True}))
    ),
    *(
        Case(
            "rl.gaussian_policy_distillation_loss", _gaussians, (3, 4, 2), ("mean", "log_std"), None, variant, options,
            oracle=_gaussian, optional=MASKED, magnitude=64.0,
        )
        for variant, options in (("", {}), ("reverse", {"reverse": True}))
    ),
]  # fmt: skip
