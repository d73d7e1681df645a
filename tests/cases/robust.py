"""Cross-entropies with other tails; the tempered softmax is normalised by bisection."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from cases.case import MASKED, Arguments, Case, Shape, normal


def _labeled(generator: torch.Generator, shape: Shape) -> Arguments:
    target = torch.randint(shape[1], (shape[0], *shape[2:]), generator=generator)
    return {"input": normal(generator, *shape), "target": target}


def _poly1(input, target, epsilon=1.0) -> Tensor:
    p = torch.softmax(input, 1).gather(1, target.unsqueeze(1)).squeeze(1)
    return -p.log() + epsilon * (1 - p)


def _log_t(x: Tensor, t: float) -> Tensor:
    return x.log() if t == 1 else (x ** (1 - t) - 1) / (1 - t)


def _tempered_softmax(a: Tensor, t: float) -> Tensor:
    if t == 1:
        return torch.softmax(a, 0)
    values = a.detach().tolist()

    def total(shift: float) -> float:
        return math.fsum((1 + (t - 1) * (shift - x)) ** (-1 / (t - 1)) for x in values)

    low, high = max(values), max(values) + len(values) ** (t - 1) / (t - 1)
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if total(middle) > 1 else (low, middle)
    shift = torch.tensor((low + high) / 2, dtype=a.dtype)
    p = (1 + (t - 1) * (shift - a)) ** (-1 / (t - 1))
    # the derivative of the implicit function, as one step of Newton's method
    shift = shift + (p.sum() - 1) / (p.detach() ** t).sum()
    return (1 + (t - 1) * (shift - a)) ** (-1 / (t - 1))


def _bi_tempered(input, target, t1=0.8, t2=1.2, label_smoothing=0.0) -> Tensor:
    rows = input.movedim(1, -1).reshape(-1, input.shape[1])
    losses = []
    for a, label in zip(rows, target.reshape(-1), strict=True):
        p = _tempered_softmax(a, t2)
        y = torch.full_like(a, label_smoothing / len(a))
        y[label] += 1 - label_smoothing
        own = torch.where(y > 0, y * (_log_t(y.clamp(min=1e-300), t1) - _log_t(p, t1)), 0)
        losses.append((own - (y ** (2 - t1) - p ** (2 - t1)) / (2 - t1)).sum())
    return torch.stack(losses).reshape(target.shape)


def _case(name: str, oracle, variant: str = "", **options) -> Case:
    return Case(
        name, _labeled, (4, 5, 2), ("input",), variant=variant, options=options, indices=("target",), oracle=oracle,
        optional=MASKED, magnitude=2.0,
    )  # fmt: skip


CASES = [
    _case("poly1_cross_entropy", _poly1),
    _case("poly1_cross_entropy", _poly1, "negative", epsilon=-0.5),
    _case("bi_tempered_loss", _bi_tempered),
    _case("bi_tempered_loss", _bi_tempered, "smoothed", label_smoothing=0.2, t1=0.5, t2=2.0),
    _case("bi_tempered_loss", _bi_tempered, "plain", t1=1.0, t2=1.0, label_smoothing=0.1),
]
