"""The cases of reinforcement learning and alignment; the oracles are the papers' formulas, written down naively."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from pointwise_case import Case
from torch import Tensor

from fastloss import alignment, rl

SHAPE = (7, 37)
Make = Callable[[torch.Generator], dict[str, Any]]
TOKENS = ("none", "token-mean", "token-sum")
SEQUENCES = (*TOKENS, "seq-mean-token-sum", "seq-mean-token-mean", "seq-mean-token-sum-norm")


def _normal(generator: torch.Generator, shift: float = 0.0, scale: float = 1.0, shape: tuple[int, ...] = SHAPE):
    return shift + scale * torch.randn(shape, generator=generator, dtype=torch.float64)


def _logps(generator: torch.Generator, shape: tuple[int, ...] = SHAPE) -> Tensor:
    return -0.05 - 3 * torch.rand(shape, generator=generator, dtype=torch.float64)


# ------------------------------------------------------------------------------------------ reinforcement learning
# Losses of both signs have a mean far from 0, also with one operand made a row or a number: what cancels has no digits.


def _policy(generator: torch.Generator) -> dict[str, Any]:
    logp = _logps(generator)
    return {"logp": logp, "old_logp": logp + _normal(generator, scale=0.4), "advantages": _normal(generator, -1.5)}


def _values(generator: torch.Generator) -> dict[str, Any]:
    return {name: _normal(generator) for name in ("values", "old_values", "returns")}


def _actor_critic(generator: torch.Generator) -> dict[str, Any]:
    return {**_policy(generator), **_values(generator), "entropy": _normal(generator, 1.0, 0.1)}


def _unclipped_values(generator: torch.Generator) -> dict[str, Any]:
    return {**_policy(generator), "values": _normal(generator), "returns": _normal(generator)}


def _ppo_clip(
    logp: Tensor,
    old_logp: Tensor,
    advantages: Tensor,
    clip: float = 0.2,
    clip_high: float | None = None,
    dual_clip: float | None = None,
    log_ratio_clamp: float = 20.0,
) -> Tensor:
    """The paper's objective, to be maximised; then its negative."""
    ratio = (logp - old_logp).clamp(-log_ratio_clamp, log_ratio_clamp).exp()
    bounded = ratio.clamp(1 - clip, 1 + (clip if clip_high is None else clip_high))
    objective = torch.minimum(ratio * advantages, bounded * advantages)
    if dual_clip is not None:
        objective = torch.where(advantages < 0, torch.maximum(objective, dual_clip * advantages), objective)
    return -objective


def _value_clip(values: Tensor, old_values: Tensor, returns: Tensor, clip: float = 0.2) -> Tensor:
    bounded = old_values + (values - old_values).clamp(-clip, clip)
    return torch.maximum((values - returns) ** 2, (bounded - returns) ** 2) / 2


def _ppo(
    values: Tensor,
    returns: Tensor,
    entropy: Tensor | float = 0.0,
    old_values: Tensor | None = None,
    value_coefficient: float = 0.5,
    entropy_coefficient: float = 0.0,
    value_clip: float = 0.2,
    **policy: Any,
) -> Tensor:
    clip = math.inf if old_values is None else value_clip
    value_loss = _value_clip(values, values if old_values is None else old_values, returns, clip)
    return _ppo_clip(**policy) + value_coefficient * value_loss - entropy_coefficient * entropy


def _kl(logp: Tensor, ref_logp: Tensor, kind: str = "k1", log_ratio_clamp: float = 20.0) -> Tensor:
    d = logp - ref_logp
    bounded = d.clamp(-log_ratio_clamp, log_ratio_clamp)
    return {"k1": d, "k2": d**2 / 2, "k3": (-bounded).exp() - 1 + bounded, "abs": d.abs()}[kind]


def _reference(shift: float) -> Make:
    def make(generator: torch.Generator) -> dict[str, Any]:
        ref_logp = _logps(generator)
        return {"logp": ref_logp + _normal(generator, shift, 0.5), "ref_logp": ref_logp}

    return make


def _policy_case(name: str, reductions: tuple[str, ...] = TOKENS, **options: Any) -> Case:
    return Case(name, rl.ppo_clip_loss, _policy, ("logp",), options, _ppo_clip, reductions, masked=True)


def _kl_case(kind: str, twice: bool, **options: Any) -> Case:
    name = f"kl_penalty, {kind}" + "".join(f", {key} {value}" for key, value in options.items())
    options = {"kind": kind, **options}
    make = _reference(4.0 if kind == "k1" else 0.3)
    return Case(name, alignment.kl_penalty, make, ("logp",), options, _kl, TOKENS, masked=True, twice=twice)


REINFORCEMENT = [
    _policy_case("ppo_clip_loss", reductions=SEQUENCES),
    _policy_case("ppo_clip_loss, asymmetric", clip=0.1, clip_high=0.4),
    _policy_case("ppo_clip_loss, dual clip", dual_clip=1.3),
    _policy_case("ppo_clip_loss, clamped ratio", log_ratio_clamp=0.3),
    Case(
        "value_clip_loss", rl.value_clip_loss, _values, ("values",), {"clip": 0.5}, _value_clip, TOKENS, masked=True,
        twice=False,
    ),
    Case(
        "ppo_loss", rl.ppo_loss, _actor_critic, ("logp", "values", "entropy"),
        {"value_coefficient": 0.7, "entropy_coefficient": 0.01, "clip_high": 0.3, "dual_clip": 2.0, "value_clip": 0.4},
        _ppo, TOKENS, masked=True, twice=False,
    ),
    Case(
        "ppo_loss, plain", rl.ppo_loss, _unclipped_values, ("logp", "values"), {}, _ppo, TOKENS, masked=True,
        twice=False,
    ),
    _kl_case("k1", twice=False),
    _kl_case("k2", twice=True),
    _kl_case("k3", twice=True),
    _kl_case("k3", twice=True, log_ratio_clamp=0.6),
    _kl_case("abs", twice=False),
]  # fmt: skip


# ------------------------------------------------------------------------------------------ alignment


def _pairs(generator: torch.Generator) -> dict[str, Any]:
    chosen, rejected = 10 * _logps(generator), 10 * _logps(generator)
    return {
        "policy_chosen_logps": chosen,
        "policy_rejected_logps": rejected,
        "reference_chosen_logps": chosen + _normal(generator, scale=4.0),
        "reference_rejected_logps": rejected + _normal(generator, scale=4.0),
    }


def _averages(generator: torch.Generator) -> dict[str, Any]:
    return {"chosen_avg_logps": _logps(generator), "rejected_avg_logps": _logps(generator)}


def _rewards(generator: torch.Generator) -> dict[str, Any]:
    return {"chosen_rewards": _normal(generator), "rejected_rewards": _normal(generator)}


def _rewards_and_margin(generator: torch.Generator) -> dict[str, Any]:
    return {**_rewards(generator), "margin": _normal(generator, 1.0, 0.3, (SHAPE[1],))}


def _unpaired(generator: torch.Generator) -> dict[str, Any]:
    policy = 10 * _logps(generator)
    return {
        "policy_logps": policy,
        "reference_logps": policy + _normal(generator, scale=4.0),
        "desirable": torch.rand(SHAPE, generator=generator) < 0.5,
        "kl": torch.tensor(0.8, dtype=torch.float64),
    }


def _unpaired_without_kl(generator: torch.Generator) -> dict[str, Any]:
    tensors = _unpaired(generator)
    return {name: value for name, value in tensors.items() if name != "kl"}


def _sigmoid(x: Tensor) -> Tensor:
    return 1 / (1 + torch.exp(-x))


def _dpo(
    policy_chosen_logps: Tensor,
    policy_rejected_logps: Tensor,
    reference_chosen_logps: Tensor,
    reference_rejected_logps: Tensor,
    beta: float = 0.1,
    label_smoothing: float = 0.0,
    loss_type: str = "sigmoid",
) -> Tensor:
    c, r = policy_chosen_logps - reference_chosen_logps, policy_rejected_logps - reference_rejected_logps
    right, wrong = _sigmoid(beta * (c - r)), _sigmoid(beta * (r - c))
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
    if loss_type == "nca_pair":
        return -_sigmoid(beta * c).log() - 0.5 * _sigmoid(-beta * c).log() - 0.5 * _sigmoid(-beta * r).log()
    if loss_type == "apo_zero":
        return 1 - _sigmoid(beta * c) + _sigmoid(beta * r)
    if loss_type == "apo_down":
        return _sigmoid(beta * c) + 1 - right
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
    return -(1 - e) * _sigmoid(beta * logits).log() - e * _sigmoid(-beta * logits).log()


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
        losses = -(1 - e) * _sigmoid(beta * ratio).log() - e * _sigmoid(-beta * ratio).log()
    return losses - alpha * chosen_logps


def _orpo(
    chosen_avg_logps: Tensor, rejected_avg_logps: Tensor, beta: float = 0.1, sft_coefficient: float = 0.0
) -> Tensor:
    chosen, rejected = chosen_avg_logps.exp(), rejected_avg_logps.exp()
    odds_ratio = (chosen / (1 - chosen)) / (rejected / (1 - rejected))
    return beta * (1 + 1 / odds_ratio).log() - sft_coefficient * chosen_avg_logps


def _reward_model(
    chosen_rewards: Tensor, rejected_rewards: Tensor, margin: Any = 0.0, center_coefficient: float = 0.0
) -> Tensor:
    ranking = (1 + (rejected_rewards + margin - chosen_rewards).exp()).log()
    return ranking + center_coefficient * (chosen_rewards + rejected_rewards) ** 2


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
    good, bad = 1 - _sigmoid(beta * (d - z)), 1 - _sigmoid(beta * (z - d))
    return torch.where(desirable, desirable_weight * good, undesirable_weight * bad)


def _dpo_case(loss_type: str, twice: bool = True, **options: Any) -> Case:
    name = f"dpo_loss, {loss_type}" + "".join(f", {key} {value}" for key, value in options.items())
    names = ("policy_chosen_logps", "policy_rejected_logps")
    options = {"loss_type": loss_type, **options}
    return Case(name, alignment.dpo_loss, _pairs, names, options, _dpo, masked=True, twice=twice)


def _averages_case(name: str, loss: Callable[..., Any], oracle: Any, twice: bool = True, **options: Any) -> Case:
    names = ("chosen_avg_logps", "rejected_avg_logps")
    return Case(name, loss, _averages, names, options, oracle, masked=True, twice=twice)


def _sequences(generator: torch.Generator) -> dict[str, Tensor]:
    made = _averages(generator)
    return {name.replace("_avg", ""): 4 * logps for name, logps in made.items()}


def _cpo_case(name: str, twice: bool = True, **options: Any) -> Case:
    names = ("chosen_logps", "rejected_logps")
    return Case(name, alignment.cpo_loss, _sequences, names, options, _cpo, masked=True, twice=twice)


def _reward_case(name: str, make: Make = _rewards, **options: Any) -> Case:
    names = ("chosen_rewards", "rejected_rewards")
    return Case(name, alignment.reward_model_loss, make, names, options, _reward_model, masked=True)


def _kto_case(name: str, make: Make = _unpaired, **options: Any) -> Case:
    return Case(name, alignment.kto_loss, make, ("policy_logps",), options, _kto, masked=True)


ALIGNMENT = [
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
    _averages_case("simpo_loss", alignment.simpo_loss, _simpo),
    _averages_case("simpo_loss, smoothed", alignment.simpo_loss, _simpo, gamma=0.3, label_smoothing=0.1),
    _averages_case("simpo_loss, hinge", alignment.simpo_loss, _simpo, twice=False, loss_type="hinge"),
    _cpo_case("cpo_loss"),
    _cpo_case("cpo_loss, smoothed, no likelihood", beta=0.5, alpha=0.0, label_smoothing=0.1),
    _cpo_case("cpo_loss, hinge", twice=False, loss_type="hinge", alpha=0.3),
    _cpo_case("cpo_loss, ipo", loss_type="ipo", beta=0.7),
    _averages_case("orpo_loss", alignment.orpo_loss, _orpo),
    _averages_case("orpo_loss, with the likelihood", alignment.orpo_loss, _orpo, beta=0.5, sft_coefficient=1.0),
    _reward_case("reward_model_loss"),
    _reward_case("reward_model_loss, margin and center", _rewards_and_margin, center_coefficient=0.01),
    _kto_case("kto_loss"),
    _kto_case("kto_loss, no kl, weighted", _unpaired_without_kl, desirable_weight=1.5, undesirable_weight=0.5),
    _kto_case("kto_loss, apo_zero_unpaired", loss_type="apo_zero_unpaired"),
]

CASES = [*REINFORCEMENT, *ALIGNMENT]
