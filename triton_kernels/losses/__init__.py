"""The losses as Triton sees them. The file and the names are those of the loss's body in fastloss/losses: the helper of
the kernel `huber_loss`, which is declared in fastloss/losses/regression.py, is `huber_loss` in regression.py here.

A pointwise loss is one device function of tiles:

    loss, derivatives, metrics = huber_loss(input, target, delta)

The operands come first, a tile each, in the accumulator dtype A (float64 or float32); an operand that is a number is
such a tile as well. The coefficients follow, scalars of A: the hyper-parameters, or what `huber_loss_coefficients`
makes of them, if there is such a function. A coefficient that is None is switched off, and its code is left out of the
kernel. derivatives: a tile for each operand, 0.0 where the loss is never differentiated (a Triton function cannot
return None in a tuple). metrics: a tile each, in the order of the declaration. A loss that declares a domain has
`<name>_domain` of the operands, true inside.

A loss over pairs of numbers is a function (source, target, operands, coefficients) -> (loss, derivative by the source),
with sources and operands (SOURCES, 1) and targets (1, TARGETS). A loss over rows is a RowLoss, a recurrence over time a
Scan.

The formulas are those of csrc/losses. Kernels take the functions themselves as constexpr.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any, NamedTuple

import torch

from fastloss.core.registry import BY_KERNEL

from ..coefficients import in_arithmetic, kernel_numbers

Coefficients = tuple[float | None, ...]


class RowLoss(NamedTuple):
    """The device functions of a loss over rows of logits; csrc/losses/contracts/row.h says what each means.

        z_j = logit(x_j)        q = target distribution        p = softmax(z)
        loss = finish(sums)     dloss/dx_j = slope(z_j) * (softmax_coefficient * p_j - q_j)

    The last argument of each is the NamedTuple that `<name>_coefficients(parameters, classes)` makes.
    """

    logit: Any  # (x, c): z_j, the logit that enters the softmax
    slope: Any  # (z, c): dz_j/dx_j as a function of z_j; a scalar 1 where it is constant
    mass: Any  # (weight, probability, c): q_j, what is spread over all classes; None: nothing ever is
    index_mass: Any  # (weight, c): what an index target y adds to q_y
    finish: Any  # (top, log_sum, mass, linear, weight, c): (loss, softmax_coefficient)
    modulation: Any = None  # (log_p, c): f(log p) and -f'(log p), of a loss of a class that is not -log p
    # What more there is in the steps (kernels/row_statistics.py), s being the statistics of a row in their places:
    target_logit: Any = None  # (z, c): of a margin, z_y as it enters the softmax
    target_slope: Any = None  # (z, c): its derivative by z_y
    terms: Any = None  # (z, z_y, from_max, p, second_from_max, second_p, c): what a class adds to each of its own sums
    rebase: Any = None  # (own, shift, sum, second_shift, second_sum): the sums relative to another maximum
    expect: Any = None  # (p, log_p, second_p, second_log_p, c): what a class adds to each expectation
    values: Any = None  # (s, c): the outputs, a tuple
    gradient: Any = None  # (from_max, p, q, second_from_max, second_p, s, upstreams, c): d(sum of the outputs) / dz

    @property
    def cache_key(self) -> str:
        """Triton's key of a compiled kernel has this of a constexpr: it changes with the source of the functions."""
        return "-".join(function.cache_key for function in self if function is not None)


class Scan(NamedTuple):
    """The device functions of a recurrence over time; csrc/losses/contracts/scan.h says what each means. The first
    argument is the tuple of the operands, the last one that of the coefficients."""

    step: Any  # (x, alive, follows, c): a and b
    finish: Any  # (x, alive, follows, y, before, c): the outputs, a tuple

    @property
    def cache_key(self) -> str:
        return "-".join(function.cache_key for function in self)


class Declared(NamedTuple):
    """What the launchers have to know of a loss: from its declaration, and from its file here."""

    helper: Any
    coefficients: Callable[..., Coefficients]
    domain: Any
    requirement: str | None
    operands: int
    metrics: tuple[str, ...]  # the kind of each, "mean", "part", "min" or "max"


def as_they_are(*parameters: float) -> Coefficients:
    return parameters


@functools.cache
def declared(kernel: str) -> Declared:
    declaration = BY_KERNEL[kernel]
    family = family_of(declaration.signature.reference.__module__)
    domain = getattr(declaration, "domain", None)
    return Declared(
        getattr(family, kernel),
        getattr(family, f"{kernel}_coefficients", as_they_are),
        None if domain is None else getattr(family, f"{kernel}_domain"),
        None if domain is None else domain.requirement,
        len(getattr(declaration, "operands", ())),
        tuple(getattr(declaration, "metrics", {}).values()),
    )


def family_of(body: str) -> ModuleType:
    """fastloss.losses.rl.policy -> .rl.policy"""
    return importlib.import_module(body.removeprefix("fastloss.losses"), __name__)


def coefficients(loss: Declared, parameters: Sequence[float], dtype: torch.dtype) -> tuple[Any, ...]:
    """The coefficients of a pointwise loss or of pairs of numbers, as a kernel argument."""
    return kernel_numbers(loss.coefficients(*in_arithmetic(parameters, dtype)), dtype)
