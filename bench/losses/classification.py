"""Losses over rows of logits, with torch's way to each of them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..loss import Arguments, Loss, Shape


def _logits(shape: Shape, dtype: torch.dtype, generator: torch.Generator) -> Tensor:
    return torch.randn(shape, generator=generator, device=generator.device, dtype=dtype)


def _logits_and_index(shape: Shape, dtype: torch.dtype, generator: torch.Generator) -> Arguments:
    """(rows, C), (rows,), or (N, C, D), (N, D)"""
    target = torch.randint(shape[1], shape[:1] + shape[2:], generator=generator, device=generator.device)
    return _logits(shape, dtype, generator), target


def _logits_and_probabilities(shape: Shape, dtype: torch.dtype, generator: torch.Generator) -> Arguments:
    """(rows, C), (rows, C)"""
    target = torch.softmax(_logits(shape, dtype, generator), dim=1)
    return _logits(shape, dtype, generator), target


def _cross_entropy_z_loss(logits: Tensor, target: Tensor) -> Tensor:
    return F.cross_entropy(logits, target) + 1e-4 * torch.logsumexp(logits, dim=1).square().mean()


def _softmax_focal(logits: Tensor, target: Tensor) -> Tensor:
    """The quickest of the usual ways: the modulating factor on the picked log-probabilities, not on all."""
    log_p = F.log_softmax(logits, dim=1).gather(1, target[:, None]).squeeze(1)
    return ((1 - log_p.exp()) ** 2 * -log_p).mean()


def _linear(shape: Shape, dtype: torch.dtype, generator: torch.Generator) -> Arguments:
    """(N, H), (C, H), (N,) of a shape (N, H, C)"""
    rows, features, classes = shape
    target = torch.randint(classes, (rows,), generator=generator, device=generator.device)
    weight = _logits((classes, features), dtype, generator) / features**0.5
    return _logits((rows, features), dtype, generator), weight, target


def _linear_cross_entropy(input: Tensor, weight: Tensor, target: Tensor) -> Tensor:
    return F.cross_entropy(F.linear(input, weight), target)


LOSSES = (
    Loss(
        "cross_entropy",
        "cross_entropy",
        F.cross_entropy,
        _logits_and_index,
        # A language model's vocabulary, the largest one in use, many rows of less, ImageNet, small classifiers with
        # many rows, pixels (classes that do not lie side by side), batches of classifiers, and a call so small that
        # nothing but its overhead counts.
        shapes=(
            (1024, 32000),
            (512, 128256),
            (8192, 4096),
            (4096, 1000),
            (65536, 100),
            (262144, 20),
            (65536, 10),
            (65536, 2),
            (8, 21, 65536),
            (1024, 10),
            (128, 1000),
            (8, 16),
        ),
        # 4 to 40 times the L2 of an H100 (50 MB): two vocabularies, two lengths between, ImageNet, a small classifier,
        # pixels (classes that do not lie side by side). Last, overhead.
        cuda_shapes=(
            (4096, 128256),
            (8192, 32000),
            (32768, 8192),
            (65536, 4096),
            (131072, 1000),
            (1048576, 100),
            (16, 1000, 8192),
            (8, 16),
        ),
    ),
    Loss(
        "cross_entropy+smoothing",
        "cross_entropy",
        lambda logits, target: F.cross_entropy(logits, target, label_smoothing=0.1),
        _logits_and_index,
        shapes=((1024, 32000), (65536, 100)),
        cuda_shapes=((8192, 32000),),
        options={"label_smoothing": 0.1},
    ),
    Loss(
        "cross_entropy+z_loss",
        "cross_entropy",
        _cross_entropy_z_loss,
        _logits_and_index,
        shapes=((1024, 32000), (65536, 100)),
        cuda_shapes=((8192, 32000),),
        options={"z_loss": 1e-4},
    ),
    Loss(
        "softmax_focal_loss",
        "softmax_focal_loss",
        _softmax_focal,
        _logits_and_index,
        shapes=((1024, 32000), (65536, 100)),
        cuda_shapes=((8192, 32000),),
    ),
    Loss(
        "cross_entropy+soft_target",
        "cross_entropy",
        F.cross_entropy,
        _logits_and_probabilities,
        shapes=((1024, 32000), (65536, 100)),
        cuda_shapes=((8192, 32000),),
        streams=2,
    ),
    Loss(
        "linear_cross_entropy",
        "linear_cross_entropy",
        _linear_cross_entropy,
        _linear,
        # N, H, C: bound by three matrix products, so that "of copy" says little here
        shapes=((4096, 512, 32000),),
        cuda_shapes=((4096, 4096, 128256),),
        differentiated=2,
        size=lambda shape: (shape[0] + shape[2]) * shape[1],
        cold=False,
    ),
)
