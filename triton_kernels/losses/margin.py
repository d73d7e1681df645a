"""Softmax losses of cosines with a margin; csrc/losses/margin.h has the formulas."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import triton
import triton.language as tl

from ..coefficients import number
from ..math import acos
from . import RowLoss
from .classification import plain_index_mass


class Margin(NamedTuple):
    """Where the angle is only shifted, its cosine is one of a sum: no trigonometric function, and no stack for one."""

    scale: Any
    inverse_scale: Any
    cosine: Any
    shift_cosine: Any  # of the angle that is added, where nothing multiplies; None: nothing is added either
    shift_sine: Any
    multiplier: Any  # None: 1
    angle: Any
    beyond: Any  # None: the cosine rises again beyond pi
    straight: Any


def margin_softmax_coefficients(parameters: Sequence[float], classes: int) -> Margin:
    scale, multiplier, angle, cosine, straight, linear_beyond = parameters
    shifts = multiplier == 1.0 and angle != 0.0
    return Margin(
        scale,
        1.0 / scale,
        cosine,
        math.cos(angle) if shifts else None,
        math.sin(angle) if shifts else None,
        multiplier if multiplier != 1.0 else None,
        angle,
        math.sin(angle) * angle + cosine if linear_beyond else None,
        1.0 if straight else None,
    )


@triton.jit
def logit(x, c):
    return x * number(c.scale, x.dtype)


@triton.jit
def slope(z, c):
    return number(c.scale, z.dtype)


@triton.jit
def finish(top, log_sum, mass, linear, weight, c):
    return mass * log_sum - linear, mass


@triton.jit
def clamped(z, c):
    """The cosine, inside the ends at which its angle has no derivative."""
    largest: tl.constexpr = 1.0 - 2.220446049250313e-16 if z.dtype == tl.float64 else 1.0 - 1.1920928955078125e-07
    x = z * number(c.inverse_scale, z.dtype)
    return tl.where(x > largest, largest, tl.where(x < -largest, -largest, x)).to(z.dtype)


@triton.jit
def margin(z, c):
    """(cos(m1 angle + m2), its derivative by the cosine, is m1 angle + m2 beyond pi?)"""
    x = clamped(z, c)
    sine = tl.sqrt((1.0 - x) * (1.0 + x))
    if c.multiplier is not None:
        t = acos(x) * number(c.multiplier, z.dtype) + number(c.angle, z.dtype)
        return tl.cos(t), number(c.multiplier, z.dtype) * tl.sin(t) / sine, t > 3.14159265358979324
    else:
        shift_cosine = number(c.shift_cosine, z.dtype)
        shift_sine = number(c.shift_sine, z.dtype)
        moved = x * shift_cosine - sine * shift_sine
        return moved, shift_cosine + x / sine * shift_sine, x < -shift_cosine


@triton.jit
def target_logit(z, c):
    scale = number(c.scale, z.dtype)
    result = z - scale * number(c.cosine, z.dtype)
    if c.multiplier is not None or c.shift_cosine is not None:
        moved, _, beyond = margin(z, c)
        result = scale * (moved - number(c.cosine, z.dtype))
        if c.beyond is not None:
            result = tl.where(beyond, z - scale * number(c.beyond, z.dtype), result)
    return result


@triton.jit
def target_slope(z, c):
    result = tl.full(z.shape, 1.0, z.dtype)
    if (c.multiplier is not None or c.shift_cosine is not None) and c.straight is None:
        x = clamped(z, c)
        _, slope, beyond = margin(z, c)
        slope = tl.where(x != z * number(c.inverse_scale, z.dtype), x - x, slope)
        if c.beyond is not None:
            slope = tl.where(beyond, 1.0, slope)
        result = slope.to(z.dtype)
    return result


margin_softmax = RowLoss(
    logit, slope, None, plain_index_mass, finish, target_logit=target_logit, target_slope=target_slope
)
