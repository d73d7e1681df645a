"""Divergences between a student's row of logits and a teacher's; csrc/losses/distillation.h has the formulas."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import triton
import triton.language as tl

from ..coefficients import number
from . import RowLoss


class Temperature(NamedTuple):
    inverse: Any


class Mixture(NamedTuple):
    inverse: Any
    of_second: Any
    of_first: Any


def _coefficients(parameters: Sequence[float], classes: int) -> Temperature:
    return Temperature(1.0 / parameters[0])


def _mixture(parameters: Sequence[float], classes: int) -> Mixture:
    return Mixture(1.0 / parameters[0], parameters[1], 1.0 - parameters[1])


forward_kl_coefficients = reverse_kl_coefficients = tvd_coefficients = _coefficients
jsd_coefficients = skewed_forward_kl_coefficients = skewed_reverse_kl_coefficients = _mixture


@triton.jit
def logit(x, c):
    return x * number(c.inverse, x.dtype)


@triton.jit
def slope(z, c):
    return number(c.inverse, z.dtype)


@triton.jit
def no_index_mass(weight, c):
    return tl.zeros_like(weight)


@triton.jit
def forward_terms(z, z_y, from_max, p, second_from_max, second_p, c):
    return (tl.where(second_p == 0.0, 0.0, second_p * (second_from_max - from_max)),)


@triton.jit
def forward_rebase(own, shift, total, second_shift, second_total):
    return (tl.exp(second_shift) * (own[0] + (second_shift - shift) * second_total),)


# The statistics: s[1] and s[7] the log-sums of the student and the teacher, s[8] the sum above.


@triton.jit
def forward_values(s, c):
    return (s[8] * tl.exp(-s[7]) + (s[1] - s[7]),)


@triton.jit
def forward_gradient(from_max, p, q, second_from_max, second_p, s, u, c):
    return (p - second_p) * u[0]


@triton.jit
def reverse_terms(z, z_y, from_max, p, second_from_max, second_p, c):
    return (tl.where(p == 0.0, 0.0, p * (from_max - second_from_max)),)


@triton.jit
def reverse_rebase(own, shift, total, second_shift, second_total):
    return (tl.exp(shift) * (own[0] + (shift - second_shift) * total),)


@triton.jit
def reverse_values(s, c):
    return (s[8] * tl.exp(-s[1]) + (s[7] - s[1]),)


@triton.jit
def reverse_gradient(from_max, p, q, second_from_max, second_p, s, u, c):
    return tl.where(p == 0.0, 0.0, p * (from_max - second_from_max - s[8] * tl.exp(-s[1])) * u[0])


forward_kl = RowLoss(
    logit, slope, None, no_index_mass, None, terms=forward_terms, rebase=forward_rebase, values=forward_values,
    gradient=forward_gradient,
)  # fmt: skip
reverse_kl = RowLoss(
    logit, slope, None, no_index_mass, None, terms=reverse_terms, rebase=reverse_rebase, values=reverse_values,
    gradient=reverse_gradient,
)  # fmt: skip


# Of both softmaxes at a class: share(p, log_p, second_p, second_log_p, c) is what the class adds to the divergence, and
# its derivative by p. s[8] and s[9] are the expectations: the divergence, and the sum of p times the derivative.


@triton.jit
def of_both_values(s, c):
    return (s[8],)


@triton.jit
def ratios(log_p, second_log_p, c):
    """(log(m / p), log(m / second_p), second_p / m) of the mixture m, relative to the larger of the two"""
    step = second_log_p - log_p
    ratio = tl.exp(-tl.abs(step))
    of_second = number(c.of_second, step.dtype)
    of_first = number(c.of_first, step.dtype)
    second_is_larger = step >= 0.0
    larger = tl.where(second_is_larger, of_second, of_first)
    smaller = tl.where(second_is_larger, of_first, of_second)
    over_larger = larger + smaller * ratio
    relative = tl.log(over_larger)
    over_p = tl.where(second_is_larger, relative + step, relative)
    over_second = tl.where(second_is_larger, relative, relative - step)
    return over_p, over_second, tl.where(second_is_larger, 1.0, ratio) / over_larger


@triton.jit
def jsd_share(p, log_p, second_p, second_log_p, c):
    over_p, over_second, _ = ratios(log_p, second_log_p, c)
    slope = -number(c.of_first, p.dtype) * over_p
    of_second = tl.where(second_p == 0.0, 0.0, number(c.of_second, p.dtype) * second_p * over_second)
    return tl.where(p == 0.0, 0.0, p * slope) - of_second, slope


@triton.jit
def skewed_forward_share(p, log_p, second_p, second_log_p, c):
    _, over_second, share = ratios(log_p, second_log_p, c)
    slope = -number(c.of_first, p.dtype) * share
    return tl.where(second_p == 0.0, 0.0, -second_p * over_second), slope


@triton.jit
def skewed_reverse_share(p, log_p, second_p, second_log_p, c):
    over_p, _, share = ratios(log_p, second_log_p, c)
    slope = number(c.of_second, p.dtype) * share - over_p
    return tl.where(p == 0.0, 0.0, -p * over_p), slope


@triton.jit
def tvd_share(p, log_p, second_p, second_log_p, c):
    slope = tl.where(p > second_p, 0.5, tl.where(p < second_p, -0.5, 0.0)).to(p.dtype)
    return slope * (p - second_p), slope


@triton.jit
def under_softmax(p, term, slope):
    return term, tl.where(p == 0.0, 0.0, p * slope)


@triton.jit
def by_logit(p, slope, s, u):
    return tl.where(p == 0.0, 0.0, p * (slope - s[9]) * u[0])


@triton.jit
def jsd_expect(p, log_p, second_p, second_log_p, c):
    term, slope = jsd_share(p, log_p, second_p, second_log_p, c)
    return under_softmax(p, term, slope)


@triton.jit
def jsd_gradient(from_max, p, q, second_from_max, second_p, s, u, c):
    _, slope = jsd_share(p, from_max - s[1], second_p, second_from_max - s[7], c)
    return by_logit(p, slope, s, u)


@triton.jit
def skewed_forward_expect(p, log_p, second_p, second_log_p, c):
    term, slope = skewed_forward_share(p, log_p, second_p, second_log_p, c)
    return under_softmax(p, term, slope)


@triton.jit
def skewed_forward_gradient(from_max, p, q, second_from_max, second_p, s, u, c):
    _, slope = skewed_forward_share(p, from_max - s[1], second_p, second_from_max - s[7], c)
    return by_logit(p, slope, s, u)


@triton.jit
def skewed_reverse_expect(p, log_p, second_p, second_log_p, c):
    term, slope = skewed_reverse_share(p, log_p, second_p, second_log_p, c)
    return under_softmax(p, term, slope)


@triton.jit
def skewed_reverse_gradient(from_max, p, q, second_from_max, second_p, s, u, c):
    _, slope = skewed_reverse_share(p, from_max - s[1], second_p, second_from_max - s[7], c)
    return by_logit(p, slope, s, u)


@triton.jit
def tvd_expect(p, log_p, second_p, second_log_p, c):
    term, slope = tvd_share(p, log_p, second_p, second_log_p, c)
    return under_softmax(p, term, slope)


@triton.jit
def tvd_gradient(from_max, p, q, second_from_max, second_p, s, u, c):
    _, slope = tvd_share(p, from_max - s[1], second_p, second_from_max - s[7], c)
    return by_logit(p, slope, s, u)


def _of_both(expect: Any, gradient: Any) -> RowLoss:
    return RowLoss(logit, slope, None, no_index_mass, None, expect=expect, values=of_both_values, gradient=gradient)


jsd = _of_both(jsd_expect, jsd_gradient)
skewed_forward_kl = _of_both(skewed_forward_expect, skewed_forward_gradient)
skewed_reverse_kl = _of_both(skewed_reverse_expect, skewed_reverse_gradient)
tvd = _of_both(tvd_expect, tvd_gradient)
