"""Flow matching onto two moons, with noise paired at random and by optimal transport.

    python examples/flow_matching_2d.py                     # two networks of 2D points, a minute on two cores
    python examples/flow_matching_2d.py --plot plot.png     # samples, and their distance to the data by Euler steps

A network learns the velocity of points that travel in straight lines from normal noise to data
(`diffusion.flow_matching_loss`); new data are noise that follows it by Euler steps. Pairs at random cross each other,
so what the network learns, their mean velocity, bends; pairs by optimal transport within a batch
(`diffusion.optimal_pairs`) hardly cross, and few steps are enough. What is measured is the energy distance of samples
to data that were not trained on: 0.047 of the noise, 0.0005 after one step with pairs by optimal transport, and after
32 steps with others.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import torch
from torch import Tensor, nn

from fastloss import diffusion

EULER = (1, 2, 4, 8, 16, 32)
SAMPLES = 2000


def moons(size: int, generator: torch.Generator) -> Tensor:
    """(size, 2), around two half circles, one upside down, whose ends reach into each other."""
    side = 2.0 * torch.randint(2, (size,), generator=generator) - 1
    angle = math.pi * torch.rand(size, generator=generator)
    curve = torch.stack([side * (angle.cos() - 0.5), side * (angle.sin() - 0.25)], 1)
    return 1.2 * curve + 0.07 * torch.randn(size, 2, generator=generator)


class Velocity(nn.Module):
    def __init__(self, width: int = 128) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(3, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(),
            nn.Linear(width, 2),
        )  # fmt: skip

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return self.layers(torch.cat([x, t[:, None]], 1))


@torch.no_grad()
def sample(model: Velocity, noise: Tensor, steps: int) -> Tensor:
    """Where the noise is at t = 1, by Euler steps."""
    x = noise
    for k in range(steps):
        x = x + model(x, torch.full_like(x[:, 0], k / steps)) / steps
    return x


def energy_distance(a: Tensor, b: Tensor) -> float:
    """2 E|a - b| - E|a - a'| - E|b - b'|, 0 for samples of one distribution; a pair of a point with itself is none."""

    def within(x: Tensor) -> Tensor:
        return torch.cdist(x, x).sum() / (len(x) * (len(x) - 1))

    return float(2 * torch.cdist(a, b).mean() - within(a) - within(b))


def run(steps: int = 2000, seed: int = 0, plot: Path | None = None) -> dict[str, dict[int, float]]:
    """The energy distance to unseen data by the number of Euler steps, for each pairing; of the noise with 0 steps."""
    generator = torch.Generator().manual_seed(seed)
    unseen, noise = moons(SAMPLES, generator), torch.randn(SAMPLES, 2, generator=generator)
    results, pictures = {}, {}
    for name in ("random", "optimal transport"):
        torch.manual_seed(seed)
        model = Velocity()
        optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        for _ in range(steps):
            x1, x0 = moons(256, generator), torch.randn(256, 2, generator=generator)
            if name == "optimal transport":
                x0 = x0[diffusion.optimal_pairs(x0, x1)]
            t = diffusion.flow_times(256, distribution="uniform", generator=generator)
            v_pred = model(torch.lerp(x0, x1, t[:, None]), t)
            optimizer.zero_grad()
            diffusion.flow_matching_loss(v_pred, x0, x1).backward()
            optimizer.step()
            schedule.step()
        found = {n: sample(model, noise, n) for n in EULER}
        results[name] = {0: energy_distance(noise, unseen), **{n: energy_distance(x, unseen) for n, x in found.items()}}
        pictures[name] = found
    if plot is not None:
        draw(plot, results, pictures)
    return results


def draw(path: Path, results: dict[str, dict[int, float]], pictures: dict[str, dict[int, Tensor]]) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    shown = (2, 8, 32)
    figure, axes = pyplot.subplots(2, 4, figsize=(12, 6))
    for row, (name, found) in zip(axes, pictures.items(), strict=True):
        for place, n in zip(row, shown, strict=False):
            place.scatter(*found[n].T.numpy(), s=1)
            place.set(title=f"{name}, {n} steps", xlim=(-2.5, 2.5), ylim=(-2.5, 2.5), aspect="equal")
    right = figure.add_subplot(1, 4, 4)
    for hidden in axes[:, 3]:
        hidden.axis("off")
    for name, distances in results.items():
        right.plot(EULER, [max(distances[n], 1e-5) for n in EULER], "o-", label=name)
    right.set(xscale="log", yscale="log", xlabel="Euler steps", title="energy distance to the data")
    right.legend(fontsize="small")
    figure.tight_layout()
    figure.savefig(path)
    pyplot.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description="Flow matching in two dimensions")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--plot", type=Path, default=None)
    for name, distances in run(**vars(parser.parse_args())).items():
        print(f"{name:18}" + "  ".join(f"{n}: {distance:.4f}" for n, distance in distances.items()))


if __name__ == "__main__":
    main()
