"""Mixtures of opponents, and regret."""

from __future__ import annotations

import torch
from torch import Tensor

from cases.case import MASKED, Arguments, Case, Shape, normal


def _played(generator: torch.Generator, shape: Shape) -> Arguments:
    opponents = shape[-1]
    graph = torch.rand(shape[-2:], generator=generator, dtype=torch.float64).tril()
    return {"returns": normal(generator, *shape), "interaction_graph": graph + torch.eye(*shape[-2:]) / opponents}


def _neupl(returns, interaction_graph) -> Tensor:
    return -torch.einsum("bij,ij->bi", returns, interaction_graph)


def _returns(generator: torch.Generator, shape: Shape) -> Arguments:
    return {name: normal(generator, *shape) for name in ("antagonist_returns", "protagonist_returns")}


def _regret(antagonist_returns, protagonist_returns) -> Tensor:
    return antagonist_returns - protagonist_returns


CASES = [
    Case("games.neupl_loss", _played, (3, 4, 4), ("returns",), oracle=_neupl, optional=MASKED, magnitude=4.0),
    Case(
        "games.paired_regret", _returns, (5, 3), ("antagonist_returns", "protagonist_returns"), oracle=_regret,
        optional=MASKED, magnitude=4.0,
    ),
]  # fmt: skip
