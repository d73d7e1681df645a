"""Losses of binary labels, element by element; csrc/losses/binary.h has the reasons."""

from __future__ import annotations

import triton
import triton.language as tl

from ..math import log1p, maximum, power, sigmoids
from . import Coefficients


@triton.jit
def binary_cross_entropy_domain(input, target, weight):
    return (input >= 0.0) & (input <= 1.0) & (target >= 0.0) & (target <= 1.0)


@triton.jit
def binary_cross_entropy(input, target, weight):
    log_p = tl.log(input)
    log_rest = log1p(-input)
    lowest = tl.full(log_p.shape, -100.0, log_p.dtype)
    loss = (target - 1.0) * maximum(log_rest, lowest) - target * maximum(log_p, lowest)
    slope = weight * (input - target) / tl.maximum((1.0 - input) * input, 9.999999960041972e-13)  # a float in torch
    return weight * loss, (slope, weight * (log_rest - log_p), 0.0), ()


@triton.jit
def binary_cross_entropy_with_logits(logit, target, weight, positive_weight):
    value, complement, log_value, log_complement = sigmoids(logit)
    present = positive_weight * target
    absent = 1.0 - target
    negative = logit < 0.0
    plain = positive_weight == 1.0
    both = tl.where(plain, 1.0, present + absent)
    log_nearer = tl.where(negative, log_complement, log_value)
    loss = weight * (tl.where(negative, present, absent) * tl.abs(logit) - both * log_nearer)
    slope = weight * (absent * value - present * complement)
    of_target = weight * tl.where(plain, -logit, log_complement - positive_weight * log_value)
    return loss, (slope, of_target, 0.0, 0.0), ()


def sigmoid_focal_loss_coefficients(alpha: float, gamma: float) -> Coefficients:
    """alpha (None: all weights are 1); marks of gamma = 1 and gamma = 2; any other gamma but 0"""
    return (
        alpha if alpha >= 0 else None,
        1.0 if gamma == 1.0 else None,
        2.0 if gamma == 2.0 else None,
        gamma if gamma not in (0.0, 1.0, 2.0) else None,
    )


@triton.jit
def sigmoid_focal_loss(logit, target, alpha, linear, square, gamma):
    value, complement, log_value, log_complement = sigmoids(logit)
    absent = 1.0 - target
    entropy = -(target * log_value + absent * log_complement)
    miss = value * absent + complement * target
    if square is not None:
        modulation = miss * miss
        slope = miss + miss
    elif linear is not None:
        modulation = miss
        slope = tl.full(miss.shape, 1.0, miss.dtype)
    elif gamma is not None:
        gone = miss == 0.0
        modulation = tl.where(gone, 0.0, power(miss, gamma))
        slope = tl.where(gone, 0.0, gamma * (modulation / tl.where(gone, 1.0, miss)))
    else:
        modulation = tl.full(miss.shape, 1.0, miss.dtype)
        slope = None
    of_input = modulation * (value * absent - complement * target)
    of_target = -modulation * logit
    if slope is not None:
        of_input += slope * value * complement * (absent - target) * entropy
        of_target += slope * (complement - value) * entropy
    loss = modulation * entropy
    if alpha is not None:
        weight = alpha * target + (1.0 - alpha) * absent
        of_target = weight * of_target + (2.0 * alpha - 1.0) * loss
        of_input = weight * of_input
        loss = weight * loss
    return loss, (of_input, of_target), ()


@triton.jit
def soft_margin_loss(input, target):
    _, complement, log_value, _ = sigmoids(input * target)
    return -log_value, (-target * complement, 0.0), ()


@triton.jit
def hinge_embedding_loss(input, target, margin):
    gap = margin - input
    zero = tl.zeros_like(gap)
    alike = target == 1.0
    apart = target == -1.0
    loss = tl.where(alike, zero, maximum(gap, zero)) + tl.where(apart, zero, input)
    one = zero + 1.0
    active = tl.where(alike, zero, tl.where(gap >= 0.0, one, zero))
    return loss, (tl.where(apart, zero, one) - active, 0.0), ()


@triton.jit
def margin_ranking_loss(input1, input2, target, margin):
    difference = input1 - input2
    gap = margin - target * difference
    zero = tl.zeros_like(gap)
    active = tl.where(gap >= 0.0, zero + 1.0, zero)
    slope = active * target
    return maximum(gap, zero), (-slope, slope, -active * difference), ()


def hinge_loss_coefficients(margin: float, squared: float) -> Coefficients:
    """margin; a mark of the square"""
    return margin, squared or None


@triton.jit
def hinge_loss(input, target, margin, squared):
    gap = margin - target * input
    zero = tl.zeros_like(gap)
    loss = maximum(gap, zero)
    slope = tl.where(gap <= 0.0, zero, -target)
    if squared is not None:
        slope = (loss + loss) * slope
        loss = loss * loss
    return loss, (slope, 0.0), ()
