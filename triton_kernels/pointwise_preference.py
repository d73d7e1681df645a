"""Preference losses of alignment; pointwise_losses.py says what a helper is."""

from __future__ import annotations

import math
from collections.abc import Sequence

import triton
import triton.language as tl

from .common import clamp, expm1, log_sigmoid, maximum, minimum, sigmoid, sign
from .pointwise_description import PointwiseLoss
from .pointwise_policy import share

_REWARDS = ("mean", "mean", "mean", "mean")


def sigmoid_weights(label_smoothing: float) -> tuple[float | None, ...]:
    """Weights of -log s(m) and -log s(-m); the second is None for 0."""
    return 1.0 - label_smoothing, label_smoothing or None


def robust_weights(label_smoothing: float) -> tuple[float | None, ...]:
    scale = 1.0 / (1.0 - 2.0 * label_smoothing)
    return (1.0 - label_smoothing) * scale, -label_smoothing * scale or None


def dpo_sigmoid(p: Sequence[float]) -> tuple[float | None, ...]:
    return (p[0], *sigmoid_weights(p[1]))


def dpo_robust(p: Sequence[float]) -> tuple[float | None, ...]:
    return (p[0], *robust_weights(p[1]))


def dpo_square(p: Sequence[float]) -> tuple[float | None, ...]:
    return p[0], 1.0 / p[0]


def dpo_exo(p: Sequence[float]) -> tuple[float | None, ...]:
    return p[0], math.log1p(-p[1]), math.log(p[1])


def beta_alone(p: Sequence[float]) -> tuple[float | None, ...]:
    return (p[0],)


def simpo_sigmoid(p: Sequence[float]) -> tuple[float | None, ...]:
    return (p[0], p[1], *sigmoid_weights(p[2]))


def simpo_hinge(p: Sequence[float]) -> tuple[float | None, ...]:
    return p[0], p[1]


def cpo_sigmoid(p: Sequence[float]) -> tuple[float | None, ...]:
    return p[0], p[2] or None, *sigmoid_weights(p[1])


def cpo_hinge(p: Sequence[float]) -> tuple[float | None, ...]:
    return p[0], p[2] or None


def cpo_ipo(p: Sequence[float]) -> tuple[float | None, ...]:
    return p[0], p[2] or None, 1.0 / p[0]


def no_constants(p: Sequence[float]) -> tuple[float | None, ...]:
    return ()


_DPO = {
    "sigmoid": dpo_sigmoid,
    "robust": dpo_robust,
    "hinge": beta_alone,
    "ipo": dpo_square,
    "exo_pair": dpo_exo,
    "nca_pair": beta_alone,
    "apo_zero": beta_alone,
    "apo_down": beta_alone,
    "sppo_hard": dpo_square,
}
_CPO = {"sigmoid": cpo_sigmoid, "hinge": cpo_hinge, "ipo": cpo_ipo}
_KTO_METRICS = ("mean", "mean", "mean")

LOSSES = {
    "kl_penalty_k1": PointwiseLoss(operands=2, constants=no_constants),
    "kl_penalty_k2": PointwiseLoss(operands=2, constants=no_constants),
    "kl_penalty_k3": PointwiseLoss(operands=2),
    "kl_penalty_abs": PointwiseLoss(operands=2, constants=no_constants),
    **{
        f"dpo_loss_{name}": PointwiseLoss(operands=4, metrics=_REWARDS, constants=constants)
        for name, constants in _DPO.items()
    },
    "simpo_loss_sigmoid": PointwiseLoss(operands=2, metrics=_REWARDS, constants=simpo_sigmoid),
    "simpo_loss_hinge": PointwiseLoss(operands=2, metrics=_REWARDS, constants=simpo_hinge),
    **{
        f"cpo_loss_{name}": PointwiseLoss(operands=2, metrics=(*_REWARDS, "term", "term"), constants=constants)
        for name, constants in _CPO.items()
    },
    "orpo_loss": PointwiseLoss(operands=2, metrics=(*_REWARDS, "mean", "term", "term")),
    "reward_model_loss": PointwiseLoss(operands=3, metrics=(*_REWARDS, "term", "term")),
    "kto_loss_kto": PointwiseLoss(operands=4, metrics=_KTO_METRICS),
    "kto_loss_apo_zero_unpaired": PointwiseLoss(operands=4, metrics=_KTO_METRICS),
}


@triton.jit
def preference(LOSS: tl.constexpr, x, p):
    """(loss, derivatives, metrics)"""
    if LOSS == "kl_penalty_k1" or LOSS == "kl_penalty_k2" or LOSS == "kl_penalty_k3" or LOSS == "kl_penalty_abs":
        return kl_penalty(LOSS, x, p)
    elif LOSS == "simpo_loss_sigmoid" or LOSS == "simpo_loss_hinge":
        return simpo_loss(LOSS, x, p)
    elif LOSS == "cpo_loss_sigmoid" or LOSS == "cpo_loss_hinge" or LOSS == "cpo_loss_ipo":
        return cpo_loss(LOSS, x, p)
    elif LOSS == "orpo_loss":
        return orpo_loss(x, p)
    elif LOSS == "reward_model_loss":
        return reward_model_loss(x, p)
    elif LOSS == "kto_loss_kto":
        return kto_loss(x, maximum(x[3], tl.zeros_like(x[3])), p)
    elif LOSS == "kto_loss_apo_zero_unpaired":
        return kto_loss(x, tl.zeros_like(x[3]), p)
    else:
        return dpo_loss(LOSS, x, p)


@triton.jit
def kl_penalty(LOSS: tl.constexpr, x, p):
    """x: logp, ref_logp; p: bound of the log-ratio, for k3"""
    difference = x[0] - x[1]
    if LOSS == "kl_penalty_k1":
        return difference, (tl.full(difference.shape, 1.0, difference.dtype), 0.0), ()
    elif LOSS == "kl_penalty_k2":
        return 0.5 * difference * difference, (difference, 0.0), ()
    elif LOSS == "kl_penalty_k3":
        reverse = -difference
        clamped = clamp(reverse, -p[0], p[0])
        excess = expm1(clamped)
        return excess - clamped, (tl.where(clamped == reverse, -excess, 0.0), 0.0), ()
    else:
        return tl.abs(difference), (sign(difference), 0.0), ()


@triton.jit
def rewards(chosen, rejected):
    """The metrics of a pair: rewards, margin, is the chosen one larger?"""
    margin = chosen - rejected
    return chosen, rejected, margin, share(margin > 0.0, margin.dtype)


@triton.jit
def sigmoid_pair(margin, keep, flip):
    """(loss, slope) of -keep log s(m) - flip log s(-m)"""
    loss = -keep * log_sigmoid(margin)
    slope = -keep * sigmoid(-margin)
    if flip is not None:
        loss -= flip * log_sigmoid(-margin)
        slope += flip * sigmoid(margin)
    return loss, slope


@triton.jit
def hinge_pair(margin):
    """(loss, slope) of max(0, 1 - m)"""
    gap = 1.0 - margin
    return maximum(gap, tl.zeros_like(gap)), tl.where(gap > 0.0, -1.0, 0.0).to(margin.dtype)


@triton.jit
def square_pair(margin, inverse_beta):
    """(loss, slope) of (m / beta - 1 / (2 beta))^2"""
    gap = (margin - 0.5) * inverse_beta
    return gap * gap, 2.0 * inverse_beta * gap


@triton.jit
def dpo_pair(LOSS: tl.constexpr, chosen, rejected, p):
    """(loss, slopes by the rewards)"""
    margin = chosen - rejected
    if LOSS == "dpo_loss_sigmoid" or LOSS == "dpo_loss_robust":
        loss, slope = sigmoid_pair(margin, p[1], p[2])
        return loss, slope, -slope
    elif LOSS == "dpo_loss_hinge":
        loss, slope = hinge_pair(margin)
        return loss, slope, -slope
    elif LOSS == "dpo_loss_ipo":
        loss, slope = square_pair(margin, p[1])
        return loss, slope, -slope
    elif LOSS == "dpo_loss_exo_pair":
        right = sigmoid(margin)
        wrong = sigmoid(-margin)
        loss = right * (log_sigmoid(margin) - p[1]) + wrong * (log_sigmoid(-margin) - p[2])
        slope = right * wrong * (margin - p[1] + p[2])
        return loss, slope, -slope
    elif LOSS == "dpo_loss_nca_pair":
        loss = -log_sigmoid(chosen) - 0.5 * (log_sigmoid(-chosen) + log_sigmoid(-rejected))
        return loss, 0.5 * sigmoid(chosen) - sigmoid(-chosen), 0.5 * sigmoid(rejected)
    elif LOSS == "dpo_loss_apo_zero":
        away = sigmoid(-chosen)
        near = sigmoid(rejected)
        return away + near, -away * sigmoid(chosen), near * sigmoid(-rejected)
    elif LOSS == "dpo_loss_apo_down":
        near = sigmoid(chosen)
        wrong = sigmoid(-margin)
        slope = wrong * sigmoid(margin)
        return near + wrong, near * sigmoid(-chosen) - slope, slope
    elif LOSS == "dpo_loss_sppo_hard":
        upper = (chosen - 0.5) * p[1]
        lower = (rejected + 0.5) * p[1]
        return upper * upper + lower * lower, 2.0 * p[1] * upper, 2.0 * p[1] * lower
    else:
        tl.static_assert(False, "no such loss")


@triton.jit
def dpo_loss(LOSS: tl.constexpr, x, p):
    """x: policy's chosen and rejected, reference's chosen and rejected; p: beta, and what the type needs"""
    chosen = p[0] * (x[0] - x[2])
    rejected = p[0] * (x[1] - x[3])
    loss, by_chosen, by_rejected = dpo_pair(LOSS, chosen, rejected, p)
    return loss, (p[0] * by_chosen, p[0] * by_rejected, 0.0, 0.0), rewards(chosen, rejected)


@triton.jit
def simpo_loss(LOSS: tl.constexpr, x, p):
    """x: chosen, rejected; p: beta, gamma, weights of the sigmoids"""
    margin = p[0] * (x[0] - x[1]) - p[1]
    if LOSS == "simpo_loss_hinge":
        loss, slope = hinge_pair(margin)
    else:
        loss, slope = sigmoid_pair(margin, p[2], p[3])
    slope = p[0] * slope
    return loss, (slope, -slope), rewards(p[0] * x[0], p[0] * x[1])


@triton.jit
def cpo_loss(LOSS: tl.constexpr, x, p):
    """x: chosen, rejected; p: beta, alpha, and what the type needs"""
    margin = p[0] * (x[0] - x[1])
    if LOSS == "cpo_loss_sigmoid":
        preference, slope = sigmoid_pair(margin, p[2], p[3])
    elif LOSS == "cpo_loss_hinge":
        preference, slope = hinge_pair(margin)
    else:
        preference, slope = square_pair(margin, p[2])
    loss = preference
    slope = p[0] * slope
    by_chosen = slope
    if p[1] is not None:
        loss -= p[1] * x[0]
        by_chosen -= p[1]
    parts = (preference, -x[0])
    return loss, (by_chosen, -slope), rewards(p[0] * x[0], p[0] * x[1]) + parts


@triton.jit
def log_odds(logp):
    """(log(p / (1 - p)), slope); preference.h says why this formula, and why the bound"""
    inside = minimum(logp, tl.full(logp.shape, -1e-7, logp.dtype))
    complement = -expm1(inside)
    return inside - tl.log(complement), tl.where(logp > inside, 0.0, 1.0 / complement)


@triton.jit
def orpo_loss(x, p):
    """x: chosen, rejected; p: beta, SFT coefficient"""
    chosen_odds, chosen_slope = log_odds(x[0])
    rejected_odds, rejected_slope = log_odds(x[1])
    odds = chosen_odds - rejected_odds
    odds_loss = -p[0] * log_sigmoid(odds)
    slope = p[0] * sigmoid(-odds)
    parts = (odds, odds_loss, -x[0])
    derivatives = (-slope * chosen_slope - p[1], slope * rejected_slope)
    return odds_loss - p[1] * x[0], derivatives, rewards(p[0] * x[0], p[0] * x[1]) + parts


@triton.jit
def reward_model_loss(x, p):
    """x: chosen, rejected, margin; p: center coefficient"""
    margin = x[0] - x[1] - x[2]
    ranking = -log_sigmoid(margin)
    wrong = sigmoid(-margin)
    total = x[0] + x[1]
    center = p[0] * total * total
    by_total = 2.0 * p[0] * total
    parts = (ranking, center)
    return ranking + center, (by_total - wrong, by_total + wrong, 0.0), rewards(x[0], x[1]) + parts


@triton.jit
def kto_loss(x, floor, p):
    """x: policy, reference, desirable, kl; p: beta, weights of desirable and undesirable"""
    log_ratio = x[0] - x[1]
    reward = p[0] * log_ratio
    desirable = x[2] != 0.0
    value = p[0] * (log_ratio - floor)
    value = tl.where(desirable, value, -value)
    weight = tl.where(desirable, p[1], p[2])
    wrong = sigmoid(-value)
    slope = p[0] * weight * wrong * sigmoid(value)
    metrics = (tl.where(desirable, reward, 0.0), tl.where(desirable, 0.0, reward), share(desirable, reward.dtype))
    return weight * wrong, (tl.where(desirable, -slope, slope), 0.0, 0.0, 0.0), metrics
