"""Policy losses of group-relative optimisation; csrc/losses/alignment/grpo.h has the reasons.

The types differ by a rule of the token, which `grpo_of` takes as a constexpr: from a token (logp, old_logp, advantage,
statistic of the sequence, selected, ratio, slope of the ratio by its logarithm) and the rule's own coefficients to
(loss, slope by the logarithm of the ratio, slope by logp, shares held back: low, high, all).
"""

from __future__ import annotations

import triton
import triton.language as tl

from ...math import clamp, expm1, expm1_minus, maximum, minimum, share, sigmoid, sign
from .. import Coefficients

# ------------------------------------------------------------------------------------------ coefficients


def shared(
    clip: float, clip_high: float, delta: float, log_ratio_clamp: float, beta: float, kl_kind: float,
    kl_bias_correction: float, entropy_coefficient: float, *others: float,
) -> Coefficients:  # fmt: skip
    """Those of every type: the bound of ratios; beta, and which of the estimates but k1 it weights; whether the slope
    is that of k2; whether the estimate is corrected; the entropy's. What is not there is None."""
    kind, straight = int(kl_kind) % 4, kl_kind >= 4
    estimates = (1.0 if kind == 1 else None, 1.0 if kind == 2 else None, 1.0 if kind == 3 else None)
    return (
        log_ratio_clamp, beta or None, *estimates, 1.0 if straight else None, 1.0 if kl_bias_correction else None,
        entropy_coefficient,
    )  # fmt: skip


def of_clip(*p: float) -> Coefficients:
    return *shared(*p), 1.0 - p[0], 1.0 + p[1], p[2]


def of_log_clip(*p: float) -> Coefficients:
    return *shared(*p), -p[0], p[1]


def of_bounds(*p: float) -> Coefficients:
    return *shared(*p), 1.0 - p[0], 1.0 + p[1]


def of_upper_bound(*p: float) -> Coefficients:
    """A ratio is not negative: nothing is too small."""
    return *shared(*p), -1.0, p[1]


def of_temperatures(*p: float) -> Coefficients:
    return *shared(*p), p[8], p[9]


def of_weighting(*p: float) -> Coefficients:
    return *shared(*p), p[10], p[11], p[12], p[13]


def of_region(*p: float) -> Coefficients:
    return *shared(*p), p[0], p[1], p[2]


def of_square(*p: float) -> Coefficients:
    return *shared(*p), p[14]


def of_penalty(*p: float) -> Coefficients:
    return *shared(*p), p[15]


grpo_loss_grpo_coefficients = grpo_loss_gspo_coefficients = grpo_loss_clip_cov_coefficients = of_clip
grpo_loss_gmpo_coefficients = of_log_clip
grpo_loss_cispo_coefficients = of_bounds
grpo_loss_cispo_absolute_coefficients = of_upper_bound
grpo_loss_sapo_coefficients = of_temperatures
grpo_loss_vespo_coefficients = of_weighting
grpo_loss_dppo_tv_coefficients = grpo_loss_dppo_kl_coefficients = of_region
grpo_loss_gpg_coefficients = shared
grpo_loss_dro_coefficients = of_square
grpo_loss_kl_cov_coefficients = of_penalty

# ------------------------------------------------------------------------------------------ rules


@triton.jit
def clipped(logp, old_logp, advantage, sequence, selected, ratio, slope, low, high, delta):
    A: tl.constexpr = logp.dtype
    free = -advantage * minimum(ratio, delta)
    bound = -advantage * clamp(ratio, low, high)
    step = -advantage * slope
    below = ratio < low
    above = ratio > high
    beyond = ratio > delta
    falls = advantage < 0.0
    by = tl.where(bound > free, tl.where(below | above, 0.0, step), tl.where(beyond, 0.0, step))
    is_low = falls & below
    is_high = ((advantage > 0.0) & above) | (falls & beyond)
    return maximum(free, bound), by, tl.zeros_like(by), share(is_low, A), share(is_high, A), share(is_low | is_high, A)


@triton.jit
def geometric(logp, old_logp, advantage, sequence, selected, ratio, slope, low, high):
    A: tl.constexpr = logp.dtype
    log_ratio = logp - old_logp
    is_low = (advantage < 0.0) & (log_ratio < low)
    is_high = (advantage > 0.0) & (log_ratio > high)
    shares = (share(is_low, A), share(is_high, A), share(is_low | is_high, A))
    return -advantage * ratio, -advantage * slope, tl.zeros_like(log_ratio), shares[0], shares[1], shares[2]


@triton.jit
def weighted(logp, old_logp, advantage, sequence, selected, ratio, slope, low, high):
    A: tl.constexpr = logp.dtype
    coefficient = -clamp(ratio, low, high) * advantage
    below = ratio < low
    above = ratio > high
    shares = (share(below, A), share(above, A), share(below | above, A))
    return coefficient * logp, tl.zeros_like(logp), coefficient + tl.zeros_like(logp), shares[0], shares[1], shares[2]


@triton.jit
def soft(logp, old_logp, advantage, sequence, selected, ratio, slope, positive, negative):
    none = tl.zeros_like(ratio)
    temperature = tl.where(advantage > 0.0, positive + none, negative + none)
    moved = temperature * (ratio - 1.0)
    scaled = -4.0 * advantage * sigmoid(moved)
    return scaled / temperature, scaled * sigmoid(-moved) * slope, none, none, none, none


@triton.jit
def gamma_weighted(
    logp, old_logp, advantage, sequence, selected, ratio, slope, k_positive, rate_positive, k_negative, rate_negative
):
    none = tl.zeros_like(ratio)
    log_weight = clamp(sequence, none - 18.420680743952367, none + 20.0)  # log(1e-8)
    k = tl.where(advantage >= 0.0, k_positive + none, k_negative + none)
    rate = tl.where(advantage >= 0.0, rate_positive + none, rate_negative + none)
    coefficient = -tl.exp(k * log_weight - rate * expm1(log_weight)) * advantage
    return coefficient * logp, none, coefficient, none, none, none


@triton.jit
def within(logp, advantage, ratio, delta, inside):
    """-min(r, delta) A logp inside a trust region, else 0"""
    A: tl.constexpr = logp.dtype
    none = tl.zeros_like(ratio)
    coefficient = -minimum(ratio, delta) * share(inside, A) * advantage  # NaN stays NaN
    outside = share(inside, A) == 0.0
    rises = advantage > 0.0
    shares = (share(outside & (advantage <= 0.0), A), share(outside & rises, A), share(outside, A))
    return coefficient * logp, none, coefficient, shares[0], shares[1], shares[2]


@triton.jit
def total_variation(logp, old_logp, advantage, sequence, selected, ratio, slope, low, high, delta):
    none = tl.zeros_like(ratio)
    moved = tl.exp(logp) - tl.exp(old_logp)
    towards = tl.where(advantage > 0.0, moved, -moved)
    inside = towards <= tl.where(advantage > 0.0, high + none, low + none)
    return within(logp, advantage, ratio, delta, inside)


@triton.jit
def divergence(logp, old_logp, advantage, sequence, selected, ratio, slope, low, high, delta):
    none = tl.zeros_like(ratio)
    probability = tl.exp(logp)
    old = tl.exp(old_logp)
    rest = maximum(-expm1(logp), none)
    old_rest = maximum(-expm1(old_logp), none)
    moved_by = old * (old_logp - logp) + old_rest * (tl.log(old_rest + 1e-30) - tl.log(rest + 1e-30))
    moved = probability - old
    towards = tl.where(advantage > 0.0, moved, -moved)
    inside = (moved_by <= tl.where(advantage > 0.0, high + none, low + none)) | (towards <= 0.0)
    return within(logp, advantage, ratio, delta, inside)


@triton.jit
def likelihood(logp, old_logp, advantage, sequence, selected, ratio, slope):
    none = tl.zeros_like(ratio)
    return -advantage * logp, none, none - advantage, none, none, none


@triton.jit
def squared(logp, old_logp, advantage, sequence, selected, ratio, slope, beta):
    none = tl.zeros_like(ratio)
    log_ratio = logp - old_logp
    loss = 0.5 * beta * log_ratio * log_ratio - advantage * logp
    return loss, none, beta * log_ratio - advantage, none, none, none


@triton.jit
def without_selected(logp, old_logp, advantage, sequence, selected, ratio, slope, low, high, delta):
    loss, by, none, is_low, is_high, acts = clipped(
        logp, old_logp, advantage, sequence, selected, ratio, slope, low, high, delta
    )
    out = selected != 0.0
    return tl.where(out, 0.0, loss), tl.where(out, 0.0, by), none, is_low, is_high, tl.where(out, 1.0, acts)


@triton.jit
def held(logp, old_logp, advantage, sequence, selected, ratio, slope, coefficient):
    A: tl.constexpr = logp.dtype
    none = tl.zeros_like(ratio)
    log_ratio = logp - old_logp
    chosen = selected != 0.0
    loss = tl.where(chosen, coefficient * tl.abs(log_ratio), 0.0) - advantage * ratio  # 0 * inf otherwise
    by_logp = tl.where(chosen, coefficient * sign(log_ratio), 0.0)
    return loss, -advantage * slope, by_logp, none, none, share(chosen, A) + none


# ------------------------------------------------------------------------------------------ around a rule


@triton.jit
def grpo_of(
    RULE: tl.constexpr, OF_SEQUENCE: tl.constexpr,
    logp, old_logp, advantage, ref_logp, entropy, weight, sequence, selected,
    limit, beta, k2, k3, absolute, straight, corrected, entropy_coefficient, own,
):  # fmt: skip
    if OF_SEQUENCE:
        difference = sequence
    else:
        difference = logp - old_logp
    log_ratio = clamp(difference, -limit, limit)
    ratio = tl.exp(log_ratio)
    slope = tl.where(difference == log_ratio, ratio, 0.0)
    policy, by_log_ratio, by_logp, low, high, acts = RULE(
        logp, old_logp, advantage, sequence, selected, ratio, slope, *own
    )
    policy = weight * policy
    by_log_ratio = weight * by_log_ratio
    by_logp = weight * by_logp
    loss = policy
    kl = tl.zeros_like(ratio)
    if beta is not None:
        d = logp - ref_logp
        kl = d
        kl_slope = tl.zeros_like(d) + 1.0
        if k2 is not None:
            kl = 0.5 * d * d
            kl_slope = d
        if k3 is not None:
            bounded = clamp(-d, -limit, limit)
            kl = expm1_minus(bounded)
            kl_slope = tl.where(bounded == -d, -expm1(bounded), 0.0)
        if absolute is not None:
            kl = tl.abs(d)
            kl_slope = sign(d)
        if straight is not None:
            kl_slope = d
        if corrected is not None:
            by_log_ratio += beta * kl * slope
            kl_slope = kl_slope * ratio
            kl = kl * ratio
        by_logp += beta * kl_slope
        loss += beta * kl
    loss -= entropy_coefficient * entropy
    by_entropy = tl.zeros_like(ratio) - entropy_coefficient
    by_sequence = tl.zeros_like(ratio)
    if OF_SEQUENCE:
        by_sequence = by_log_ratio
    else:
        by_logp += by_log_ratio
    derivatives = (by_logp, 0.0, 0.0, 0.0, by_entropy, 0.0, by_sequence, 0.0)
    of_ratio = (expm1_minus(log_ratio), -log_ratio, ratio, ratio, ratio)
    parts = (policy, kl, entropy, acts, low, high)
    return loss, derivatives, parts + of_ratio


@triton.jit
def grpo_loss_grpo(
    logp, old_logp, advantage, ref_logp, entropy, weight, sequence, selected,
    limit, beta, k2, k3, absolute, straight, corrected, entropy_coefficient, low, high, delta,
):  # fmt: skip
    return grpo_of(
        clipped, False, logp, old_logp, advantage, ref_logp, entropy, weight, sequence, selected,
        limit, beta, k2, k3, absolute, straight, corrected, entropy_coefficient, (low, high, delta),
    )  # fmt: skip


@triton.jit
def grpo_loss_gspo(
    logp, old_logp, advantage, ref_logp, entropy, weight, sequence, selected,
    limit, beta, k2, k3, absolute, straight, corrected, entropy_coefficient, low, high, delta,
):  # fmt: skip
    return grpo_of(
        clipped, True, logp, old_logp, advantage, ref_logp, entropy, weight, sequence, selected,
        limit, beta, k2, k3, absolute, straight, corrected, entropy_coefficient, (low, high, delta),
    )  # fmt: skip


@triton.jit
def grpo_loss_gmpo(
    logp, old_logp, advantage, ref_logp, entropy, weight, sequence, selected,
    limit, beta, k2, k3, absolute, straight, corrected, entropy_coefficient, low, high,
):  # fmt: skip
    return grpo_of(
        geometric, True, logp, old_logp, advantage, ref_logp, entropy, weight, sequence, selected,
        limit, beta, k2, k3, absolute, straight, corrected, entropy_coefficient, (low, high),
    )  # fmt: skip


@triton.jit
def grpo_loss_cispo(
    logp, old_logp, advantage, ref_logp, entropy, weight, sequence, selected,
    limit, beta, k2, k3, absolute, straight, corrected, entropy_coefficient, low, high,
):  # fmt: skip
    return grpo_of(
        weighted, False, logp, old_logp, advantage, ref_logp, entropy, weight, sequence, selected,
        limit, beta, k2, k3, absolute, straight, corrected, entropy_coefficient, (low, high),
    )  # fmt: skip


grpo_loss_cispo_absolute = grpo_loss_cispo


@triton.jit
def grpo_loss_sapo(
    logp, old_logp, advantage, ref_logp, entropy, weight, sequence, selected,
    limit, beta, k2, k3, absolute, straight, corrected, entropy_coefficient, positive, negative,
):  # fmt: skip
    return grpo_of(
        soft, False, logp, old_logp, advantage, ref_logp, entropy, weight, sequence, selected,
        limit, beta, k2, k3, absolute, straight, corrected, entropy_coefficient, (positive, negative),
    )  # fmt: skip


@triton.jit
def grpo_loss_vespo(
    logp, old_logp, advantage, ref_logp, entropy, weight, sequence, selected,
    limit, beta, k2, k3, absolute, straight, corrected, entropy_coefficient,
    k_positive, rate_positive, k_negative, rate_negative,
):  # fmt: skip
    return grpo_of(
        gamma_weighted, False, logp, old_logp, advantage, ref_logp, entropy, weight, sequence, selected,
        limit, beta, k2, k3, absolute, straight, corrected, entropy_coefficient,
        (k_positive, rate_positive, k_negative, rate_negative),
    )  # fmt: skip


@triton.jit
def grpo_loss_dppo_tv(
    logp, old_logp, advantage, ref_logp, entropy, weight, sequence, selected,
    limit, beta, k2, k3, absolute, straight, corrected, entropy_coefficient, low, high, delta,
):  # fmt: skip
    return grpo_of(
        total_variation, False, logp, old_logp, advantage, ref_logp, entropy, weight, sequence, selected,
        limit, beta, k2, k3, absolute, straight, corrected, entropy_coefficient, (low, high, delta),
    )  # fmt: skip


@triton.jit
def grpo_loss_dppo_kl(
    logp, old_logp, advantage, ref_logp, entropy, weight, sequence, selected,
    limit, beta, k2, k3, absolute, straight, corrected, entropy_coefficient, low, high, delta,
):  # fmt: skip
    return grpo_of(
        divergence, False, logp, old_logp, advantage, ref_logp, entropy, weight, sequence, selected,
        limit, beta, k2, k3, absolute, straight, corrected, entropy_coefficient, (low, high, delta),
    )  # fmt: skip


@triton.jit
def grpo_loss_gpg(
    logp, old_logp, advantage, ref_logp, entropy, weight, sequence, selected,
    limit, beta, k2, k3, absolute, straight, corrected, entropy_coefficient,
):  # fmt: skip
    return grpo_of(
        likelihood, False, logp, old_logp, advantage, ref_logp, entropy, weight, sequence, selected,
        limit, beta, k2, k3, absolute, straight, corrected, entropy_coefficient, (),
    )  # fmt: skip


@triton.jit
def grpo_loss_dro(
    logp, old_logp, advantage, ref_logp, entropy, weight, sequence, selected,
    limit, beta, k2, k3, absolute, straight, corrected, entropy_coefficient, dro_beta,
):  # fmt: skip
    return grpo_of(
        squared, False, logp, old_logp, advantage, ref_logp, entropy, weight, sequence, selected,
        limit, beta, k2, k3, absolute, straight, corrected, entropy_coefficient, (dro_beta,),
    )  # fmt: skip


@triton.jit
def grpo_loss_clip_cov(
    logp, old_logp, advantage, ref_logp, entropy, weight, sequence, selected,
    limit, beta, k2, k3, absolute, straight, corrected, entropy_coefficient, low, high, delta,
):  # fmt: skip
    return grpo_of(
        without_selected, False, logp, old_logp, advantage, ref_logp, entropy, weight, sequence, selected,
        limit, beta, k2, k3, absolute, straight, corrected, entropy_coefficient, (low, high, delta),
    )  # fmt: skip


@triton.jit
def grpo_loss_kl_cov(
    logp, old_logp, advantage, ref_logp, entropy, weight, sequence, selected,
    limit, beta, k2, k3, absolute, straight, corrected, entropy_coefficient, coefficient,
):  # fmt: skip
    return grpo_of(
        held, False, logp, old_logp, advantage, ref_logp, entropy, weight, sequence, selected,
        limit, beta, k2, k3, absolute, straight, corrected, entropy_coefficient, (coefficient,),
    )  # fmt: skip
