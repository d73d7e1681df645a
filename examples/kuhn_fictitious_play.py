"""Self-play in Kuhn's poker: how exploitable fictitious play, PSRO, CFR and CFR+ are.

    python examples/kuhn_fictitious_play.py                     # 1000 iterations, seconds; kuhn_fictitious_play.png
    python examples/kuhn_fictitious_play.py --iterations 20     # a glance

Exploitability is what a player wins above the value of the game, on average, by the best response to a policy; it is 0
in equilibrium, where the first player loses 1/18 of an ante. The uniform policy, with which all begin, has 11/24.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from fastloss import games

POINTS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000)  # at which averages are looked at


def run(iterations: int = 1000) -> dict[str, dict[int, float]]:
    """The exploitability after so many iterations, by algorithm."""
    kuhn = games.SequenceForm(games.KuhnPoker())
    fictitious = games.fictitious_play(kuhn, iterations=iterations).exploitability.tolist()
    oracles = games.psro(kuhn, iterations=min(iterations, 10)).exploitability.tolist()  # in equilibrium by then
    points = [*(n for n in POINTS if n < iterations), iterations]
    regrets = {
        name: {n: games.exploitability(kuhn, games.cfr(kuhn, iterations=n, plus=plus)).item() for n in points}
        for name, plus in (("CFR", False), ("CFR+", True))
    }
    start = games.exploitability(kuhn, kuhn.uniform()).item()
    return {
        "fictitious play": dict(enumerate(fictitious)),
        "PSRO, Nash": dict(enumerate(oracles)),
        **{name: {0: start, **curve} for name, curve in regrets.items()},
    }


def plot(results: dict[str, dict[int, float]], file: Path) -> None:
    """The curves, both axes logarithmic; what is below 1e-4 is drawn there."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 4))
    for name, curve in results.items():
        axes.plot([n for n in curve if n], [max(x, 1e-4) for n, x in curve.items() if n], label=name)
    axes.set(xscale="log", yscale="log", xlabel="iterations", ylabel="exploitability", title="Kuhn's poker")
    axes.legend()
    figure.tight_layout()
    figure.savefig(file)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description="Exploitability of self-play in Kuhn's poker")
    parser.add_argument("--iterations", type=int, default=1000)
    parser.add_argument("--plot", type=Path, default=Path("kuhn_fictitious_play.png"))
    arguments = parser.parse_args()
    results = run(arguments.iterations)
    for name, curve in results.items():
        shown = [n for n in curve if n in (0, *POINTS)]
        print(f"{name:16}" + "  ".join(f"{n}: {curve[n]:.5f}" for n in shown))
    plot(results, arguments.plot)
    print(f"plot: {arguments.plot}")


if __name__ == "__main__":
    main()
