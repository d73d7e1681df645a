"""The losses of pairs in Triton, of a tile of similarities."""

# mypy: disable-error-code="operator,index"

from __future__ import annotations

import triton
import triton.language as tl


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
