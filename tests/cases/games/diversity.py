"""Distances and volumes of populations."""

from __future__ import annotations

import torch
from torch import Tensor

from cases.case import MASKED, Arguments, Case, Shape, normal


def _behaviours(generator: torch.Generator, shape: Shape) -> Arguments:
    return {"behaviours": normal(generator, *shape)}


def _distances(behaviours) -> Tensor:
    count = behaviours.shape[1]
    pairs = [(i, j) for i in range(count) for j in range(i + 1, count)]
    return torch.stack([-(((behaviours[:, i] - behaviours[:, j]) ** 2).sum(-1) ** 0.5) for i, j in pairs], 1)


def _kernels(generator: torch.Generator, shape: Shape) -> Arguments:
    x = normal(generator, *shape)
    return {"kernel": x @ x.mT / shape[-1] + torch.eye(shape[-1], dtype=torch.float64)}


def _volume(kernel, normalize=False, eps=1e-6) -> Tensor:
    values = torch.linalg.eigvalsh(kernel)
    return ((values + 1).log() * normalize - (values + eps).log()).sum(-1)


CASES = [
    Case(
        "games.pairwise_diversity_loss", _behaviours, (3, 4, 2), ("behaviours",), oracle=_distances, optional=MASKED,
    ),
    Case(
        "games.dpp_loss", _kernels, (3, 4, 4), ("kernel",), oracle=_volume, optional=MASKED, magnitude=4.0,
        options={"normalize": True, "eps": 0.1},
    ),
]  # fmt: skip
