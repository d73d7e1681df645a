"""The losses of preferences: pairs of a chosen and a rejected answer, or answers by themselves."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from cases.case import MASKED, Arguments, Build, Case, Shape, normal
from cases.rl.policy import log_probabilities

SHAPE = (7, 37)

# ------------------------------------------------------------------------------------------ arguments


def _pairs(generator: torch.Generator, shape: Shape, spread: float = 4.0) -> Arguments:
    chosen, rejected = 10 * log_probabilities(generator, shape), 10 * log_probabilities(generator, shape)
    return {
        "policy_chosen_logps": chosen,
        "policy_rejected_logps": rejected,
        "reference_chosen_logps": chosen + normal(generator, *shape, scale=spread),
        "reference_rejected_logps": rejected + normal(generator, *shape, scale=spread),
    }


def _near_pairs(generator: torch.Generator, shape: Shape) -> Arguments:
    """Whose scores of the forward KL, which grow exponentially, fit into halves."""
    return _pairs(generator, shape, 1.0)


def _pairs_and_lengths(generator: torch.Generator, shape: Shape) -> Arguments:
    lengths = {
        name: torch.randint(1, 30, shape, generator=generator) for name in ("chosen_lengths", "rejected_lengths")
    }
    return {**_pairs(generator, shape), **lengths}


def _averages(generator: torch.Generator, shape: Shape) -> Arguments:
    return {name: log_probabilities(generator, shape) for name in _AVERAGES}


def _sequences(generator: torch.Generator, shape: Shape) -> Arguments:
    return {name: 4 * log_probabilities(generator, shape) for name in _SUMS}


def _unpaired(kl: bool = True) -> Build:
    def make(generator: torch.Generator, shape: Shape) -> Arguments:
        policy = 10 * log_probabilities(generator, shape)
        return {
            "policy_logps": policy,
            "reference_logps": policy + normal(generator, *shape, scale=4.0),
            "desirable": torch.rand(shape, generator=generator) < 0.5,
            **({"kl": torch.tensor(0.8, dtype=torch.float64)} if kl else {}),
        }

    return make


# ------------------------------------------------------------------------------------------ oracles


def sigmoid(x: Tensor) -> Tensor:
    return 1 / (1 + torch.exp(-x))


def _dpo(
    policy_chosen_logps: Tensor,
    policy_rejected_logps: Tensor,
    reference_chosen_logps: Tensor,
    reference_rejected_logps: Tensor,
    chosen_lengths: Tensor | float = 1.0,
    rejected_lengths: Tensor | float = 1.0,
    beta: float = 0.1,
    label_smoothing: float = 0.0,
    loss_type: str = "sigmoid",
    f_divergence: str = "reverse_kl",
    f_alpha: float = 0.5,
    discopop_tau: float = 0.05,
) -> Tensor:
    if loss_type == "sft":
        return -policy_chosen_logps
    c, r = policy_chosen_logps - reference_chosen_logps, policy_rejected_logps - reference_rejected_logps
    if loss_type == "aot":
        c, r = (policy_chosen_logps - policy_rejected_logps), (reference_chosen_logps - reference_rejected_logps)
    if loss_type.startswith("aot"):
        shape = c.shape
        c, r = (torch.sort(x.flatten()).values.view(shape) for x in (c, r))
        loss_type = "sigmoid"
    slope = {  # f' of the divergence
        "reverse_kl": lambda d: d,
        "forward_kl": lambda d: 1 - 1 / d.exp(),
        "js": lambda d: (2 * d.exp() / (1 + d.exp())).log(),
        "alpha": lambda d: (d.exp() ** (f_alpha - 1) - 1) / (f_alpha - 1),
    }[f_divergence]
    c, r = slope(c) / chosen_lengths, slope(r) / rejected_lengths
    loss_type = loss_type.removesuffix("_norm")
    right, wrong = sigmoid(beta * (c - r)), sigmoid(beta * (r - c))
    e = label_smoothing or (1e-3 if loss_type == "exo_pair" else 0.0)
    if loss_type == "sigmoid":
        return -(1 - e) * right.log() - e * wrong.log()
    if loss_type == "robust":
        return (-(1 - e) * right.log() + e * wrong.log()) / (1 - 2 * e)
    if loss_type == "hinge":
        return (1 - beta * (c - r)).clamp(min=0)
    if loss_type == "ipo":
        return (c - r - 1 / (2 * beta)) ** 2
    if loss_type == "exo_pair":
        return right * (right / (1 - e)).log() + wrong * (wrong / e).log()
    if loss_type == "bco_pair":
        return -sigmoid(beta * c).log() - sigmoid(-beta * r).log()
    if loss_type == "discopop":
        gate = sigmoid(beta * (c - r) / discopop_tau)
        return -right.log() * (1 - gate) + (-beta * (c - r)).exp() * gate
    if loss_type == "nca_pair":
        return -sigmoid(beta * c).log() - 0.5 * sigmoid(-beta * c).log() - 0.5 * sigmoid(-beta * r).log()
    if loss_type == "apo_zero":
        return 1 - sigmoid(beta * c) + sigmoid(beta * r)
    if loss_type == "apo_down":
        return sigmoid(beta * c) + 1 - right
    assert loss_type == "sppo_hard"
    return (c - 0.5 / beta) ** 2 + (r + 0.5 / beta) ** 2


def _simpo(
    chosen_avg_logps: Tensor,
    rejected_avg_logps: Tensor,
    beta: float = 2.0,
    gamma: float = 1.0,
    label_smoothing: float = 0.0,
    loss_type: str = "sigmoid",
) -> Tensor:
    logits = chosen_avg_logps - rejected_avg_logps - gamma / beta
    if loss_type == "hinge":
        return (1 - beta * logits).clamp(min=0)
    e = label_smoothing
    return -(1 - e) * sigmoid(beta * logits).log() - e * sigmoid(-beta * logits).log()


def _cpo(
    chosen_logps: Tensor,
    rejected_logps: Tensor,
    beta: float = 0.1,
    alpha: float = 1.0,
    label_smoothing: float = 0.0,
    loss_type: str = "sigmoid",
) -> Tensor:
    ratio, e = chosen_logps - rejected_logps, label_smoothing
    if loss_type == "hinge":
        losses = (1 - beta * ratio).clamp(min=0)
    elif loss_type == "ipo":
        losses = (ratio - 0.5 / beta) ** 2
    else:
        losses = -(1 - e) * sigmoid(beta * ratio).log() - e * sigmoid(-beta * ratio).log()
    return losses - alpha * chosen_logps


def _orpo(
    chosen_avg_logps: Tensor, rejected_avg_logps: Tensor, beta: float = 0.1, sft_coefficient: float = 0.0
) -> Tensor:
    chosen, rejected = chosen_avg_logps.exp(), rejected_avg_logps.exp()
    odds_ratio = (chosen / (1 - chosen)) / (rejected / (1 - rejected))
    return beta * (1 + 1 / odds_ratio).log() - sft_coefficient * chosen_avg_logps


def _kto(
    policy_logps: Tensor,
    reference_logps: Tensor,
    desirable: Tensor,
    kl: Any = 0.0,
    beta: float = 0.1,
    desirable_weight: float = 1.0,
    undesirable_weight: float = 1.0,
    loss_type: str = "kto",
) -> Tensor:
    z = max(float(kl), 0.0) if loss_type == "kto" else 0.0
    d = policy_logps - reference_logps
    good, bad = 1 - sigmoid(beta * (d - z)), 1 - sigmoid(beta * (z - d))
    return torch.where(desirable, desirable_weight * good, undesirable_weight * bad)


# ------------------------------------------------------------------------------------------ the table


def _case(
    name: str, variant: str, build: Build, differentiable: tuple[str, ...], oracle: Any, twice: bool, **options: Any
) -> Case:
    return Case(
        f"alignment.{name}", build, SHAPE, differentiable, "pointwise", variant, options, oracle=oracle,
        optional=MASKED, twice=twice,
    )  # fmt: skip


def _dpo_case(loss_type: str, twice: bool = True, build: Build = _pairs, **options: Any) -> Case:
    variant = ", ".join([loss_type, *(f"{key} {value}" for key, value in options.items())])
    names = ("policy_chosen_logps", "policy_rejected_logps")[: 1 if loss_type == "sft" else 2]
    return _case("dpo_loss", variant, build, names, _dpo, twice, loss_type=loss_type, **options)


def _simpo_case(variant: str = "", twice: bool = True, **options: Any) -> Case:
    return _case("simpo_loss", variant, _averages, _AVERAGES, _simpo, twice, **options)


def _cpo_case(variant: str = "", twice: bool = True, **options: Any) -> Case:
    return _case("cpo_loss", variant, _sequences, _SUMS, _cpo, twice, **options)


def _orpo_case(variant: str = "", **options: Any) -> Case:
    return _case("orpo_loss", variant, _averages, _AVERAGES, _orpo, True, **options)


def _kto_case(variant: str = "", build: Build | None = None, **options: Any) -> Case:
    return _case("kto_loss", variant, build or _unpaired(), ("policy_logps",), _kto, True, **options)


_AVERAGES = ("chosen_avg_logps", "rejected_avg_logps")
_SUMS = ("chosen_logps", "rejected_logps")
CASES = [
    _dpo_case("sigmoid"),
    _dpo_case("sigmoid", label_smoothing=0.1, beta=0.5),
    _dpo_case("hinge", twice=False),
    _dpo_case("ipo"),
    _dpo_case("robust"),
    _dpo_case("robust", label_smoothing=0.05),
    _dpo_case("exo_pair"),
    _dpo_case("exo_pair", label_smoothing=0.05),
    _dpo_case("nca_pair"),
    _dpo_case("apo_zero"),
    _dpo_case("apo_down"),
    _dpo_case("sppo_hard"),
    _dpo_case("bco_pair"),
    _dpo_case("discopop", discopop_tau=0.5),
    _dpo_case("sft", twice=False),
    _dpo_case("sigmoid_norm", build=_pairs_and_lengths, beta=2.0, f_divergence="js"),
    _dpo_case("ipo_norm", build=_pairs_and_lengths),
    _dpo_case("aot", label_smoothing=0.1),
    _dpo_case("aot_unpaired"),
    _dpo_case("sigmoid", f_divergence="alpha", f_alpha=0.7),
    _dpo_case("hinge", twice=False, build=_near_pairs, f_divergence="forward_kl"),
    _simpo_case(),
    _simpo_case("smoothed", gamma=0.3, label_smoothing=0.1),
    _simpo_case("hinge", twice=False, loss_type="hinge"),
    _cpo_case(),
    _cpo_case("smoothed, no likelihood", beta=0.5, alpha=0.0, label_smoothing=0.1),
    _cpo_case("hinge", twice=False, loss_type="hinge", alpha=0.3),
    _cpo_case("ipo", loss_type="ipo", beta=0.7),
    _orpo_case(),
    _orpo_case("with the likelihood", beta=0.5, sft_coefficient=1.0),
    _kto_case(),
    _kto_case("no kl, weighted", _unpaired(kl=False), desirable_weight=1.5, undesirable_weight=0.5),
    _kto_case("apo_zero_unpaired", loss_type="apo_zero_unpaired"),
]
