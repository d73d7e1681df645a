"""Losses of preferences from logits and from hidden states; the oracle is the loss of log-probabilities by torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import fastloss
from cases.case import MASKED, Arguments, Case, Shape, normal

SHAPE = (4, 7, 11)  # sequences, tokens, classes; of hidden states: features
CLASSES = 11
IGNORED = -100


def _labels(generator: torch.Generator, shape: Shape) -> Tensor:
    labels = torch.randint(CLASSES, shape, generator=generator)
    labels[..., :2] = IGNORED
    return labels


def _references(generator: torch.Generator, name: str, pairs: int) -> Arguments:
    one = lambda: normal(generator, pairs, shift=-8.0)  # noqa: E731
    if name == "dpo":
        return {"reference_chosen_logps": one(), "reference_rejected_logps": one()}
    if name == "kto":
        desirable = torch.rand(2 * pairs, generator=generator) < 0.5
        return {
            "reference_logps": normal(generator, 2 * pairs, shift=-8.0),
            "desirable": desirable,
            "kl": torch.tensor(0.3, dtype=torch.float64),
        }
    return {}


def _logits(name: str) -> Callable[..., Arguments]:
    def build(generator: torch.Generator, shape: Shape) -> Arguments:
        logits = normal(generator, *shape)
        return {
            "logits": logits,
            "labels": _labels(generator, shape[:-1]),
            **_references(generator, name, shape[0] // 2),
            "token_mask": torch.rand(shape[:-1], generator=generator) < 0.8,
        }

    return build


def _hidden(name: str) -> Callable[..., Arguments]:
    def build(generator: torch.Generator, shape: Shape) -> Arguments:
        return {
            "hidden": normal(generator, *shape),
            "weight": normal(generator, CLASSES, shape[-1], scale=0.5),
            "bias": normal(generator, CLASSES),
            "labels": _labels(generator, shape[:-1]),
            **_references(generator, name, shape[0] // 2),
            "token_mask": torch.rand(shape[:-1], generator=generator) < 0.8,
        }

    return build


AVERAGED = ("simpo", "orpo")


def _oracle(name: str) -> Callable[..., Tensor]:
    def oracle(labels: Tensor, token_mask: Tensor, reduction: str, temperature: float = 1.0, **given: Any) -> Tensor:
        if "logits" in given:
            logits = given.pop("logits")
        else:
            logits = given.pop("hidden") @ given.pop("weight").T + given.pop("bias")
        counted = (labels != IGNORED) & token_mask
        logps = torch.distributions.Categorical(logits=logits / temperature).log_prob(labels.clamp(min=0)) * counted
        sums = logps.sum(-1) / (counted.sum(-1).clamp(min=1) if name in AVERAGED else 1)
        sequences = (sums,) if name == "kto" else (sums[: len(sums) // 2], sums[len(sums) // 2 :])
        if given.get("loss_type") == "ipo_norm":
            lengths = counted.sum(-1).clamp(min=1).chunk(2)
            references = (given["reference_chosen_logps"], given["reference_rejected_logps"])
            c, r = ((x - y) / n for x, y, n in zip(sequences, references, lengths, strict=True))
            losses = (c - r - 5.0) ** 2
            return losses if reduction == "none" else getattr(losses, reduction)()
        with fastloss.backend("reference"):
            return getattr(fastloss.alignment, f"{name}_loss")(*sequences, **given, reduction=reduction)

    return oracle


CASES = [
    case
    for name in ("dpo", "simpo", "cpo", "orpo", "kto")
    for case in (
        Case(
            f"alignment.{name}_loss_from_logits", _logits(name), SHAPE, ("logits",), options={"temperature": 0.9},
            indices=("labels",), oracle=_oracle(name), optional=MASKED, magnitude=40.0, batched=False,
        ),
        Case(
            f"alignment.linear_{name}_loss", _hidden(name), SHAPE, ("hidden", "weight", "bias"),
            options={"temperature": 0.9}, indices=("labels",), oracle=_oracle(name),
            optional=MASKED, magnitude=40.0, batched=False,
        ),
    )
]  # fmt: skip


CASES += [
    Case(
        "alignment.dpo_loss_from_logits", _logits("dpo"), SHAPE, ("logits",), variant="ipo_norm",
        options={"loss_type": "ipo_norm"}, indices=("labels",), oracle=_oracle("dpo"), optional=MASKED, magnitude=400.0,
        batched=False,
    ),
]  # fmt: skip


def _rewarded(generator: torch.Generator, shape: Shape) -> Arguments:
    return {
        "hidden": normal(generator, *shape),
        "weight": normal(generator, 1, shape[-1]),
        "bias": normal(generator, 1),
        "margin": normal(generator, shape[0] // 2),
    }


def _reward_oracle(hidden: Tensor, weight: Tensor, bias: Tensor, margin: Tensor) -> Tensor:
    rewards = (hidden * weight).sum(-1) + bias
    half = len(rewards) // 2
    return torch.nn.functional.softplus(margin - rewards[:half] + rewards[half:])


CASES += [
    Case(
        "alignment.linear_reward_model_loss", _rewarded, (6, 5), ("hidden", "weight"), oracle=_reward_oracle,
        optional=MASKED, magnitude=8.0, batched=False,
    ),
]  # fmt: skip
