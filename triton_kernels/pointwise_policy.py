"""Policy and value losses of reinforcement learning; pointwise_losses.py says what a helper is."""

from __future__ import annotations

from collections.abc import Sequence

import triton
import triton.language as tl

from .common import clamp, expm1, maximum
from .pointwise_description import PointwiseLoss


def policy_constants(parameters: Sequence[float]) -> tuple[float | None, ...]:
    """low, high, dual clip, bound of the log-ratio, and what follows: the clip of values, coefficients"""
    clip, clip_high, *others = parameters
    return (1.0 - clip, 1.0 + clip_high, *others)


_POLICY_METRICS = ("mean", "mean", "mean", "mean", "mean", "min", "max")

LOSSES = {
    "ppo_clip_loss": PointwiseLoss(operands=3, metrics=_POLICY_METRICS, constants=policy_constants),
    "value_clip_loss": PointwiseLoss(operands=3, metrics=("mean",)),
    "ppo_loss": PointwiseLoss(
        operands=7,
        metrics=("term", "term", "term", "mean", "mean", "mean", "min", "max"),
        constants=policy_constants,
    ),
}


@triton.jit
def policy(LOSS: tl.constexpr, x, p):
    """(loss, derivatives, metrics)"""
    if LOSS == "ppo_clip_loss":
        return ppo_clip_loss(x, p)
    elif LOSS == "value_clip_loss":
        return value_clip_loss(x, p)
    elif LOSS == "ppo_loss":
        return ppo_loss(x, p)
    else:
        tl.static_assert(False, "no such loss")


@triton.jit
def share(condition, dtype: tl.constexpr):
    """1 where the condition holds, else 0."""
    return tl.where(condition, 1.0, 0.0).to(dtype)


@triton.jit
def surrogate(logp, old_logp, advantage, p):
    """(loss, slope by logp, the metrics of a policy); p: low, high, dual clip, bound of the log-ratio"""
    A: tl.constexpr = logp.dtype
    difference = logp - old_logp
    log_ratio = clamp(difference, -p[3], p[3])
    ratio = tl.exp(log_ratio)
    free = -advantage * ratio
    bound = -advantage * clamp(ratio, p[0], p[1])
    loss = maximum(free, bound)
    slope = tl.where((free >= bound) & (difference == log_ratio), free, 0.0)
    dual_bound = -advantage * p[2]  # NaN for 0 * inf, and then not used
    beyond = (advantage < 0.0) & (loss > dual_bound)
    loss = tl.where(beyond, dual_bound, loss)
    slope = tl.where(beyond, 0.0, slope)
    metrics = (share(bound > free, A), share(beyond, A), expm1(log_ratio) - log_ratio, -log_ratio, ratio, ratio, ratio)
    return loss, slope, metrics


@triton.jit
def value_error(value, old_value, target, clip):
    """(loss, slope by the value, 1 where the clamped value is the worse one)"""
    error = value - target
    free = error * error
    gap = clamp(value, old_value - clip, old_value + clip) - target
    bound = gap * gap
    clipped = bound > free
    return 0.5 * maximum(free, bound), tl.where(clipped, 0.0, error), share(clipped, value.dtype)


@triton.jit
def ppo_clip_loss(x, p):
    """x: logp, old_logp, advantages"""
    loss, slope, metrics = surrogate(x[0], x[1], x[2], p)
    return loss, (slope, 0.0, 0.0), metrics


@triton.jit
def value_clip_loss(x, p):
    """x: values, old_values, returns; p: clip"""
    loss, slope, clipped = value_error(x[0], x[1], x[2], p[0])
    return loss, (slope, 0.0, 0.0), (clipped,)


@triton.jit
def ppo_loss(x, p):
    """x: logp, old_logp, advantages, values, returns, entropy, old_values; p: those of the surrogate, the clip of
    values, value and entropy coefficients"""
    policy_loss, policy_slope, metrics = surrogate(x[0], x[1], x[2], p)
    value_loss, value_slope, value_clipped = value_error(x[3], x[6], x[4], p[4])
    loss = policy_loss + p[5] * value_loss - p[6] * x[5]
    derivatives = (policy_slope, 0.0, 0.0, p[5] * value_slope, 0.0, tl.zeros_like(loss) - p[6], 0.0)
    clipped, _, divergence, _, ratio, _, _ = metrics
    return loss, derivatives, (policy_loss, value_loss, x[5], clipped, value_clipped, divergence, ratio, ratio)
