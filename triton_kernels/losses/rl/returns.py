"""Returns and advantages, by recurrences over time; csrc/losses/rl/returns.h has the reasons."""

from __future__ import annotations

import triton
import triton.language as tl

from ...math import carried, minimum
from .. import Scan


@triton.jit
def one_step(reward, discount, next_value):
    return reward + carried(discount, next_value)


@triton.jit
def correction(trace, target, value, discount, follows):
    return trace * discount * follows, carried(trace, target - value)


@triton.jit
def corrected(reward, discount, next_value, before):
    return reward + carried(discount, next_value + before)


@triton.jit
def as_it_is(x, alive, follows, y, before, c):
    return (y,)


@triton.jit
def linear_step(x, alive, follows, c):
    return x[1], x[0]


@triton.jit
def discounted_step(x, alive, follows, c):
    end = carried(alive * x[2], x[1])
    return x[2] * follows, x[0] + tl.where(follows == 0.0, end, 0.0)


@triton.jit
def lambda_step(x, alive, follows, c):
    trace = x[3] * follows
    return x[2] * trace, x[0] + carried(alive * x[2] * (1.0 - trace), x[1])


@triton.jit
def gae_step(x, alive, follows, c):
    return x[3] * x[4] * follows, one_step(x[0], alive * x[3], x[2]) - x[1]


@triton.jit
def gae_finish(x, alive, follows, y, before, c):
    return y, y + x[1]


@triton.jit
def vtrace_step(x, alive, follows, c):
    rho = minimum(x[3], tl.zeros_like(x[3]) + c[0])
    trace = x[5] * minimum(x[3], tl.zeros_like(x[3]) + c[1])
    return trace * x[4] * follows, rho * (one_step(x[0], alive * x[4], x[2]) - x[1])


@triton.jit
def vtrace_finish(x, alive, follows, y, before, c):
    target = corrected(x[0], alive * x[4], x[2], carried(x[5], before))
    return x[1] + y, minimum(x[3], tl.zeros_like(x[3]) + c[2]) * (target - x[1])


@triton.jit
def retrace_step(x, alive, follows, c):
    discount = alive * x[4]
    trace = x[5] * minimum(x[3], tl.zeros_like(x[3]) + c[0])
    return correction(trace, one_step(x[0], discount, x[2]), x[1], discount, follows)


@triton.jit
def corrected_by_four(x, alive, follows, y, before, c):
    """gamma is operand 4"""
    return (corrected(x[0], alive * x[4], x[2], before),)


@triton.jit
def corrected_by_three(x, alive, follows, y, before, c):
    return (corrected(x[0], alive * x[3], x[2], before),)


@triton.jit
def tree_step(x, alive, follows, c):
    discount = alive * x[4]
    return correction(x[5] * x[3], one_step(x[0], discount, x[2]), x[1], discount, follows)


@triton.jit
def q_lambda_step(x, alive, follows, c):
    discount = alive * x[3]
    return correction(x[4], one_step(x[0], discount, x[2]), x[1], discount, follows)


@triton.jit
def upgo_step(x, alive, follows, c):
    discount = alive * x[3]
    target = one_step(x[0], discount, x[2])
    trace = tl.where(target >= x[1], 1.0, 0.0).to(x[0].dtype)
    return correction(trace, target, x[1], discount, follows)


linear_scan = Scan(linear_step, as_it_is)
discounted_returns = Scan(discounted_step, as_it_is)
lambda_returns = Scan(lambda_step, as_it_is)
gae = Scan(gae_step, gae_finish)
vtrace = Scan(vtrace_step, vtrace_finish)
retrace = Scan(retrace_step, corrected_by_four)
tree_backup = Scan(tree_step, corrected_by_four)
q_lambda = Scan(q_lambda_step, corrected_by_three)
upgo = Scan(upgo_step, corrected_by_three)
