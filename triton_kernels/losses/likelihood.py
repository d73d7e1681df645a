"""Negative log-likelihoods and divergences of elements; csrc/losses/likelihood.h has the reasons."""

from __future__ import annotations

import math

import triton
import triton.language as tl

from ..math import maximum, sign, xlogy
from . import Coefficients


@triton.jit
def not_negative(input, target, spread):
    """NaN is let through."""
    return (spread >= 0.0) | (spread != spread)


gaussian_nll_loss_domain = laplace_nll_loss_domain = not_negative


def gaussian_nll_loss_coefficients(full: float, eps: float) -> Coefficients:
    return 0.5 * math.log(2 * math.pi) if full else None, eps


@triton.jit
def gaussian_nll_loss(mean, target, var, normalization, eps):
    residual = mean - target
    variance = maximum(var, eps)
    scaled = residual / variance
    loss = 0.5 * (tl.log(variance) + residual * scaled)
    if normalization is not None:
        loss += normalization
    return loss, (scaled, -scaled, 0.5 * (1.0 / variance - scaled * scaled)), ()


def laplace_nll_loss_coefficients(full: float, eps: float) -> Coefficients:
    return math.log(2) if full else None, eps


@triton.jit
def laplace_nll_loss(location, target, scale, normalization, eps):
    residual = location - target
    inverse = 1.0 / maximum(scale, eps)
    deviations = tl.abs(residual) * inverse
    loss = deviations + tl.log(maximum(scale, eps))
    if normalization is not None:
        loss += normalization
    slope = sign(residual) * inverse
    return loss, (slope, -slope, (1.0 - deviations) * inverse), ()


def poisson_nll_loss_coefficients(log_input: float, full: float, eps: float) -> Coefficients:
    """eps (None: the input is a logarithm); the constant of Stirling's approximation, if that is in the loss"""
    return None if log_input else eps, 0.5 * math.log(2 * math.pi) if full else None


@triton.jit
def poisson_nll_loss(input, target, eps, stirling):
    if eps is None:
        rate = tl.exp(input)
        loss = rate - target * input
        of_input = rate - target
        of_target = -input
    else:
        rate = input + eps
        log_rate = tl.log(rate)
        loss = input - target * log_rate
        of_input = 1.0 - target / rate
        of_target = -log_rate
    if stirling is not None:
        log_target = tl.log(target)
        small = target <= 1.0
        loss += tl.where(small, 0.0, target * log_target - target + 0.5 * log_target + stirling)
        slope = log_target + 0.5 / target + (target / target - 1.0)
        of_target += tl.where(small, 0.0 * log_target + 0.0 / target, slope)
    return loss, (of_input, of_target), ()


def kl_div_coefficients(log_target: float) -> Coefficients:
    """a mark of targets that are logarithms"""
    return (log_target or None,)


@triton.jit
def kl_div(input, target, is_logarithm):
    if is_logarithm is not None:
        probability = tl.exp(target)
        loss = probability * (target - input)
        return loss, (-probability, loss + probability), ()
    else:
        log_target = tl.log(target)
        loss = xlogy(target, target) - target * input
        return loss, (-target, log_target + target / target - input), ()
