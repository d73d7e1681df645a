"""Penalties on predictions; the oracles are torch.distributions'."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions import Categorical

from cases.case import MASKED, Arguments, Case, Shape, normal


def _logits(generator: torch.Generator, shape: Shape) -> Arguments:
    return {"input": normal(generator, *shape)}


def _two(generator: torch.Generator, shape: Shape) -> Arguments:
    return {"input": normal(generator, *shape), "old_logits": normal(generator, *shape)}


def _confidence(input, threshold=None) -> Tensor:
    found = Categorical(logits=input).entropy()
    return -found if threshold is None else torch.relu(threshold - found)


def _lwf(input, old_logits, temperature=2.0) -> Tensor:
    q, p = (Categorical(logits=x / temperature) for x in (old_logits, input))
    return torch.distributions.kl_divergence(q, p) + q.entropy()


CASES = [
    Case(
        "regularization.entropy", _logits, (3, 2, 5), ("input",),
        oracle=lambda input: Categorical(logits=input).entropy(), optional=MASKED,
    ),
    Case("regularization.confidence_penalty", _logits, (3, 5), ("input",), oracle=_confidence, optional=MASKED),
    Case(
        "regularization.confidence_penalty", _logits, (3, 5), ("input",), variant="threshold", oracle=_confidence,
        options={"threshold": 1.2}, optional=MASKED,
    ),
    Case("regularization.lwf_loss", _two, (6, 5), ("input",), oracle=_lwf, optional=MASKED),
    Case(
        "regularization.lwf_loss", _two, (6, 5), ("input",), variant="cold", oracle=_lwf, optional=MASKED,
        options={"temperature": 0.7},
    ),
]  # fmt: skip
