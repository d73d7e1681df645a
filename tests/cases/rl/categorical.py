"""Values as categorical distributions over a grid."""

from __future__ import annotations

import torch
from torch import Tensor

from cases.case import MASKED, Arguments, Case, Shape, normal

SHAPE = (9, 11)  # losses, atoms


def _support(atoms: int) -> Tensor:
    return torch.linspace(-3.0, 4.0, atoms, dtype=torch.float64)


def _c51(generator: torch.Generator, shape: Shape) -> Arguments:
    return {
        "logits": normal(generator, *shape),
        "target_probs": normal(generator, *shape).softmax(-1),
        "rewards": normal(generator, *shape[:-1]),
        "support": _support(shape[-1]),
        "terminated": torch.rand(shape[:-1], generator=generator) < 0.4,
    }


def _values(generator: torch.Generator, shape: Shape) -> Arguments:
    values = normal(generator, *shape[:-1], scale=3.0)
    return {"logits": normal(generator, *shape), "values": values, "support": _support(shape[-1])}


def _triangles(atoms: Tensor, support: Tensor) -> Tensor:
    """(..., N) -> (..., N, M): the triangular kernel of an even grid."""
    step = support[1] - support[0]
    distance = (atoms.clamp(support[0], support[-1])[..., None] - support).abs()
    return (1 - distance / step).clamp(min=0)


def _c51_oracle(logits, target_probs, rewards, support, terminated, gamma=0.99):
    atoms = rewards[..., None] + (~terminated)[..., None] * support * gamma
    target = (target_probs[..., None] * _triangles(atoms, support)).sum(-2)
    return -(target * logits.log_softmax(-1)).sum(-1)


def _two_hot_oracle(logits, values, support):
    return -(_triangles(values, support) * logits.log_softmax(-1)).sum(-1)


def _hl_gauss_oracle(logits, values, support, sigma=None):
    step = support[1] - support[0]
    edges = torch.cat([support - step / 2, support[-1:] + step / 2])
    around = torch.distributions.Normal(values.clamp(support[0], support[-1])[..., None], sigma or 0.75 * step)
    mass = around.cdf(edges).diff(dim=-1)
    return -(mass / mass.sum(-1, keepdim=True) * logits.log_softmax(-1)).sum(-1)


LOGITS = ("logits",)
CASES = [
    Case(
        "rl.c51_loss", _c51, SHAPE, LOGITS, options={"gamma": 0.9}, oracle=_c51_oracle, optional=MASKED,
        magnitude=8.0,
    ),
    Case("rl.two_hot_loss", _values, SHAPE, LOGITS, oracle=_two_hot_oracle, optional=MASKED, magnitude=8.0),
    Case("rl.hl_gauss_loss", _values, SHAPE, LOGITS, oracle=_hl_gauss_oracle, optional=MASKED, magnitude=8.0),
    Case(
        "rl.hl_gauss_loss", _values, SHAPE, LOGITS, None, "sigma", {"sigma": 0.3}, oracle=_hl_gauss_oracle,
        optional=MASKED, magnitude=8.0,
    ),
]  # fmt: skip
