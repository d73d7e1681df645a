"""Torch's own functions, which fastloss.functional has under their names: no kernels, no bodies of ours."""

from __future__ import annotations

from typing import Any

import torch

from cases.case import Arguments, Build, Case, Shape, normal, signs


def _sets(*names: str) -> Build:
    return lambda generator, shape: {name: normal(generator, *shape) for name in names}


def _compared(generator: torch.Generator, shape: Shape) -> Arguments:
    return {**_sets("input1", "input2")(generator, shape), "target": signs(generator, *shape[:1])}


def _classified(generator: torch.Generator, shape: Shape) -> Arguments:
    target = torch.randint(shape[1], shape[:1], generator=generator)
    return {"input": normal(generator, *shape).log_softmax(1), "target": target}


def _some_classes(generator: torch.Generator, shape: Shape) -> Arguments:
    """The indices of the classes that apply, then -1."""
    target = torch.argsort(torch.rand(shape, generator=generator), 1)
    return {"input": normal(generator, *shape), "target": target.masked_fill(target > shape[1] // 2, -1)}


def _several(generator: torch.Generator, shape: Shape) -> Arguments:
    return {"input": normal(generator, *shape), "target": torch.randint(2, shape, generator=generator).double()}


def _sequences(generator: torch.Generator, shape: Shape) -> Arguments:
    """The shape: sequences, steps, classes."""
    count, steps, classes = shape
    return {
        "log_probs": normal(generator, steps, count, classes).log_softmax(2),
        "targets": torch.randint(1, classes, (count, steps // 2), generator=generator),
        "input_lengths": torch.full((count,), steps),
        "target_lengths": torch.randint(1, steps // 2 + 1, (count,), generator=generator),
    }


def _case(name: str, build: Build, *differentiable: str, shape: Shape = (7, 37), **more: Any) -> Case:
    return Case(name, build, shape, differentiable, **more)


_TRIPLET = ("anchor", "positive", "negative")
CASES = [
    _case("cosine_embedding_loss", _compared, "input1", "input2"),
    _case("triplet_margin_loss", _sets(*_TRIPLET), *_TRIPLET),
    _case("triplet_margin_with_distance_loss", _sets(*_TRIPLET), *_TRIPLET),
    _case("nll_loss", _classified, "input", indices=("target",), optional={"weight": "classes"}),
    _case("multi_margin_loss", _classified, "input", indices=("target",), optional={"weight": "classes"}),
    _case("multilabel_margin_loss", _some_classes, "input", indices=("target",)),
    _case("multilabel_soft_margin_loss", _several, "input", optional={"weight": "classes"}),
    _case(
        "ctc_loss", _sequences, "log_probs", shape=(5, 12, 6), indices=("targets", "input_lengths", "target_lengths"),
        dtypes=(torch.float64, torch.float32),
    ),
]  # fmt: skip
