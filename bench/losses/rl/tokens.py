"""Policy losses from logits and hidden states, as people write them with torch."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ...loss import Arguments, Loss, Shape


def _logits(shape: Shape, dtype: torch.dtype, generator: torch.Generator) -> Arguments:
    """(B, T, C), (B, T) three times"""
    device = generator.device
    logits = torch.randn(shape, generator=generator, device=device, dtype=dtype)
    index = torch.randint(shape[2], shape[:2], generator=generator, device=device)
    old_logp, advantages = (torch.randn(shape[:2], generator=generator, device=device) for _ in range(2))
    return logits, index, 0.1 * old_logp - 10.5, advantages


def _hidden(shape: Shape, dtype: torch.dtype, generator: torch.Generator) -> Arguments:
    """(B, T, H), (C, H), (B, T) three times, of a shape (B, T, H, C)"""
    *tokens, features, classes = shape
    hidden, weight = (
        torch.randn(size, generator=generator, device=generator.device, dtype=dtype)
        for size in ((*tokens, features), (classes, features))
    )
    _, *rest = _logits((*tokens, classes), dtype, generator)
    return hidden, weight / features**0.5, *rest


def _ppo_clip(logits: Tensor, index: Tensor, old_logp: Tensor, advantages: Tensor) -> Tensor:
    logp = F.log_softmax(logits, -1).gather(-1, index[..., None])[..., 0]
    ratio = torch.exp(logp - old_logp)
    return -torch.minimum(ratio * advantages, torch.clamp(ratio, 0.8, 1.2) * advantages).mean()


def _linear_grpo(hidden: Tensor, weight: Tensor, *rest: Tensor) -> Tensor:
    return _ppo_clip(F.linear(hidden, weight), *rest)  # the sequences are equally long


LOSSES = (
    Loss(
        "ppo_clip_loss_from_logits",
        "rl.ppo_clip_loss_from_logits",
        _ppo_clip,
        _logits,
        shapes=((8, 128, 32000),),
        cuda_shapes=((16, 512, 32000),),
    ),
    Loss(
        "linear_grpo_loss",
        "alignment.linear_grpo_loss",
        _linear_grpo,
        _hidden,
        shapes=((8, 512, 512, 32000),),
        cuda_shapes=((8, 512, 4096, 128256),),
        differentiated=2,
        size=lambda shape: (shape[0] * shape[1] + shape[3]) * shape[2],
        cold=False,
    ),
)
