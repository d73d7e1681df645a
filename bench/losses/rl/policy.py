"""Policy losses, as people write them with torch."""

from __future__ import annotations

import torch
from torch import Tensor

from ...loss import Arguments, Shape
from ..elements import loss, normal


def _log_probs(shape: Shape, dtype: torch.dtype, generator: torch.Generator) -> Arguments:
    logp, noise, advantages = normal(3)(shape, dtype, generator)
    return logp - 2, logp - 2 + 0.2 * noise, advantages


def _ppo_clip(logp: Tensor, old_logp: Tensor, advantages: Tensor) -> Tensor:
    ratio = torch.exp(logp - old_logp)
    return -torch.minimum(ratio * advantages, torch.clamp(ratio, 0.8, 1.2) * advantages).mean()


LOSSES = (loss("ppo_clip_loss", "rl.ppo_clip_loss", _ppo_clip, _log_probs, 3),)
