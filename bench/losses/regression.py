"""Regression losses, with torch's way to each of them: its own loss, or what people write."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..loss import Arguments, Shape
from .elements import loss, normal


def _untied(shape: Shape, dtype: torch.dtype, generator: torch.Generator) -> Arguments:
    """At a tie any slope between both sides is right: torch.maximum takes the middle, fastloss 0."""
    input, target = normal(2)(shape, dtype, generator)
    return input, torch.where(input == target, target + 1, target)


def _quantile(input: Tensor, target: Tensor) -> Tensor:
    error = target - input
    return torch.maximum(0.9 * error, -0.1 * error).mean()


def _log_cosh(input: Tensor, target: Tensor) -> Tensor:
    error = input - target
    return (error + F.softplus(-2.0 * error) - 0.6931471805599453).mean()


LOSSES = (
    loss("mse_loss", "mse_loss", F.mse_loss, normal(2), 2),
    loss("huber_loss", "huber_loss", F.huber_loss, normal(2), 2),
    loss("smooth_l1_loss", "smooth_l1_loss", F.smooth_l1_loss, normal(2), 2),
    loss("log_cosh_loss", "log_cosh_loss", _log_cosh, normal(2), 2),
    loss("quantile_loss", "quantile_loss", _quantile, _untied, 2, tau=0.9),
)
