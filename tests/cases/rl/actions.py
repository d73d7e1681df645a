"""Log-probabilities and entropies of actions; the oracles: torch.distributions, and a sum over thousands of points."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.distributions import Categorical, Normal, TanhTransform, TransformedDistribution

from cases.case import MASKED, Arguments, Build, Case, Shape, normal, uniform

SHAPE = (3, 4, 2)


def _policy(*names: str, log_std: float, mean: float = 0.0) -> Build:
    """And what was sampled. Away from where summands cancel, in each state or in the mean of them."""

    def make(generator: torch.Generator, shape: Shape) -> Arguments:
        made = {
            "mean": normal(generator, *shape, shift=mean),
            "log_std": normal(generator, *shape, shift=log_std, scale=0.2),
        }
        if "actions" in names:
            made["actions"] = uniform(generator, -0.9, 0.9, *shape)
        if "pre_tanh" in names:
            made["pre_tanh"] = normal(generator, *shape)
        return made

    return make


def _deviations(generator: torch.Generator, shape: Shape) -> Arguments:
    return {"log_std": normal(generator, *shape, shift=1.0)}


def _logits(generator: torch.Generator, shape: Shape) -> Arguments:
    return {"logits": normal(generator, *shape), "actions": torch.randint(shape[-1], shape[:-1], generator=generator)}


def _gaussian(mean: Tensor, log_std: Tensor, actions: Tensor) -> Tensor:
    return Normal(mean, log_std.exp()).log_prob(actions).sum(-1)


def _squashed(mean: Tensor, log_std: Tensor, actions: Tensor) -> Tensor:
    return TransformedDistribution(Normal(mean, log_std.exp()), TanhTransform()).log_prob(actions).sum(-1)


def _of_samples(mean: Tensor, log_std: Tensor, pre_tanh: Tensor) -> Tensor:
    stretched = TanhTransform().log_abs_det_jacobian(pre_tanh, pre_tanh.tanh())
    return (Normal(mean, log_std.exp()).log_prob(pre_tanh) - stretched).sum(-1)


def _entropy(mean: Tensor, log_std: Tensor) -> Tensor:
    """-E log pi, over 4001 values of the noise."""
    z = torch.linspace(-9.0, 9.0, 4001, dtype=torch.float64)
    weight = (-0.5 * z**2).exp() * (18 / 4000) / math.sqrt(2 * math.pi)
    u = mean[..., None] + log_std[..., None].exp() * z
    log_cosh = torch.logaddexp(u, -u) - math.log(2)
    log_prob = -0.5 * z**2 - log_std[..., None] - 0.5 * math.log(2 * math.pi) + 2 * log_cosh
    return -(weight * log_prob).sum(-1).sum(-1)


BOTH = ("mean", "log_std")
ACTIONS, SAMPLES = (_policy(name, log_std=0.0, mean=3.0) for name in ("actions", "pre_tanh"))
CASES = [
    Case(
        "rl.gaussian_log_prob", ACTIONS, SHAPE, (*BOTH, "actions"), oracle=_gaussian, optional=MASKED, magnitude=32.0,
    ),
    Case(
        "rl.gaussian_entropy", _deviations, SHAPE, ("log_std",), optional=MASKED, magnitude=8.0, twice=False,
        oracle=lambda log_std: Normal(torch.zeros_like(log_std), log_std.exp()).entropy().sum(-1),
    ),
    Case(
        "rl.tanh_gaussian_log_prob", SAMPLES, SHAPE, (*BOTH, "pre_tanh"), oracle=_of_samples, optional=MASKED,
        magnitude=64.0,
    ),
    Case(
        "rl.tanh_gaussian_log_prob", ACTIONS, SHAPE, (*BOTH, "actions"), None, "actions", oracle=_squashed,
        optional=MASKED, domain={"actions": (-0.9, 0.9)}, magnitude=256.0,
    ),
    *(
        Case(
            "rl.tanh_gaussian_entropy", _policy(log_std=log_std), SHAPE, BOTH, None, variant, oracle=_entropy,
            optional=MASKED, magnitude=64.0,
        )
        for variant, log_std in (("", -2.5), ("wide", 2.0))
    ),
    Case(
        "rl.categorical_log_prob", _logits, (3, 4, 5), ("logits",), indices=("actions",), optional=MASKED,
        magnitude=8.0, oracle=lambda logits, actions: Categorical(logits=logits).log_prob(actions),
    ),
]  # fmt: skip
