"""Losses of rewards and of their penalty; csrc/losses/alignment/reward.h has the reasons."""

from __future__ import annotations

import triton
import triton.language as tl

from ...math import clamp, expm1, expm1_minus, log_sigmoid, share, sigmoid, sign
from .. import Coefficients


def unused(log_ratio_clamp: float) -> Coefficients:
    """The bound is of k3 alone."""
    return ()


kl_penalty_k1_coefficients = kl_penalty_k2_coefficients = kl_penalty_abs_coefficients = unused


@triton.jit
def kl_penalty_k1(logp, ref_logp):
    difference = logp - ref_logp
    return difference, (tl.full(difference.shape, 1.0, difference.dtype), 0.0), ()


@triton.jit
def kl_penalty_k2(logp, ref_logp):
    difference = logp - ref_logp
    return 0.5 * difference * difference, (difference, 0.0), ()


@triton.jit
def kl_penalty_k3(logp, ref_logp, log_ratio_clamp):
    reverse = ref_logp - logp
    clamped = clamp(reverse, -log_ratio_clamp, log_ratio_clamp)
    return expm1_minus(clamped), (tl.where(clamped == reverse, -expm1(clamped), 0.0), 0.0), ()


@triton.jit
def kl_penalty_abs(logp, ref_logp):
    difference = logp - ref_logp
    return tl.abs(difference), (sign(difference), 0.0), ()


@triton.jit
def rewards(chosen, rejected):
    """The metrics of a pair: rewards, margin, is the chosen one larger?"""
    margin = chosen - rejected
    return chosen, rejected, margin, share(margin > 0.0, margin.dtype)


@triton.jit
def reward_model_loss(chosen, rejected, margin, center_coefficient):
    gap = chosen - rejected - margin
    ranking = -log_sigmoid(gap)
    wrong = sigmoid(-gap)
    total = chosen + rejected
    center = center_coefficient * total * total
    by_total = 2.0 * center_coefficient * total
    parts = (ranking, center)
    return ranking + center, (by_total - wrong, by_total + wrong, 0.0), rewards(chosen, rejected) + parts
