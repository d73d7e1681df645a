"""What the launchers know of a pointwise loss; pointwise_losses.py says what belongs to one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass


def as_they_are(parameters: Sequence[float]) -> tuple[float | None, ...]:
    return tuple(parameters)


@dataclass(frozen=True)
class PointwiseLoss:
    """A loss as the launchers see it.

    operands: their number. metrics: the kind of each, "mean", "term", "min" or "max". constants: what the helper gets
    as `p`, made of the parameters of the operator; None in it is a switch that is off, whose code the kernel leaves
    out. requirement: the message of the assertion, if the loss has a domain.
    """

    operands: int
    metrics: tuple[str, ...] = ()
    constants: Callable[[Sequence[float]], tuple[float | None, ...]] = as_they_are
    requirement: str | None = None
