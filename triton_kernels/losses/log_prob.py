"""Numbers of a row of logits and an index; csrc/losses/log_prob.h has the formulas."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import triton
import triton.language as tl

from ..coefficients import number
from . import RowLoss
from .classification import capped_logit


class LogProb(NamedTuple):
    """z = softcap * tanh(x * inverse_softcap) * inverse_temperature; without a softcap x * inverse_temperature."""

    softcap: Any
    inverse_softcap: Any  # scale of the logits / softcap
    inverse_temperature: Any  # without a softcap scale / temperature
    z_to_tanh: Any  # temperature / softcap
    slope: Any  # dz/dx at 0
    inverse_classes: Any


def _coefficients(parameters: Sequence[float], classes: int) -> LogProb:
    temperature, softcap, scale = parameters
    return LogProb(
        softcap or None,
        scale / softcap if softcap else None,
        1.0 / temperature if softcap else scale / temperature,
        temperature / softcap if softcap else None,
        scale / temperature,
        1.0 / classes,
    )


log_softmax_of_index_coefficients = _coefficients
log_softmax_and_entropy_coefficients = _coefficients
log_softmax_and_more_coefficients = _coefficients


@triton.jit
def log_prob_slope(z, c):
    slope = number(c.slope, z.dtype)
    if c.z_to_tanh is not None:
        capped = z * number(c.z_to_tanh, z.dtype)
        slope = slope * (1.0 - capped * capped)
    return slope


@triton.jit
def index_mass(weight, c):
    return tl.full(weight.shape, 1.0, weight.dtype)


@triton.jit
def entropy_terms(z, z_y, from_max, p, second_from_max, second_p, c):
    return (tl.where(p == 0.0, 0.0, p * from_max),)


@triton.jit
def entropy_rebase(own, shift, total, second_shift, second_total):
    return (tl.exp(shift) * (own[0] + shift * total),)


@triton.jit
def all_terms(z, z_y, from_max, p, second_from_max, second_p, c):
    return tl.where(p == 0.0, 0.0, p * from_max), z, p * p, tl.where(z > z_y, 1.0, 0.0).to(p.dtype)


@triton.jit
def all_rebase(own, shift, total, second_shift, second_total):
    return tl.exp(shift) * (own[0] + shift * total), own[1], tl.exp(2.0 * shift) * own[2], own[3]


# The statistics: s[0] max, s[1] log-sum, s[2] z of the target, s[6] and after: the sums above.


@triton.jit
def largest(s):
    return tl.where(s[2] >= s[0], 1.0, 0.0).to(s[0].dtype)


@triton.jit
def log_prob_values(s, c):
    none = tl.zeros_like(s[0])
    return s[2] - s[0] - s[1], none, s[0] + s[1], none, none, largest(s), none, s[0], s[1]


@triton.jit
def entropy_values(s, c):
    none = tl.zeros_like(s[0])
    entropy = s[1] - s[6] * tl.exp(-s[1])
    return s[2] - s[0] - s[1], entropy, s[0] + s[1], none, none, largest(s), none, s[0], s[1]


@triton.jit
def all_values(s, c):
    entropy = s[1] - s[6] * tl.exp(-s[1])
    mean = s[7] * number(c.inverse_classes, s[0].dtype)
    return s[2] - s[0] - s[1], entropy, s[0] + s[1], mean, tl.log(s[8]) - 2.0 * s[1], largest(s), s[9], s[0], s[1]


@triton.jit
def log_prob_gradient(from_max, p, q, second_from_max, second_p, s, u, c):
    return q * u[0] + p * (u[2] + u[8] - u[0])


@triton.jit
def entropy_gradient(from_max, p, q, second_from_max, second_p, s, u, c):
    of_entropy = tl.where(p == 0.0, 0.0, p * (from_max - s[6] * tl.exp(-s[1])))
    return q * u[0] + p * (u[2] + u[8] - u[0]) - of_entropy * u[1]


@triton.jit
def all_gradient(from_max, p, q, second_from_max, second_p, s, u, c):
    of_entropy = tl.where(p == 0.0, 0.0, p * (from_max - s[6] * tl.exp(-s[1])))
    return q * u[0] + p * (u[2] + u[8] - u[0]) - of_entropy * u[1] + u[3] * number(c.inverse_classes, p.dtype)


log_softmax_of_index = RowLoss(
    capped_logit, log_prob_slope, None, index_mass, None, values=log_prob_values, gradient=log_prob_gradient
)
log_softmax_and_entropy = log_softmax_of_index._replace(
    terms=entropy_terms, rebase=entropy_rebase, values=entropy_values, gradient=entropy_gradient
)
log_softmax_and_more = log_softmax_of_index._replace(
    terms=all_terms, rebase=all_rebase, values=all_values, gradient=all_gradient
)
