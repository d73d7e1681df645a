"""Losses of binary labels, element by element; pointwise_losses.py says what a helper is, csrc/losses/binary.h has the
reasons."""

from __future__ import annotations

from collections.abc import Sequence

import triton
import triton.language as tl

from .common import log1p, maximum, power, sigmoids
from .pointwise_description import PointwiseLoss


def _focal(parameters: Sequence[float]) -> tuple[float | None, ...]:
    """alpha (None: all weights are 1); gamma where it is none of 0, 1, 2; marks of 1 and of 2"""
    alpha, gamma = parameters
    return (
        alpha if alpha >= 0 else None,
        gamma if gamma not in (0.0, 1.0, 2.0) else None,
        1.0 if gamma == 1.0 else None,
        2.0 if gamma == 2.0 else None,
    )


def _hinge(parameters: Sequence[float]) -> tuple[float | None, ...]:
    """margin, a mark of the square"""
    margin, squared = parameters
    return (margin, squared or None)


LOSSES = {
    "binary_cross_entropy": PointwiseLoss(
        operands=3, requirement="all elements of input and target should be between 0 and 1"
    ),
    "binary_cross_entropy_with_logits": PointwiseLoss(operands=4),
    "sigmoid_focal_loss": PointwiseLoss(operands=2, constants=_focal),
    "soft_margin_loss": PointwiseLoss(operands=2),
    "hinge_embedding_loss": PointwiseLoss(operands=2),
    "margin_ranking_loss": PointwiseLoss(operands=3),
    "hinge_loss": PointwiseLoss(operands=2, constants=_hinge),
}


@triton.jit
def binary(LOSS: tl.constexpr, x, p):
    """(loss, derivatives, metrics)"""
    if LOSS == "binary_cross_entropy":
        return binary_cross_entropy(x, p)
    elif LOSS == "binary_cross_entropy_with_logits":
        return binary_cross_entropy_with_logits(x, p)
    elif LOSS == "sigmoid_focal_loss":
        return sigmoid_focal_loss(x, p)
    elif LOSS == "soft_margin_loss":
        return soft_margin_loss(x, p)
    elif LOSS == "hinge_embedding_loss":
        return hinge_embedding_loss(x, p)
    elif LOSS == "margin_ranking_loss":
        return margin_ranking_loss(x, p)
    elif LOSS == "hinge_loss":
        return hinge_loss(x, p)
    else:
        tl.static_assert(False, "no such loss")


@triton.jit
def binary_domain(LOSS: tl.constexpr, x, p):
    """Where x lies in the domain of a loss that has a requirement."""
    tl.static_assert(LOSS == "binary_cross_entropy", "no such loss")
    return (x[0] >= 0.0) & (x[0] <= 1.0) & (x[1] >= 0.0) & (x[1] <= 1.0)


@triton.jit
def binary_cross_entropy(x, p):
    """x: probability, target, weight"""
    log_p = tl.log(x[0])
    log_rest = log1p(-x[0])
    lowest = tl.full(log_p.shape, -100.0, log_p.dtype)
    loss = (x[1] - 1.0) * maximum(log_rest, lowest) - x[1] * maximum(log_p, lowest)
    slope = x[2] * (x[0] - x[1]) / tl.maximum((1.0 - x[0]) * x[0], 9.999999960041972e-13)  # a float in torch
    return x[2] * loss, (slope, x[2] * (log_rest - log_p), 0.0), ()


@triton.jit
def binary_cross_entropy_with_logits(x, p):
    """x: logit, target, weight, weight of positives"""
    value, complement, log_value, log_complement = sigmoids(x[0])
    present = x[3] * x[1]
    absent = 1.0 - x[1]
    loss = -x[2] * (present * log_value + absent * log_complement)
    slope = x[2] * (absent * value - present * complement)
    of_target = x[2] * tl.where(x[3] == 1.0, -x[0], log_complement - x[3] * log_value)
    return loss, (slope, of_target, 0.0, 0.0), ()


@triton.jit
def sigmoid_focal_loss(x, p):
    """p: alpha, gamma, is gamma 1?, is gamma 2?"""
    value, complement, log_value, log_complement = sigmoids(x[0])
    target = x[1]
    absent = 1.0 - target
    entropy = -(target * log_value + absent * log_complement)
    miss = value * absent + complement * target
    if p[3] is not None:
        modulation = miss * miss
        slope = miss + miss
    elif p[2] is not None:
        modulation = miss
        slope = tl.full(miss.shape, 1.0, miss.dtype)
    elif p[1] is not None:
        gone = miss == 0.0
        modulation = tl.where(gone, 0.0, power(miss, p[1]))
        slope = tl.where(gone, 0.0, p[1] * (modulation / tl.where(gone, 1.0, miss)))
    else:
        modulation = tl.full(miss.shape, 1.0, miss.dtype)
        slope = None
    of_input = modulation * (value * absent - complement * target)
    of_target = -modulation * x[0]
    if slope is not None:
        of_input += slope * value * complement * (absent - target) * entropy
        of_target += slope * (complement - value) * entropy
    loss = modulation * entropy
    if p[0] is not None:
        weight = p[0] * target + (1.0 - p[0]) * absent
        of_target = weight * of_target + (2.0 * p[0] - 1.0) * loss
        of_input = weight * of_input
        loss = weight * loss
    return loss, (of_input, of_target), ()


@triton.jit
def soft_margin_loss(x, p):
    s = sigmoids(x[0] * x[1])
    return -s[2], (-x[1] * s[1], 0.0), ()


@triton.jit
def hinge_embedding_loss(x, p):
    """p: margin"""
    gap = p[0] - x[0]
    zero = tl.zeros_like(gap)
    alike = x[1] == 1.0
    apart = x[1] == -1.0
    loss = tl.where(alike, zero, maximum(gap, zero)) + tl.where(apart, zero, x[0])
    one = zero + 1.0
    active = tl.where(alike, zero, tl.where(gap >= 0.0, one, zero))
    return loss, (tl.where(apart, zero, one) - active, 0.0), ()


@triton.jit
def margin_ranking_loss(x, p):
    """p: margin"""
    difference = x[0] - x[1]
    gap = p[0] - x[2] * difference
    zero = tl.zeros_like(gap)
    active = tl.where(gap >= 0.0, zero + 1.0, zero)
    slope = active * x[2]
    return maximum(gap, zero), (-slope, slope, -active * difference), ()


@triton.jit
def hinge_loss(x, p):
    """p: margin, squared?"""
    gap = p[0] - x[1] * x[0]
    zero = tl.zeros_like(gap)
    loss = maximum(gap, zero)
    slope = tl.where(gap <= 0.0, zero, -x[1])
    if p[1] is not None:
        slope = (loss + loss) * slope
        loss = loss * loss
    return loss, (slope, 0.0), ()
