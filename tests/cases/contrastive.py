"""The contrastive losses over pairs of vectors; the oracles go query by query."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from cases.case import Arguments, Build, Case, Shape, normal

SHAPE = (70, 45, 12)  # queries, keys, features: odd enough for blocks of 64 queries, and for the tails of vectors
MAGNITUDE = 10.0  # similarities / temperature, of which a loss is the difference

# ------------------------------------------------------------------------------------------ arguments


def two(*names: str, rectangular: bool = False) -> Build:
    """Two sets of vectors, near each other; as many of the second as there are keys, or queries."""

    def make(generator: torch.Generator, shape: Shape) -> Arguments:
        rows, keys, features = shape
        columns = keys if rectangular else rows
        a, b = normal(generator, rows, features), normal(generator, columns, features)
        b[: min(rows, columns)] += a[: min(rows, columns)]
        return dict(zip(names, (a, b), strict=True))

    return make


def with_(build: Build, **more: Callable[[torch.Generator, Shape], Any]) -> Build:
    return lambda generator, shape: {
        **build(generator, shape),
        **{name: value(generator, shape) for name, value in more.items()},
    }


def number(value: float = 0.2) -> Callable[[torch.Generator, Shape], Tensor]:
    """A temperature, scale or bias that is a tensor."""
    return lambda generator, shape: torch.tensor(value, dtype=torch.float64)


def keys(generator: torch.Generator, shape: Shape) -> Tensor:
    return normal(generator, *shape[1:])


def embeddings(generator: torch.Generator, shape: Shape) -> Arguments:
    rows, _, features = shape
    labels = torch.randint(9, (rows,), generator=generator)
    labels[:1] = 1009  # alone in its class
    return {"embeddings": normal(generator, rows, features), "labels": labels}


def _target(generator: torch.Generator, shape: Shape) -> Tensor:
    target = torch.randint(shape[1], shape[:1], generator=generator)
    target[::7] = -100
    return target


def _labels(generator: torch.Generator, shape: Shape) -> tuple[Tensor, Tensor]:
    """Of queries and keys; label 11 has no key."""
    queries = torch.randint(12, shape[:1], generator=generator)
    return queries, torch.randint(11, shape[1:2], generator=generator)


# ------------------------------------------------------------------------------------------ oracles


def unit(x: Tensor, normalize: bool = True) -> Tensor:
    return x / x.norm(dim=1, keepdim=True) if normalize else x


def _of_row(z: Tensor, positives: list[int], allowed: list[int], decoupled: bool, smoothing: float) -> Tensor:
    in_sum = [j for j in allowed if not (decoupled and j in positives)]
    if not positives or not in_sum:
        return z.new_zeros(())
    loss = z[in_sum].exp().sum().log() - (1 - smoothing) * z[positives].mean()
    return loss - smoothing * z[allowed].mean()


def of_rows(z: Tensor, positives: list[list[int]], *, self_pairs: bool = True, decoupled: bool = False,
            label_smoothing: float = 0.0) -> Tensor:  # fmt: skip
    columns = range(z.shape[1])
    return torch.stack(
        [
            _of_row(row, p, [j for j in columns if self_pairs or j != i], decoupled, label_smoothing)
            for i, (row, p) in enumerate(zip(z, positives, strict=True))
        ]
    )


def _info_nce(query, positive, negatives=None, temperature=0.1, normalize=True, target=None, labels=None, **how):
    q, k = unit(query, normalize), unit(positive, normalize)
    z = q @ k.t() / temperature
    if negatives is not None:
        z = torch.cat([z.diagonal()[:, None], q @ unit(negatives, normalize).t() / temperature], 1)
        positives = [[0]] * len(q)
    elif labels is not None:
        positives = [[j for j, other in enumerate(labels[1]) if other == label] for label in labels[0]]
    elif target is not None:
        positives = [[int(t)] if t >= 0 else [] for t in target]
    else:
        positives = [[i] for i in range(len(q))]
    return of_rows(z, positives, **how)


def _nt_xent(z1, z2, temperature=0.5, **how):
    z = unit(torch.cat([z1, z2]))
    size = len(z1)
    return of_rows(
        z @ z.t() / temperature, [[(i + size) % (2 * size)] for i in range(2 * size)], self_pairs=False, **how
    )


def _supcon(embeddings, labels, temperature=0.1, **how):
    z = unit(embeddings)
    positives = [[j for j in range(len(z)) if j != i and labels[j] == labels[i]] for i in range(len(z))]
    return of_rows(z @ z.t() / temperature, positives, self_pairs=False, **how)


def _moco(query, key, queue, temperature=0.07, **how):
    return _info_nce(query, key, queue, temperature, **how)


def _clip(image, text, logit_scale, label_smoothing=0.0):
    z = logit_scale * unit(image) @ unit(text).t()
    each = [[i] for i in range(len(z))]
    return sum(of_rows(x, each, label_smoothing=label_smoothing) for x in (z, z.t())) / 2


def _siglip(image, text, logit_scale, logit_bias):
    z = logit_scale * unit(image) @ unit(text).t() + logit_bias
    losses = (1 + z.exp()).log()
    return losses.sum(1) + (1 + (-z.diagonal()).exp()).log() - losses.diagonal()


# ------------------------------------------------------------------------------------------ the table


def _case(
    name: str, variant: str, build: Build, differentiable: tuple[str, ...], oracle: Any, *,
    indices: tuple[str, ...] = (), **options: Any,
) -> Case:  # fmt: skip
    return Case(
        name, build, SHAPE, differentiable, "similarity", variant, options, indices=indices, oracle=oracle,
        magnitude=MAGNITUDE,
    )  # fmt: skip


def _nce(variant: str, build: Build, *more: str, **options: Any) -> Case:
    indices = tuple(name for name in ("target", "labels") if name in variant)
    return _case("info_nce", variant, build, (*_TWO, *more), _info_nce, indices=indices, **options)


_TWO = ("query", "positive")
_SQUARE, _WIDE = two(*_TWO), two(*_TWO, rectangular=True)
_IMAGES = two("image", "text")
_QUEUE = with_(_SQUARE, negatives=keys)
_SCALED = with_(_IMAGES, logit_scale=number(8.0))
CASES = [
    _nce("", with_(_SQUARE, temperature=number()), "temperature"),
    _nce("as they are", _SQUARE, normalize=False, temperature=8.0),
    _nce("smoothed", with_(_SQUARE, temperature=number()), "temperature", label_smoothing=0.2),
    _nce("decoupled", with_(_SQUARE, temperature=number()), "temperature", decoupled=True),
    _nce("target", with_(_WIDE, target=_target)),
    _nce("target, decoupled", with_(_WIDE, target=_target), decoupled=True, label_smoothing=0.1),
    _nce("labels", with_(_WIDE, labels=_labels, temperature=number()), "temperature", label_smoothing=0.1),
    _nce("labels, decoupled", with_(_WIDE, labels=_labels), decoupled=True),
    _nce("queue", with_(_QUEUE, temperature=number()), "temperature", "negatives"),
    _nce("queue, decoupled", _QUEUE, "negatives", decoupled=True, label_smoothing=0.1),
    _case("nt_xent", "", with_(two("z1", "z2"), temperature=number()), ("z1", "z2", "temperature"), _nt_xent),
    _case("nt_xent", "decoupled", two("z1", "z2"), ("z1", "z2"), _nt_xent, decoupled=True, label_smoothing=0.1),
    _case(
        "supcon_loss", "", with_(embeddings, temperature=number()), ("embeddings", "temperature"), _supcon,
        indices=("labels",),
    ),
    _case("supcon_loss", "decoupled", embeddings, ("embeddings",), _supcon, indices=("labels",), decoupled=True),
    _case(
        "moco_loss", "", with_(two("query", "key"), queue=keys, temperature=number()), ("query", "temperature"), _moco
    ),
    _case("clip_loss", "", _SCALED, ("image", "text", "logit_scale"), _clip),
    _case("clip_loss", "smoothed", _SCALED, ("image", "text", "logit_scale"), _clip, label_smoothing=0.1),
    _case(
        "siglip_loss", "", with_(_IMAGES, logit_scale=number(6.0), logit_bias=number(-4.0)),
        ("image", "text", "logit_scale", "logit_bias"), _siglip,
    ),
]  # fmt: skip
