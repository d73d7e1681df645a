"""Value losses of reinforcement learning; csrc/losses/rl/value.h has the reasons."""

from __future__ import annotations

import triton
import triton.language as tl

from ...math import clamp, maximum, share


@triton.jit
def value_error(value, old_value, target, clip):
    """(loss, slope by the value, 1 where the clamped value is the worse one)"""
    error = value - target
    free = error * error
    gap = clamp(value, old_value - clip, old_value + clip) - target
    bound = gap * gap
    clipped = bound > free
    return 0.5 * maximum(free, bound), tl.where(clipped, 0.0, error), share(clipped, value.dtype)


@triton.jit
def value_clip_loss(value, old_value, target, clip):
    loss, slope, clipped = value_error(value, old_value, target, clip)
    return loss, (slope, 0.0, 0.0), (clipped,)
