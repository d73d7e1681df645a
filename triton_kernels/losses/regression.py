"""Regression losses of elements; csrc/losses/regression.h has the reasons."""

from __future__ import annotations

import triton
import triton.language as tl

from ..math import clamp, log1p, maximum, sign, tanh
from . import Coefficients


@triton.jit
def mse_loss(input, target):
    residual = input - target
    slope = residual + residual
    return residual * residual, (slope, -slope), ()


@triton.jit
def l1_loss(input, target):
    residual = input - target
    slope = sign(residual)
    return tl.abs(residual), (slope, -slope), ()


@triton.jit
def huber_loss(input, target, delta):
    residual = input - target
    clipped = clamp(residual, -delta, delta)
    return clipped * (residual - 0.5 * clipped), (clipped, -clipped), ()


def smooth_l1_loss_coefficients(beta: float) -> Coefficients:
    """Nothing for beta = 0, the absolute error."""
    return (beta, 1.0 / beta) if beta else (None, None)


@triton.jit
def smooth_l1_loss(input, target, beta, inverse_beta):
    residual = input - target
    if beta is not None:
        clipped = clamp(residual, -beta, beta)
        slope = clipped * inverse_beta
        loss = slope * (residual - 0.5 * clipped)
    else:
        slope = sign(residual)
        loss = tl.abs(residual)
    return loss, (slope, -slope), ()


@triton.jit
def between_0_and_1(input, target, tau):
    return (tau >= 0.0) & (tau <= 1.0)


quantile_loss_domain = expectile_loss_domain = between_0_and_1


@triton.jit
def quantile_loss(input, target, tau):
    error = target - input
    zero = tl.zeros_like(error)
    below = 1.0 - tau
    loss = tau * maximum(error, zero) + below * maximum(-error, zero)
    slope = tl.where(error <= 0.0, zero, tau) - tl.where(error >= 0.0, zero, below)
    return loss, (-slope, slope, 0.0), ()


@triton.jit
def expectile_loss(input, target, tau):
    error = target - input
    pull = tl.where(error < 0.0, 1.0 - tau, tau) * error
    slope = pull + pull
    return pull * error, (-slope, slope, 0.0), ()


@triton.jit
def log_cosh_loss(input, target):
    residual = input - target
    size = tl.abs(residual)
    slope = tanh(residual)
    small = size < 1.0
    logarithm = log1p(tl.where(small, -slope * slope, tl.exp(-2.0 * size)))
    loss = tl.where(small, -0.5 * logarithm, (size - 0.693147180559945309) + logarithm)
    return loss, (slope, -slope), ()
