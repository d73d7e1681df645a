"""The losses of pairs in Triton: of a tile of similarities, and of pairs of values (csrc/losses/pairwise.h)."""

# mypy: disable-error-code="operator,index"

from __future__ import annotations

import triton
import triton.language as tl

from .common import constant

PAIR_LOSSES = {"quantile_huber": lambda kappa: (kappa or None, 1 / kappa if kappa else None)}
"""The constants of the kernel, from the hyper-parameters, of every loss of pairs of values; None: left out."""


@triton.jit
def pair_tile(LOSS: tl.constexpr, z):
    """(loss, derivative) of a pair that does not belong together."""
    tl.static_assert(LOSS == "sigmoid")
    decay = tl.exp(-tl.abs(z))
    one = tl.full(z.shape, 1.0, z.dtype)
    # log1p(decay): where 1 + decay is rounded, by what it is rounded to
    rounded = one + decay
    difference = rounded - 1.0
    log1p = tl.where(difference == 0.0, decay, tl.log(rounded) * (decay / tl.where(difference == 0.0, one, difference)))
    return tl.maximum(z, 0.0) + log1p, tl.where(z < 0.0, decay, one) / rounded


@triton.jit
def pair_loss(LOSS: tl.constexpr, source, target, level, constants, A: tl.constexpr):
    """(loss, derivative by the source)"""
    tl.static_assert(LOSS == "quantile_huber")
    u = target - source
    weight = tl.where(u < 0.0, 1.0 - level, level)
    if constants[0] is None:  # kappa = 0
        loss = weight * tl.abs(u)
        derivative = weight * tl.where(u > 0.0, -1.0, tl.where(u < 0.0, 1.0, 0.0))
    else:
        kappa = constant(constants[0], A)
        clipped = tl.minimum(tl.maximum(u, -kappa), kappa)
        slope = weight * constant(constants[1], A) * clipped
        loss, derivative = slope * (u - clipped * 0.5), -slope
    return loss, derivative
