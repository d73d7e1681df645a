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


def _coefficients(parameters: Sequence[float], classes: int) -> Temperature:
    return Temperature(1.0 / parameters[0])


forward_kl_coefficients = reverse_kl_coefficients = _coefficients


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
