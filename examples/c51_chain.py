"""Distributions of returns on a chain of states: C51 and QR-DQN beside what is exactly so.

    python examples/c51_chain.py                     # seconds
    python examples/c51_chain.py --plot c51.png      # the distributions of the start

A walker goes left or right, and one time in five the other way. The left end is near and gives 0.2; the right end is
far and gives 2 or nothing, a coin says which. Going right is better on average, which a value says; a distribution
says, too, that half of the time it is for nothing. Both agents learn one for each action from the same kind of steps,
with `rl.c51_loss` and `rl.quantile_huber_loss`, and act by its mean. How often a walker that always goes right arrives
after how many steps is a product of matrices: the distribution that they should have found.
"""

from __future__ import annotations

import argparse
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

import fastloss

STATES, START = 7, 2  # the ends are states 0 and 6
SLIP, GAMMA, SMALL, LARGE, LONGEST = 0.2, 0.9, 0.2, 2.0, 50
LEFT, RIGHT = 0, 1
ATOMS, WALKERS, BATCH, KEPT = 51, 32, 128, 20_000
SUPPORT = torch.linspace(0, LARGE, ATOMS)
GRID = torch.linspace(0, LARGE, 2001)  # on which distributions are compared


class Steps(NamedTuple):
    states: Tensor
    actions: Tensor
    rewards: Tensor
    next_states: Tensor
    terminated: Tensor


class Agent(NamedTuple):
    """What the outputs of a network say, (..., ATOMS) of an action, and how they are learned."""

    distribution: Callable[[Tensor], tuple[Tensor, Tensor]]  # to values and their probabilities
    loss: Callable[[Tensor, Tensor, Steps], Tensor]  # of the outputs now, and those of the target in the next state


def c51_distribution(outputs: Tensor) -> tuple[Tensor, Tensor]:
    return SUPPORT.expand(outputs.shape), outputs.softmax(-1)


def c51_loss(outputs: Tensor, target: Tensor, steps: Steps) -> Tensor:
    return fastloss.rl.c51_loss(outputs, target.softmax(-1), steps.rewards, SUPPORT, steps.terminated, gamma=GAMMA)


def quantile_distribution(outputs: Tensor) -> tuple[Tensor, Tensor]:
    return outputs, torch.full_like(outputs, 1 / ATOMS)


def quantile_loss(outputs: Tensor, target: Tensor, steps: Steps) -> Tensor:
    """With a kappa far below the spread of the returns: nearer to it the quantiles would become expectiles."""
    worth = (GAMMA * (1 - steps.terminated))[:, None] * target
    return fastloss.rl.quantile_huber_loss(outputs, steps.rewards[:, None] + worth, kappa=0.02)


AGENTS = {"C51": Agent(c51_distribution, c51_loss), "QR-DQN": Agent(quantile_distribution, quantile_loss)}


class Result(NamedTuple):
    returns: list[float]  # discounted, of the episodes in their order
    actions: list[int]  # the greedy ones of the states between the ends
    values: Tensor  # of the start, by the better action ...
    probabilities: Tensor  # ... and how likely they are
    mean: float
    distance: float  # of this distribution to the exact one, 1-Wasserstein
    seconds: float


def exact() -> tuple[Tensor, Tensor]:
    """The returns of a walker that always goes right, and their probabilities."""
    there = torch.zeros(STATES, dtype=torch.float64)
    there[START] = 1
    values, probabilities = [], []
    for step in range(200):
        moved = torch.zeros_like(there)
        moved[2:] += (1 - SLIP) * there[1:-1]
        moved[:-2] += SLIP * there[1:-1]
        discount = GAMMA**step
        values += [SMALL * discount, LARGE * discount, 0.0]
        probabilities += [moved[0], moved[-1] / 2, moved[-1] / 2]
        there = moved.clone()
        there[[0, -1]] = 0
    return torch.tensor(values, dtype=torch.float64), torch.stack(probabilities)


def cumulative(values: Tensor, probabilities: Tensor) -> Tensor:
    """The probability of at most as much as each number of the grid."""
    return ((values[:, None] <= GRID) * probabilities[:, None]).sum(0)


class Chain:
    """The walkers, and the steps that they made last."""

    def __init__(self, generator: torch.Generator) -> None:
        self.generator = generator
        self.states = torch.full((WALKERS,), START)
        self.lengths, self.won = torch.zeros(WALKERS), torch.zeros(WALKERS)
        self.returns: list[float] = []
        self.steps: deque[Steps] = deque(maxlen=KEPT // WALKERS)

    def walk(self, actions: Tensor) -> None:
        slips, coins = torch.rand(2, WALKERS, generator=self.generator)
        next_states = self.states + torch.where((actions == RIGHT) ^ (slips < SLIP), 1, -1)
        first, last = next_states == 0, next_states == STATES - 1
        rewards = SMALL * first + LARGE * (last & (coins < 0.5))
        self.steps.append(Steps(self.states, actions, rewards, next_states, (first | last).float()))
        self.won += GAMMA**self.lengths * rewards
        self.lengths += 1
        over = first | last | (self.lengths >= LONGEST)  # one that is cut off has not terminated
        self.returns += self.won[over].tolist()
        self.states = torch.where(over, START, next_states)
        self.won[over], self.lengths[over] = 0, 0

    def batch(self) -> Steps:
        chosen = torch.randint(len(self.steps), (BATCH // WALKERS,), generator=self.generator)
        return Steps(*(torch.cat(x) for x in zip(*(self.steps[k] for k in chosen.tolist()), strict=True)))


def train(agent: Agent, steps: int, seed: int) -> Result:
    torch.manual_seed(seed)
    chain = Chain(torch.Generator().manual_seed(seed))
    every = torch.eye(STATES)  # the input of a state
    online, target = (
        nn.Sequential(nn.Linear(STATES, 64), nn.ReLU(), nn.Linear(64, 2 * ATOMS), nn.Unflatten(1, (2, ATOMS)))
        for _ in range(2)
    )
    optimizer = torch.optim.Adam(online.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.01, steps)
    begin = time.perf_counter()

    def worth(outputs: Tensor) -> Tensor:
        values, probabilities = agent.distribution(outputs)
        return (values * probabilities).sum(-1)

    for step in range(steps):
        if step % 50 == 0:
            target.load_state_dict(online.state_dict())
            both = target(every).detach()
            target_outputs = both[torch.arange(STATES), worth(both).argmax(1)]
        with torch.no_grad():
            greedy = worth(online(every)).argmax(1)[chain.states]
        explores = torch.rand(WALKERS, generator=chain.generator) < max(0.1, 1 - 2 * step / steps)
        chain.walk(torch.where(explores, torch.randint(2, (WALKERS,), generator=chain.generator), greedy))
        seen = chain.batch()
        outputs = online(every)[seen.states, seen.actions]
        loss = agent.loss(outputs, target_outputs[seen.next_states], seen)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    seconds = time.perf_counter() - begin
    with torch.no_grad():
        outputs = online(every)
        best = worth(outputs).argmax(1)
        values, probabilities = agent.distribution(outputs[START, best[START]])
    difference = cumulative(values.double(), probabilities.double()) - cumulative(*exact())
    distance = float(difference.abs().mean() * LARGE)
    mean = float((values * probabilities).sum())
    return Result(chain.returns, best[1:-1].tolist(), values, probabilities, mean, distance, seconds)


def run(steps: int = 2000, seed: int = 0) -> dict[str, Result]:
    return {name: train(agent, steps, seed) for name, agent in AGENTS.items()}


def plot(results: dict[str, Result], file: Path) -> None:
    """The distribution of the start that each agent has found, and the exact one."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4), layout="constrained")
    axes.plot(GRID, cumulative(*exact()), color="black", linewidth=1, label="exact")
    for name, result in results.items():
        curve = cumulative(result.values, result.probabilities)
        axes.plot(GRID, curve, label=f"{name}, distance {result.distance:.3f}")
    axes.set(xlabel="return", ylabel="probability of at most as much", title="Going right from the start")
    axes.legend()
    figure.savefig(file, dpi=130)
    pyplot.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description="C51 and QR-DQN on a chain of states")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--plot", type=Path, default=None)
    asked = parser.parse_args()
    print(f"seed {asked.seed}")
    values, probabilities = exact()
    print(f"{'exact':10}value of the start {float((values * probabilities).sum()):.4f}")
    results = run(asked.steps, asked.seed)
    for name, result in results.items():
        print(
            f"{name:10}value of the start {result.mean:.4f}  distance {result.distance:.4f}  greedy "
            f"{''.join('<>'[action] for action in result.actions)}  "
            f"{len(result.returns)} episodes  {result.seconds:.1f} s"
        )
    if asked.plot is not None:
        plot(results, asked.plot)
        print(f"plot: {asked.plot}")


if __name__ == "__main__":
    main()
