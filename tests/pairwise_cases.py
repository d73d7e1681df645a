"""The table of the pairwise losses: inputs, options, independent oracles. test_pairwise.py has the laws for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

import fastloss
from fastloss import rl

N, M, D = 70, 45, 12  # odd enough for blocks of 64 queries, and for the tails of vectors
Make = Callable[[torch.Generator], dict[str, Any]]


@dataclass(frozen=True)
class Case:
    """A pairwise loss with options, and inputs for it."""

    name: str
    loss: Callable[..., Any]
    make: Make  # arguments by name; floating tensors in float64
    differentiable: tuple[str, ...]
    options: Mapping[str, Any] = field(default_factory=dict, hash=False)
    oracle: Callable[..., Tensor] | None = None  # (**arguments, **options) -> losses, by independent code
    # of the summands that a loss is the difference of, for the tolerance where they cancel: similarities / temperature
    terms: float = 10.0
    dtypes: tuple[torch.dtype, ...] = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
    twice: bool = True  # differentiable twice at these inputs

    def __str__(self) -> str:
        return self.name


def normal(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def _two(rows: int = N, columns: int = N, names: tuple[str, str] = ("query", "positive")) -> Make:
    def make(generator: torch.Generator) -> dict[str, Any]:
        a = normal(generator, rows, D)
        b = normal(generator, columns, D)
        b[: min(rows, columns)] += a[: min(rows, columns)]
        return dict(zip(names, (a, b), strict=True))

    return make


def _with(make: Make, **more: Callable[[torch.Generator], Any]) -> Make:
    return lambda generator: {**make(generator), **{name: value(generator) for name, value in more.items()}}


def _temperature(value: float = 0.2) -> Callable[[torch.Generator], Tensor]:
    return lambda generator: torch.tensor(value, dtype=torch.float64)


def _integers(size: int, high: int) -> Callable[[torch.Generator], Tensor]:
    return lambda generator: torch.randint(high, (size,), generator=generator)


def _embeddings(classes: int = 9, rows: int = N) -> Make:
    def make(generator: torch.Generator) -> dict[str, Any]:
        labels = torch.randint(classes, (rows,), generator=generator)
        labels[0] = 1000 + classes  # alone in its class
        return {"embeddings": normal(generator, rows, D), "labels": labels}

    return make


def _target(generator: torch.Generator) -> Tensor:
    target = torch.randint(M, (N,), generator=generator)
    target[::7] = -100
    return target


# ------------------------------------------------------------------------------------------ oracles, query by query


def _unit(x: Tensor, normalize: bool = True) -> Tensor:
    return x / x.norm(dim=1, keepdim=True) if normalize else x


def _row_loss(z: Tensor, positives: list[int], allowed: list[int], decoupled: bool, smoothing: float) -> Tensor:
    in_sum = [j for j in allowed if not (decoupled and j in positives)]
    if not positives or not in_sum:
        return z.new_zeros(())
    loss = z[in_sum].exp().sum().log() - (1 - smoothing) * z[positives].mean()
    return loss - smoothing * z[allowed].mean()


def _losses(z: Tensor, positives: list[list[int]], *, self_pairs: bool = True, decoupled: bool = False,
            label_smoothing: float = 0.0) -> Tensor:  # fmt: skip
    columns = range(z.shape[1])
    return torch.stack(
        [
            _row_loss(row, p, [j for j in columns if self_pairs or j != i], decoupled, label_smoothing)
            for i, (row, p) in enumerate(zip(z, positives, strict=True))
        ]
    )


def _info_nce(query, positive, negatives=None, temperature=0.1, normalize=True, target=None, labels=None, **how):
    q, k = _unit(query, normalize), _unit(positive, normalize)
    z = q @ k.t() / temperature
    if negatives is not None:
        z = torch.cat([z.diagonal()[:, None], q @ _unit(negatives, normalize).t() / temperature], 1)
        positives = [[0]] * len(q)
    elif labels is not None:
        positives = [[j for j, other in enumerate(labels[1]) if other == label] for label in labels[0]]
    elif target is not None:
        positives = [[int(t)] if t >= 0 else [] for t in target]
    else:
        positives = [[i] for i in range(len(q))]
    return _losses(z, positives, **how)


def _nt_xent(z1, z2, temperature=0.5, **how):
    z = _unit(torch.cat([z1, z2]))
    size = len(z1)
    return _losses(
        z @ z.t() / temperature, [[(i + size) % (2 * size)] for i in range(2 * size)], self_pairs=False, **how
    )


def _supcon(embeddings, labels, temperature=0.1, **how):
    z = _unit(embeddings)
    positives = [[j for j in range(len(z)) if j != i and labels[j] == labels[i]] for i in range(len(z))]
    return _losses(z @ z.t() / temperature, positives, self_pairs=False, **how)


def _moco(query, key, queue, temperature=0.07, **how):
    return _info_nce(query, key, queue, temperature, **how)


def _clip(image, text, logit_scale, label_smoothing=0.0):
    z = logit_scale * _unit(image) @ _unit(text).t()
    each = [[i] for i in range(len(z))]
    return sum(_losses(x, each, label_smoothing=label_smoothing) for x in (z, z.t())) / 2


def _siglip(image, text, logit_scale, logit_bias):
    z = logit_scale * _unit(image) @ _unit(text).t() + logit_bias
    losses = (1 + z.exp()).log()
    return losses.sum(1) + (1 + (-z.diagonal()).exp()).log() - losses.diagonal()


def _curl(query, key, weight, temperature=1.0):
    z = torch.einsum("id,de,je->ij", query, weight, key) / temperature
    return _losses(z, [[i] for i in range(len(z))])


def _temporal(states, predictions=None, offset=1, episodes=None, temperature=0.1, time_dim=0):
    anchors = states if predictions is None else predictions
    if time_dim:
        states, anchors, episodes = states.transpose(0, 1), anchors.transpose(0, 1), episodes.t()
    flat = states[offset:].flatten(0, 1) if not time_dim else states[offset:].transpose(0, 1).flatten(0, 1)
    query = anchors[:-offset].flatten(0, 1) if not time_dim else anchors[:-offset].transpose(0, 1).flatten(0, 1)
    positives = [[i] for i in range(len(query))]
    if episodes is not None:
        same = episodes[offset:] == episodes[:-offset]
        same = same.flatten() if not time_dim else same.t().flatten()
        positives = [p if ok else [] for p, ok in zip(positives, same, strict=True)]
    return _losses(_unit(query) @ _unit(flat).t() / temperature, positives)


def _distances(x: Tensor, squared: bool) -> Tensor:
    square = (x[:, None] - x).square().sum(2)
    return square if squared else square.sqrt()


def _batch_hard(embeddings, labels, margin=0.3, soft_margin=False, normalize=False, squared=False):
    d, losses = _distances(_unit(embeddings, normalize), squared), []
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
    d, losses = _distances(_unit(embeddings, normalize), squared), []
    for i, label in enumerate(labels):
        total = d.new_zeros(())
        rest = [j for j, other in enumerate(labels) if other != label]
        for p in (j for j, other in enumerate(labels) if other == label and j != i and rest):
            beyond = [float(d[i, j]) for j in rest if d[i, j] > d[i, p]]
            total = total + max(0.0, float(d[i, p]) - (min(beyond) if beyond else float(d[i, rest].max())) + margin)
        losses.append(total)
    return torch.stack(losses)


# ------------------------------------------------------------------------------------------ the table


def _sequence(generator: torch.Generator) -> dict[str, Any]:
    return {"states": normal(generator, 9, 8, D)}


def _labels(generator: torch.Generator) -> tuple[Tensor, Tensor]:
    queries, keys = _integers(N, 12)(generator), _integers(M, 11)(generator)
    return queries, keys  # label 11 has no key


_PAIR = ("image", "text")
INFO_NCE = ("query", "positive", "temperature")
CONTRASTIVE = [
    Case("info_nce", fastloss.info_nce, _with(_two(), temperature=_temperature()), INFO_NCE, {}, _info_nce),
    Case("info_nce, as they are", fastloss.info_nce, _two(), INFO_NCE[:2], {"normalize": False, "temperature": 8.0},
         _info_nce),
    Case("info_nce, smoothed", fastloss.info_nce, _with(_two(), temperature=_temperature()), INFO_NCE,
         {"label_smoothing": 0.2}, _info_nce),
    Case("info_nce, decoupled", fastloss.info_nce, _with(_two(), temperature=_temperature()), INFO_NCE,
         {"decoupled": True}, _info_nce),
    Case("info_nce, target", fastloss.info_nce, _with(_two(N, M), target=_target), INFO_NCE[:2], {}, _info_nce),
    Case("info_nce, target, decoupled", fastloss.info_nce, _with(_two(N, M), target=_target), INFO_NCE[:2],
         {"decoupled": True, "label_smoothing": 0.1}, _info_nce),
    Case("info_nce, labels", fastloss.info_nce, _with(_two(N, M), labels=_labels, temperature=_temperature()), INFO_NCE,
         {"label_smoothing": 0.1}, _info_nce),
    Case("info_nce, labels, decoupled", fastloss.info_nce, _with(_two(N, M), labels=_labels), INFO_NCE[:2],
         {"decoupled": True}, _info_nce),
    Case("info_nce, queue", fastloss.info_nce, _with(_two(), negatives=lambda g: normal(g, M, D),
         temperature=_temperature()), (*INFO_NCE, "negatives"), {}, _info_nce),
    Case("info_nce, queue, decoupled", fastloss.info_nce, _with(_two(), negatives=lambda g: normal(g, M, D)),
         ("query", "positive", "negatives"), {"decoupled": True, "label_smoothing": 0.1}, _info_nce),
    Case("nt_xent", fastloss.nt_xent, _with(_two(names=("z1", "z2")), temperature=_temperature()),
         ("z1", "z2", "temperature"), {}, _nt_xent),
    Case("nt_xent, decoupled", fastloss.nt_xent, _two(names=("z1", "z2")), ("z1", "z2"),
         {"decoupled": True, "label_smoothing": 0.1}, _nt_xent),
    Case("supcon_loss", fastloss.supcon_loss, _with(_embeddings(), temperature=_temperature()),
         ("embeddings", "temperature"), {}, _supcon),
    Case("supcon_loss, decoupled", fastloss.supcon_loss, _embeddings(), ("embeddings",), {"decoupled": True}, _supcon),
    Case("moco_loss", fastloss.moco_loss, _with(_two(names=("query", "key")), queue=lambda g: normal(g, M, D),
         temperature=_temperature()), ("query", "temperature"), {}, _moco),
    Case("clip_loss", fastloss.clip_loss, _with(_two(names=_PAIR), logit_scale=_temperature(8.0)),
         (*_PAIR, "logit_scale"), {}, _clip),
    Case("clip_loss, smoothed", fastloss.clip_loss, _with(_two(names=_PAIR), logit_scale=_temperature(8.0)),
         (*_PAIR, "logit_scale"), {"label_smoothing": 0.1}, _clip),
    Case("siglip_loss", fastloss.siglip_loss, _with(_two(names=_PAIR), logit_scale=_temperature(6.0),
         logit_bias=_temperature(-4.0)), (*_PAIR, "logit_scale", "logit_bias"), {}, _siglip),
    Case("rl.curl_loss", rl.curl_loss, _with(_two(names=("query", "key")), weight=lambda g: 0.3 * normal(g, D, D)),
         ("query", "weight"), {}, _curl),
    Case("rl.temporal_contrastive_loss", rl.temporal_contrastive_loss, _sequence, ("states",), {}, _temporal),
    Case("rl.temporal_contrastive_loss, episodes", rl.temporal_contrastive_loss, _with(_sequence,
         predictions=lambda g: normal(g, 9, 8, D), episodes=lambda g: torch.randint(2, (9, 8), generator=g)),
         ("states", "predictions"), {"offset": 2, "time_dim": 1}, _temporal),
]  # fmt: skip
_EXACT = (torch.float64,)  # half and single round the distances, which may choose another triplet
TRIPLETS = [
    Case("batch_hard_triplet_loss", fastloss.batch_hard_triplet_loss, _embeddings(), ("embeddings",), {"margin": 1.0},
         _batch_hard, dtypes=_EXACT, twice=False),
    Case("batch_hard_triplet_loss, soft", fastloss.batch_hard_triplet_loss, _embeddings(), ("embeddings",),
         {"soft_margin": True, "margin": 0.0, "normalize": True, "squared": True}, _batch_hard, dtypes=_EXACT),
    Case("semi_hard_triplet_loss", fastloss.semi_hard_triplet_loss, _embeddings(), ("embeddings",), {}, _semi_hard,
         dtypes=_EXACT, twice=False),
    Case("semi_hard_triplet_loss, distance", fastloss.semi_hard_triplet_loss, _embeddings(), ("embeddings",),
         {"squared": False, "normalize": False}, _semi_hard, dtypes=_EXACT, twice=False),
]  # fmt: skip
ALL = [*CONTRASTIVE, *TRIPLETS]
ONE_OF_EACH = list({case.loss: case for case in reversed(ALL)}.values())  # the first case of every loss
