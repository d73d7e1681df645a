"""The losses of regression."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cases.case import MASKED, Arguments, Build, Case, Shape, normal, uniform

SHAPE = (7, 37)
BOTH = ("input", "target")


def pair(spread: float = 3.0) -> Build:
    def make(generator: torch.Generator, shape: Shape) -> Arguments:
        return {"input": normal(generator, *shape, scale=spread), "target": normal(generator, *shape)}

    return make


def _weighted(generator: torch.Generator, shape: Shape) -> Arguments:
    return {**pair()(generator, shape), "weight": uniform(generator, 0.1, 2.0, *shape)}


def _levels(generator: torch.Generator, shape: Shape) -> Arguments:
    """A prediction of each level, a target for all."""
    tau = (torch.arange(shape[-1], dtype=torch.float64) + 0.5) / shape[-1]
    return {"input": normal(generator, *shape), "target": normal(generator, *shape[:-1], 1), "tau": tau}


def _pinball(input: Tensor, target: Tensor, tau: Any) -> Tensor:
    return torch.maximum(tau * (target - input), (tau - 1) * (target - input))


def _expectile(input: Tensor, target: Tensor, tau: Any) -> Tensor:
    return abs(tau - (target < input).to(input.dtype)) * (target - input) ** 2


def _log_cosh(input: Tensor, target: Tensor) -> Tensor:
    """optax's form"""
    return torch.logaddexp(input - target, target - input) - math.log(2.0)


def _torchs(name: str, variant: str = "", build: Build | None = None, **more: Any) -> Case:
    return Case(name, build or pair(), SHAPE, BOTH, "pointwise", variant, oracle=getattr(F, name), **more)


def _levelled(
    name: str, oracle: Any, variant: str = "", build: Build | None = None, shape: Shape = SHAPE, **options: Any
) -> Case:
    return Case(
        name, build or pair(), shape, BOTH, "pointwise", variant, options, oracle=oracle, optional=MASKED, twice=False
    )


_WEIGHT = {"weight": "exact"}
CASES = [
    _torchs("mse_loss", optional=_WEIGHT),
    _torchs("l1_loss", twice=False, optional=_WEIGHT),
    _torchs("huber_loss", twice=False, optional=_WEIGHT),
    _torchs("huber_loss", "delta 0.3", options={"delta": 0.3}, twice=False, optional=_WEIGHT),
    _torchs("smooth_l1_loss", twice=False),
    _torchs("smooth_l1_loss", "beta 2.5", options={"beta": 2.5}, twice=False),
    _torchs("smooth_l1_loss", "beta 0", options={"beta": 0.0}, twice=False),
    # torch divides by the sum of the weights only in huber_loss; the mean of the other two is its own kind
    _torchs("mse_loss", "weighted", _weighted, reductions=("none", "sum")),
    _torchs("l1_loss", "weighted", _weighted, reductions=("none", "sum"), twice=False),
    _torchs("huber_loss", "weighted", _weighted, options={"delta": 0.7}, twice=False),
    _levelled("quantile_loss", _pinball, tau=0.9),
    _levelled("quantile_loss", _pinball, "levels", build=_levels, shape=(41, 3)),
    _levelled("expectile_loss", _expectile, tau=0.7),
    _levelled("expectile_loss", _expectile, "levels", build=_levels, shape=(41, 3)),
    Case("log_cosh_loss", pair(), SHAPE, BOTH, "pointwise", oracle=_log_cosh, optional=MASKED),
]
