"""Regression losses of elements; pointwise_losses.py says what a helper is, csrc/losses/regression.h has the
reasons."""

from __future__ import annotations

from collections.abc import Sequence

import triton
import triton.language as tl

from .common import clamp, log1p, maximum, sign, tanh
from .pointwise_description import PointwiseLoss


def _beta(parameters: Sequence[float]) -> tuple[float | None, ...]:
    """beta, 1 / beta; nothing for beta = 0, the absolute error"""
    (beta,) = parameters
    return (beta, 1.0 / beta) if beta else (None, None)


LOSSES = {
    "mse_loss": PointwiseLoss(operands=2),
    "l1_loss": PointwiseLoss(operands=2),
    "huber_loss": PointwiseLoss(operands=2),
    "smooth_l1_loss": PointwiseLoss(operands=2, constants=_beta),
    "quantile_loss": PointwiseLoss(operands=3, requirement="tau must be between 0 and 1"),
    "expectile_loss": PointwiseLoss(operands=3, requirement="tau must be between 0 and 1"),
    "log_cosh_loss": PointwiseLoss(operands=2),
}


@triton.jit
def regression(LOSS: tl.constexpr, x, p):
    """(loss, derivatives, metrics)"""
    if LOSS == "mse_loss":
        return mse_loss(x, p)
    elif LOSS == "l1_loss":
        return l1_loss(x, p)
    elif LOSS == "huber_loss":
        return huber_loss(x, p)
    elif LOSS == "smooth_l1_loss":
        return smooth_l1_loss(x, p)
    elif LOSS == "quantile_loss":
        return quantile_loss(x, p)
    elif LOSS == "expectile_loss":
        return expectile_loss(x, p)
    elif LOSS == "log_cosh_loss":
        return log_cosh_loss(x, p)
    else:
        tl.static_assert(False, "no such loss")


@triton.jit
def regression_domain(LOSS: tl.constexpr, x, p):
    """Where x lies in the domain of a loss that has a requirement."""
    tl.static_assert(LOSS == "quantile_loss" or LOSS == "expectile_loss", "no such loss")
    return (x[2] >= 0.0) & (x[2] <= 1.0)


@triton.jit
def mse_loss(x, p):
    residual = x[0] - x[1]
    slope = residual + residual
    return residual * residual, (slope, -slope), ()


@triton.jit
def l1_loss(x, p):
    residual = x[0] - x[1]
    slope = sign(residual)
    return tl.abs(residual), (slope, -slope), ()


@triton.jit
def huber_loss(x, p):
    """p: delta"""
    residual = x[0] - x[1]
    clipped = clamp(residual, -p[0], p[0])
    return clipped * (residual - 0.5 * clipped), (clipped, -clipped), ()


@triton.jit
def smooth_l1_loss(x, p):
    """p: beta, 1 / beta"""
    residual = x[0] - x[1]
    if p[0] is not None:
        clipped = clamp(residual, -p[0], p[0])
        slope = clipped * p[1]
        loss = slope * (residual - 0.5 * clipped)
    else:
        slope = sign(residual)
        loss = tl.abs(residual)
    return loss, (slope, -slope), ()


@triton.jit
def quantile_loss(x, p):
    """x: input, target, tau"""
    error = x[1] - x[0]
    zero = tl.zeros_like(error)
    below = 1.0 - x[2]
    loss = x[2] * maximum(error, zero) + below * maximum(-error, zero)
    slope = tl.where(error <= 0.0, zero, x[2]) - tl.where(error >= 0.0, zero, below)
    return loss, (-slope, slope, 0.0), ()


@triton.jit
def expectile_loss(x, p):
    """x: input, target, tau"""
    error = x[1] - x[0]
    pull = tl.where(error < 0.0, 1.0 - x[2], x[2]) * error
    slope = pull + pull
    return pull * error, (-slope, slope, 0.0), ()


@triton.jit
def log_cosh_loss(x, p):
    residual = x[0] - x[1]
    size = tl.abs(residual)
    slope = tanh(residual)
    small = size < 1.0
    logarithm = log1p(tl.where(small, -slope * slope, tl.exp(-2.0 * size)))
    loss = tl.where(small, -0.5 * logarithm, (size - 0.693147180559945309) + logarithm)
    return loss, (slope, -slope), ()
