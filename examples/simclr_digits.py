"""SimCLR on scikit-learn's handwritten digits: the same training with fastloss's NT-Xent and with torch's operations.

    python examples/simclr_digits.py                # 1797 images of 8 x 8, a minute on two cores
    python examples/simclr_digits.py --epochs 2     # a glance

Two random views of every digit go through a small network; the loss asks each view to find its partner among all others
of the batch. Labels are not used. Then the network is frozen and a linear classifier is fitted on its features, with
the labels of 100 digits. Its accuracy on digits that neither has seen tells what was learned; the raw pixels, given to
the same classifier, and the untrained network are what it has to be compared with.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from torch import Tensor, nn

import fastloss

TEMPERATURE = 0.2
LABELLED = 100


def torch_nt_xent(z1: Tensor, z2: Tensor) -> Tensor:
    """The loss as it is usually written: the (2N, 2N) similarities, without those of a view with itself."""
    z = F.normalize(torch.cat([z1, z2]))
    similarities = z @ z.t() / TEMPERATURE
    similarities = similarities.masked_fill(torch.eye(len(z), dtype=torch.bool), float("-inf"))
    return F.cross_entropy(similarities, torch.arange(len(z)).roll(len(z1)))


def fused_nt_xent(z1: Tensor, z2: Tensor) -> Tensor:
    return fastloss.nt_xent(z1, z2, temperature=TEMPERATURE)


def augmented(images: Tensor, generator: torch.Generator) -> Tensor:
    """(N, 1, 8, 8): turned, scaled, shifted, sheared at random, and noisy."""
    count = len(images)

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(count, generator=generator)

    angle, scale = uniform(-0.4, 0.4), uniform(0.8, 1.2)
    cosine, sine = angle.cos() / scale, angle.sin() / scale
    first = torch.stack([cosine, -sine + uniform(-0.2, 0.2), uniform(-0.3, 0.3)], 1)
    second = torch.stack([sine, cosine, uniform(-0.3, 0.3)], 1)
    grid = F.affine_grid(torch.stack([first, second], 1), list(images.shape), align_corners=False)
    views = F.grid_sample(images, grid, align_corners=False)
    return views + 0.1 * torch.randn(images.shape, generator=generator)


def network() -> tuple[nn.Module, nn.Module]:
    """(encoder, projection): the loss sees the projections, the classifier the features before them."""
    encoder = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(),
        nn.Conv2d(16, 32, 3, padding=1, stride=2), nn.BatchNorm2d(32), nn.ReLU(),
        nn.Conv2d(32, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.Flatten(),
        nn.Linear(32 * 4 * 4, 128), nn.ReLU(),
    )  # fmt: skip
    return encoder, nn.Sequential(nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 64))


def train(images: Tensor, loss: Callable[[Tensor, Tensor], Tensor], epochs: int, batch: int, seed: int):
    """(encoder, losses of the steps), the same for the same seed but for the rounding of the loss"""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    encoder, projection = network()
    optimizer = torch.optim.AdamW([*encoder.parameters(), *projection.parameters()], lr=2e-3, weight_decay=1e-4)
    losses = []
    for _ in range(epochs):
        order = torch.randperm(len(images), generator=generator)
        for chosen in order.split(batch)[:-1] or [order]:
            views = [augmented(images[chosen], generator) for _ in range(2)]
            both = projection(encoder(torch.cat(views)))
            value = loss(*both.chunk(2))
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
            losses.append(value.item())
    return encoder, losses


def probe(features: Callable[[Tensor], Tensor], data: list[Tensor]) -> float:
    """Accuracy of a linear classifier on the features, which was told the labels of LABELLED digits."""
    images, unseen, labels, answers = data
    images, _, labels, _ = train_test_split(images, labels, train_size=LABELLED, random_state=0, stratify=labels)
    with torch.no_grad():
        known, new = features(images), features(unseen)
    deviation, mean = torch.std_mean(known, dim=0)
    known, new = ((x - mean) / (deviation + 1e-3) for x in (known, new))
    classifier = LogisticRegression(max_iter=2000, C=0.1).fit(known.numpy(), labels.numpy())
    return float(classifier.score(new.numpy(), answers.numpy()))


def run(epochs: int = 15, batch: int = 256, seed: int = 0) -> dict[str, dict[str, float]]:
    """What came out, by loss."""
    digits = load_digits()
    images = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 16
    labels = torch.tensor(digits.target)
    data = train_test_split(images, labels, test_size=0.3, random_state=0, stratify=digits.target)
    torch.manual_seed(seed)
    untrained = network()[0].eval()
    results = {
        "pixels": {"accuracy": probe(lambda x: x.flatten(1), data)},
        "untrained": {"accuracy": probe(untrained, data)},
    }
    for name, loss in {"torch": torch_nt_xent, "fastloss": fused_nt_xent}.items():
        start = time.perf_counter()
        encoder, losses = train(data[0], loss, epochs, batch, seed)
        seconds = time.perf_counter() - start
        accuracy = probe(encoder.eval(), data)
        results[name] = {"first": losses[0], "last": losses[-1], "accuracy": accuracy, "seconds": seconds}
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description="SimCLR on digits with fastloss and with torch")
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--seed", type=int, default=0)
    for name, result in run(**vars(parser.parse_args())).items():
        print(f"{name:10}" + "  ".join(f"{key} {value:.4f}" for key, value in result.items()))


if __name__ == "__main__":
    main()
