"""Losses over pairs of vectors: of a tile of similarities."""

from __future__ import annotations

import triton
import triton.language as tl

from ..math import log1p


@triton.jit
def softplus_pair(z):
    """(loss, derivative) of a pair that does not belong together, in siglip_loss."""
    decay = tl.exp(-tl.abs(z))
    slope = tl.where(z < 0.0, decay, tl.full(z.shape, 1.0, z.dtype)) / (1.0 + decay)
    return tl.maximum(z, 0.0) + log1p(decay), slope
