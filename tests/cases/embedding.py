"""Metric learning over pairs; the oracles go anchor by anchor, by the papers' sums."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from cases.case import MASKED, Arguments, Case, Shape, normal


def _pairs(generator: torch.Generator, shape: Shape) -> Arguments:
    made = {name: normal(generator, *shape, scale=0.4) for name in ("a", "b")}
    return {**made, "same": torch.randint(2, shape[:1], generator=generator)}


def _two(generator: torch.Generator, shape: Shape) -> Arguments:
    return {name: normal(generator, *shape) for name in ("anchor", "positive")}


def _classes(generator: torch.Generator, shape: Shape) -> Arguments:
    """Three classes, of which the last has one member."""
    labels = torch.arange(shape[0]) % 2
    if shape[0]:
        labels[-1] = 2
    return {"embeddings": normal(generator, *shape), "labels": labels}


def _proxied(generator: torch.Generator, shape: Shape) -> Arguments:
    return {**_classes(generator, shape), "proxies": normal(generator, 4, shape[1])}


def _contrastive(a, b, same, margin=1.0) -> Tensor:
    d = (a - b).norm(dim=1)
    return torch.where(same == 1, d**2, torch.relu(margin - d) ** 2)


def _n_pair(anchor, positive, l2_coefficient=0.0, label_smoothing=0.0) -> Tensor:
    z = anchor @ positive.T
    losses = [(1 + (row - row[i]).exp()[torch.arange(len(z)) != i].sum()).log() for i, row in enumerate(z)]
    size = anchor.pow(2).sum(1).mean() + positive.pow(2).sum(1).mean()
    return torch.stack(losses).mean() + 0.25 * l2_coefficient * size


def _lists(labels):
    """(the others of its class, those of other classes), of each"""
    size = range(len(labels))
    for i in size:
        same = [j for j in size if labels[j] == labels[i] and j != i]
        yield i, same, [j for j in size if labels[j] != labels[i]]


def _lifted(embeddings, labels, margin=1.0, normalize=False) -> Tensor:
    x = F.normalize(embeddings) if normalize else embeddings
    of = {i: (same, rest) for i, same, rest in _lists(labels)}
    losses = []
    for i, (same, _) in of.items():
        for j in same:
            if j > i:
                negatives = [(margin - (x[a] - x[k]).norm()).exp() for a in (i, j) for k in of[a][1]]
                losses.append(torch.relu((x[i] - x[j]).norm() + torch.stack(negatives).sum().log()) ** 2 / 2)
    return torch.stack(losses).mean()


def _multi_similarity(embeddings, labels, alpha=2.0, beta=50.0, base=0.5, mining=None) -> Tensor:
    x = F.normalize(embeddings)
    s, losses = x @ x.T, []
    for i, same, rest in _lists(labels):
        if mining is not None:
            pull = [j for j in same if any(s[i, j] - mining < s[i, k] for k in rest)]
            push = [k for k in rest if any(s[i, k] + mining > s[i, j] for j in same)]
            same, rest = pull, push
        losses.append((1 + (-alpha * (s[i, same] - base)).exp().sum()).log() / alpha
                      + (1 + (beta * (s[i, rest] - base)).exp().sum()).log() / beta)  # fmt: skip
    return torch.stack(losses)


def _circle(embeddings, labels, margin=0.25, scale=256.0) -> Tensor:
    x = F.normalize(embeddings)
    s, losses = x @ x.T, []
    for i, same, rest in _lists(labels):
        if same and rest:
            pull = torch.relu(1 + margin - s[i, same]).detach() * (s[i, same] - 1 + margin)
            push = torch.relu(s[i, rest] + margin).detach() * (s[i, rest] - margin)
            losses.append((1 + (scale * push).exp().sum() * (-scale * pull).exp().sum()).log())
    return torch.stack(losses).mean()


def _proxy_anchor(embeddings, labels, proxies, margin=0.1, alpha=32.0) -> Tensor:
    s = F.normalize(embeddings) @ F.normalize(proxies).T
    pulled = [(1 + (-alpha * (s[labels == c, c] - margin)).exp().sum()).log() for c in labels.unique().tolist()]
    pushed = [(1 + (alpha * (s[labels != c, c] + margin)).exp().sum()).log() for c in range(len(proxies))]
    return torch.stack(pulled).mean() + torch.stack(pushed).mean()


def _ranked_list(embeddings, labels, alpha=1.2, margin=0.4, positive_temperature=0.0) -> Tensor:
    x, losses = F.normalize(embeddings), []
    for i, same, rest in _lists(labels):
        total = x.new_zeros(())
        for others, sign, bound, t in ((same, 1, alpha - margin, positive_temperature), (rest, -1, alpha, 10.0)):
            gaps = [sign * ((x[i] - x[j]).norm() - bound) for j in others]
            gaps = [gap for gap in gaps if gap > 0]
            weights = [(t * gap.detach()).exp() for gap in gaps]
            total = total + sum(w * gap for w, gap in zip(weights, gaps, strict=True)) / max(1e-300, sum(weights)) / 2
        losses.append(total)
    return torch.stack(losses)


_ONE = ("embeddings",)
CASES = [
    Case("contrastive_loss", _pairs, (6, 3), ("a", "b"), oracle=_contrastive, optional=MASKED),
    Case("n_pair_loss", _two, (6, 5), ("anchor", "positive"), oracle=_n_pair, reductions=("mean",), magnitude=8.0),
    Case(
        "n_pair_loss", _two, (6, 5), ("anchor", "positive"), variant="short", oracle=_n_pair, reductions=("mean",),
        options={"l2_coefficient": 0.5}, magnitude=8.0,
    ),
    Case(
        "lifted_structure_loss", _classes, (7, 3), _ONE, indices=("labels",), oracle=_lifted, reductions=("mean",),
        magnitude=4.0,
    ),
    Case(
        "lifted_structure_loss", _classes, (7, 3), _ONE, variant="unit", indices=("labels",), oracle=_lifted,
        reductions=("mean",), options={"normalize": True, "margin": 0.5}, magnitude=4.0,
    ),
    Case("multi_similarity_loss", _classes, (7, 3), _ONE, indices=("labels",), oracle=_multi_similarity, magnitude=4.0),
    Case(
        "multi_similarity_loss", _classes, (7, 3), _ONE, variant="mining", indices=("labels",),
        oracle=_multi_similarity, options={"mining": 0.1, "beta": 10.0}, dtypes=(torch.float64,), magnitude=4.0,
    ),
    # the factors are constants, so the gradient is no derivative
    Case(
        "circle_loss", _classes, (7, 3), _ONE, indices=("labels",), oracle=_circle, reductions=("mean",),
        options={"scale": 8.0}, derivative=False, magnitude=16.0,
    ),
    Case(
        "proxy_anchor_loss", _proxied, (7, 3), ("embeddings", "proxies"), indices=("labels",), oracle=_proxy_anchor,
        reductions=("mean",), magnitude=32.0, batched=False,  # the proxies are pushed by nothing, and pulled
    ),
    # the weights are constants, so the gradient is no derivative; halves round distances across the bounds
    Case(
        "ranked_list_loss", _classes, (7, 3), _ONE, indices=("labels",), oracle=_ranked_list, derivative=False,
        options={"positive_temperature": 2.0}, dtypes=(torch.float64,), magnitude=4.0,
    ),
]  # fmt: skip
