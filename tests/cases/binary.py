"""The losses of binary labels, of signs and of ranks."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cases.case import MASKED, Arguments, Build, Case, Shape, normal, signs, uniform

SHAPE = (7, 37)
BOTH = ("input", "target")
UNIT = {"input": (0.0, 1.0), "target": (0.0, 1.0)}


def _probabilities(generator: torch.Generator, shape: Shape) -> Arguments:
    return {"input": uniform(generator, 0.02, 0.98, *shape), "target": uniform(generator, 0.0, 1.0, *shape)}


def _weighted_probabilities(generator: torch.Generator, shape: Shape) -> Arguments:
    return {**_probabilities(generator, shape), "weight": uniform(generator, 0.1, 2.0, *shape[-1:])}


def _logits(generator: torch.Generator, shape: Shape) -> Arguments:
    return {"input": normal(generator, *shape, scale=4.0), "target": uniform(generator, 0.0, 1.0, *shape)}


def _weighted_logits(generator: torch.Generator, shape: Shape) -> Arguments:
    weight, pos_weight = uniform(generator, 0.1, 2.0, *shape), uniform(generator, 0.5, 3.0, *shape[-1:])
    return {**_logits(generator, shape), "weight": weight, "pos_weight": pos_weight}


def _labeled(generator: torch.Generator, shape: Shape) -> Arguments:
    targets = torch.randint(2, shape, generator=generator).double()
    return {"inputs": normal(generator, *shape, scale=4.0), "targets": targets}


def _softly_labeled(generator: torch.Generator, shape: Shape) -> Arguments:
    return {"inputs": normal(generator, *shape, scale=4.0), "targets": uniform(generator, 0.0, 1.0, *shape)}


def _of_classes(generator: torch.Generator, shape: Shape) -> Arguments:
    return {**_softly_labeled(generator, shape), "alpha": uniform(generator, 0.1, 0.9, *shape[-1:])}


def _smoothed_oracle(input: Tensor, target: Tensor, label_smoothing: float, **more: Any) -> Tensor:
    other = target + label_smoothing * (1 - 2 * target) / 2  # that share of the label is a coin's
    return F.binary_cross_entropy_with_logits(input, other, reduction="none", **more)


def _focal(inputs: Tensor, targets: Tensor, alpha: float | Tensor = 0.25, gamma: float = 2.0) -> Tensor:
    """The formula of the paper, on probabilities."""
    p = inputs.sigmoid()
    entropy = F.binary_cross_entropy_with_logits(inputs, targets, reduction="none")
    right = p * targets + (1 - p) * (1 - targets)
    weight = 1.0 if not isinstance(alpha, Tensor) and alpha < 0 else alpha * targets + (1 - alpha) * (1 - targets)
    return weight * (1 - right) ** gamma * entropy


def _signed(generator: torch.Generator, shape: Shape) -> Arguments:
    return {"input": normal(generator, *shape, scale=2.0), "target": signs(generator, *shape)}


def _ranked(generator: torch.Generator, shape: Shape) -> Arguments:
    return {
        "input1": normal(generator, *shape),
        "input2": normal(generator, *shape),
        "target": signs(generator, *shape),
    }


def _hinge(input: Tensor, target: Tensor, margin: float = 1.0, squared: bool = False) -> Tensor:
    gap = (margin - target * input).clamp(min=0)
    return gap**2 if squared else gap


def _torchs(name: str, build: Build, variant: str = "", differentiable: tuple[str, ...] = BOTH, **more: Any) -> Case:
    return Case(name, build, SHAPE, differentiable, "pointwise", variant, oracle=getattr(F, name), **more)


def _focal_case(variant: str = "", build: Build = _labeled, fuses: bool = True, **options: Any) -> Case:
    return Case(
        "sigmoid_focal_loss", build, SHAPE, ("inputs", "targets"), "pointwise", variant, options, oracle=_focal,
        optional=MASKED, domain={"targets": (0.0, 1.0)}, fuses=fuses,
    )  # fmt: skip


def _hinge_case(variant: str = "", **options: Any) -> Case:
    return Case(
        "hinge_loss", _signed, SHAPE, ("input",), "pointwise", variant, options, oracle=_hinge, optional=MASKED,
        domain={"target": (-1.0, 1.0)}, twice=False,
    )  # fmt: skip


_WEIGHT = {"weight": "losses"}
_WEIGHTS = {"weight": "losses", "pos_weight": "classes"}
_SIGN = {"target": (-1.0, 1.0)}
_SOFT = {"target": (0.0, 1.0)}
_RANKS = ("input1", "input2", "target")
CASES = [
    _torchs("binary_cross_entropy", _probabilities, domain=UNIT, optional=_WEIGHT),
    _torchs("binary_cross_entropy", _weighted_probabilities, "weighted", domain=UNIT),
    _torchs("binary_cross_entropy_with_logits", _logits, domain=_SOFT, optional=_WEIGHTS),
    _torchs("binary_cross_entropy_with_logits", _weighted_logits, "weighted", domain=_SOFT),
    Case(
        "binary_cross_entropy_with_logits",
        _logits,
        SHAPE,
        BOTH,
        "pointwise",
        "smoothed",
        {"label_smoothing": 0.2},
        oracle=_smoothed_oracle,
        domain=_SOFT,
        optional=_WEIGHTS,
    ),
    _focal_case(),
    _focal_case("alpha of classes", _of_classes, fuses=False, gamma=1.5),
    _focal_case("soft", _softly_labeled, alpha=0.6),
    _focal_case("no alpha", alpha=-1.0),
    _focal_case("alpha 0", alpha=0.0),
    _focal_case("gamma 0", alpha=-1.0, gamma=0.0),
    _focal_case("gamma 1", gamma=1.0),
    _focal_case("gamma 0.5", _softly_labeled, gamma=0.5),
    _focal_case("gamma 3.7", _softly_labeled, gamma=3.7),
    _torchs("soft_margin_loss", _signed, "", ("input",), domain=_SIGN),
    _torchs("hinge_embedding_loss", _signed, "", ("input",), domain=_SIGN, twice=False),
    _torchs(
        "hinge_embedding_loss", _signed, "margin 0.4", ("input",), options={"margin": 0.4}, domain=_SIGN, twice=False
    ),
    _torchs("margin_ranking_loss", _ranked, "", _RANKS, domain=_SIGN, twice=False),
    _torchs("margin_ranking_loss", _ranked, "margin 0.5", _RANKS, options={"margin": 0.5}, domain=_SIGN, twice=False),
    _hinge_case(),
    _hinge_case("squared", squared=True, margin=0.5),
]
