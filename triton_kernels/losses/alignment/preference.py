"""Preference losses of alignment; csrc/losses/alignment/preference.h has the reasons.

The types of a loss differ by a function of the margin or of both rewards, which the loss takes as a constexpr.
"""

from __future__ import annotations

import math

import triton
import triton.language as tl

from ...math import expm1, log_sigmoid, maximum, minimum, share, sigmoid, sigmoids
from .. import Coefficients
from .reward import rewards

# ------------------------------------------------------------------------------------------ functions of the margin


def sigmoid_weights(label_smoothing: float) -> Coefficients:
    """Weights of -log s(m) and -log s(-m); the second is None for 0."""
    return 1.0 - label_smoothing, label_smoothing or None


@triton.jit
def sigmoid_margin(margin, keep, flip):
    """(loss, slope) of -keep log s(m) - flip log s(-m)"""
    loss = -keep * log_sigmoid(margin)
    slope = -keep * sigmoid(-margin)
    if flip is not None:
        loss -= flip * log_sigmoid(-margin)
        slope += flip * sigmoid(margin)
    return loss, slope


@triton.jit
def hinge_margin(margin):
    """(loss, slope) of max(0, 1 - m)"""
    gap = 1.0 - margin
    return maximum(gap, tl.zeros_like(gap)), tl.where(gap > 0.0, -1.0, 0.0).to(margin.dtype)


@triton.jit
def square_margin(margin, inverse_beta):
    """(loss, slope) of (m / beta - 1 / (2 beta))^2"""
    gap = (margin - 0.5) * inverse_beta
    return gap * gap, 2.0 * inverse_beta * gap


@triton.jit
def exo_margin(margin, log_keep, log_flip):
    right = sigmoid(margin)
    wrong = sigmoid(-margin)
    loss = right * (log_sigmoid(margin) - log_keep) + wrong * (log_sigmoid(-margin) - log_flip)
    return loss, right * wrong * (margin - log_keep + log_flip)


@triton.jit
def discopop_margin(margin, inverse_tau):
    """(loss, slope) of -log s(m) (1 - g) + exp(-m) g, with g = s(m / tau); exp(-m) alone overflows where g is 0"""
    _, complement, log_value, _ = sigmoids(margin)
    gate, rest, log_gate, _ = sigmoids(margin * inverse_tau)
    tail = tl.exp(log_gate - margin)
    steep = inverse_tau * rest
    loss = tail - log_value * rest
    return loss, tail * (steep - 1.0) - complement * rest + log_value * gate * steep


# ------------------------------------------------------------------------------------------ DPO


def dpo_beta(beta: float, label_smoothing: float, discopop_tau: float) -> Coefficients:
    return (beta,)


def dpo_square(beta: float, label_smoothing: float, discopop_tau: float) -> Coefficients:
    return beta, 1.0 / beta


def dpo_loss_sigmoid_coefficients(beta: float, label_smoothing: float, discopop_tau: float) -> Coefficients:
    return beta, *sigmoid_weights(label_smoothing)


def dpo_loss_robust_coefficients(beta: float, label_smoothing: float, discopop_tau: float) -> Coefficients:
    scale = 1.0 / (1.0 - 2.0 * label_smoothing)
    return beta, (1.0 - label_smoothing) * scale, -label_smoothing * scale or None


def dpo_loss_exo_pair_coefficients(beta: float, label_smoothing: float, discopop_tau: float) -> Coefficients:
    return beta, math.log1p(-label_smoothing), math.log(label_smoothing)


def dpo_loss_discopop_coefficients(beta: float, label_smoothing: float, discopop_tau: float) -> Coefficients:
    return beta, 1.0 / discopop_tau


dpo_loss_ipo_coefficients = dpo_loss_sppo_hard_coefficients = dpo_square
dpo_loss_hinge_coefficients = dpo_loss_nca_pair_coefficients = dpo_beta
dpo_loss_apo_zero_coefficients = dpo_loss_apo_down_coefficients = dpo_beta
dpo_loss_bco_pair_coefficients = dpo_loss_sft_coefficients = dpo_beta


@triton.jit
def dpo_rewards(chosen, rejected, ref_chosen, ref_rejected, beta):
    return beta * (chosen - ref_chosen), beta * (rejected - ref_rejected)


@triton.jit
def dpo_of_rewards(loss, by_chosen, by_rejected, chosen, rejected, beta):
    """What a helper returns, from the loss and its slopes by the rewards."""
    return loss, (beta * by_chosen, beta * by_rejected, 0.0, 0.0), rewards(chosen, rejected)


@triton.jit
def dpo_of_margin(MARGIN: tl.constexpr, chosen, rejected, ref_chosen, ref_rejected, beta, coefficients):
    chosen, rejected = dpo_rewards(chosen, rejected, ref_chosen, ref_rejected, beta)
    loss, slope = MARGIN(chosen - rejected, *coefficients)
    return dpo_of_rewards(loss, slope, -slope, chosen, rejected, beta)


@triton.jit
def dpo_loss_sigmoid(chosen, rejected, ref_chosen, ref_rejected, beta, keep, flip):
    return dpo_of_margin(sigmoid_margin, chosen, rejected, ref_chosen, ref_rejected, beta, (keep, flip))


dpo_loss_robust = dpo_loss_sigmoid


@triton.jit
def dpo_loss_hinge(chosen, rejected, ref_chosen, ref_rejected, beta):
    return dpo_of_margin(hinge_margin, chosen, rejected, ref_chosen, ref_rejected, beta, ())


@triton.jit
def dpo_loss_ipo(chosen, rejected, ref_chosen, ref_rejected, beta, inverse_beta):
    return dpo_of_margin(square_margin, chosen, rejected, ref_chosen, ref_rejected, beta, (inverse_beta,))


@triton.jit
def dpo_loss_exo_pair(chosen, rejected, ref_chosen, ref_rejected, beta, log_keep, log_flip):
    return dpo_of_margin(exo_margin, chosen, rejected, ref_chosen, ref_rejected, beta, (log_keep, log_flip))


@triton.jit
def dpo_loss_nca_pair(chosen, rejected, ref_chosen, ref_rejected, beta):
    chosen, rejected = dpo_rewards(chosen, rejected, ref_chosen, ref_rejected, beta)
    loss = -log_sigmoid(chosen) - 0.5 * (log_sigmoid(-chosen) + log_sigmoid(-rejected))
    by_chosen = 0.5 * sigmoid(chosen) - sigmoid(-chosen)
    return dpo_of_rewards(loss, by_chosen, 0.5 * sigmoid(rejected), chosen, rejected, beta)


@triton.jit
def dpo_loss_apo_zero(chosen, rejected, ref_chosen, ref_rejected, beta):
    chosen, rejected = dpo_rewards(chosen, rejected, ref_chosen, ref_rejected, beta)
    away = sigmoid(-chosen)
    near = sigmoid(rejected)
    return dpo_of_rewards(away + near, -away * sigmoid(chosen), near * sigmoid(-rejected), chosen, rejected, beta)


@triton.jit
def dpo_loss_apo_down(chosen, rejected, ref_chosen, ref_rejected, beta):
    chosen, rejected = dpo_rewards(chosen, rejected, ref_chosen, ref_rejected, beta)
    margin = chosen - rejected
    near = sigmoid(chosen)
    wrong = sigmoid(-margin)
    slope = wrong * sigmoid(margin)
    return dpo_of_rewards(near + wrong, near * sigmoid(-chosen) - slope, slope, chosen, rejected, beta)


@triton.jit
def dpo_loss_sppo_hard(chosen, rejected, ref_chosen, ref_rejected, beta, inverse_beta):
    chosen, rejected = dpo_rewards(chosen, rejected, ref_chosen, ref_rejected, beta)
    upper = (chosen - 0.5) * inverse_beta
    lower = (rejected + 0.5) * inverse_beta
    loss = upper * upper + lower * lower
    return dpo_of_rewards(loss, 2.0 * inverse_beta * upper, 2.0 * inverse_beta * lower, chosen, rejected, beta)


@triton.jit
def dpo_loss_bco_pair(chosen, rejected, ref_chosen, ref_rejected, beta):
    chosen, rejected = dpo_rewards(chosen, rejected, ref_chosen, ref_rejected, beta)
    loss = -log_sigmoid(chosen) - log_sigmoid(-rejected)
    return dpo_of_rewards(loss, -sigmoid(-chosen), sigmoid(rejected), chosen, rejected, beta)


@triton.jit
def dpo_loss_discopop(chosen, rejected, ref_chosen, ref_rejected, beta, inverse_tau):
    return dpo_of_margin(discopop_margin, chosen, rejected, ref_chosen, ref_rejected, beta, (inverse_tau,))


@triton.jit
def dpo_loss_sft(chosen, rejected, ref_chosen, ref_rejected, beta):
    slope = tl.full(chosen.shape, -1.0, chosen.dtype)
    metrics = rewards(beta * (chosen - ref_chosen), beta * (rejected - ref_rejected))
    return -chosen, (slope, tl.zeros_like(rejected), 0.0, 0.0), metrics


# ------------------------------------------------------------------------------------------ without a reference


def simpo_loss_sigmoid_coefficients(beta: float, gamma: float, label_smoothing: float) -> Coefficients:
    return beta, gamma, *sigmoid_weights(label_smoothing)


def simpo_loss_hinge_coefficients(beta: float, gamma: float, label_smoothing: float) -> Coefficients:
    return beta, gamma


@triton.jit
def simpo_of_margin(MARGIN: tl.constexpr, chosen, rejected, beta, gamma, coefficients):
    loss, slope = MARGIN(beta * (chosen - rejected) - gamma, *coefficients)
    slope = beta * slope
    return loss, (slope, -slope), rewards(beta * chosen, beta * rejected)


@triton.jit
def simpo_loss_sigmoid(chosen, rejected, beta, gamma, keep, flip):
    return simpo_of_margin(sigmoid_margin, chosen, rejected, beta, gamma, (keep, flip))


@triton.jit
def simpo_loss_hinge(chosen, rejected, beta, gamma):
    return simpo_of_margin(hinge_margin, chosen, rejected, beta, gamma, ())


def cpo_loss_sigmoid_coefficients(beta: float, label_smoothing: float, alpha: float) -> Coefficients:
    return beta, alpha or None, *sigmoid_weights(label_smoothing)


def cpo_loss_hinge_coefficients(beta: float, label_smoothing: float, alpha: float) -> Coefficients:
    return beta, alpha or None


def cpo_loss_ipo_coefficients(beta: float, label_smoothing: float, alpha: float) -> Coefficients:
    return beta, alpha or None, 1.0 / beta


@triton.jit
def cpo_of_margin(MARGIN: tl.constexpr, chosen, rejected, beta, alpha, coefficients):
    preference, slope = MARGIN(beta * (chosen - rejected), *coefficients)
    loss = preference
    slope = beta * slope
    by_chosen = slope
    if alpha is not None:
        loss -= alpha * chosen
        by_chosen -= alpha
    parts = (preference, -chosen)
    return loss, (by_chosen, -slope), rewards(beta * chosen, beta * rejected) + parts


@triton.jit
def cpo_loss_sigmoid(chosen, rejected, beta, alpha, keep, flip):
    return cpo_of_margin(sigmoid_margin, chosen, rejected, beta, alpha, (keep, flip))


@triton.jit
def cpo_loss_hinge(chosen, rejected, beta, alpha):
    return cpo_of_margin(hinge_margin, chosen, rejected, beta, alpha, ())


@triton.jit
def cpo_loss_ipo(chosen, rejected, beta, alpha, inverse_beta):
    return cpo_of_margin(square_margin, chosen, rejected, beta, alpha, (inverse_beta,))


@triton.jit
def log_odds(logp):
    """(log(p / (1 - p)), slope); preference.h says why this formula, and why the bound"""
    inside = minimum(logp, tl.full(logp.shape, -1e-7, logp.dtype))
    complement = -expm1(inside)
    return inside - tl.log(complement), tl.where(logp > inside, 0.0, 1.0 / complement)


@triton.jit
def orpo_loss(chosen, rejected, beta, sft_coefficient):
    chosen_odds, chosen_slope = log_odds(chosen)
    rejected_odds, rejected_slope = log_odds(rejected)
    odds = chosen_odds - rejected_odds
    odds_loss = -beta * log_sigmoid(odds)
    slope = beta * sigmoid(-odds)
    parts = (odds, odds_loss, -chosen)
    derivatives = (-slope * chosen_slope - sft_coefficient, slope * rejected_slope)
    return odds_loss - sft_coefficient * chosen, derivatives, rewards(beta * chosen, beta * rejected) + parts


# ------------------------------------------------------------------------------------------ KTO


@triton.jit
def kto_of_floor(policy, reference, desirable, floor, beta, desirable_weight, undesirable_weight):
    log_ratio = policy - reference
    reward = beta * log_ratio
    desirable = desirable != 0.0
    value = beta * (log_ratio - floor)
    value = tl.where(desirable, value, -value)
    weight = tl.where(desirable, desirable_weight, undesirable_weight)
    wrong = sigmoid(-value)
    slope = beta * weight * wrong * sigmoid(value)
    metrics = (tl.where(desirable, reward, 0.0), tl.where(desirable, 0.0, reward), share(desirable, reward.dtype))
    return weight * wrong, (tl.where(desirable, -slope, slope), 0.0, 0.0, 0.0), metrics


@triton.jit
def kto_loss_kto(policy, reference, desirable, kl, beta, desirable_weight, undesirable_weight):
    floor = maximum(kl, tl.zeros_like(kl))
    return kto_of_floor(policy, reference, desirable, floor, beta, desirable_weight, undesirable_weight)


@triton.jit
def kto_loss_apo_zero_unpaired(policy, reference, desirable, kl, beta, desirable_weight, undesirable_weight):
    floor = tl.zeros_like(kl)
    return kto_of_floor(policy, reference, desirable, floor, beta, desirable_weight, undesirable_weight)
