"""Several classes at once; the oracles add up exponentials."""

from __future__ import annotations

import torch
from torch import Tensor

from cases.case import MASKED, Arguments, Case, Shape, normal


def _labeled(generator: torch.Generator, shape: Shape) -> Arguments:
    """Each row and column has both labels."""
    target = torch.randint(2, shape, generator=generator)
    if target.numel():
        target[:, 0], target[:, 1] = torch.arange(shape[0]) % 2, (torch.arange(shape[0]) + 1) % 2
    return {"input": normal(generator, *shape), "target": target.double()}


def _unknown(generator: torch.Generator, shape: Shape) -> Arguments:
    made = _labeled(generator, shape)
    made["target"][:, -1] = -1
    return made


def _asymmetric(input, target, gamma_negative=4.0, gamma_positive=1.0, shift=0.05) -> Tensor:
    p = 1 / (1 + torch.exp(-input))
    q = torch.relu(p - shift)
    return -(target * (1 - p) ** gamma_positive * p.log() + (1 - target) * q**gamma_negative * (1 - q).log())


def _zlpr(input, target) -> Tensor:
    losses = []
    for x, t in zip(input, target, strict=True):
        losses.append((1 + x[t == 0].exp().sum()).log() + (1 + (-x[t > 0]).exp().sum()).log())
    return torch.stack(losses)


def _two_way(input, target, positive_temperature=4.0, negative_temperature=1.0) -> Tensor:
    means = []
    for x, t in ((input, target), (input.T, target.T)):
        losses = []
        for row, label in zip(x, t, strict=True):
            if (label > 0).any():
                below = (-row[label > 0] / positive_temperature).exp().sum() ** positive_temperature
                above = (row[label == 0] / negative_temperature).exp().sum() ** negative_temperature
                losses.append((1 + below * above).log())
        means.append(torch.stack(losses).mean())
    return means[0] + means[1]


CASES = [
    # the kinks of the shift are where no gradient is twice
    Case("asymmetric_loss", _labeled, (5, 6), ("input",), oracle=_asymmetric, optional=MASKED),
    Case(
        "asymmetric_loss", _labeled, (5, 6), ("input",), variant="no shift", oracle=_asymmetric, optional=MASKED,
        options={"shift": 0.0, "gamma_negative": 2.0, "gamma_positive": 0.0},
    ),
    Case("zlpr_loss", _labeled, (5, 6), ("input",), oracle=_zlpr, optional=MASKED),
    Case("zlpr_loss", _unknown, (5, 6), ("input",), variant="unknown", oracle=_zlpr, optional=MASKED),
    Case("two_way_loss", _labeled, (5, 6), ("input",), oracle=_two_way, reductions=("mean",)),
    Case(
        "two_way_loss", _unknown, (5, 6), ("input",), variant="unknown", oracle=_two_way, reductions=("mean",),
        options={"positive_temperature": 1.5, "negative_temperature": 2.0},
    ),
]  # fmt: skip
