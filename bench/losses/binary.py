"""Losses of binary labels, with torch's way to each of them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..loss import Arguments, Shape
from .elements import loss, normal


def _with_labels(shape: Shape, dtype: torch.dtype, generator: torch.Generator) -> Arguments:
    labels = torch.rand(shape, generator=generator, device=generator.device) < 0.25
    return *normal(1)(shape, dtype, generator), labels.to(dtype)


def _focal(inputs: Tensor, targets: Tensor) -> Tensor:
    """As the paper and torchvision write it."""
    p = torch.sigmoid(inputs)
    ce = F.binary_cross_entropy_with_logits(inputs, targets, reduction="none")
    p_t = p * targets + (1 - p) * (1 - targets)
    alpha_t = 0.25 * targets + 0.75 * (1 - targets)
    return (alpha_t * ce * (1 - p_t) ** 2).mean()


LOSSES = (
    loss("bce_with_logits", "binary_cross_entropy_with_logits", F.binary_cross_entropy_with_logits, _with_labels, 2),
    loss("sigmoid_focal_loss", "sigmoid_focal_loss", _focal, _with_labels, 2, reduction="mean"),
)
