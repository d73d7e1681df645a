"""Triplet losses, with torch's way to them: the matrix of all distances."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .vectors import labelled, loss


def _batch_hard(embeddings: Tensor, labels: Tensor) -> Tensor:
    distances = torch.cdist(embeddings, embeddings)
    same = labels[:, None] == labels
    farthest = distances.masked_fill(~same, float("-inf")).amax(1)
    nearest = distances.masked_fill(same, float("inf")).amin(1)
    return F.relu(farthest - nearest + 0.3).mean()


LOSSES = (loss("batch_hard_triplet", "batch_hard_triplet_loss", _batch_hard, labelled, (4096, 128), (16384, 128)),)
