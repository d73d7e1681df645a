"""A rare class among digits: focal loss beside cross-entropy, on scikit-learn's data.

    python examples/focal_digits.py                     # 1797 images of 8 x 8, seconds
    python examples/focal_digits.py --plot plot.png     # precision against recall

An eight is the class that is looked for; all but one in eight of them are left out of training, so that they are some
1% of it. A linear model answers, with each loss: the cross-entropy, the same with a weight on the positives, and
`sigmoid_focal_loss`. Average precision on unseen images, in which every tenth is an eight, says how well it ranks; the
recall at the threshold 1/2, what it would answer by itself. Plain cross-entropy never answers yes, and ranks badly; the
other two rank about equally well (0.74 to 0.82 in three runs, against 0.25 to 0.47), and the focal loss says yes less
often than the weight does.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from sklearn.metrics import average_precision_score, precision_recall_curve
from torch import Tensor

import fastloss

WANTED = 8


def losses(rare: float) -> dict[str, Callable[[Tensor, Tensor], Tensor]]:
    """By name; `rare` is the share of the positives."""
    weight = torch.tensor((1 - rare) / rare)
    return {
        "cross-entropy": fastloss.binary_cross_entropy_with_logits,
        "weighted": lambda x, y: fastloss.binary_cross_entropy_with_logits(x, y, pos_weight=weight),
        "focal": lambda x, y: fastloss.sigmoid_focal_loss(
            x, y, alpha=0.75, gamma=2.0, reduction="mean", normalizer="positives"
        ),
    }


def data(seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(images and answers of training, the same of the test)"""
    digits = load_digits()
    order = torch.randperm(len(digits.target), generator=torch.Generator().manual_seed(seed))
    x = torch.tensor(digits.data, dtype=torch.float32)[order] / 16
    y = (torch.tensor(digits.target)[order] == WANTED).float()
    half = len(y) // 2
    kept = (y[:half] == 0) | (y[:half].cumsum(0) % 8 == 1)
    return x[:half][kept], y[:half][kept], x[half:], y[half:]


def run(steps: int = 300, seed: int = 0, plot: Path | None = None) -> dict[str, dict[str, float]]:
    """What came out, by loss."""
    x, y, unseen, answers = data(seed)
    results, curves = {}, {}
    for name, loss in losses(float(y.mean())).items():
        torch.manual_seed(seed)
        model = torch.nn.Linear(x.shape[1], 1)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=1e-2)
        for _ in range(steps):
            optimizer.zero_grad()
            loss(model(x)[:, 0], y).backward()
            optimizer.step()
        with torch.no_grad():
            logits = model(unseen)[:, 0]
        results[name] = {
            "average precision": float(average_precision_score(answers.numpy(), logits.numpy())),
            "recall at 1/2": float((logits[answers == 1] > 0).float().mean()),
        }
        curves[name] = precision_recall_curve(answers.numpy(), logits.numpy())[:2]
    if plot is not None:
        draw(plot, curves)
    return results


def draw(path: Path, curves: dict[str, tuple]) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6, 4))
    for name, (precision, recall) in curves.items():
        axes.plot(recall, precision, label=name)
    axes.set_xlabel("recall")
    axes.set_ylabel("precision")
    axes.legend()
    figure.tight_layout()
    figure.savefig(path)


def main() -> None:
    parser = argparse.ArgumentParser(description="Focal loss on a rare class")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--plot", type=Path, default=None)
    for name, result in run(**vars(parser.parse_args())).items():
        print(f"{name:15}" + "  ".join(f"{key} {value:.4f}" for key, value in result.items()))


if __name__ == "__main__":
    main()
