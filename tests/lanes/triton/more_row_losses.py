"""The losses of tests/skeletons/more_row_losses.h for Triton, and their declarations."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any, NamedTuple

import triton
import triton.language as tl
from lanes.triton.kernels import coefficients, losses
from skeletons.row_steps import SIZES

number = coefficients.number


class Scale(NamedTuple):
    scale: Any


class Margin(NamedTuple):
    scale: Any
    cosine: Any
    sine: Any


@triton.jit
def logit(x, c):
    return x * number(c.scale, x.dtype)


@triton.jit
def slope(z, c):
    return number(c.scale, z.dtype)


@triton.jit
def one(weight, c):
    return tl.full(weight.shape, 1.0, weight.dtype)


@triton.jit
def itself(weight, c):
    return weight


@triton.jit
def finish(top, log_sum, mass, linear, weight, c):
    return mass * log_sum - linear, mass


# ---- log p_y, the entropy, the log-sum-exp


@triton.jit
def entropy_terms(from_max, p, second_from_max, second_p, c):
    return (tl.where(p == 0.0, 0.0, p * from_max),)


@triton.jit
def entropy_rebase(own, shift, total, second_shift, second_total):
    return (tl.exp(shift) * (own[0] + shift * total),)


@triton.jit
def three_values(s, c):
    return s[2] - s[0] - s[1], s[1] - s[6] * tl.exp(-s[1]), s[0] + s[1]


@triton.jit
def three_gradients(from_max, p, q, second_from_max, second_p, s, u, c):
    of_entropy = tl.where(p == 0.0, 0.0, p * (from_max - s[6] * tl.exp(-s[1])))
    return q * u[0] + p * (u[2] - u[0]) - of_entropy * u[1]


# ---- s cos(angle + m) for the target


@triton.jit
def margin_logit(z, c):
    scale = number(c.scale, z.dtype)
    x = z / scale
    return scale * (x * number(c.cosine, z.dtype) - tl.sqrt(1.0 - x * x) * number(c.sine, z.dtype))


@triton.jit
def margin_slope(z, c):
    x = z / number(c.scale, z.dtype)
    return number(c.cosine, z.dtype) + x / tl.sqrt(1.0 - x * x) * number(c.sine, z.dtype)


# ---- KL(second || first)


@triton.jit
def divergence_terms(from_max, p, second_from_max, second_p, c):
    return (tl.where(second_p == 0.0, 0.0, second_p * (second_from_max - from_max)),)


@triton.jit
def divergence_rebase(own, shift, total, second_shift, second_total):
    return (tl.exp(second_shift) * (own[0] + (second_shift - shift) * second_total),)


@triton.jit
def divergence(s, c):
    return (s[8] * tl.exp(-s[7]) + s[1] - s[7],)


@triton.jit
def divergence_gradient(from_max, p, q, second_from_max, second_p, s, u, c):
    return (p - second_p) * u[0]


Loss = losses.RowLoss
HELPERS = {
    "three_outputs": Loss(
        logit, slope, None, one, finish, terms=entropy_terms, rebase=entropy_rebase, values=three_values,
        gradient=three_gradients,
    ),
    "margin": Loss(logit, slope, None, itself, finish, target_logit=margin_logit, target_slope=margin_slope),
    "two_rows": Loss(
        logit, slope, None, one, finish, terms=divergence_terms, rebase=divergence_rebase, values=divergence,
        gradient=divergence_gradient,
    ),
}  # fmt: skip


def numbers(loss: str) -> Any:
    def of(parameters: Any, classes: int) -> Any:
        if loss == "margin":
            return Margin(parameters[0], math.cos(parameters[1]), math.sin(parameters[1]))
        return Scale(parameters[0])

    return of


def declare(steps: Any) -> None:
    """Makes the losses known to the launchers."""
    declared, registry = steps.declared, dict(steps.BY_KERNEL)
    for loss, (outputs, statistics) in SIZES.items():
        registry[loss] = SimpleNamespace(outputs=outputs, statistics=statistics, two_rows=loss == "two_rows")
    made = {name: losses.Declared(helper, numbers(name), None, None, 0, ()) for name, helper in HELPERS.items()}
    steps.BY_KERNEL = registry
    steps.declared = lambda loss: made[loss] if loss in made else declared(loss)
