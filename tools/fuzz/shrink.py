"""A smaller trial with the same failure: greedily, one field after the other, until nothing is left to take away."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch

from .arguments import NotBuilt
from .check import Failure, check
from .trial import Trial

_SEEDS = 6  # other numbers that a smaller shape is tried with


def _shapes(shape: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    for k, size in enumerate(shape):
        for smaller in sorted({1, 2, size // 2, size - 1}):
            if 0 < smaller < size:
                yield (*shape[:k], smaller, *shape[k + 1 :])
    if len(shape) > 1:
        yield shape[:-1]
        yield shape[1:]


def _candidates(trial: Trial) -> Iterator[Trial]:
    """Simpler trials, those first that leave most away."""
    plain = Trial(trial.case)
    for field, value in trial.changed().items():
        if field in ("case", "seed", "shape", "rounded", "way"):
            continue
        if field == "dtype" and torch.float32 not in trial.of.dtypes:
            continue
        yield trial.but(**{field: getattr(plain, field)})
        if isinstance(value, dict):
            for name in value:
                yield trial.but(**{field: {key: x for key, x in value.items() if key != name}})
        elif field == "special":
            for k, (name, place, kind) in enumerate(value):
                yield trial.but(special=value[:k] + value[k + 1 :])
                if place:
                    yield trial.but(special=(*value[:k], (name, 0, kind), *value[k + 1 :]))
        elif field == "wanted":
            for name in value or ():
                if len(value) > 1:
                    yield trial.but(wanted=(name,))
    for shape in _shapes(trial.of.shape if trial.shape is None else trial.shape):
        for seed in (trial.seed, *range(_SEEDS)):
            yield trial.but(shape=shape, seed=seed)
    if trial.seed >= _SEEDS:
        for seed in range(_SEEDS):
            yield trial.but(seed=seed)
    if not trial.rounded:
        yield trial.but(rounded=True)


def shrink(
    trial: Trial, failure: Failure, steps: int = 600, checked: Callable[[Trial], Failure | None] | None = None
) -> tuple[Trial, Failure]:
    """The simplest trial found that fails in the same way, and how it fails.

    Args:
        steps: how many trials may be run for it.
    """
    checked = checked or failure_of
    found, progress = (trial, failure), True
    while progress:
        progress = False
        for candidate in _candidates(found[0]):
            steps -= 1
            if steps < 0:
                return found
            other = checked(candidate)
            if other is not None and other.kind == failure.kind:
                found, progress = (candidate, other), True
                break
    return found


def failure_of(trial: Trial) -> Failure | None:
    try:
        return check(trial).failure
    except NotBuilt:
        return None
