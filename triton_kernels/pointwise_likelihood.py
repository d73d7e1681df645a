"""Negative log-likelihoods and divergences of elements; pointwise_losses.py says what a helper is,
csrc/losses/likelihood.h has the reasons."""

from __future__ import annotations

import math
from collections.abc import Sequence

import triton
import triton.language as tl

from .common import maximum, sign, xlogy
from .pointwise_description import PointwiseLoss


def _gaussian(parameters: Sequence[float]) -> tuple[float | None, ...]:
    """the constant term of the full loss; eps"""
    full, eps = parameters
    return (0.5 * math.log(2 * math.pi) if full else None, eps)


def _laplace(parameters: Sequence[float]) -> tuple[float | None, ...]:
    """the constant term of the full loss; eps"""
    full, eps = parameters
    return (math.log(2) if full else None, eps)


def _poisson(parameters: Sequence[float]) -> tuple[float | None, ...]:
    """eps (None: the input is a logarithm); the constant of Stirling's approximation, if that is in the loss"""
    log_input, full, eps = parameters
    return (None if log_input else eps, 0.5 * math.log(2 * math.pi) if full else None)


def _divergence(parameters: Sequence[float]) -> tuple[float | None, ...]:
    """a mark of targets that are logarithms"""
    (log_target,) = parameters
    return (log_target or None,)


LOSSES = {
    "gaussian_nll_loss": PointwiseLoss(operands=3, constants=_gaussian, requirement="var has negative entry/entries"),
    "laplace_nll_loss": PointwiseLoss(operands=3, constants=_laplace, requirement="scale has negative entry/entries"),
    "poisson_nll_loss": PointwiseLoss(operands=2, constants=_poisson),
    "kl_div": PointwiseLoss(operands=2, constants=_divergence),
}


@triton.jit
def likelihood(LOSS: tl.constexpr, x, p):
    """(loss, derivatives, metrics)"""
    if LOSS == "gaussian_nll_loss":
        return gaussian_nll_loss(x, p)
    elif LOSS == "laplace_nll_loss":
        return laplace_nll_loss(x, p)
    elif LOSS == "poisson_nll_loss":
        return poisson_nll_loss(x, p)
    elif LOSS == "kl_div":
        return kl_div(x, p)
    else:
        tl.static_assert(False, "no such loss")


@triton.jit
def likelihood_domain(LOSS: tl.constexpr, x, p):
    """Where x lies in the domain of a loss that has a requirement."""
    tl.static_assert(LOSS == "gaussian_nll_loss" or LOSS == "laplace_nll_loss", "no such loss")
    return (x[2] >= 0.0) | (x[2] != x[2])


@triton.jit
def gaussian_nll_loss(x, p):
    """x: mean, target, variance; p: constant, eps"""
    residual = x[0] - x[1]
    variance = maximum(x[2], p[1])
    scaled = residual / variance
    loss = 0.5 * (tl.log(variance) + residual * scaled)
    if p[0] is not None:
        loss += p[0]
    return loss, (scaled, -scaled, 0.5 * (1.0 / variance - scaled * scaled)), ()


@triton.jit
def laplace_nll_loss(x, p):
    """x: location, target, scale; p: constant, eps"""
    residual = x[0] - x[1]
    inverse = 1.0 / maximum(x[2], p[1])
    deviations = tl.abs(residual) * inverse
    loss = deviations + tl.log(maximum(x[2], p[1]))
    if p[0] is not None:
        loss += p[0]
    slope = sign(residual) * inverse
    return loss, (slope, -slope, (1.0 - deviations) * inverse), ()


@triton.jit
def poisson_nll_loss(x, p):
    """p: eps, constant of Stirling's approximation"""
    target = x[1]
    if p[0] is None:
        rate = tl.exp(x[0])
        loss = rate - target * x[0]
        of_input = rate - target
        of_target = -x[0]
    else:
        rate = x[0] + p[0]
        log_rate = tl.log(rate)
        loss = x[0] - target * log_rate
        of_input = 1.0 - target / rate
        of_target = -log_rate
    if p[1] is not None:
        log_target = tl.log(target)
        small = target <= 1.0
        loss += tl.where(small, 0.0, target * log_target - target + 0.5 * log_target + p[1])
        slope = log_target + 0.5 / target
        of_target += tl.where(small, 0.0 * slope, slope)
    return loss, (of_input, of_target), ()


@triton.jit
def kl_div(x, p):
    """p: is the target a logarithm?"""
    target = x[1]
    if p[0] is not None:
        probability = tl.exp(target)
        loss = probability * (target - x[0])
        return loss, (-probability, loss + probability), ()
    else:
        log_target = tl.log(target)
        loss = xlogy(target, target) - target * x[0]
        return loss, (-target, log_target + target / target - x[0]), ()
