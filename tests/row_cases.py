"""The table of all losses: what their tests need to know. The laws that run over it are in test_laws.py.

A case is one loss with one combination of options. Its inputs are made fresh in every test, in float64; a law rounds
them to the dtype under test, so that the float64 oracle sees the very numbers that the kernel sees.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import fastloss

REDUCTIONS = ("none", "mean", "sum")


@dataclass(frozen=True)
class Case:
    """One loss with one combination of options.

    `make` returns the positional arguments, the differentiated one first; `oracle` computes the same in torch, with
    formulas of its own where torch has no such loss.
    """

    name: str
    loss: Callable[..., Tensor]
    make: Callable[[torch.Generator], tuple[tuple[Tensor, ...], dict[str, Any]]]
    oracle: Callable[..., Tensor]
    options: dict[str, Any] = field(default_factory=dict)
    reductions: tuple[str, ...] = REDUCTIONS

    def __str__(self) -> str:
        return self.name


# ------------------------------------------------------------------------------------------ softmax cross-entropy


def cross_entropy_oracle(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    softcap: float | None = None,
    temperature: float = 1.0,
) -> Tensor:
    """From the definition: explicit target distribution q, explicit log-softmax."""
    dim = 0 if input.dim() == 1 else 1
    if z_loss == 0 and not softcap and temperature == 1:
        return F.cross_entropy(input, target, weight, None, ignore_index, None, reduction, label_smoothing)
    z = input if not softcap else (input / softcap).tanh() * softcap
    z = (z / temperature).movedim(dim, -1)
    classes = z.shape[-1]
    w = z.new_ones(classes) if weight is None else weight
    if target.is_floating_point():
        counted = torch.ones(z.shape[:-1], dtype=torch.bool, device=z.device)
        hard, row_weight = target.movedim(dim, -1), counted.to(z.dtype)
    else:
        counted = target != ignore_index
        index = target.where(counted, 0)
        hard, row_weight = (index[..., None] == torch.arange(classes, device=z.device)).to(z.dtype), w[index] * counted
    q = w * ((1 - label_smoothing) * hard + label_smoothing / classes)
    lse = z.logsumexp(-1)
    rows = -(q * (z - lse[..., None])).sum(-1) + z_loss * row_weight * lse**2
    rows = rows.where(counted, 0.0)
    if reduction == "none":
        return rows
    return rows.sum() / (row_weight.sum() if reduction == "mean" else 1.0)


def _inputs(
    shape: tuple[int, ...], soft: bool = False, weighted: bool = False, ignored: float = 0.0, weight: str = "weight"
):
    def make(generator: torch.Generator) -> tuple[tuple[Tensor, ...], dict[str, Any]]:
        logits = torch.randn(shape, generator=generator, dtype=torch.float64) * 3
        classes = shape[0] if len(shape) == 1 else shape[1]
        batch = shape[:1] + shape[2:] if len(shape) > 1 else ()
        if soft:
            noise = torch.randn(shape, generator=generator, dtype=torch.float64)
            target = noise.softmax(0 if len(shape) == 1 else 1)
        else:
            target = torch.randint(classes, batch, generator=generator)
            target.view(-1)[0], target.view(-1)[-1] = classes - 1, 0  # the ends of a row are where kernels differ
            hidden = torch.rand(batch, generator=generator) < ignored
            hidden.view(-1)[0], hidden.view(-1)[-1] = False, False  # and the mean is a number
            target = target.masked_fill(hidden, -100)
        kwargs = {}
        if weighted:
            kwargs[weight] = torch.rand(classes, generator=generator, dtype=torch.float64) + 0.1
        return (logits, target), kwargs

    return make


_OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "smoothing": {"label_smoothing": 0.1},
    "z_loss": {"z_loss": 1e-2},
    "softcap": {"softcap": 5.0},
    "temperature": {"temperature": 1.7},
    "everything": {"label_smoothing": 0.2, "z_loss": 1e-3, "softcap": 8.0, "temperature": 0.7},
}
_TARGETS: dict[str, dict[str, Any]] = {
    "index": {"ignored": 0.3},
    "index-weighted": {"ignored": 0.3, "weighted": True},
    "soft": {"soft": True},
    "soft-weighted": {"soft": True, "weighted": True},
}


def _cross_entropy(shape: tuple[int, ...], target: str, options: str) -> Case:
    return Case(
        f"cross_entropy-{target}-{options}-{'x'.join(map(str, shape))}",
        fastloss.cross_entropy,
        _inputs(shape, **_TARGETS[target]),
        cross_entropy_oracle,
        _OPTIONS[options],
    )


CROSS_ENTROPY = [
    # every option with every kind of target, on a row with a tail and on a spatial shape
    *[_cross_entropy(shape, t, o) for shape in [(7, 37), (2, 5, 21)] for t in _TARGETS for o in _OPTIONS],
    # sizes around the widths of vectors (4, 8, 16), chunks (2048) and blocks, and degenerate ones
    *[
        _cross_entropy(shape, "index", "plain")
        for shape in [(5,), (1, 1), (3, 2), (9, 4), (5, 16), (4, 64), (3, 129), (3, 2048), (2, 2049), (2, 5003)]
    ],
    *[_cross_entropy((2, 4500), t, "everything") for t in _TARGETS],
    *[_cross_entropy((3,), t, "everything") for t in ("index", "soft")],
    *[_cross_entropy(shape, "soft", "smoothing") for shape in [(2, 3, 1), (2, 3, 4, 5), (1, 2, 200), (2, 300, 3)]],
    *[_cross_entropy(shape, "index-weighted", "plain") for shape in [(2, 3, 1), (2, 3, 4, 5), (1, 2, 200)]],
]

# ------------------------------------------------------------------------------------------ softmax focal loss


def softmax_focal_oracle(
    input: Tensor,
    target: Tensor,
    alpha: Tensor | None = None,
    gamma: float = 2.0,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Tensor:
    """From the definition: explicit probabilities, explicit target distribution."""
    x = input.movedim(0 if input.dim() == 1 else 1, -1)
    classes = x.shape[-1]
    w = x.new_ones(classes) if alpha is None else alpha
    if target.shape == input.shape:
        hard = target.movedim(0 if input.dim() == 1 else 1, -1)
        counted = torch.ones(x.shape[:-1], dtype=torch.bool, device=x.device)
        row_weight = counted.to(x.dtype)
    else:
        counted = target != ignore_index
        index = target.where(counted, 0)
        hard, row_weight = (index[..., None] == torch.arange(classes, device=x.device)).to(x.dtype), w[index] * counted
    q = w * ((1 - label_smoothing) * hard + label_smoothing / classes)
    p = x.softmax(-1)
    rows = (q * (1 - p) ** gamma * -p.log()).sum(-1) * counted
    if reduction == "none":
        return rows
    return rows.sum() / (row_weight.sum() if reduction == "mean" else 1.0)


def _softmax_focal(shape: tuple[int, ...], target: str, **options: Any) -> Case:
    return Case(
        "-".join(["softmax_focal", target, *(f"{k}{v}" for k, v in options.items()), "x".join(map(str, shape))]),
        fastloss.softmax_focal_loss,
        _inputs(shape, **_TARGETS[target], weight="alpha"),
        softmax_focal_oracle,
        options,
    )


SOFTMAX_FOCAL = [
    *[_softmax_focal((7, 37), "index-weighted", gamma=gamma) for gamma in (0.0, 0.5, 1.0, 2.0, 3.5)],
    *[_softmax_focal((2, 5, 21), "index-weighted", gamma=gamma) for gamma in (0.5, 2.0)],
    *[_softmax_focal(shape, "index") for shape in [(5,), (9, 4), (3, 2048), (2, 5003), (2, 300, 3)]],
]
# what the kernels leave to the reference
SOFTMAX_FOCAL_REFERENCE = [
    *[_softmax_focal((7, 37), target, label_smoothing=0.1) for target in _TARGETS],
    *[_softmax_focal(shape, "soft-weighted", gamma=0.5) for shape in [(2, 5, 21), (4,)]],
]

ALL = CROSS_ENTROPY + SOFTMAX_FOCAL
REFERENCE_ONLY = SOFTMAX_FOCAL_REFERENCE
DIFFERENTIATED_TWICE = [case for case in ALL if "7x37" in case.name or "2x3x4x5" in case.name]
COMPILED = [case for case in ALL if case.name.endswith(("everything-7x37", "plain-2x5x21"))]
