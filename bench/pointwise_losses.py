"""Losses that take each element alone, with torch's way to each of them: its own loss, or what people write."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from .loss import Arguments, Loss, Shape

# 64 MB a tensor in float32, larger than the caches; 4 MB, inside them; a call so small that only its overhead counts.
SHAPES = ((2048, 8192), (1024, 1024), (64, 64))
CUDA_SHAPES = ((8192, 8192), (1024, 1024), (64, 64))


def _normal(streams: int) -> Callable[[Shape, torch.dtype, torch.Generator], Arguments]:
    def make(shape: Shape, dtype: torch.dtype, generator: torch.Generator) -> Arguments:
        return tuple(
            torch.randn(shape, generator=generator, device=generator.device, dtype=dtype) for _ in range(streams)
        )

    return make


def _with_labels(shape: Shape, dtype: torch.dtype, generator: torch.Generator) -> Arguments:
    labels = torch.rand(shape, generator=generator, device=generator.device) < 0.25
    return *_normal(1)(shape, dtype, generator), labels.to(dtype)


def _log_probs(shape: Shape, dtype: torch.dtype, generator: torch.Generator) -> Arguments:
    logp, noise, advantages = _normal(3)(shape, dtype, generator)
    return logp - 2, logp - 2 + 0.2 * noise, advantages


def _untied(shape: Shape, dtype: torch.dtype, generator: torch.Generator) -> Arguments:
    """At a tie any slope between both sides is right: torch.maximum takes the middle, fastloss 0."""
    input, target = _normal(2)(shape, dtype, generator)
    return input, torch.where(input == target, target + 1, target)


def _quantile(input: Tensor, target: Tensor) -> Tensor:
    error = target - input
    return torch.maximum(0.9 * error, -0.1 * error).mean()


def _focal(inputs: Tensor, targets: Tensor) -> Tensor:
    """As the paper and torchvision write it."""
    p = torch.sigmoid(inputs)
    ce = F.binary_cross_entropy_with_logits(inputs, targets, reduction="none")
    p_t = p * targets + (1 - p) * (1 - targets)
    alpha_t = 0.25 * targets + 0.75 * (1 - targets)
    return (alpha_t * ce * (1 - p_t) ** 2).mean()


def _ppo_clip(logp: Tensor, old_logp: Tensor, advantages: Tensor) -> Tensor:
    ratio = torch.exp(logp - old_logp)
    return -torch.minimum(ratio * advantages, torch.clamp(ratio, 0.8, 1.2) * advantages).mean()


def _log_cosh(input: Tensor, target: Tensor) -> Tensor:
    error = input - target
    return (error + F.softplus(-2.0 * error) - 0.6931471805599453).mean()


def _dpo(chosen: Tensor, rejected: Tensor, reference_chosen: Tensor, reference_rejected: Tensor) -> Tensor:
    return -F.logsigmoid(0.1 * ((chosen - rejected) - (reference_chosen - reference_rejected))).mean()


def _loss(name: str, function: str, torch_function: Callable[..., Tensor], make: Callable[..., Arguments], streams: int,
          **options: float | str) -> Loss:  # fmt: skip
    return Loss(name, function, torch_function, make, SHAPES, CUDA_SHAPES, options, streams)


LOSSES = (
    _loss("mse_loss", "mse_loss", F.mse_loss, _normal(2), 2),
    _loss("huber_loss", "huber_loss", F.huber_loss, _normal(2), 2),
    _loss("smooth_l1_loss", "smooth_l1_loss", F.smooth_l1_loss, _normal(2), 2),
    _loss("log_cosh_loss", "log_cosh_loss", _log_cosh, _normal(2), 2),
    _loss("quantile_loss", "quantile_loss", _quantile, _untied, 2, tau=0.9),
    _loss("bce_with_logits", "binary_cross_entropy_with_logits", F.binary_cross_entropy_with_logits, _with_labels, 2),
    _loss("sigmoid_focal_loss", "sigmoid_focal_loss", _focal, _with_labels, 2, reduction="mean"),
    _loss("ppo_clip_loss", "rl.ppo_clip_loss", _ppo_clip, _log_probs, 3),
    _loss("dpo_loss", "alignment.dpo_loss", _dpo, _normal(4), 4),
)
