"""The row losses as Triton sees them: each is six small functions, chosen by name, and an entry in LOSSES.

The formulas, and what each of the functions means, are those of csrc/losses/contracts/row.h:

    z_j = logit(x_j)        q = target distribution        p = softmax(z)
    loss = finish(sums)     dloss/dx_j = slope(z_j) * (softmax_coefficient * p_j - q_j)

The choice is a constexpr string that each function looks at: function-valued constexprs break Dynamo, and closures the
interpreter. `constants` is the tuple that the entry in LOSSES makes; None in it is a neutral constant, whose code the
kernel leaves out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import triton
import triton.language as tl

from .common import constant, expm1, power, tanh


class RowLoss(NamedTuple):
    """A loss as the kernels see it."""

    name: str
    constants: tuple[float | None, ...]
    spreads: bool  # does an index target have mass on all classes (label smoothing)?
    modulated: bool = False  # is the loss of a class another function of log p_j than -log p_j (row_modulation)?


def cross_entropy(parameters: Sequence[float], classes: int) -> RowLoss:
    """constants: keep = 1 - smoothing, uniform = smoothing / C, z_loss, softcap, 1 / softcap, 1 / temperature,
    temperature / softcap (which takes z to tanh); products with them, because a GPU divides slowly."""
    smoothing, z_loss, softcap, temperature = parameters
    constants = (
        1.0 - smoothing if smoothing else None,
        smoothing / classes if smoothing else None,
        z_loss or None,
        softcap or None,
        1.0 / softcap if softcap else None,
        1.0 / temperature if temperature != 1.0 else None,
        temperature / softcap if softcap else None,
    )
    return RowLoss("cross_entropy", constants, spreads=smoothing > 0.0)


def softmax_focal_loss(parameters: Sequence[float], classes: int) -> RowLoss:
    """constants: gamma, a mark of any gamma but 0, 1 and 2, marks of 1 and of 2."""
    (gamma,) = parameters
    constants = (
        gamma or None,
        1.0 if gamma not in (0.0, 1.0, 2.0) else None,
        1.0 if gamma == 1.0 else None,
        1.0 if gamma == 2.0 else None,
    )
    return RowLoss("softmax_focal_loss", constants, spreads=False, modulated=True)


LOSSES = {"cross_entropy": cross_entropy, "softmax_focal_loss": softmax_focal_loss}


@triton.jit
def row_logit(LOSS: tl.constexpr, constants, x):
    """z_j, the logit that enters the softmax."""
    if LOSS == "cross_entropy":
        if constants[3] is not None:
            x = constant(constants[3], x.dtype) * tanh(x * constant(constants[4], x.dtype))
        if constants[5] is not None:
            x = x * constant(constants[5], x.dtype)
    else:
        tl.static_assert(LOSS == "softmax_focal_loss", "no such loss")
    return x


@triton.jit
def row_slope(LOSS: tl.constexpr, constants, z):
    """dz_j/dx_j as a function of z_j; a scalar 1 where it is constant."""
    slope = tl.full((), 1.0, z.dtype)
    if LOSS == "cross_entropy":
        if constants[5] is not None:
            slope = constant(constants[5], z.dtype)
        if constants[6] is not None:
            capped = z * constant(constants[6], z.dtype)
            slope = slope * (1.0 - capped * capped)
    return slope


@triton.jit
def row_mass(LOSS: tl.constexpr, constants, weight, probability):
    """q_j, the part of the target distribution that is spread over all classes."""
    tl.static_assert(LOSS == "cross_entropy")
    if constants[0] is not None:
        probability = constant(constants[0], weight.dtype) * probability + constant(constants[1], weight.dtype)
    return weight * probability


@triton.jit
def row_index_mass(LOSS: tl.constexpr, constants, weight):
    """What an index target y adds to q_y."""
    if LOSS == "cross_entropy" and constants[0] is not None:
        weight = weight * constant(constants[0], weight.dtype)
    return weight


@triton.jit
def row_modulation(LOSS: tl.constexpr, constants, log_p):
    """(class_loss, class_slope) of a modulated loss: f(log p) and -f'(log p)."""
    tl.static_assert(LOSS == "softmax_focal_loss", "no such loss")
    p = tl.exp(log_p)
    miss = -expm1(log_p)  # 1 - p, which would cancel for a confident row
    slope = tl.full(miss.shape, 1.0, miss.dtype)
    modulation = slope
    if constants[3] is not None:
        modulation = miss * miss
    if constants[2] is not None:
        modulation = miss
    if constants[1] is not None:
        modulation = tl.where(miss == 0.0, 0.0, power(miss, constant(constants[0], miss.dtype)))
    if constants[0] is not None:  # p log p / miss: 0 at p = 0; at p = 1 the modulation, 0, decides
        inside = (p > 0.0) & (miss > 0.0)
        pull = tl.where(inside, p * log_p / tl.where(inside, miss, 1.0), 0.0)
        slope = modulation * (1.0 - constant(constants[0], miss.dtype) * pull)
    return -modulation * log_p, slope


@triton.jit
def row_finish(LOSS: tl.constexpr, constants, top, log_sum, mass, linear, weight):
    """(loss, softmax_coefficient) from top = max_j z_j, log_sum = log(sum_j exp(z_j - top)), mass = sum_j q_j,
    linear = sum_j q_j (z_j - top) and the row's class weight."""
    if LOSS == "cross_entropy":
        loss = mass * log_sum - linear
        if constants[2] is not None:
            lse = top + log_sum
            regularizer = constant(constants[2], top.dtype) * weight * lse
            loss += regularizer * lse
            mass += 2.0 * regularizer
    else:
        loss = 0.0 - linear
    return loss, mass
