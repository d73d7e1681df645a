"""The losses of value functions."""

from __future__ import annotations

import torch
from torch import Tensor

from cases.case import MASKED, Arguments, Case, Shape, normal


def value_triple(generator: torch.Generator, shape: Shape) -> Arguments:
    return {name: normal(generator, *shape) for name in ("values", "old_values", "returns")}


def clipped_value_loss(values: Tensor, old_values: Tensor, returns: Tensor, clip: float = 0.2) -> Tensor:
    bounded = old_values + (values - old_values).clamp(-clip, clip)
    return torch.maximum((values - returns) ** 2, (bounded - returns) ** 2) / 2


CASES = [
    Case(
        "rl.value_clip_loss", value_triple, (7, 37), ("values",), "pointwise", "", {"clip": 0.5},
        oracle=clipped_value_loss, optional=MASKED, reductions=("none", "token-mean", "token-sum"), twice=False,
    ),
]  # fmt: skip
