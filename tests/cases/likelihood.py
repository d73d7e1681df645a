"""The negative log-likelihoods of Gauss, Laplace and Poisson, and the divergence of Kullback and Leibler."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cases.case import MASKED, REDUCTIONS, Arguments, Build, Case, Shape, normal, uniform
from cases.regression import pair

SHAPE = (7, 37)
BOTH = ("input", "target")


def _gaussian(generator: torch.Generator, shape: Shape) -> Arguments:
    return {**pair(1.0)(generator, shape), "var": uniform(generator, 0.1, 3.0, *shape)}


def _homoscedastic(generator: torch.Generator, shape: Shape) -> Arguments:
    return {**pair(1.0)(generator, shape), "var": uniform(generator, 0.1, 3.0, *shape[:-1], 1)}


def _laplace(generator: torch.Generator, shape: Shape) -> Arguments:
    return {**pair(1.0)(generator, shape), "scale": uniform(generator, 0.1, 3.0, *shape)}


def _laplace_nll(input: Tensor, target: Tensor, scale: Any, full: bool = False, eps: float = 1e-6) -> Tensor:
    loss = -torch.distributions.Laplace(input, scale, validate_args=False).log_prob(target)
    return loss if full else loss - math.log(2)


def _counts(generator: torch.Generator, shape: Shape) -> Arguments:
    return {"input": normal(generator, *shape), "target": torch.randint(1, 9, shape, generator=generator).double()}


def _rates(generator: torch.Generator, shape: Shape) -> Arguments:
    return {"input": uniform(generator, 0.1, 5.0, *shape), "target": uniform(generator, 0.5, 9.0, *shape)}


def _log_probabilities(generator: torch.Generator, shape: Shape) -> Arguments:
    return {"input": normal(generator, *shape).log_softmax(-1), "target": normal(generator, *shape).softmax(-1)}


def _two_log_probabilities(generator: torch.Generator, shape: Shape) -> Arguments:
    return {"input": normal(generator, *shape).log_softmax(-1), "target": normal(generator, *shape).log_softmax(-1)}


def _torchs(name: str, build: Build, variant: str = "", differentiable: tuple[str, ...] = BOTH, **more: Any) -> Case:
    return Case(name, build, SHAPE, differentiable, "pointwise", variant, oracle=getattr(F, name), **more)


def _laplace_case(variant: str, build: Build, differentiable: tuple[str, ...], **options: Any) -> Case:
    return Case(
        "laplace_nll_loss", build, SHAPE, differentiable, "pointwise", variant, options, oracle=_laplace_nll,
        optional=MASKED, domain={"scale": (0.0, math.inf)}, twice=False,
    )  # fmt: skip


_VARIANCE = {"var": (0.0, math.inf)}
_RATE = {"input": (0.0, math.inf), "target": (0.0, math.inf)}
_COUNT = {"target": (0.0, math.inf)}
_BATCHMEAN = (*REDUCTIONS, "batchmean")
CASES = [
    _torchs("gaussian_nll_loss", _gaussian, "", (*BOTH, "var"), domain=_VARIANCE),
    _torchs(
        "gaussian_nll_loss", _gaussian, "full", (*BOTH, "var"), options={"full": True, "eps": 0.5}, derivative=False,
        domain=_VARIANCE,
    ),
    _torchs("gaussian_nll_loss", _homoscedastic, "homoscedastic", (*BOTH, "var"), domain=_VARIANCE),
    _torchs("gaussian_nll_loss", pair(1.0), "one variance", options={"var": 0.7}),
    _laplace_case("", _laplace, (*BOTH, "scale")),
    _laplace_case("full, one scale", pair(1.0), BOTH, full=True, scale=0.4),
    _torchs("poisson_nll_loss", _counts, domain=_COUNT),
    _torchs(
        "poisson_nll_loss", _counts, "full", options={"full": True}, domain=_COUNT, twice=False, derivative=False
    ),
    _torchs(
        "poisson_nll_loss", _rates, "rates", options={"log_input": False, "full": True, "eps": 0.01}, domain=_RATE,
        twice=False,
    ),
    _torchs("kl_div", _log_probabilities, domain={"target": (0.0, 1.0)}, reductions=_BATCHMEAN),
    _torchs(
        "kl_div", _two_log_probabilities, "log target", options={"log_target": True}, reductions=_BATCHMEAN
    ),
]  # fmt: skip
