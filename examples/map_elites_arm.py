"""MAP-Elites: a planar arm learns a posture for every place that it reaches.

    python examples/map_elites_arm.py                     # 200 000 postures, seconds
    python examples/map_elites_arm.py --plot plot.png     # curves, and the archive as a picture

A solution is the angles of the joints, its measures are where the arm's end is, and its objective is that the arm bends
evenly: minus the deviation of the angles. `quality_diversity.Archive` keeps the best posture of each cell of the plane,
81% of which the arm reaches. New postures are old ones, moved along the line to another one and a little at random
(Vassiliades and Mouret's operator); postures at random alone are what this has to be compared with. Of 200 000
postures MAP-Elites fills every cell that there is, most of them after 25 000; chance comes to 52%, with worse ones.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import torch
from torch import Tensor

from fastloss import quality_diversity

JOINTS, CELLS, BATCH = 10, 50, 500
WORST = -math.pi  # the deviation of angles of which half are -pi, half pi


def arm(angles: Tensor) -> tuple[Tensor, Tensor]:
    """(objectives (N,), measures (N, 2)) of angles (N, JOINTS); the arm's length is 1."""
    directions = angles.cumsum(1)
    ends = torch.stack([directions.cos().mean(1), directions.sin().mean(1)], 1)
    return -angles.std(1, correction=0), ends


def random_postures(archive: quality_diversity.Archive, generator: torch.Generator) -> Tensor:
    return math.pi * (2 * torch.rand(BATCH, JOINTS, generator=generator) - 1)


def varied_elites(archive: quality_diversity.Archive, generator: torch.Generator) -> Tensor:
    elites = archive.elites().solutions
    first, second = (elites[torch.randint(len(elites), (BATCH,), generator=generator)] for _ in range(2))
    noise = 0.03 * torch.randn(BATCH, JOINTS, generator=generator)
    line = 0.3 * torch.randn(BATCH, 1, generator=generator)
    return (first + noise + line * (second - first)).clamp(-math.pi, math.pi)


def run(generations: int = 400, seed: int = 0, plot: Path | None = None) -> dict[str, dict[str, list[float]]]:
    """QD score (a cell's mean quality, between 0 and 1 of a perfect one) and coverage after each generation."""
    curves, archives = {}, {}
    for name, propose in {"random": random_postures, "MAP-Elites": varied_elites}.items():
        generator = torch.Generator().manual_seed(seed)
        archive = quality_diversity.Archive([(-1.0, 1.0), (-1.0, 1.0)], dims=(CELLS, CELLS))
        curve: dict[str, list[float]] = {"qd score": [], "coverage": []}
        for generation in range(generations):
            solutions = (propose if generation else random_postures)(archive, generator)
            archive.insert(solutions, *arm(solutions))
            score = quality_diversity.qd_score(archive, offset=WORST)
            curve["qd score"].append(float(score) / (-WORST * archive.cells))
            curve["coverage"].append(float(quality_diversity.coverage(archive)))
        curves[name], archives[name] = curve, archive
    if plot is not None:
        draw(plot, curves, archives["MAP-Elites"])
    return curves


def draw(path: Path, curves: dict[str, dict[str, list[float]]], archive: quality_diversity.Archive) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(10, 4))
    for k, (name, curve) in enumerate(curves.items()):
        for (of, values), style in zip(curve.items(), ("-", "--"), strict=True):
            postures = [BATCH * (n + 1) / 1000 for n in range(len(values))]
            left.plot(postures, values, style, color=f"C{k}", label=f"{of}, {name}")
    left.set(xlabel="thousands of postures", ylim=(0, 1))
    left.legend()
    qualities = archive.objectives.where(archive.filled, math.nan).reshape(CELLS, CELLS)  # (x, y)
    picture = right.imshow(qualities.T.numpy(), origin="lower", extent=(-1, 1, -1, 1))
    figure.colorbar(picture, ax=right, label="minus the deviation of the angles")
    elites = archive.elites()
    for place in ((0.0, 0.9), (-0.6, 0.3), (0.4, -0.5)):
        nearest = (elites.measures - torch.tensor(place)).square().sum(1).argmin()
        directions = elites.solutions[nearest].cumsum(0)
        joints = torch.stack([directions.cos(), directions.sin()]).cumsum(1) / JOINTS
        joints = torch.cat([torch.zeros(2, 1), joints], 1)
        right.plot(*joints.numpy(), "o-", color="red", markersize=3, linewidth=1)
    right.set(title="the archive, with three of its postures")
    figure.tight_layout()
    figure.savefig(path)
    pyplot.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description="MAP-Elites for a planar arm")
    parser.add_argument("--generations", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--plot", type=Path, default=None)
    for name, curve in run(**vars(parser.parse_args())).items():
        print(f"{name:12}" + "  ".join(f"{of} {values[-1]:.4f}" for of, values in curve.items()))


if __name__ == "__main__":
    main()
