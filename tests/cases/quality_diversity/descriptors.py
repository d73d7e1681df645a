"""Learned behaviour descriptors."""

from __future__ import annotations

import torch
from torch import Tensor

from cases.case import Arguments, Case, Shape, normal


def _coded(generator: torch.Generator, shape: Shape) -> Arguments:
    made = {name: normal(generator, *shape) for name in ("recon", "target")}
    return {**made, "diversity": torch.tensor(0.0 if not shape[0] else 1.5, dtype=torch.float64)}


def _aurora(recon, target, diversity, diversity_coefficient=1.0) -> Tensor:
    return ((recon - target) ** 2).mean() + diversity_coefficient * diversity


CASES = [
    Case(
        "quality_diversity.aurora_loss", _coded, (4, 3), ("recon", "diversity"), oracle=_aurora, reductions=("mean",),
        options={"diversity_coefficient": 0.3}, batched=False,  # the diversity is not of the batch
    ),
]  # fmt: skip
