"""Contrastive losses, with torch's way to each of them: the matrix of all similarities."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..loss import Arguments, Shape
from .vectors import labelled, loss, two


def _views(shape: Shape, dtype: torch.dtype, generator: torch.Generator) -> Arguments:
    """Of shape[0] vectors altogether."""
    return two((shape[0] // 2, shape[1]), dtype, generator)


def _info_nce(query: Tensor, key: Tensor) -> Tensor:
    similarities = F.normalize(query) @ F.normalize(key).t() / 0.1
    return F.cross_entropy(similarities, torch.arange(len(query), device=query.device))


def _nt_xent(z1: Tensor, z2: Tensor) -> Tensor:
    z = F.normalize(torch.cat([z1, z2]))
    similarities = z @ z.t() / 0.5
    similarities = similarities.masked_fill(torch.eye(len(z), dtype=torch.bool, device=z.device), float("-inf"))
    return F.cross_entropy(similarities, torch.arange(len(z), device=z.device).roll(len(z1)))


def _clip(image: Tensor, text: Tensor) -> Tensor:
    logits = F.normalize(image) @ F.normalize(text).t() / 0.07
    target = torch.arange(len(image), device=image.device)
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.t(), target)) / 2


def _siglip(image: Tensor, text: Tensor) -> Tensor:
    logits = 10.0 * (F.normalize(image) @ F.normalize(text).t()) - 10.0
    return -F.logsigmoid((2 * torch.eye(len(image), device=image.device) - 1) * logits).sum(1).mean()


def _supcon(embeddings: Tensor, labels: Tensor) -> Tensor:
    """As the authors' code."""
    z = F.normalize(embeddings)
    others = ~torch.eye(len(z), dtype=torch.bool, device=z.device)
    positive = (labels[:, None] == labels) & others
    logits = z @ z.t() / 0.1
    logits = logits - logits.max(1, keepdim=True).values.detach()
    log_probability = logits - (logits.exp() * others).sum(1, keepdim=True).log()
    count = positive.sum(1)
    return (-(positive * log_probability).sum(1) / count.clamp(min=1)).sum() / (count > 0).sum()


LOSSES = (
    loss("info_nce", "info_nce", _info_nce, two, (8192, 256), (32768, 256)),
    loss("nt_xent", "nt_xent", _nt_xent, _views, (8192, 256), (32768, 256)),
    loss("clip_loss", "clip_loss", _clip, two, (4096, 512), (32768, 512)),
    loss("siglip_loss", "siglip_loss", _siglip, two, (4096, 512), (32768, 512)),
    loss("supcon_loss", "supcon_loss", _supcon, labelled, (4096, 128), (32768, 128)),
)
