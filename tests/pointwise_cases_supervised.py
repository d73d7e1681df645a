"""The cases of the losses of regression, of binary labels and of likelihoods, with oracles that are torch's own losses,
or formulas of their own where torch has none."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from pointwise_case import Case
from torch import Tensor

import fastloss

SHAPE = (7, 37)
Make = Callable[[torch.Generator], dict[str, Any]]


def _normal(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(*shape or SHAPE, generator=generator, dtype=torch.float64)


def _uniform(generator: torch.Generator, low: float, high: float, *shape: int) -> Tensor:
    return low + (high - low) * torch.rand(*shape or SHAPE, generator=generator, dtype=torch.float64)


def _signs(generator: torch.Generator) -> Tensor:
    return 2.0 * torch.randint(2, SHAPE, generator=generator).double() - 1


def _elementwise(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Torch's loss as an oracle."""
    return lambda **arguments: function(**arguments, reduction="none")


def _torch_case(name: str, make: Make, differentiable: tuple[str, ...] = ("input", "target"), **more: Any) -> Case:
    function = name.partition(", ")[0]
    oracle = more.pop("oracle", None) or _elementwise(getattr(F, function))
    options = more.pop("options", {})
    return Case(name, getattr(fastloss, function), make, differentiable, options, oracle, **more)


# ------------------------------------------------------------------------------------------ regression


def _pair(spread: float = 3.0) -> Make:
    def make(generator: torch.Generator) -> dict[str, Any]:
        return {"input": spread * _normal(generator), "target": _normal(generator)}

    return make


def _weighted(generator: torch.Generator) -> dict[str, Any]:
    return {**_pair()(generator), "weight": _uniform(generator, 0.1, 2.0)}


def _levels(generator: torch.Generator) -> dict[str, Any]:
    tau = torch.tensor([0.05, 0.5, 0.95], dtype=torch.float64)
    return {"input": _normal(generator, 41, 3), "target": _normal(generator, 41, 1), "tau": tau}


def _pinball(input: Tensor, target: Tensor, tau: Any) -> Tensor:
    return torch.maximum(tau * (target - input), (tau - 1) * (target - input))


def _expectile(input: Tensor, target: Tensor, tau: Any) -> Tensor:
    return abs(tau - (target < input).to(input.dtype)) * (target - input) ** 2


def _log_cosh(input: Tensor, target: Tensor) -> Tensor:
    """optax's form"""
    return torch.logaddexp(input - target, target - input) - math.log(2.0)


REGRESSION = [
    _torch_case("mse_loss", _pair()),
    _torch_case("l1_loss", _pair(), twice=False),
    _torch_case("huber_loss", _pair(), twice=False),
    _torch_case("huber_loss, delta 0.3", _pair(), options={"delta": 0.3}, twice=False),
    _torch_case("smooth_l1_loss", _pair(), twice=False),
    _torch_case("smooth_l1_loss, beta 2.5", _pair(), options={"beta": 2.5}, twice=False),
    _torch_case("smooth_l1_loss, beta 0", _pair(), options={"beta": 0.0}, twice=False),
    _torch_case("mse_loss, weighted", _weighted, reductions=("none", "sum")),
    _torch_case("l1_loss, weighted", _weighted, reductions=("none", "sum"), twice=False),
    _torch_case("huber_loss, weighted", _weighted, options={"delta": 0.7}, twice=False),
    Case(
        "quantile_loss", fastloss.quantile_loss, _pair(), ("input", "target"), {"tau": 0.9}, _pinball, masked=True,
        twice=False,
    ),
    Case(
        "quantile_loss, levels", fastloss.quantile_loss, _levels, ("input", "target"), {}, _pinball, masked=True,
        twice=False,
    ),
    Case(
        "expectile_loss", fastloss.expectile_loss, _pair(), ("input", "target"), {"tau": 0.7}, _expectile, masked=True,
        twice=False,
    ),
    Case(
        "expectile_loss, levels", fastloss.expectile_loss, _levels, ("input", "target"), {}, _expectile, masked=True,
        twice=False,
    ),
    Case("log_cosh_loss", fastloss.log_cosh_loss, _pair(), ("input", "target"), {}, _log_cosh, masked=True),
]  # fmt: skip


# ------------------------------------------------------------------------------------------ binary labels


def _probabilities(generator: torch.Generator) -> dict[str, Any]:
    return {"input": _uniform(generator, 0.02, 0.98), "target": _uniform(generator, 0.0, 1.0)}


def _weighted_probabilities(generator: torch.Generator) -> dict[str, Any]:
    return {**_probabilities(generator), "weight": _uniform(generator, 0.1, 2.0, SHAPE[1])}


def _logits(generator: torch.Generator) -> dict[str, Any]:
    return {"input": 4 * _normal(generator), "target": _uniform(generator, 0.0, 1.0)}


def _weighted_logits(generator: torch.Generator) -> dict[str, Any]:
    weights = {"weight": _uniform(generator, 0.1, 2.0), "pos_weight": _uniform(generator, 0.5, 3.0, SHAPE[1])}
    return {**_logits(generator), **weights}


def _labeled(generator: torch.Generator) -> dict[str, Any]:
    return {"inputs": 4 * _normal(generator), "targets": torch.randint(2, SHAPE, generator=generator).double()}


def _softly_labeled(generator: torch.Generator) -> dict[str, Any]:
    return {"inputs": 4 * _normal(generator), "targets": _uniform(generator, 0.0, 1.0)}


def _focal(inputs: Tensor, targets: Tensor, alpha: float = 0.25, gamma: float = 2.0) -> Tensor:
    """The formula of the paper, on probabilities."""
    p = inputs.sigmoid()
    entropy = F.binary_cross_entropy_with_logits(inputs, targets, reduction="none")
    right = p * targets + (1 - p) * (1 - targets)
    weight = 1.0 if alpha < 0 else alpha * targets + (1 - alpha) * (1 - targets)
    return weight * (1 - right) ** gamma * entropy


def _signed(spread: float = 2.0) -> Make:
    def make(generator: torch.Generator) -> dict[str, Any]:
        return {"input": spread * _normal(generator), "target": _signs(generator)}

    return make


def _ranked(generator: torch.Generator) -> dict[str, Any]:
    return {"input1": _normal(generator), "input2": _normal(generator), "target": _signs(generator)}


def _hinge(input: Tensor, target: Tensor, margin: float = 1.0, squared: bool = False) -> Tensor:
    gap = (margin - target * input).clamp(min=0)
    return gap**2 if squared else gap


def _focal_case(name: str, make: Make = _labeled, **options: Any) -> Case:
    return Case(
        name, fastloss.sigmoid_focal_loss, make, ("inputs", "targets"), options, _focal, masked=True
    )  # fmt: skip


BINARY = [
    _torch_case("binary_cross_entropy", _probabilities),
    _torch_case("binary_cross_entropy, weighted", _weighted_probabilities),
    _torch_case("binary_cross_entropy_with_logits", _logits),
    _torch_case("binary_cross_entropy_with_logits, weighted", _weighted_logits),
    _focal_case("sigmoid_focal_loss"),
    _focal_case("sigmoid_focal_loss, soft", _softly_labeled, alpha=0.6),
    _focal_case("sigmoid_focal_loss, no alpha", alpha=-1.0),
    _focal_case("sigmoid_focal_loss, alpha 0", alpha=0.0),
    _focal_case("sigmoid_focal_loss, gamma 0", alpha=-1.0, gamma=0.0),
    _focal_case("sigmoid_focal_loss, gamma 1", gamma=1.0),
    _focal_case("sigmoid_focal_loss, gamma 0.5", _softly_labeled, gamma=0.5),
    _focal_case("sigmoid_focal_loss, gamma 3.7", _softly_labeled, gamma=3.7),
    _torch_case("soft_margin_loss", _signed(), ("input",)),
    _torch_case("hinge_embedding_loss", _signed(), ("input",), twice=False),
    _torch_case("hinge_embedding_loss, margin 0.4", _signed(), ("input",), options={"margin": 0.4}, twice=False),
    _torch_case("margin_ranking_loss", _ranked, ("input1", "input2", "target"), twice=False),
    _torch_case(
        "margin_ranking_loss, margin 0.5", _ranked, ("input1", "input2", "target"), options={"margin": 0.5},
        twice=False,
    ),
    Case("hinge_loss", fastloss.hinge_loss, _signed(), ("input",), {}, _hinge, masked=True, twice=False),
    Case(
        "hinge_loss, squared", fastloss.hinge_loss, _signed(), ("input",), {"squared": True, "margin": 0.5}, _hinge,
        masked=True, twice=False,
    ),
]  # fmt: skip


# ------------------------------------------------------------------------------------------ likelihoods


def _gaussian(generator: torch.Generator) -> dict[str, Any]:
    return {**_pair(1.0)(generator), "var": _uniform(generator, 0.1, 3.0)}


def _homoscedastic(generator: torch.Generator) -> dict[str, Any]:
    return {**_pair(1.0)(generator), "var": _uniform(generator, 0.1, 3.0, SHAPE[0], 1)}


def _laplace(generator: torch.Generator) -> dict[str, Any]:
    return {**_pair(1.0)(generator), "scale": _uniform(generator, 0.1, 3.0)}


def _laplace_nll(input: Tensor, target: Tensor, scale: Any, full: bool = False, eps: float = 1e-6) -> Tensor:
    loss = -torch.distributions.Laplace(input, scale, validate_args=False).log_prob(target)
    return loss if full else loss - math.log(2)


def _counts(generator: torch.Generator) -> dict[str, Any]:
    return {"input": _normal(generator), "target": torch.randint(1, 9, SHAPE, generator=generator).double()}


def _rates(generator: torch.Generator) -> dict[str, Any]:
    return {"input": _uniform(generator, 0.1, 5.0), "target": _uniform(generator, 0.5, 9.0)}


def _log_probabilities(generator: torch.Generator) -> dict[str, Any]:
    return {"input": _normal(generator).log_softmax(-1), "target": _normal(generator).softmax(-1)}


def _two_log_probabilities(generator: torch.Generator) -> dict[str, Any]:
    return {"input": _normal(generator).log_softmax(-1), "target": _normal(generator).log_softmax(-1)}


LIKELIHOOD = [
    _torch_case("gaussian_nll_loss", _gaussian, ("input", "target", "var")),
    _torch_case(
        "gaussian_nll_loss, full",
        _gaussian,
        ("input", "target", "var"),
        options={"full": True, "eps": 0.5},
        derivative=False,
    ),
    _torch_case("gaussian_nll_loss, homoscedastic", _homoscedastic, ("input", "target", "var")),
    _torch_case("gaussian_nll_loss, one variance", _pair(1.0), options={"var": 0.7}),
    Case(
        "laplace_nll_loss", fastloss.laplace_nll_loss, _laplace, ("input", "target", "scale"), {}, _laplace_nll,
        masked=True, twice=False,
    ),
    Case(
        "laplace_nll_loss, full, one scale", fastloss.laplace_nll_loss, _pair(1.0), ("input", "target"),
        {"full": True, "scale": 0.4}, _laplace_nll, masked=True, twice=False,
    ),
    _torch_case("poisson_nll_loss", _counts),
    _torch_case("poisson_nll_loss, full", _counts, options={"full": True}, twice=False, derivative=False),
    _torch_case(
        "poisson_nll_loss, rates", _rates, options={"log_input": False, "full": True, "eps": 0.01}, twice=False
    ),
    _torch_case("kl_div", _log_probabilities, reductions=("none", "mean", "sum", "batchmean")),
    _torch_case(
        "kl_div, log target", _two_log_probabilities, options={"log_target": True},
        reductions=("none", "mean", "sum", "batchmean"),
    ),
]  # fmt: skip

CASES = [*REGRESSION, *BINARY, *LIKELIHOOD]
