"""Weights that change with the step: callables from a step to a number."""

from __future__ import annotations

import math
from typing import NamedTuple

__all__ = ["Cosine", "Cyclical", "Exponential", "Linear"]


def _share(step: int, steps: int) -> float:
    """How much of the way is done, in [0, 1]."""
    return 1.0 if steps <= 0 else min(1.0, max(0.0, step / steps))


class Linear(NamedTuple):
    """From one number to another in equal steps, and then that.

    Example:
        >>> Linear(0.0, 1.0, 10)(5)
        0.5
    """

    start: float
    end: float
    steps: int

    def __call__(self, step: int) -> float:
        return self.start + (self.end - self.start) * _share(step, self.steps)


class Cosine(NamedTuple):
    """From one number to another along half a cosine, slowly at both ends.

    Example:
        >>> round(Cosine(0.0, 1.0, 10)(5), 6)
        0.5
    """

    start: float
    end: float
    steps: int

    def __call__(self, step: int) -> float:
        return self.end + (self.start - self.end) * (1 + math.cos(math.pi * _share(step, self.steps))) / 2


class Exponential(NamedTuple):
    """From one number to another, each step by the same factor; both of one sign, and not 0.

    Example:
        >>> round(Exponential(1.0, 0.01, 10)(5), 6)
        0.1
    """

    start: float
    end: float
    steps: int

    def __call__(self, step: int) -> float:
        return self.start * (self.end / self.start) ** _share(step, self.steps)


class Cyclical(NamedTuple):
    """From one number to another in the first part of every period, and that for the rest of it (Fu et al. 2019,
    arXiv:1903.10145, against posterior collapse).

    Example:
        >>> schedule = Cyclical(0.0, 1.0, period=10, rising=0.5)
        >>> [schedule(step) for step in (0, 1, 5, 9, 10)]
        [0.0, 0.2, 1.0, 1.0, 0.0]
    """

    start: float
    end: float
    period: int
    rising: float = 0.5

    def __call__(self, step: int) -> float:
        within = (step % self.period) / self.period
        return self.start + (self.end - self.start) * (1.0 if self.rising <= 0 else min(1.0, within / self.rising))
