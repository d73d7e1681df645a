"""Losses over all pairs of two rows of quantiles, with torch's way to them: the broadcast difference."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ...loss import Arguments, Loss, Shape


def _quantiles(shape: Shape, dtype: torch.dtype, generator: torch.Generator) -> Arguments:
    """(B, N), (B, N); errors on both sides of kappa"""
    device = generator.device
    source = torch.randn(shape, generator=generator, device=device, dtype=dtype)
    return source, 2 * torch.randn(shape, generator=generator, device=device, dtype=dtype)


def _quantile_huber(quantiles: Tensor, target: Tensor) -> Tensor:
    """As stable-baselines3 writes it, with sum_over_quantiles=True."""
    count = quantiles.shape[-1]
    tau = ((torch.arange(count, device=quantiles.device, dtype=quantiles.dtype) + 0.5) / count).view(1, -1, 1)
    error = target.unsqueeze(-2) - quantiles.unsqueeze(-1)  # (B, N, M)
    size = error.abs()
    huber = torch.where(size > 1, size - 0.5, error**2 * 0.5)
    loss = (tau - (error.detach() < 0).to(error.dtype)).abs() * huber
    return loss.mean(-1).sum(-1).mean()


def _by_row(quantiles: Tensor, target: Tensor) -> Tensor:
    """In the memory of some rows' pairs: 4096 x 200 x 200 pairs in float64 are 1.3 GB a tensor."""
    parts = [checkpoint(_quantile_huber, *rows, use_reentrant=False) * len(rows[0])
             for rows in zip(quantiles.split(256), target.split(256), strict=True)]  # fmt: skip
    return torch.stack(parts).sum() / len(quantiles)


LOSSES = (
    Loss(
        "quantile_huber_loss",
        "rl.quantile_huber_loss",
        _quantile_huber,
        _quantiles,
        # QR-DQN's 200 quantiles in a large batch, its own batch of 32, IQN's 64 samples
        shapes=((4096, 200), (32, 200), (32, 64)),
        cuda_shapes=((4096, 200), (32, 200), (32, 64)),
        streams=2,
        exact_function=_by_row,
        pairs=True,
    ),
)
