"""Losses over all pairs of a batch, with torch's way to each of them: the matrix of all similarities.

The shape is that of the first argument, by which the loss is differentiated; what does not require a gradient costs no
provider one. `%` of a copy means nothing here: these losses are bound by matrix products.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from .loss import Arguments, Loss, Shape

CLASSES = 64


def _two(shape: Shape, dtype: torch.dtype, generator: torch.Generator) -> Arguments:
    a, b = (torch.randn(shape, generator=generator, device=generator.device, dtype=dtype) for _ in range(2))
    return a, a + b


def _views(shape: Shape, dtype: torch.dtype, generator: torch.Generator) -> Arguments:
    """Of shape[0] vectors altogether."""
    return _two((shape[0] // 2, shape[1]), dtype, generator)


def _labelled(shape: Shape, dtype: torch.dtype, generator: torch.Generator) -> Arguments:
    labels = torch.randint(CLASSES, shape[:1], generator=generator, device=generator.device)
    return _two(shape, dtype, generator)[0], labels


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


def _batch_hard(embeddings: Tensor, labels: Tensor) -> Tensor:
    distances = torch.cdist(embeddings, embeddings)
    same = labels[:, None] == labels
    farthest = distances.masked_fill(~same, float("-inf")).amax(1)
    nearest = distances.masked_fill(same, float("inf")).amin(1)
    return F.relu(farthest - nearest + 0.3).mean()


def _loss(name: str, function: str, torch_function: Callable[..., Tensor], make: Callable[..., Arguments], shape: Shape,
          cuda_shape: Shape, **options: float | str) -> Loss:  # fmt: skip
    return Loss(name, function, torch_function, make, (shape,), (cuda_shape,), options, 2, cold=False)


LOSSES = (
    _loss("info_nce", "info_nce", _info_nce, _two, (8192, 256), (32768, 256)),
    _loss("nt_xent", "nt_xent", _nt_xent, _views, (8192, 256), (32768, 256)),
    _loss("clip_loss", "clip_loss", _clip, _two, (4096, 512), (32768, 512)),
    _loss("siglip_loss", "siglip_loss", _siglip, _two, (4096, 512), (32768, 512)),
    _loss("supcon_loss", "supcon_loss", _supcon, _labelled, (4096, 128), (32768, 128)),
    _loss("batch_hard_triplet", "batch_hard_triplet_loss", _batch_hard, _labelled, (4096, 128), (16384, 128)),
)
