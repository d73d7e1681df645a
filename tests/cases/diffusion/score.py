"""Score matching; the sliced loss at a score whose Jacobian is a matrix."""

from __future__ import annotations

import torch
from torch import Tensor

from cases.case import Arguments, Case, Shape, normal, uniform

_MATRIX = torch.tensor([[-1.5, 0.5, 0.2], [-0.5, -1.0, 0.25], [0.0, 0.25, -0.75]], dtype=torch.float64)


def linear(x: Tensor) -> Tensor:
    return x @ _MATRIX.to(x)


def _noised(generator: torch.Generator, shape: Shape) -> Arguments:
    made = {name: normal(generator, *shape) for name in ("score", "noise")}
    return {**made, "sigma": uniform(generator, 0.5, 2.0, shape[0])}


def _sliced(generator: torch.Generator, shape: Shape) -> Arguments:
    return {"score": linear, "x": normal(generator, *shape), "directions": normal(generator, 2, *shape)}


def _denoising(score, noise, sigma, weighting="sigma_squared") -> Tensor:
    sigma = sigma[:, None]
    factor = sigma**2 if weighting == "sigma_squared" else 1.0
    return (factor * (score + noise / sigma) ** 2).sum(1) / 2


def _by_slices(score, x, directions, variance_reduction=True) -> Tensor:
    along = torch.einsum("pni,ij,pnj->pn", directions, _MATRIX, directions)
    s = x @ _MATRIX
    square = (s * s).sum(1) if variance_reduction else torch.einsum("pni,ni->pn", directions, s) ** 2
    return (along + square / 2).mean(0)


CASES = [
    Case("diffusion.denoising_score_matching_loss", _noised, (4, 3), ("score",), oracle=_denoising),
    Case(
        "diffusion.denoising_score_matching_loss", _noised, (4, 3), ("score",), variant="uniform",
        options={"weighting": "uniform"}, oracle=_denoising,
    ),
    Case("diffusion.sliced_score_matching_loss", _sliced, (4, 3), (), oracle=_by_slices),
    Case(
        "diffusion.sliced_score_matching_loss", _sliced, (4, 3), (), variant="not reduced",
        options={"variance_reduction": False}, oracle=_by_slices,
    ),
]  # fmt: skip
