"""Denoisers; the oracles go over the samples, with the signal-to-noise ratio written out."""

from __future__ import annotations

import torch
from torch import Tensor

from cases.case import MASKED, Arguments, Case, Shape, normal, uniform


def _denoiser(generator: torch.Generator, shape: Shape) -> Arguments:
    a = uniform(generator, 0.05, 0.95, shape[0])
    return {name: normal(generator, *shape) for name in ("pred", "x0", "noise")} | {"alphas_cumprod_t": a}


def _two_times(generator: torch.Generator, shape: Shape) -> Arguments:
    made = {name: normal(generator, *shape) for name in ("pred", "target")}
    return {**made, "weight": uniform(generator, 0.5, 2.0, shape[0])}


def _weight(kind: str, snr: float) -> float:
    return {"snr": snr, "truncated_snr": max(snr, 1.0), "min_snr": min(snr, 5.0), "p2": snr / (1 + snr),
            "edm": (1 / snr + 0.25) / (1 / snr * 0.25)}[kind]  # fmt: skip


def _diffusion(pred, x0, noise, alphas_cumprod_t, prediction_type="eps", weighting="uniform"):
    losses = []
    for p, x, e, a in zip(pred, x0, noise, alphas_cumprod_t, strict=True):
        snr = float(a / (1 - a))
        y = {"eps": e, "x0": x, "v": a.sqrt() * e - (1 - a).sqrt() * x}[prediction_type]
        w = 1.0
        if weighting != "uniform":
            w = _weight(weighting, snr) * {"eps": 1 / snr, "x0": 1.0, "v": 1 / (snr + 1)}[prediction_type]
        losses.append(w * (p - y) ** 2)
    return torch.stack(losses)


def _consistency(pred, target, weight, metric="pseudo_huber", c=None) -> Tensor:
    square = ((pred - target) ** 2).flatten(1).sum(1)
    c = 0.00054 * pred[0].numel() ** 0.5 if c is None else c
    return weight * (square if metric == "l2" else (square + c**2).sqrt() - c)


def _case(prediction: str, weighting: str) -> Case:
    return Case(
        "diffusion.diffusion_loss", _denoiser, (4, 3, 2), ("pred",), variant=f"{prediction}, {weighting}",
        options={"prediction_type": prediction, "weighting": weighting}, oracle=_diffusion, optional=MASKED,
    )  # fmt: skip


CASES = [
    Case("diffusion.diffusion_loss", _denoiser, (4, 3, 2), ("pred",), oracle=_diffusion, optional=MASKED),
    _case("eps", "min_snr"), _case("x0", "truncated_snr"), _case("v", "min_snr"), _case("v", "edm"), _case("eps", "p2"),
    _case("x0", "snr"),
    Case("diffusion.consistency_loss", _two_times, (4, 3, 2), ("pred",), oracle=_consistency),
    Case(
        "diffusion.consistency_loss", _two_times, (4, 3, 2), ("pred",), variant="l2", options={"metric": "l2"},
        oracle=_consistency,
    ),
]  # fmt: skip
