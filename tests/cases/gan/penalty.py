"""Penalties on derivatives: of a critic whose derivative is known. tests/oracles has those by its parameters."""

from __future__ import annotations

import torch
from torch import Tensor

from cases.case import Arguments, Case, Shape, normal, uniform

_MATRIX = torch.tensor([[1.5, 0.5, 0.0], [0.5, -1.0, 0.25], [0.0, 0.25, 0.75]], dtype=torch.float64)


def quadratic(x: Tensor) -> Tensor:
    """x' A x / 2, whose gradient is A x."""
    return (x @ _MATRIX.to(x) * x).sum(-1) / 2


def linear(x: Tensor) -> Tensor:
    return x @ _MATRIX.to(x)


def _between(generator: torch.Generator, shape: Shape) -> Arguments:
    return {
        "critic": quadratic,
        "real": normal(generator, *shape),
        "fake": normal(generator, *shape),
        "share": uniform(generator, 0.0, 1.0, shape[0]),
    }


def _at(name: str):
    return lambda generator, shape: {"critic": quadratic, name: normal(generator, *shape)}


def _paths(generator: torch.Generator, shape: Shape) -> Arguments:
    return {
        "generator": linear,
        "latents": normal(generator, *shape),
        "noise": normal(generator, *shape),
        "mean_length": torch.tensor(0.7, dtype=torch.float64),
    }


def _penalty(critic, real, fake, share, one_sided=False) -> Tensor:
    excess = ((share[:, None] * real + (1 - share[:, None]) * fake) @ _MATRIX).norm(dim=1) - 1
    return torch.where((excess > 0) | torch.tensor(not one_sided), excess**2, 0.0)


def _r(critic, real=None, fake=None) -> Tensor:
    return ((real if fake is None else fake) @ _MATRIX).pow(2).sum(1) / 2


def _lengths(generator, latents, noise, mean_length, decay=0.01) -> Tensor:
    lengths = (noise @ _MATRIX.T / latents.shape[-1] ** 0.5).norm(dim=1)
    return ((lengths - mean_length * (1 - decay) - decay * lengths.mean()) ** 2).mean()


CASES = [
    Case("gan.gradient_penalty", _between, (4, 3), (), oracle=_penalty),
    Case(
        "gan.gradient_penalty", _between, (4, 3), (), variant="one-sided", options={"one_sided": True}, oracle=_penalty
    ),
    Case("gan.r1_penalty", _at("real"), (4, 3), (), oracle=_r),
    Case("gan.r2_penalty", _at("fake"), (4, 3), (), oracle=_r),
    Case("gan.path_length_penalty", _paths, (4, 3), (), oracle=_lengths, reductions=("mean",)),
]
