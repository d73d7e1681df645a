"""The losses over pairs as Triton sees them: each is a branch of `pairs_loss`, chosen by name, and an entry in LOSSES.

The formulas are those of csrc/losses/rl. `p` is the tuple that the entry in LOSSES makes of the parameters; None
in it is a switch that is off, whose code the kernel leaves out.
"""

from __future__ import annotations

from collections.abc import Sequence

import triton
import triton.language as tl

from .common import clamp, sign


def quantile_huber_loss(parameters: Sequence[float]) -> tuple[float | None, ...]:
    """kappa; the factor of the loss."""
    (kappa,) = parameters
    return kappa or None, None


def iqn_loss(parameters: Sequence[float]) -> tuple[float | None, ...]:
    (kappa,) = parameters
    return kappa or None, 1.0 / kappa if kappa else None


LOSSES = {"quantile_huber_loss": quantile_huber_loss, "iqn_loss": iqn_loss}


@triton.jit
def pairs_loss(LOSS: tl.constexpr, source, target, x, p):
    """(loss, derivative by the source) of each pair: source and x[k] are (SOURCES, 1), target is (1, TARGETS)."""
    tl.static_assert(LOSS == "quantile_huber_loss" or LOSS == "iqn_loss")
    above = x[0]
    below = 1.0 - x[0]
    if p[1] is not None:
        above = above * p[1]
        below = below * p[1]
    u = target - source
    pull = tl.where(u < 0.0, below, above)
    if p[0] is not None:
        clipped = clamp(u, -p[0], p[0])
        slope = pull * clipped
        return slope * (u - 0.5 * clipped), -slope
    else:
        return pull * tl.abs(u), -(pull * sign(u))
