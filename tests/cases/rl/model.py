"""The losses of representations and models: CURL, temporal contrast."""

from __future__ import annotations

import torch
from torch import Tensor

from cases.case import Arguments, Case, Shape, normal
from cases.contrastive import MAGNITUDE, SHAPE, number, of_rows, two, unit, with_


def _bilinear(generator: torch.Generator, shape: Shape) -> Arguments:
    made = two("query", "key")(generator, shape)
    return {**made, "weight": normal(generator, shape[2], shape[2], scale=0.3)}


def _states(generator: torch.Generator, shape: Shape) -> Arguments:
    return {"states": normal(generator, *shape)}


def _episodes(generator: torch.Generator, shape: Shape) -> Arguments:
    made = {"states": normal(generator, *shape), "predictions": normal(generator, *shape)}
    return {**made, "episodes": torch.randint(2, shape[:2], generator=generator)}


def _curl(query: Tensor, key: Tensor, weight: Tensor, temperature: float = 1.0) -> Tensor:
    z = torch.einsum("id,de,je->ij", query, weight, key) / temperature
    return of_rows(z, [[i] for i in range(len(z))])


def _temporal(states, predictions=None, offset=1, episodes=None, temperature=0.1, time_dim=0):
    anchors = states if predictions is None else predictions
    if time_dim:
        states, anchors, episodes = states.transpose(0, 1), anchors.transpose(0, 1), episodes.t()
    flat = states[offset:].flatten(0, 1) if not time_dim else states[offset:].transpose(0, 1).flatten(0, 1)
    query = anchors[:-offset].flatten(0, 1) if not time_dim else anchors[:-offset].transpose(0, 1).flatten(0, 1)
    positives = [[i] for i in range(len(query))]
    if episodes is not None:
        same = episodes[offset:] == episodes[:-offset]
        same = same.flatten() if not time_dim else same.t().flatten()
        positives = [p if ok else [] for p, ok in zip(positives, same, strict=True)]
    return of_rows(unit(query) @ unit(flat).t() / temperature, positives)


CASES = [
    Case("rl.curl_loss", _bilinear, SHAPE, ("query", "weight"), "similarity", oracle=_curl, magnitude=MAGNITUDE),
    Case(
        "rl.curl_loss", with_(_bilinear, temperature=number(1.3)), SHAPE, ("query", "weight", "temperature"),
        "similarity", "a tensor of a temperature", oracle=_curl, magnitude=MAGNITUDE,
    ),
    # the shape: time, environments, features (or environments first)
    Case(
        "rl.temporal_contrastive_loss", with_(_states, temperature=number()), (9, 8, 12), ("states", "temperature"),
        "similarity", oracle=_temporal, magnitude=MAGNITUDE,
    ),
    Case(
        "rl.temporal_contrastive_loss", _episodes, (9, 8, 12), ("states", "predictions"), "similarity", "episodes",
        {"offset": 2, "time_dim": 1}, indices=("episodes",), oracle=_temporal, magnitude=MAGNITUDE,
    ),
]  # fmt: skip
