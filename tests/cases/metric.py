"""The losses over triplets of embeddings; the oracles go anchor by anchor."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from cases.case import Case
from cases.contrastive import MAGNITUDE, SHAPE, embeddings, unit


def _distances(x: Tensor, squared: bool) -> Tensor:
    square = (x[:, None] - x).square().sum(2)
    return square if squared else square.sqrt()


def _batch_hard(embeddings, labels, margin=0.3, soft_margin=False, normalize=False, squared=False):
    d, losses = _distances(unit(embeddings, normalize), squared), []
    for i, label in enumerate(labels):
        same = [j for j, other in enumerate(labels) if other == label and j != i]
        rest = [j for j, other in enumerate(labels) if other != label]
        if not same or not rest:
            losses.append(d.new_zeros(()))
            continue
        x = d[i, same].max() - d[i, rest].min() + margin
        losses.append((1 + x.exp()).log() if soft_margin else x.clamp(min=0))
    return torch.stack(losses)


def _semi_hard(embeddings, labels, margin=1.0, normalize=True, squared=True):
    d, losses = _distances(unit(embeddings, normalize), squared).tolist(), []
    for i, label in enumerate(labels):
        total = 0.0
        rest = [j for j, other in enumerate(labels) if other != label]
        for p in (j for j, other in enumerate(labels) if other == label and j != i and rest):
            beyond = [d[i][j] for j in rest if d[i][j] > d[i][p]]
            total += max(0.0, d[i][p] - min(beyond, default=max(d[i][j] for j in rest)) + margin)
        losses.append(total)
    return embeddings.new_tensor(losses)


def _case(name: str, variant: str, oracle: Any, twice: bool = False, **options: Any) -> Case:
    return Case(
        name, embeddings, SHAPE, ("embeddings",), "similarity", variant, options, indices=("labels",), oracle=oracle,
        magnitude=MAGNITUDE, twice=twice,
        dtypes=(torch.float64,),  # half and single round the distances, which may choose another triplet
    )  # fmt: skip


CASES = [
    _case("batch_hard_triplet_loss", "", _batch_hard, margin=1.0),
    _case(
        "batch_hard_triplet_loss", "soft", _batch_hard, True, soft_margin=True, margin=0.0, normalize=True,
        squared=True,
    ),
    _case("semi_hard_triplet_loss", "", _semi_hard),
    _case("semi_hard_triplet_loss", "distance", _semi_hard, squared=False, normalize=False),
]  # fmt: skip
