"""The table of policy losses: their oracle follows the papers' objectives, to be maximised, a formula each."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from cases.case import MASKED, Arguments, Build, Case, Shape, normal
from cases.rl.policy import SEQUENCES, log_probabilities

SHAPE = (7, 37)

# ------------------------------------------------------------------------------------------ arguments


def _tokens(spread: float = 0.4) -> Build:
    """Tokens with an advantage for each sequence, of one sign in the mean."""

    def make(generator: torch.Generator, shape: Shape) -> Arguments:
        logp = log_probabilities(generator, shape)
        advantages = normal(generator, *shape[:-1], 1, shift=-1.5).expand(shape).contiguous()
        old_logp = (logp + normal(generator, *shape, scale=spread)).clamp(max=-1e-3)  # of a probability
        return {"logp": logp, "old_logp": old_logp, "advantages": advantages}

    return make


def _with_everything(generator: torch.Generator, shape: Shape) -> Arguments:
    made = _tokens()(generator, shape)
    return {
        **made,
        "ref_logp": made["logp"] + normal(generator, *shape, scale=0.5),
        "entropy": normal(generator, *shape, shift=1.0, scale=0.1),
        "sampling_weights": normal(generator, *shape, shift=1.0, scale=0.1),
    }


def _with(extra: str, spread: float = 0.4) -> Build:
    """With a statistic that the caller computed, of packed sequences say, or tokens that he selected."""

    def make(generator: torch.Generator, shape: Shape) -> Arguments:
        made = _tokens(spread)(generator, shape)
        if extra == "selected":
            return {**made, "selected": torch.rand(shape, generator=generator) < 0.3}
        made["ref_logp"] = made["logp"] + normal(generator, *shape, scale=0.5)
        return {**made, "sequence_log_ratio": normal(generator, *shape[:-1], 1, scale=0.3)}

    return make


# ------------------------------------------------------------------------------------------ the objectives


def _probability_moved(logp: Tensor, old_logp: Tensor) -> Tensor:
    return (logp.exp() - old_logp.exp()).detach()


def _binary_kl(logp: Tensor, old_logp: Tensor) -> Tensor:
    p, q = old_logp.exp(), logp.exp().detach()
    return p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()


def _mean(x: Tensor, mask: Tensor | None) -> Tensor:
    return x.mean(-1, keepdim=True) if mask is None else (x * mask).sum(-1, keepdim=True) / mask.sum(-1, keepdim=True)


def _by_sign(condition: Tensor, yes: float, no: float, like: Tensor) -> Tensor:
    return torch.where(condition, torch.full_like(like, yes), torch.full_like(like, no))


def objective(
    logp: Tensor,
    old_logp: Tensor,
    advantages: Tensor,
    ref_logp: Tensor | None = None,
    entropy: Tensor | None = None,
    sampling_weights: Tensor | float = 1.0,
    sequence_log_ratio: Tensor | None = None,
    selected: Tensor | None = None,
    loss_type: str = "grpo",
    importance_sampling_level: str | None = None,
    clip: float = 0.2,
    clip_high: float | None = None,
    delta: float = math.inf,
    beta: float = 0.0,
    kl_kind: str = "k3",
    kl_bias_correction: bool = False,
    entropy_coefficient: float = 0.0,
    log_ratio_clamp: float = 20.0,
    mask: Tensor | None = None,
    **more: Any,
) -> Tensor:
    """Losses of the tokens."""
    a, low, high = advantages, 1 - clip, 1 + (clip if clip_high is None else clip_high)
    d = (logp - old_logp).clamp(-log_ratio_clamp, log_ratio_clamp)
    of_sequence = loss_type in ("gspo", "gspo_token", "luspo") if importance_sampling_level is None else (
        importance_sampling_level == "sequence"
    )  # fmt: skip
    mean = _mean(d, mask) if sequence_log_ratio is None else sequence_log_ratio
    if loss_type == "gspo_token":
        mean = mean.detach() + logp - logp.detach()
    r = (mean if of_sequence else d).exp()
    if loss_type in ("grpo", "bnpo", "dapo", "dr_grpo", "gspo", "gspo_token", "luspo", "clip_cov"):
        j = torch.minimum(r.clamp(max=delta) * a, r.clamp(low, high) * a)
        if loss_type == "clip_cov":
            j = torch.where(selected, 0.0, j)
    elif loss_type == "gmpo":
        bounded = d.clamp(low - 1, high - 1)
        sign = a.sign()
        mean = _mean(sign * torch.minimum(sign * d, sign * bounded), mask) if sequence_log_ratio is None else mean
        r = mean.exp()
        j = r * a
    elif loss_type in ("cispo", "cispo_absolute"):
        bounds = (low, high) if loss_type == "cispo" else (None, 5.0 if clip_high is None else clip_high)
        j = r.clamp(*bounds).detach() * a * logp
    elif loss_type == "sapo":
        t = _by_sign(a > 0, more.get("sapo_temperature_pos", 1.0), more.get("sapo_temperature_neg", 1.05), a)
        j = 4 / t / (1 + (-t * (r - 1)).exp()) * a
    elif loss_type == "vespo":
        counted = 1.0 if mask is None else mask
        weights = torch.as_tensor(sampling_weights, dtype=d.dtype)
        log_v = (d * counted + weights.log() * counted * torch.ones_like(d)).sum(-1, keepdim=True)
        log_v = log_v if sequence_log_ratio is None else sequence_log_ratio
        log_v, sampling_weights = log_v.detach().clamp(math.log(1e-8), 20), 1.0
        k = _by_sign(a >= 0, more.get("vespo_k_pos", 2.0), more.get("vespo_k_neg", 3.0), a)
        rate = _by_sign(a >= 0, more.get("vespo_lambda_pos", 3.0), more.get("vespo_lambda_neg", 2.0), a)
        j = log_v.exp() ** k * (rate * (1 - log_v.exp())).exp() * a * logp
    elif loss_type in ("dppo_tv", "dppo_kl"):
        moved = _probability_moved(logp, old_logp)
        far = moved if loss_type == "dppo_tv" else moved.sign() * _binary_kl(logp, old_logp)
        inside = torch.where(a > 0, far <= high - 1, far >= low - 1)
        j = r.clamp(max=delta).detach() * a * logp * inside
    elif loss_type == "gpg":
        j = a * logp
    elif loss_type == "dro":
        j = a * logp - 0.5 * more.get("dro_beta", 0.1) * (logp - old_logp) ** 2
    else:
        assert loss_type == "kl_cov" and selected is not None
        j = r * a - selected.to(a) * more.get("kl_cov_coefficient", 1.0) * (logp - old_logp).abs()
    if loss_type == "gmpo" and isinstance(sampling_weights, Tensor):
        sampling_weights = _mean(sampling_weights.log(), mask).exp()
    losses = -sampling_weights * j
    if beta:
        e = logp - ref_logp
        square = e**2 / 2
        kl = {"k1": e, "k2": square, "k3": (-e).exp() - 1 + e, "abs": e.abs()}[kl_kind.rstrip("+")]
        if "+" in kl_kind:
            kl = kl.detach() + square - square.detach()
        losses = losses + beta * (kl * r if kl_bias_correction else kl)
    if entropy_coefficient:
        losses = losses - entropy_coefficient * entropy
    return losses.expand(torch.broadcast_shapes(losses.shape, logp.shape))


# ------------------------------------------------------------------------------------------ the table


def _case(loss_type: str, build: Build | None = None, *differentiable: str, exact: bool = True, twice: bool = True,
          reductions: tuple[str, ...] = ("none", "token-mean", "token-sum"), **options: Any) -> Case:  # fmt: skip
    """`exact`: the gradient is the derivative; not where a formula has constants that depend on the policy."""
    variant = ", ".join([loss_type, *(f"{key} {value}" for key, value in options.items())])
    return Case(
        "alignment.grpo_loss", build or _tokens(), SHAPE, ("logp", *differentiable), "pointwise", variant,
        {"loss_type": loss_type, **options}, oracle=objective, optional=MASKED, reductions=reductions,
        derivative=exact, twice=twice,
    )  # fmt: skip


CASES = [
    _case(
        "grpo", _with_everything, "entropy", twice=False, reductions=SEQUENCES, beta=0.1, entropy_coefficient=0.01,
        delta=1.6, clip_high=0.28,
    ),
    _case("dapo", clip=0.15),
    _case("dr_grpo", _with_everything, exact=False, beta=0.1, kl_kind="k3+", kl_bias_correction=True),
    _case("gspo", clip=0.05),
    _case("gspo", _with("sequence_log_ratio"), "sequence_log_ratio", beta=0.1, kl_kind="k2", kl_bias_correction=True),
    _case("gmpo", clip=0.3),
    _case("cispo", exact=False, twice=False),
    _case("cispo_absolute", exact=False, twice=False, clip_high=1.3),
    _case("sapo"),
    _case("vespo", _with("sequence_log_ratio"), beta=0.1, kl_kind="abs", twice=False),
    _case("dppo_tv", exact=False, twice=False, clip=0.1, delta=1.4),
    _case("dppo_kl", exact=False, twice=False, clip=0.02),
    _case("gpg", twice=False),
    _case("dro", dro_beta=0.3),
    _case("clip_cov", _with("selected")),
    _case("kl_cov", _with("selected"), kl_cov_coefficient=0.7),
]  # fmt: skip
