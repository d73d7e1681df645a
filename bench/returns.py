"""Returns and advantages beside a copy of the same bytes, a loop over time, and torchrl where it is installed.

    python -m bench.returns [--threads N] [--seconds S]

They have no gradient and no reduction, so they are no cases of the table (cases.py). A row of the output is a shape;
times are milliseconds, lower quartiles of interleaved samples. "copy" is of as many bytes as inputs and outputs have
together, into memory that is there already.
"""

from __future__ import annotations

import argparse
import importlib.util
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from fastloss import rl

# (shape, time_dim): vectorised environments, tokens of language models, a rollout of PPO
SHAPES = (((1024, 4096), 0), ((512, 8192), 1), ((128, 8), 0))
GAMMA, LAMBDA = 0.99, 0.95


def gae_loop(rewards: Tensor, values: Tensor, next_values: Tensor, time_dim: int) -> tuple[Tensor, Tensor]:
    """As stable-baselines3 and CleanRL write it."""
    r, v, w = (x.movedim(time_dim, 0) for x in (rewards, values, next_values))
    advantages = torch.empty_like(rewards).movedim(time_dim, 0)
    advantage = torch.zeros_like(r[0])
    for t in reversed(range(len(r))):
        advantage = r[t] + GAMMA * w[t] - v[t] + GAMMA * LAMBDA * advantage
        advantages[t] = advantage
    advantages = advantages.movedim(0, time_dim)
    return advantages, advantages + values


def vtrace_loop(rewards: Tensor, values: Tensor, next_values: Tensor, ratios: Tensor, time_dim: int):
    r, v, w, rho = (x.movedim(time_dim, 0) for x in (rewards, values, next_values, ratios))
    errors, advantages = torch.empty_like(r), torch.empty_like(r)
    error = torch.zeros_like(r[0])
    for t in reversed(range(len(r))):
        clipped = rho[t].clamp(max=1.0)
        advantages[t] = clipped * (r[t] + GAMMA * (w[t] + error) - v[t])
        error = clipped * (r[t] + GAMMA * w[t] - v[t]) + GAMMA * clipped * error
        errors[t] = error
    return (errors + v).movedim(0, time_dim), advantages.movedim(0, time_dim)


def lambda_loop(rewards: Tensor, next_values: Tensor, time_dim: int) -> Tensor:
    r, w = (x.movedim(time_dim, 0) for x in (rewards, next_values))
    returns, value = torch.empty_like(r), w[-1]
    for t in reversed(range(len(r))):
        value = r[t] + GAMMA * ((1 - LAMBDA) * w[t] + LAMBDA * value)
        returns[t] = value
    return returns.movedim(0, time_dim)


def retrace_loop(rewards: Tensor, values: Tensor, next_values: Tensor, ratios: Tensor, time_dim: int) -> Tensor:
    r, q, w, rho = (x.movedim(time_dim, 0) for x in (rewards, values, next_values, ratios))
    targets, error = torch.empty_like(r), torch.zeros_like(r[0])
    for t in reversed(range(len(r))):
        targets[t] = r[t] + GAMMA * (w[t] + error)
        error = rho[t].clamp(max=1.0) * (targets[t] - q[t])
    return targets.movedim(0, time_dim)


def torchrl_gae(rewards: Tensor, values: Tensor, next_values: Tensor, time_dim: int) -> tuple[Tensor, Tensor]:
    functional = importlib.import_module("torchrl.objectives.value.functional")
    done = torch.zeros_like(rewards, dtype=torch.bool)
    tensors = [x if time_dim else x.transpose(0, 1) for x in (values, next_values, rewards, done, done)]
    return functional.vec_generalized_advantage_estimate(GAMMA, LAMBDA, *(x.unsqueeze(-1) for x in tensors))


# name -> (tensors that are read, tensors that are written, ours, the loop)
FUNCTIONS: dict[str, tuple[int, int, Callable[..., object], Callable[..., object]]] = {
    "gae": (3, 2, rl.gae, gae_loop),
    "vtrace": (4, 2, rl.vtrace, vtrace_loop),
    "lambda_returns": (2, 1, rl.lambda_returns, lambda_loop),
    "retrace": (4, 1, rl.retrace, retrace_loop),
}


def interleaved(steps: dict[str, Callable[[], object]], seconds: float) -> dict[str, float]:
    """Milliseconds of each, lower quartiles."""
    samples: dict[str, list[float]] = {name: [] for name in steps}
    repeats = {}
    for name, step in steps.items():
        step()
        start = time.perf_counter()
        step()
        repeats[name] = max(1, int(1e-3 / (time.perf_counter() - start)))
    until = time.perf_counter() + seconds
    while time.perf_counter() < until or len(samples[next(iter(steps))]) < 4:
        for name, step in steps.items():
            start = time.perf_counter()
            for _ in range(repeats[name]):
                step()
            samples[name].append((time.perf_counter() - start) / repeats[name] * 1e3)
    return {name: statistics.quantiles(found, n=4)[0] for name, found in samples.items()}


def measure(name: str, shape: tuple[int, int], time_dim: int, seconds: float) -> dict[str, float]:
    reads, writes, ours, loop = FUNCTIONS[name]
    arguments = [torch.randn(shape) for _ in range(reads)]
    source = torch.randn(arguments[0].numel() * (reads + writes) // 2)
    destination = torch.empty_like(source)
    steps: dict[str, Callable[[], object]] = {
        "fastloss": lambda: ours(*arguments, time_dim=time_dim),
        "copy": lambda: destination.copy_(source),
        "loop": lambda: loop(*arguments, time_dim=time_dim),
    }
    if name == "gae" and importlib.util.find_spec("torchrl"):
        steps["torchrl"] = lambda: torchrl_gae(*arguments, time_dim=time_dim)
    with torch.no_grad():
        return interleaved(steps, seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description="Returns and advantages beside a copy and a loop.")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--seconds", type=float, default=4.0, help="of each row")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    for shape, time_dim in SHAPES:
        for name in FUNCTIONS:
            found = measure(name, shape, time_dim, options.seconds)
            times = "  ".join(f"{step} {ms:.4g}" for step, ms in found.items())
            of_copy, of_loop = found["fastloss"] / found["copy"], found["loop"] / found["fastloss"]
            print(f"{name:15} {shape[0]} x {shape[1]}  time {time_dim}  {times}  "
                  f"copies {of_copy:.2f}  loops {of_loop:.1f}", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
