"""Flow matching; the oracle takes the logit-normal density from torch.distributions."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from cases.case import MASKED, Arguments, Case, Shape, normal, uniform


def _flow(generator: torch.Generator, shape: Shape) -> Arguments:
    made = {name: normal(generator, *shape) for name in ("v_pred", "x0", "x1")}
    return {**made, "t": uniform(generator, 0.05, 0.95, shape[0])}


def _matching(v_pred, x0, x1, t, weighting="uniform", mean=0.0, std=1.0) -> Tensor:
    normal = torch.distributions.Normal(*torch.tensor([mean, std], dtype=torch.float64))
    logit_normal = torch.distributions.TransformedDistribution(normal, torch.distributions.SigmoidTransform())
    w = {"uniform": torch.ones_like(t), "logit_normal": logit_normal.log_prob(t).exp(),
         "cosmap": 2 / (math.pi * (1 - 2 * t + 2 * t**2))}[weighting]  # fmt: skip
    return w[:, None] * (v_pred - x1 + x0) ** 2


CASES = [
    Case("diffusion.flow_matching_loss", _flow, (4, 3), ("v_pred",), oracle=_matching, optional=MASKED),
    *(
        Case(
            "diffusion.flow_matching_loss", _flow, (4, 3), ("v_pred",), variant=kind, options=options,
            oracle=_matching, optional=MASKED,
        )
        for kind, options in (
            ("logit-normal", {"weighting": "logit_normal", "mean": 0.3, "std": 0.8}),
            ("cosmap", {"weighting": "cosmap"}),
        )
    ),
]  # fmt: skip
