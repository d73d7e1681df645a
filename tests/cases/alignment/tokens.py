"""GRPO from logits and hidden states; the oracle is the loss of log-probabilities by torch.distributions."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

import fastloss
from cases.case import MASKED, Arguments, Build, Case, Shape, normal

CLASSES = 11
SHAPE = (3, 5, CLASSES)  # sequences, tokens, classes; of hidden states: features
TOKENS = ("none", "token-mean", "seq-mean-token-mean")
OPTIONS = {"temperature": 0.9, "beta": 0.1, "entropy_coefficient": 0.02, "clip_high": 0.3}


def _with_tokens(build: Build) -> Build:
    def made(generator: torch.Generator, shape: Shape) -> Arguments:
        old, ref = (-0.05 - 3 * torch.rand(shape[:-1], generator=generator, dtype=torch.float64) for _ in range(2))
        index = torch.randint(CLASSES, shape[:-1], generator=generator)
        weights = 0.5 + torch.rand(shape[:-1], generator=generator, dtype=torch.float64)
        constants = {"old_logp": old, "ref_logp": ref, "sampling_weights": weights}
        advantages = normal(generator, *shape[:-1], shift=-1.5)
        return {**build(generator, shape), "index": index, "advantages": advantages, **constants}

    return made


def _with_ratio(build: Build) -> Build:
    def made(generator: torch.Generator, shape: Shape) -> Arguments:
        ratio = normal(generator, shape[0], 1, scale=0.1)
        return {**_with_tokens(build)(generator, shape), "sequence_log_ratio": ratio}

    return made


def _with_selected(build: Build) -> Build:
    def made(generator: torch.Generator, shape: Shape) -> Arguments:
        selected = torch.rand(shape[:-1], generator=generator) < 0.3
        return {**_with_tokens(build)(generator, shape), "selected": selected}

    return made


def _logits(generator: torch.Generator, shape: Shape) -> Arguments:
    return {"logits": normal(generator, *shape)}


def _hidden(generator: torch.Generator, shape: Shape) -> Arguments:
    # logits of about 1: exp(ref - logp) of a token that is less likely than exp(-11) is beyond float16
    weight, bias = normal(generator, CLASSES, shape[-1], scale=0.25), normal(generator, CLASSES, scale=0.5)
    return {"hidden": normal(generator, *shape), "weight": weight, "bias": bias}


def _oracle(index: Tensor, reduction: str, temperature: float, **given: Any) -> Tensor:
    if "logits" in given:
        logits = given.pop("logits")
    else:
        logits = given.pop("hidden") @ given.pop("weight").T + given.pop("bias")
    categorical = torch.distributions.Categorical(logits=logits / temperature)
    given["entropy"] = categorical.entropy()
    with fastloss.backend("reference"):
        return fastloss.alignment.grpo_loss(categorical.log_prob(index), **given, aggregation=reduction)


def _case(name: str, build: Build, leaves: tuple[str, ...], variant: str = "", **options: Any) -> Case:
    return Case(
        f"alignment.{name}", build, SHAPE, leaves, None, variant, {**OPTIONS, **options}, indices=("index",),
        oracle=_oracle, optional=MASKED, reductions=TOKENS, twice=False, magnitude=12.0, batched=False,
    )  # fmt: skip


CASES = [
    case
    for name, build, leaves in (
        ("grpo_loss_from_logits", _logits, ("logits",)),
        ("linear_grpo_loss", _hidden, ("hidden", "weight", "bias")),
    )
    for case in (
        _case(name, _with_tokens(build), leaves),
        _case(name, _with_ratio(build), leaves, "gspo", loss_type="gspo"),
        _case(name, _with_selected(build), leaves, "clip_cov", loss_type="clip_cov"),
    )
]
