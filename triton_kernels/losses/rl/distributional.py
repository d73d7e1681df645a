"""Losses over all pairs of a row's quantiles; csrc/losses/rl/distributional.h has the reasons."""

from __future__ import annotations

import triton
import triton.language as tl

from ...math import clamp, sign
from .. import Coefficients


def quantile_huber_loss_coefficients(kappa: float) -> Coefficients:
    """kappa (None: the absolute error); the factor of the loss"""
    return kappa or None, None


def iqn_loss_coefficients(kappa: float) -> Coefficients:
    return kappa or None, 1.0 / kappa if kappa else None


@triton.jit
def quantile_huber_loss(source, target, tau, kappa, factor):
    above = tau
    below = 1.0 - tau
    if factor is not None:
        above = above * factor
        below = below * factor
    u = target - source
    pull = tl.where(u < 0.0, below, above)
    if kappa is not None:
        clipped = clamp(u, -kappa, kappa)
        slope = pull * clipped
        return slope * (u - 0.5 * clipped), -slope
    else:
        return pull * tl.abs(u), -(pull * sign(u))


iqn_loss = quantile_huber_loss
