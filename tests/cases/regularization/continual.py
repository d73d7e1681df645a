"""Pulls to earlier parameters, of one tensor each."""

from __future__ import annotations

import torch
from torch import Tensor

from cases.case import Arguments, Case, Shape, normal, uniform


def _held(generator: torch.Generator, shape: Shape) -> Arguments:
    made = {name: normal(generator, *shape) for name in ("parameters", "anchors")}
    return {**made, "importance": uniform(generator, 0.0, 2.0, *shape)}


def _pull(factor: float):
    def oracle(parameters, anchors, importance) -> Tensor:
        total = torch.zeros((), dtype=torch.float64)
        for p, a, f in zip(parameters, anchors, importance, strict=True):
            total = total + factor * ((p - a) * f) @ (p - a)
        return total

    return oracle


CASES = [
    Case("regularization.ewc_loss", _held, (4, 3), ("parameters",), oracle=_pull(0.5), reductions=("mean",)),
    Case(
        "regularization.synaptic_intelligence", _held, (4, 3), ("parameters",), oracle=_pull(1.0), reductions=("mean",)
    ),
]
