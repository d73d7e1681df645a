"""Triplets of an anchor, a positive (same label) and a negative (another label): who is taken, and the references.

The references build the matrix of all distances. The kernels search it block by block for the same indices, or, for
semi-hard triplets, take loss and gradient from each block.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from fastloss.core.elementary import softplus
from fastloss.skeletons.comparisons import reduced


def distance(a: Tensor, b: Tensor, squared: bool) -> Tensor:
    """Euclidean, along the last dimension; at 0, where it has no derivative, the gradient is 0."""
    square = (a - b).square().sum(-1)
    if squared:
        return square
    apart = square > 0
    return torch.where(apart, torch.where(apart, square, 1).sqrt(), 0)


def _same(labels: Tensor) -> tuple[Tensor, Tensor]:
    """(N, N) masks: same label but another vector; another label"""
    same = labels[:, None] == labels
    return same & ~torch.eye(labels.shape[0], dtype=torch.bool, device=labels.device), ~same


def hardest(vectors: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """(farthest with the same label, nearest with another one) of each vector, -1 where there is none."""
    if not len(vectors):  # torch has no maximum of nothing
        return torch.empty_like(labels), torch.empty_like(labels)
    positive, negative = _same(labels)
    square = torch.cdist(vectors.detach(), vectors.detach(), compute_mode="donot_use_mm_for_euclid_dist")
    farthest, far = square.masked_fill(~positive, -math.inf).max(1)
    nearest, near = square.masked_fill(~negative, math.inf).min(1)
    return far.where(farthest != -math.inf, -1), near.where(nearest != math.inf, -1)


class HardestTriplets(NamedTuple):
    """For each anchor, its farthest positive and its nearest negative."""

    vectors: Tensor  # (N, D)
    labels: Tensor  # (N,)
    margin: float
    soft: bool  # softplus instead of the hinge
    squared: bool

    def reference(self, reduction: str) -> Tensor:
        return batch_hard(self, *hardest(self.vectors, self.labels), reduction)


def batch_hard(p: HardestTriplets, positive: Tensor, negative: Tensor, reduction: str) -> Tensor:
    """The loss on triplets that are given by the indices of positives and negatives; -1: no such triplet."""
    x = p.vectors
    counted = (positive >= 0) & (negative >= 0)
    difference = distance(x, x[positive.clamp(min=0)], p.squared) - distance(x, x[negative.clamp(min=0)], p.squared)
    losses = softplus(difference + p.margin) if p.soft else (difference + p.margin).clamp(min=0)
    return reduced(losses.where(counted, 0), counted, reduction)


def semi_hard_losses(vectors: Tensor, labels: Tensor, margin: float, squared: bool) -> Tensor:
    """(N,), the sums over the positives of each anchor."""
    positive, negative = _same(labels)
    d = distance(vectors[:, None], vectors, squared)
    ordered, order = d.detach().masked_fill(~negative, math.inf).sort(1)
    place = torch.searchsorted(ordered, d.detach(), right=True)  # of the first that is farther
    last = negative.sum(1, keepdim=True) - 1
    chosen = order.gather(1, torch.minimum(place, last).clamp(min=0))
    losses = (d - d.gather(1, chosen) + margin).clamp(min=0)
    return losses.where(positive & negative.any(1, keepdim=True), 0).sum(1)


class SemiHardTriplets(NamedTuple):
    """For each anchor and each of its positives, the nearest negative beyond the positive, or else the farthest."""

    vectors: Tensor  # (N, D)
    labels: Tensor  # (N,)
    margin: float
    squared: bool

    def pairs(self) -> Tensor:
        """The number of pairs of an anchor that has negatives with a positive; 0-d."""
        size = self.labels.shape[0]
        ordered = self.labels.sort().values
        first, last = (torch.searchsorted(ordered, self.labels, right=right) for right in (False, True))
        same = last - first
        return (same - 1).where(same < size, 0).sum()

    def reference(self, reduction: str) -> Tensor:
        losses = semi_hard_losses(self.vectors, self.labels, self.margin, self.squared)
        if reduction == "mean":
            return losses.sum() / self.pairs().clamp(min=1)
        return reduced(losses, None, reduction)
