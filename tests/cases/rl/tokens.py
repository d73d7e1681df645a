"""Policy losses from logits and hidden states; the oracle is the loss of log-probabilities by torch.distributions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import fastloss
from cases.case import MASKED, Arguments, Build, Case, Shape, normal
from cases.rl.value import value_triple

CLASSES = 11
SHAPE = (3, 5, CLASSES)  # sequences, tokens, classes; of hidden states: features
TOKENS = ("none", "token-mean", "seq-mean-token-mean")


def _of_tokens(build: Build) -> Build:
    """Beside logits or hidden states: the tokens, and what the loss has of each."""

    def of_tokens(generator: torch.Generator, shape: Shape) -> Arguments:
        old = -0.05 - 3 * torch.rand(shape[:-1], generator=generator, dtype=torch.float64)
        index = torch.randint(CLASSES, shape[:-1], generator=generator)
        advantages = normal(generator, *shape[:-1], shift=-1.5)
        return {"index": index, "old_logp": old, "advantages": advantages, **build(generator, shape)}

    return of_tokens


def _logits(generator: torch.Generator, shape: Shape) -> Arguments:
    return {"logits": normal(generator, *shape)}


def _hidden(generator: torch.Generator, shape: Shape) -> Arguments:
    weight = normal(generator, CLASSES, shape[-1], scale=0.5)
    return {"hidden": normal(generator, *shape), "weight": weight, "bias": normal(generator, CLASSES)}


def _with_values(build: Build) -> Build:
    return lambda generator, shape: {**build(generator, shape), **value_triple(generator, shape[:-1])}


def _oracle(name: str) -> Callable[..., Tensor]:
    def oracle(index: Tensor, reduction: str, temperature: float, **given: Any) -> Tensor:
        if "logits" in given:
            logits = given.pop("logits")
        else:
            logits = given.pop("hidden") @ given.pop("weight").T + given.pop("bias")
        categorical = torch.distributions.Categorical(logits=logits / temperature)
        if name == "ppo_loss":
            given["entropy"] = categorical.entropy()
        with fastloss.backend("reference"):
            return getattr(fastloss.rl, name)(categorical.log_prob(index), **given, aggregation=reduction)

    return oracle


def _case(name: str, of: str, build: Build, leaves: tuple[str, ...], **options: Any) -> Case:
    return Case(
        f"rl.{name}", _of_tokens(build), SHAPE, leaves, options={"temperature": 0.9, **options}, indices=("index",),
        oracle=_oracle(of), optional=MASKED, reductions=TOKENS, twice=False, magnitude=12.0, batched=False,
    )  # fmt: skip


LINEAR = ("hidden", "weight", "bias")
ENTROPY = {"entropy_coefficient": 0.02, "value_clip": 0.4}
CASES = [
    _case("ppo_clip_loss_from_logits", "ppo_clip_loss", _logits, ("logits",), clip_high=0.3),
    _case("linear_ppo_clip_loss", "ppo_clip_loss", _hidden, LINEAR, clip_high=0.3),
    _case("ppo_loss_from_logits", "ppo_loss", _with_values(_logits), ("logits", "values"), **ENTROPY),
    _case("linear_ppo_loss", "ppo_loss", _with_values(_hidden), (*LINEAR, "values"), **ENTROPY),
]
