"""PPO balances a pole: CartPole of gymnasium with fastloss, and the same training with torch's operations.

    python examples/ppo_cartpole.py                          # until both have solved it, a minute on two cores
    python examples/ppo_cartpole.py --plot ppo.png           # returns of the episodes
    python examples/ppo_cartpole.py --steps 8192             # a glance

It is solved when the last 100 episodes lasted 475 steps on average, of 500 at most. Both trainings have the same seeds:
they see the same episodes until the rounding of a loss has grown so far that an action is another one.

The vector environment spends a step of its own on starting the next episode. Nothing happens in it and nothing is to be
learned from it: the mask takes it out, of the advantages and of the loss. The observation that ends an episode is there
in its place, so that an episode that was cut off after 500 steps is worth the value of its last state.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import gymnasium
import torch
from torch import Tensor, nn

import fastloss

ENVIRONMENTS, HORIZON, BATCH, EPOCHS = 16, 64, 256, 10
GAMMA, LAMBDA, CLIP, RATE = 0.98, 0.9, 0.2, 1e-3
VALUE_COEFFICIENT, ENTROPY_COEFFICIENT, LARGEST_NORM = 0.5, 0.01, 0.5
SOLVED, EPISODES = 475.0, 100


class Rollout(NamedTuple):
    """What was played, (HORIZON, ENVIRONMENTS) of each; the observations have one step more."""

    observations: Tensor
    actions: Tensor
    rewards: Tensor
    terminated: Tensor
    truncated: Tensor
    mask: Tensor


class Batch(NamedTuple):
    """Steps that a loss is of."""

    actions: Tensor
    old_logp: Tensor
    advantages: Tensor
    returns: Tensor
    mask: Tensor


class Algorithm(NamedTuple):
    """What the two trainings do not share."""

    advantages: Callable[[Rollout, Tensor], tuple[Tensor, Tensor]]  # of the values, those of the last states among them
    loss: Callable[[Tensor, Tensor, Tensor, Batch], Tensor]  # of log-probabilities, entropies, values


class Training(NamedTuple):
    losses: list[float]
    episodes: list[tuple[int, float]]  # (steps of the environments, return) where an episode was over
    seconds: float

    @property
    def mean_return(self) -> float:
        """Of the last episodes."""
        last = [won for _, won in self.episodes[-EPISODES:]]
        return sum(last) / max(1, len(last))


# ------------------------------------------------------------------------------------------ with fastloss


def fused_advantages(played: Rollout, values: Tensor) -> tuple[Tensor, Tensor]:
    return fastloss.rl.gae(
        played.rewards, values[:-1], values[1:], played.terminated, played.truncated,
        gamma=GAMMA, lambda_=LAMBDA, mask=played.mask, normalize=True,
    )  # fmt: skip


def fused_loss(logp: Tensor, entropy: Tensor, values: Tensor, batch: Batch) -> Tensor:
    return fastloss.rl.ppo_loss(
        logp, batch.old_logp, batch.advantages, values, batch.returns, entropy, mask=batch.mask, clip=CLIP,
        value_coefficient=VALUE_COEFFICIENT, entropy_coefficient=ENTROPY_COEFFICIENT,
    )  # fmt: skip


# ------------------------------------------------------------------------------------------ as it is usually written


def plain_advantages(played: Rollout, values: Tensor) -> tuple[Tensor, Tensor]:
    alive, follows = ~played.terminated, ~(played.terminated | played.truncated)
    errors = played.rewards + GAMMA * alive * values[1:] - values[:-1]
    advantages, later = torch.zeros_like(errors), torch.zeros_like(errors[0])
    for t in reversed(range(len(errors))):
        later = errors[t] + GAMMA * LAMBDA * follows[t] * later
        advantages[t] = later
    returns = advantages + values[:-1]
    counted = advantages[played.mask]
    return (advantages - counted.mean()) / (counted.std() + 1e-8), returns


def plain_loss(logp: Tensor, entropy: Tensor, values: Tensor, batch: Batch) -> Tensor:
    ratio = (logp - batch.old_logp).exp()
    surrogate = torch.min(ratio * batch.advantages, ratio.clamp(1 - CLIP, 1 + CLIP) * batch.advantages)
    losses = VALUE_COEFFICIENT * 0.5 * (values - batch.returns) ** 2 - surrogate - ENTROPY_COEFFICIENT * entropy
    return (losses * batch.mask).sum() / batch.mask.sum()


ALGORITHMS = {
    "torch": Algorithm(plain_advantages, plain_loss),
    "fastloss": Algorithm(fused_advantages, fused_loss),
}

# ------------------------------------------------------------------------------------------ the training


def network(outputs: int, scale: float) -> nn.Sequential:
    layers = [nn.Linear(4, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, outputs)]
    for layer, gain in zip(layers[::2], (2**0.5, 2**0.5, scale), strict=True):
        nn.init.orthogonal_(layer.weight, gain)
        nn.init.zeros_(layer.bias)
    return nn.Sequential(*layers)


def of_policy(logits: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
    """The log-probabilities of the actions, and the entropies."""
    logp = logits.log_softmax(-1)
    return logp.gather(-1, actions[..., None])[..., 0], -(logp.exp() * logp).sum(-1)


class Players:
    """The environments, from one rollout to the next."""

    def __init__(self, seed: int) -> None:
        self.environments = gymnasium.make_vec("CartPole-v1", num_envs=ENVIRONMENTS)
        self.observations = torch.tensor(self.environments.reset(seed=seed)[0])
        self.starts = torch.zeros(ENVIRONMENTS, dtype=torch.bool)  # is the next step the start of an episode?
        self.won = torch.zeros(ENVIRONMENTS)
        self.steps = 0
        self.episodes: list[tuple[int, float]] = []

    @torch.no_grad()
    def play(self, policy: nn.Module, generator: torch.Generator) -> Rollout:
        steps, seen = [], [self.observations]
        for _ in range(HORIZON):
            actions = policy(seen[-1]).softmax(-1).multinomial(1, generator=generator)[:, 0]
            observations, rewards, *ends, _ = self.environments.step(actions.numpy())
            rewards, terminated, truncated = (torch.tensor(x) for x in (rewards, *ends))
            steps.append((actions, rewards, terminated, truncated, ~self.starts))
            seen.append(torch.tensor(observations))
            self.steps += ENVIRONMENTS
            self.won += rewards
            self.starts = terminated | truncated
            self.episodes += [(self.steps, won) for won in self.won[self.starts].tolist()]
            self.won[self.starts] = 0
        self.observations = seen[-1]
        return Rollout(torch.stack(seen), *(torch.stack(x) for x in zip(*steps, strict=True)))


def train(algorithm: Algorithm, steps: int, seed: int) -> Training:
    """Until it is solved, for as many steps of the environments at most."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    policy, critic = network(2, 0.01), network(1, 1.0)
    parameters = [*policy.parameters(), *critic.parameters()]
    optimizer = torch.optim.Adam(parameters, lr=RATE)
    players = Players(seed)
    training = Training([], players.episodes, 0.0)
    begin = time.perf_counter()
    while players.steps < steps and not (len(players.episodes) >= EPISODES and training.mean_return >= SOLVED):
        for group in optimizer.param_groups:
            group["lr"] = RATE * (1 - players.steps / steps)
        played = players.play(policy, generator)
        with torch.no_grad():
            states = played.observations[:-1]
            old_logp, _ = of_policy(policy(states), played.actions)
            advantages, returns = algorithm.advantages(played, critic(played.observations)[..., 0])
        known = Batch(*(x.flatten() for x in (played.actions, old_logp, advantages, returns, played.mask)))
        states = states.flatten(0, 1)
        for _ in range(EPOCHS):
            for chosen in torch.randperm(len(states), generator=generator).split(BATCH):
                seen, batch = states[chosen], Batch(*(x[chosen] for x in known))
                loss = algorithm.loss(*of_policy(policy(seen), batch.actions), critic(seen)[:, 0], batch)
                optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(parameters, LARGEST_NORM)
                optimizer.step()
                training.losses.append(loss.item())
    return training._replace(seconds=time.perf_counter() - begin)


def parted(runs: dict[str, Training]) -> int:
    """The first step of the environments after which the trainings have seen different episodes; -1: none."""
    first, second = (run.episodes for run in runs.values())
    different = (min(x[0], y[0]) for x, y in zip(first, second, strict=False) if x != y)
    return next(different, -1)


def run(steps: int = 500_000, seed: int = 0) -> dict[str, Training]:
    return {name: train(algorithm, steps, seed) for name, algorithm in ALGORITHMS.items()}


def plot(runs: dict[str, Training], file: Path) -> None:
    """The mean return of the last episodes, and where the trainings part."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4), layout="constrained")
    for (name, training), style in zip(runs.items(), ("-", "--"), strict=True):
        returns = torch.tensor([won for _, won in training.episodes])
        means = [float(returns[max(0, k - EPISODES) : k].mean()) for k in range(1, len(returns) + 1)]
        axes.plot([step for step, _ in training.episodes], means, style, label=f"{name}, {training.seconds:.0f} s")
    axes.axhline(SOLVED, color="gray", linewidth=0.8, label="solved")
    if parted(runs) >= 0:
        axes.axvline(parted(runs), color="gray", linestyle=":", label="rounding parts them")
    axes.set(xlabel="steps", ylabel=f"return, mean of {EPISODES} episodes", title="CartPole by PPO")
    axes.legend()
    figure.savefig(file, dpi=130)
    pyplot.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description="PPO on CartPole with fastloss and with torch")
    parser.add_argument("--steps", type=int, default=500_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--plot", type=Path, default=None)
    asked = parser.parse_args()
    print(f"seed {asked.seed}")
    runs = run(asked.steps, asked.seed)
    for name, training in runs.items():
        print(
            f"{name:10}{training.episodes[-1][0]:8} steps  {len(training.episodes):5} episodes  "
            f"mean return of the last {EPISODES}: {training.mean_return:.1f}  {training.seconds:.1f} s"
        )
    print("the same episodes" if parted(runs) < 0 else f"the same episodes up to step {parted(runs)}")
    if asked.plot is not None:
        plot(runs, asked.plot)
        print(f"plot: {asked.plot}")


if __name__ == "__main__":
    main()
