"""Intervals for the course of diabetes: quantile regression on scikit-learn's data, calibrated on held-out patients.

    python examples/quantiles_diabetes.py                     # 442 patients, seconds
    python examples/quantiles_diabetes.py --plot plot.png     # the intervals of new patients

A small network predicts three quantiles of the disease's progress, with `quantile_loss`. Its intervals are too narrow
on patients that it has not seen. Conformalised quantile regression (Romano et al. 2019) widens all of them by one
number, a quantile of how far the patients of a calibration set are outside of theirs; the share of others inside is
then, on average over such sets, what was asked for, whatever the network. (Of 122 new patients it varies by 0.05.)
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import torch
from sklearn.datasets import load_diabetes
from torch import Tensor, nn

import fastloss

LEVELS = (0.1, 0.5, 0.9)


def train(x: Tensor, y: Tensor, epochs: int, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(x.shape[1], 32), nn.ReLU(), nn.Linear(32, len(LEVELS)))
    loss = fastloss.QuantileLoss(tau=torch.tensor(LEVELS), crossing_penalty=1.0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=1e-2)
    for _ in range(epochs):
        optimizer.zero_grad()
        loss(model(x), y).backward()
        optimizer.step()
    return model


def inside(quantiles: Tensor, y: Tensor, wider: float = 0.0) -> float:
    """The share of y (N,) in the intervals between the outer ones of the quantiles (N, 3)."""
    return float(((y >= quantiles[:, 0] - wider) & (y <= quantiles[:, -1] + wider)).float().mean())


def run(epochs: int = 60, seed: int = 0, plot: Path | None = None) -> dict[str, float]:
    """What came out: coverage of new patients before and after calibration, and the pinball losses."""
    data = load_diabetes()
    order = torch.randperm(len(data.target), generator=torch.Generator().manual_seed(seed))
    x, y = torch.tensor(data.data, dtype=torch.float32)[order], torch.tensor(data.target, dtype=torch.float32)[order]
    mean, deviation = y[:200].mean(), y[:200].std()
    x, y = x * len(x) ** 0.5, (y - mean) / deviation  # the columns have the norm 1
    parts = [(x[a:b], y[a:b]) for a, b in ((0, 200), (200, 320), (320, len(y)))]
    model = train(*parts[0], epochs, seed)
    with torch.no_grad():
        known, calibration, new = (model(part) for part, _ in parts)
    wanted = LEVELS[-1] - LEVELS[0]
    answers = parts[1][1]
    outside = torch.maximum(calibration[:, 0] - answers, answers - calibration[:, -1]).sort().values  # (N,)
    wider = float(outside[min(len(outside), math.ceil((len(outside) + 1) * wanted)) - 1])
    levels = torch.tensor(LEVELS)
    constant = parts[0][1].quantile(levels).expand(len(new), -1)  # the same interval for everybody
    results = {
        "wanted": wanted,
        "inside, known": inside(known, parts[0][1]),
        "inside, new": inside(new, parts[2][1]),
        "inside, new, calibrated": inside(new, parts[2][1], wider),
        "loss, new": float(fastloss.quantile_loss(new, parts[2][1], levels)),
        "loss, new, without features": float(fastloss.quantile_loss(constant, parts[2][1], levels)),
    }
    if plot is not None:
        draw(plot, new * deviation + mean, parts[2][1] * deviation + mean, wider * float(deviation))
    return results


def draw(path: Path, quantiles: Tensor, y: Tensor, wider: float) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    quantiles = quantiles[order := quantiles[:, 1].argsort()]
    place = torch.arange(len(y))
    figure, axes = pyplot.subplots(figsize=(8, 4))
    axes.fill_between(place, quantiles[:, 0] - wider, quantiles[:, -1] + wider, alpha=0.2, label="calibrated")
    axes.fill_between(place, quantiles[:, 0], quantiles[:, -1], alpha=0.4, label="10% to 90%")
    axes.plot(place, quantiles[:, 1], label="median")
    axes.plot(place, y[order], ".", color="black", label="patients")
    axes.set_xlabel("new patients, by the predicted median")
    axes.set_ylabel("progress after a year")
    axes.legend()
    figure.tight_layout()
    figure.savefig(path)


def main() -> None:
    parser = argparse.ArgumentParser(description="Quantile regression with calibrated intervals")
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--plot", type=Path, default=None)
    for name, result in run(**vars(parser.parse_args())).items():
        print(f"{name:30}{result:.4f}")


if __name__ == "__main__":
    main()
