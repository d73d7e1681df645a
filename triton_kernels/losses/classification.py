"""Losses over rows of logits; RowLoss says what the functions are, csrc/losses/classification.h has the reasons."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import triton
import triton.language as tl

from ..coefficients import number
from ..math import expm1, power, tanh
from . import RowLoss


class CrossEntropy(NamedTuple):
    """Products with inverses, because a GPU divides slowly. `Any`: numbers here, tensors in a kernel."""

    keep: Any  # 1 - smoothing
    uniform: Any  # smoothing / C
    z_loss: Any
    softcap: Any
    inverse_softcap: Any
    inverse_temperature: Any
    z_to_tanh: Any  # temperature / softcap, which takes z to tanh


def cross_entropy_coefficients(parameters: Sequence[float], classes: int) -> CrossEntropy:
    smoothing, z_loss, softcap, temperature = parameters
    return CrossEntropy(
        1.0 - smoothing if smoothing else None,
        smoothing / classes if smoothing else None,
        z_loss or None,
        softcap or None,
        1.0 / softcap if softcap else None,
        1.0 / temperature if temperature != 1.0 else None,
        temperature / softcap if softcap else None,
    )


@triton.jit
def capped_logit(x, c):
    if c.softcap is not None:
        x = number(c.softcap, x.dtype) * tanh(x * number(c.inverse_softcap, x.dtype))
    if c.inverse_temperature is not None:
        x = x * number(c.inverse_temperature, x.dtype)
    return x


@triton.jit
def capped_slope(z, c):
    slope = tl.full((), 1.0, z.dtype)
    if c.inverse_temperature is not None:
        slope = number(c.inverse_temperature, z.dtype)
    if c.z_to_tanh is not None:
        capped = z * number(c.z_to_tanh, z.dtype)
        slope = slope * (1.0 - capped * capped)
    return slope


@triton.jit
def smoothed_mass(weight, probability, c):
    if c.keep is not None:
        probability = number(c.keep, weight.dtype) * probability + number(c.uniform, weight.dtype)
    return weight * probability


@triton.jit
def smoothed_index_mass(weight, c):
    if c.keep is not None:
        weight = weight * number(c.keep, weight.dtype)
    return weight


@triton.jit
def regularized(top, log_sum, mass, linear, weight, c):
    loss = mass * log_sum - linear
    if c.z_loss is not None:
        lse = top + log_sum
        regularizer = number(c.z_loss, top.dtype) * weight * lse
        loss += regularizer * lse
        mass += 2.0 * regularizer
    return loss, mass


cross_entropy = RowLoss(capped_logit, capped_slope, smoothed_mass, smoothed_index_mass, regularized)


class Focal(NamedTuple):
    """Marks, 1 or None, of gamma = 1, of gamma = 2, and of any other gamma but 0."""

    gamma: Any
    linear: Any
    square: Any
    other: Any


def softmax_focal_loss_coefficients(parameters: Sequence[float], classes: int) -> Focal:
    (gamma,) = parameters
    return Focal(
        gamma or None,
        1.0 if gamma == 1.0 else None,
        1.0 if gamma == 2.0 else None,
        1.0 if gamma not in (0.0, 1.0, 2.0) else None,
    )


@triton.jit
def plain_logit(x, c):
    return x


@triton.jit
def plain_slope(z, c):
    return tl.full((), 1.0, z.dtype)


@triton.jit
def plain_index_mass(weight, c):
    return weight


@triton.jit
def focal_modulation(log_p, c):
    p = tl.exp(log_p)
    miss = -expm1(log_p)  # 1 - p, which would cancel for a confident row
    slope = tl.full(miss.shape, 1.0, miss.dtype)
    modulation = slope
    if c.square is not None:
        modulation = miss * miss
    if c.linear is not None:
        modulation = miss
    if c.other is not None:
        modulation = tl.where(miss == 0.0, 0.0, power(miss, number(c.gamma, miss.dtype)))
    if c.gamma is not None:  # p log p / miss: 0 at p = 0; at p = 1 the modulation, 0, decides
        inside = (p > 0.0) & (miss > 0.0)
        pull = tl.where(inside, p * log_p / tl.where(inside, miss, 1.0), 0.0)
        slope = modulation * (1.0 - number(c.gamma, miss.dtype) * pull)
    return -modulation * log_p, slope


@triton.jit
def modulated(top, log_sum, mass, linear, weight, c):
    return 0.0 - linear, mass


softmax_focal_loss = RowLoss(plain_logit, plain_slope, None, plain_index_mass, modulated, focal_modulation)
