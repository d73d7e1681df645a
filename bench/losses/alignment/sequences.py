"""Preference losses from logits and hidden states, as people write them with torch."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ...loss import Arguments, Loss, Shape


def _reference(pairs: int, generator: torch.Generator) -> Arguments:
    chosen, rejected = (torch.randn(pairs, generator=generator, device=generator.device) for _ in range(2))
    return chosen, rejected


def _labels(shape: Shape, classes: int, generator: torch.Generator) -> Tensor:
    return torch.randint(classes, shape, generator=generator, device=generator.device)


def _logits(shape: Shape, dtype: torch.dtype, generator: torch.Generator) -> Arguments:
    """(2 B, T, C), (2 B, T), (B,), (B,)"""
    logits = torch.randn(shape, generator=generator, device=generator.device, dtype=dtype)
    return logits, _labels(shape[:2], shape[2], generator), *_reference(shape[0] // 2, generator)


def _hidden(shape: Shape, dtype: torch.dtype, generator: torch.Generator) -> Arguments:
    """(2 B, T, H), (C, H), (2 B, T), (B,), (B,) of a shape (2 B, T, H, C)"""
    sequences, tokens, features, classes = shape
    hidden, weight = (
        torch.randn(size, generator=generator, device=generator.device, dtype=dtype)
        for size in ((sequences, tokens, features), (classes, features))
    )
    labels = _labels((sequences, tokens), classes, generator)
    return hidden, weight / features**0.5, labels, *_reference(sequences // 2, generator)


def _dpo(logits: Tensor, labels: Tensor, reference_chosen: Tensor, reference_rejected: Tensor) -> Tensor:
    logps = F.log_softmax(logits, -1).gather(-1, labels[..., None])[..., 0].sum(-1)
    chosen, rejected = logps.chunk(2)
    return -F.logsigmoid(0.1 * ((chosen - rejected) - (reference_chosen - reference_rejected))).mean()


def _linear_dpo(hidden: Tensor, weight: Tensor, labels: Tensor, *reference: Tensor) -> Tensor:
    return _dpo(F.linear(hidden, weight), labels, *reference)


LOSSES = (
    Loss(
        "dpo_loss_from_logits",
        "alignment.dpo_loss_from_logits",
        _dpo,
        _logits,
        shapes=((8, 128, 32000),),
        cuda_shapes=((16, 512, 32000),),
    ),
    Loss(
        "linear_dpo_loss",
        "alignment.linear_dpo_loss",
        _linear_dpo,
        _hidden,
        shapes=((8, 512, 512, 32000),),
        cuda_shapes=((8, 512, 4096, 128256),),
        differentiated=2,
        size=lambda shape: (shape[0] * shape[1] + shape[3]) * shape[2],
        cold=False,
    ),
)
