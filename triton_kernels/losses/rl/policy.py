"""Policy losses of reinforcement learning; csrc/losses/rl/policy.h has the reasons."""

from __future__ import annotations

import triton
import triton.language as tl

from ...math import clamp, expm1_minus, maximum, share
from .. import Coefficients
from .value import value_error


def ppo_clip_loss_coefficients(clip: float, clip_high: float, *others: float) -> Coefficients:
    """The bounds of the ratio, and what follows."""
    return 1.0 - clip, 1.0 + clip_high, *others


ppo_loss_coefficients = ppo_clip_loss_coefficients


@triton.jit
def surrogate(logp, old_logp, advantage, low, high, dual_clip, log_ratio_clamp):
    """(loss, slope by logp, the metrics of a policy)"""
    A: tl.constexpr = logp.dtype
    difference = logp - old_logp
    log_ratio = clamp(difference, -log_ratio_clamp, log_ratio_clamp)
    ratio = tl.exp(log_ratio)
    free = -advantage * ratio
    bound = -advantage * clamp(ratio, low, high)
    loss = maximum(free, bound)
    slope = tl.where((free >= bound) & (difference == log_ratio), free, 0.0)
    dual_bound = -advantage * dual_clip  # NaN for 0 * inf, and then not used
    beyond = (advantage < 0.0) & (loss > dual_bound)
    loss = tl.where(beyond, dual_bound, loss)
    slope = tl.where(beyond, 0.0, slope)
    metrics = (share(bound > free, A), share(beyond, A), expm1_minus(log_ratio), -log_ratio, ratio, ratio, ratio)
    return loss, slope, metrics


@triton.jit
def ppo_clip_loss(logp, old_logp, advantage, low, high, dual_clip, log_ratio_clamp):
    loss, slope, metrics = surrogate(logp, old_logp, advantage, low, high, dual_clip, log_ratio_clamp)
    return loss, (slope, 0.0, 0.0), metrics


@triton.jit
def ppo_loss(
    logp, old_logp, advantage, value, target, entropy, old_value,
    low, high, dual_clip, log_ratio_clamp, value_clip, value_coefficient, entropy_coefficient,
):  # fmt: skip
    policy_loss, policy_slope, metrics = surrogate(logp, old_logp, advantage, low, high, dual_clip, log_ratio_clamp)
    value_loss, value_slope, value_clipped = value_error(value, old_value, target, value_clip)
    loss = policy_loss + value_coefficient * value_loss - entropy_coefficient * entropy
    by_entropy = tl.zeros_like(loss) - entropy_coefficient
    derivatives = (policy_slope, 0.0, 0.0, value_coefficient * value_slope, 0.0, by_entropy, 0.0)
    clipped, _, divergence, _, ratio, _, _ = metrics
    return loss, derivatives, (policy_loss, value_loss, entropy, clipped, value_clipped, divergence, ratio, ratio)
