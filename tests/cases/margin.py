"""Margins of the target: at its angle, or of its logit."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from cases.case import MASKED, Arguments, Case, Shape, normal, over_counted

SHAPE = (9, 13)  # embeddings, features
CLASSES = 17


def _made(generator: torch.Generator, shape: Shape) -> Arguments:
    target = torch.randint(CLASSES, shape[:1], generator=generator)
    target[1::4] = -100
    return {
        "embeddings": normal(generator, *shape),
        "weight": normal(generator, CLASSES, shape[1]),
        "target": target,
    }


def _sub_centres(generator: torch.Generator, shape: Shape) -> Arguments:
    return {**_made(generator, shape), "weight": normal(generator, CLASSES, 2, shape[1])}


def _oracle(embeddings, weight, target, reduction, s=64.0, m1=1.0, m2=0.0, m3=0.0, beyond="linear"):
    """By angles of all pairs, a loop over rows."""
    if weight.dim() == 3:
        cosines = torch.stack([F.cosine_similarity(embeddings[:, None], w[None], dim=-1) for w in weight.unbind(1)])
        cosines = cosines.amax(0)
    else:
        cosines = F.cosine_similarity(embeddings[:, None], weight[None], dim=-1)
    losses = []
    for row, y in zip(cosines, target.tolist(), strict=True):
        if y == -100:
            losses.append(row.new_zeros(()))
            continue
        angle = m1 * row[y].acos() + m2
        own = torch.cos(angle) - m3
        if beyond == "linear" and angle > math.pi:
            own = row[y] - m2 * math.sin(m2) - m3
        others = torch.cat([row[:y], row[y + 1 :]])
        losses.append(-(s * own) + torch.logsumexp(torch.cat([s * own[None], s * others]), 0))
    return over_counted(torch.stack(losses), target, reduction)


def _of(**named: str):
    def oracle(embeddings: Tensor, weight: Tensor, target: Tensor, reduction: str, **options: float) -> Tensor:
        options = {named.get(name, name): x for name, x in options.items()}
        return _oracle(embeddings, weight, target, reduction, **options)

    return oracle


def _logits(generator: torch.Generator, shape: Shape) -> Arguments:
    target = torch.randint(shape[1], (shape[0], *shape[2:]), generator=generator)
    return {"input": normal(generator, *shape), "target": target}


def _crammer_singer(input: Tensor, target: Tensor) -> Tensor:
    """By all pairs of the target and another class."""
    rows, labels = input.movedim(1, -1).flatten(0, -2), target.flatten()
    losses = [
        torch.stack([row.new_zeros(()), *(1 + x - row[y] for j, x in enumerate(row) if j != y)]).max()
        for row, y in zip(rows, labels.tolist(), strict=True)
    ]
    return torch.stack(losses).reshape(target.shape)


BOTH = ("embeddings", "weight")
MORE = {"indices": ("target",), "optional": MASKED, "magnitude": 30.0}
CASES = [
    Case("arcface_loss", _made, SHAPE, BOTH, options={"s": 16.0, "m": 0.4}, oracle=_of(m="m2"), **MORE),
    Case("cosface_loss", _made, SHAPE, BOTH, options={"s": 16.0, "m": 0.3}, oracle=_of(m="m3"), **MORE),
    Case("sphereface_loss", _made, SHAPE, BOTH, options={"s": 16.0, "m": 1.4}, oracle=_of(m="m1"), **MORE),
    Case(
        "margin_softmax_loss", _made, SHAPE, BOTH, None, "all margins",
        {"s": 16.0, "m1": 1.2, "m2": 0.9, "m3": 0.2}, oracle=_oracle, **MORE,
    ),
    Case(
        "margin_softmax_loss", _made, SHAPE, BOTH, None, "cosine beyond",
        {"s": 16.0, "m2": 1.5, "beyond": "cosine"}, oracle=_oracle, **MORE,
    ),
    Case(
        "margin_softmax_loss", _sub_centres, SHAPE, BOTH, None, "sub-centres", {"s": 16.0, "m2": 0.4}, oracle=_oracle,
        **MORE,
    ),
    Case(
        "margin_softmax_loss", _made, SHAPE, BOTH, None, "straight through",
        {"s": 16.0, "m2": 0.4, "straight_through": True}, derivative=False, **MORE,
    ),
    Case(
        "crammer_singer_loss", _logits, (4, 5, 2), ("input",), indices=("target",), oracle=_crammer_singer,
        optional=MASKED, magnitude=2.0, twice=False,
    ),
]  # fmt: skip
