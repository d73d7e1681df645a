"""What the examples with language models share: text, a small randomly initialised model, a race, a table, a plot."""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from fastloss.cli.demo import peak_extra_bytes, split_words, standard_library_texts

UNKNOWN = 0


def text(words: int) -> Tensor:
    """Python's own documentation as numbers: the `words` - 1 most frequent words, and one number for all others."""
    stream = [word for document in standard_library_texts() for word in split_words(document)]
    numbers = {word: k for k, (word, _) in enumerate(Counter(stream).most_common(words - 1), start=1)}
    return torch.tensor([numbers.get(word, UNKNOWN) for word in stream])


def windows(stream: Tensor, length: int, count: int, generator: torch.Generator) -> Tensor:
    """(count, length), at random places."""
    begin = torch.randint(len(stream) - length, (count, 1), generator=generator)
    return stream[begin + torch.arange(length)]


def language_model(words: int, hidden: int = 64, layers: int = 2) -> LlamaForCausalLM:
    config = LlamaConfig(
        vocab_size=words, hidden_size=hidden, intermediate_size=2 * hidden, num_hidden_layers=layers,
        num_attention_heads=4, num_key_value_heads=4, max_position_embeddings=256, tie_word_embeddings=False,
    )  # fmt: skip
    return LlamaForCausalLM(config)


def pretrain(model: LlamaForCausalLM, stream: Tensor, steps: int, generator: torch.Generator) -> None:
    """A few steps of next-token prediction, so that there is something to start from."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(steps):
        batch = windows(stream, 33, 16, generator)
        optimizer.zero_grad()
        model(input_ids=batch, labels=batch).loss.backward()
        optimizer.step()


class Run(NamedTuple):
    """One training."""

    losses: list[float]
    milliseconds: float  # of a loss with its gradient, the model's included: median over the steps
    peak: int | None  # bytes that a step needs on top of what was there


def race(
    start: LlamaForCausalLM,
    losses: dict[str, Callable[[LlamaForCausalLM, int], Tensor]],
    steps: int,
    rate: float = 1e-3,
) -> dict[str, Run]:
    """Trains a copy of a model with each loss: a step of one right after the same step of the other, so that a busy
    machine slows both alike.

    Args:
        losses: the loss of a model at a step, by its number.
    """
    models = {name: copy.deepcopy(start) for name in losses}
    optimizers = {name: torch.optim.AdamW(model.parameters(), lr=rate) for name, model in models.items()}
    curves: dict[str, list[float]] = {name: [] for name in losses}
    seconds: dict[str, list[float]] = {name: [] for name in losses}
    for step in range(steps):
        for name, loss_of in losses.items():
            optimizers[name].zero_grad()
            begin = time.perf_counter()
            loss = loss_of(models[name], step)
            loss.backward()
            seconds[name].append(time.perf_counter() - begin)
            curves[name].append(loss.item())
            optimizers[name].step()

    def peak(name: str) -> int | None:
        return peak_extra_bytes(lambda: losses[name](models[name], 0).backward(), torch.device("cpu"), repeats=1)

    return {name: Run(curves[name], 1e3 * statistics.median(seconds[name]), peak(name)) for name in losses}


def report(runs: dict[str, Run], title: str, path: Path | None) -> None:
    print(f"{'':<12}{'first loss':>12}{'last loss':>12}{'ms a step':>12}{'peak, MiB':>12}")
    for name, run in runs.items():
        peak = "-" if run.peak is None else f"{run.peak / 2**20:.0f}"
        print(f"{name:<12}{run.losses[0]:>12.5f}{run.losses[-1]:>12.5f}{run.milliseconds:>12.1f}{peak:>12}")
    if path is None:
        return
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(layout="constrained")
    for (name, run), style in zip(runs.items(), ("-", "--"), strict=True):
        axes.plot(run.losses, style, label=f"{name}, {run.milliseconds:.0f} ms a step")
    axes.set(xlabel="step", ylabel="loss", title=title)
    axes.legend()
    figure.savefig(path, dpi=130)
    pyplot.close(figure)
    print(f"chart: {path}")


def arguments(description: str, steps: int) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--steps", type=int, default=steps)
    parser.add_argument("--plot", type=Path, help="where to save the curves")
    return parser.parse_args()
