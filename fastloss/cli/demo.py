"""`python -m fastloss demo`: one small language model, trained twice, with torch's cross-entropy and with fastloss's.

The text is what every Python brings along: the language reference (pydoc_data.topics) and the docstrings and comments
of the standard library. The model predicts a word from the eight before it, among 16384 words; with so many classes
the loss is a large part of a step. Both models start from the same weights and see the same batches, a step of one
right after the same step of the other, so that a busy machine slows both alike.
"""

from __future__ import annotations

import argparse
import ast
import math
import random
import re
import statistics
import sys
import sysconfig
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fastloss
from fastloss.bench.environment import OtherProcesses
from fastloss.bench.memory import peak_extra_bytes

SEED = 0
VOCABULARY = 16384
CONTEXT = 8  # words
BATCH = 2048  # words predicted in a step
WIDTH, HIDDEN = 64, 256
LEARNING_RATE = 5e-3
VALIDATION_WORDS = 8192


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = "Trains a small language model with torch's cross-entropy and with fastloss's, side by side."
    parser.add_argument("--steps", type=int, default=80, help="training steps (default: %(default)s)")
    parser.add_argument("--plot", type=Path, default=Path("fastloss_demo.png"), help="chart (default: %(default)s)")


# ---- text ----


def standard_library_texts() -> list[str]:
    """The English of the standard library, one text a file; files are parsed, never imported."""
    root = Path(sysconfig.get_path("stdlib"))
    texts = []
    for file in sorted(root.rglob("*.py")):
        folders = file.relative_to(root).parts[:-1]
        # Not everybody installs the tests, and some of them are invalid on purpose.
        if not {"site-packages", "dist-packages", "test", "tests"}.isdisjoint(folders):
            continue
        source = file.read_bytes()
        prose = documentation(source, all_strings=file.parts[-2:] == ("pydoc_data", "topics.py"))
        texts.append("\n".join([*prose, *comments(source.decode("utf-8", "replace"))]))
    if not texts:
        raise SystemExit(f"the demo reads the standard library's source, and {root} has none")
    return texts


def documentation(source: bytes, all_strings: bool) -> list[str]:
    """Docstrings, or all string constants."""
    nodes = list(ast.walk(ast.parse(source)))
    if all_strings:
        return [node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    return [text for node in nodes if isinstance(node, documented) and (text := ast.get_docstring(node))]


def comments(source: str) -> list[str]:
    lines = (line.strip() for line in source.splitlines())
    return [line.strip("# ") for line in lines if line.startswith("#")]


def split_words(text: str) -> list[str]:
    return re.findall(r"\w+|[^\w\s]", text)


@dataclass
class Corpus:
    words: int  # different ones, the unknown word included
    training: Tensor  # (n, CONTEXT + 1): eight words and the one that follows them
    validation: Tensor  # the same, from other files

    @staticmethod
    def of(texts: list[str], device: torch.device) -> Corpus:
        documents = [split_words(text) for text in texts]
        random.Random(SEED).shuffle(documents)
        counts = Counter(word for document in documents for word in document)
        number = {word: i for i, (word, _) in enumerate(counts.most_common(VOCABULARY - 1), 1)}  # 0: unknown
        validation: list[int] = []
        training: list[int] = []
        for document in documents:
            stream = validation if len(validation) < VALIDATION_WORDS else training
            stream += [number.get(word, 0) for word in document]

        def windows(stream: list[int]) -> Tensor:
            return torch.tensor(stream, device=device).unfold(0, CONTEXT + 1, 1)

        return Corpus(len(number) + 1, windows(training), windows(validation)[:VALIDATION_WORDS])


# ---- model and training ----


class LanguageModel(nn.Module):
    """Scores for the next word (batch, words) from the last eight (batch, CONTEXT); input and output words are tied."""

    def __init__(self, words: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(words, WIDTH)
        nn.init.normal_(self.embedding.weight, std=0.1)
        self.hidden = nn.Sequential(nn.Linear(CONTEXT * WIDTH, HIDDEN), nn.GELU(), nn.Linear(HIDDEN, WIDTH))
        self.bias = nn.Parameter(torch.zeros(words))

    def forward(self, context: Tensor) -> Tensor:
        features = self.hidden(self.embedding(context).flatten(1))
        return F.linear(features, self.embedding.weight, self.bias)


@dataclass
class Run:
    """One training: a model, its loss function and what was measured."""

    name: str
    loss_function: Callable[[Tensor, Tensor], Tensor]
    model: LanguageModel
    optimizer: torch.optim.Optimizer
    losses: list[float] = field(default_factory=list)
    loss_seconds: list[float] = field(default_factory=list)
    step_seconds: list[float] = field(default_factory=list)
    peak_bytes: int | None = None

    def step(self, batch: Tensor) -> None:
        """The backward pass is cut at the logits, which separates the time of the loss from that of the model."""
        context, target = batch[:, :CONTEXT], batch[:, CONTEXT].contiguous()
        start = now(batch.device)
        logits = self.model(context)
        before = now(batch.device)
        loss = self.loss_function(logits, target)
        (gradient,) = torch.autograd.grad(loss, logits)
        after = now(batch.device)
        logits.backward(gradient)
        del logits, gradient
        self.optimizer.step()
        self.optimizer.zero_grad()
        end = now(batch.device)
        self.losses.append(loss.item())
        self.loss_seconds.append(after - before)
        self.step_seconds.append(end - start)

    @torch.no_grad()
    def perplexity(self, examples: Tensor) -> float:
        total = 0.0
        for batch in examples.split(BATCH):
            total += F.cross_entropy(self.model(batch[:, :CONTEXT]), batch[:, CONTEXT], reduction="sum").item()
        return math.exp(total / len(examples))


def now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def train(corpus: Corpus, steps: int, device: torch.device) -> list[Run]:
    runs = []
    for name, loss_function in (("torch", F.cross_entropy), ("fastloss", fastloss.cross_entropy)):
        torch.manual_seed(SEED)
        model = LanguageModel(corpus.words).to(device)
        optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE, fused=True)
        runs.append(Run(name, loss_function, model, optimizer))
    generator = torch.Generator().manual_seed(SEED)

    def draw() -> Tensor:
        rows = torch.randint(len(corpus.training), (BATCH,), generator=generator)
        return corpus.training[rows.to(device)]

    for i in range(steps):
        batch = draw()
        for run in runs if i % 2 == 0 else runs[::-1]:  # neither always finds the batch in the cache
            run.step(batch)
        show_progress(i + 1, steps, "  ".join(f"{run.name} {run.losses[-1]:.4f}" for run in runs))
    return runs


def measure_memory(runs: list[Run], batch: Tensor) -> None:
    """Peak of a further step, on top of weights, optimizer state and data. Not timed, and no part of the curves."""
    for run in runs:
        again = Run(run.name, run.loss_function, run.model, run.optimizer)
        run.peak_bytes = peak_extra_bytes(partial(again.step, batch), batch.device, repeats=1)


def show_progress(done: int, total: int, text: str) -> None:
    """A bar that redraws itself on a terminal, a line for each tenth in a log."""
    width = 30
    filled = width * done // total
    line = f"[{'#' * filled}{'.' * (width - filled)}] {done}/{total}  loss: {text}"
    if sys.stderr.isatty():
        print(f"\r{line}", end="\n" if done == total else "", file=sys.stderr, flush=True)
    elif done * 10 // total > (done - 1) * 10 // total:
        print(line, file=sys.stderr, flush=True)


# ---- what the user sees ----


def print_table(runs: list[Run]) -> None:
    torch_run, fastloss_run = runs

    def row(name: str, form: str, values: list[float], ratio: bool = False) -> None:
        print(f"{name:<36}{values[0]:>12{form}}{values[1]:>12{form}}" + (f"{values[0] / values[1]:>9.2f}x" * ratio))

    loss_time = [1e3 * statistics.median(run.loss_seconds) for run in runs]
    step_time = [1e3 * statistics.median(run.step_seconds) for run in runs]
    print(f"\n{'':<36}{torch_run.name:>12}{fastloss_run.name:>12}{'ratio':>10}")
    row("loss and its gradient, ms (median)", ".1f", loss_time, ratio=True)
    row("whole step, ms (median)", ".1f", step_time, ratio=True)
    row("loss, share of the step", ".0%", [loss / step for loss, step in zip(loss_time, step_time, strict=True)])
    peaks = [run.peak_bytes for run in runs if run.peak_bytes is not None]
    if len(peaks) == len(runs):
        row("peak memory of a step, MiB", ".0f", [peak / 2**20 for peak in peaks], ratio=True)
    row("first training loss", ".4f", [run.losses[0] for run in runs])
    row("last training loss", ".4f", [run.losses[-1] for run in runs])


def save_plot(runs: list[Run], path: Path) -> None:
    try:
        import matplotlib
    except ImportError:
        print("no chart: it needs matplotlib (pip install matplotlib)")
        return
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (curves, bars) = pyplot.subplots(1, 2, figsize=(10, 4), width_ratios=(2, 1), layout="constrained")
    for run, style in zip(runs, ("-", "--"), strict=True):
        curves.plot(run.losses, style, label=run.name)
    curves.set(xlabel="step", ylabel="training loss", title="the same curve twice")
    curves.legend()
    names = [run.name for run in runs]
    loss = [1e3 * statistics.median(run.loss_seconds) for run in runs]
    rest = [1e3 * statistics.median(run.step_seconds) - time for run, time in zip(runs, loss, strict=True)]
    bars.bar_label(bars.bar(names, rest, color="#b0b0b0", label="model and optimizer"), fmt="%.0f", label_type="center")
    bars.bar_label(bars.bar(names, loss, bottom=rest, color="#d1495b", label="loss"), fmt="%.0f", label_type="center")
    highest = max(a + b for a, b in zip(loss, rest, strict=True))
    bars.set(ylabel="ms a step (median)", title="time", ylim=(0, 1.25 * highest))  # room for the legend
    bars.legend()
    figure.savefig(path, dpi=130)
    pyplot.close(figure)
    print(f"chart: {path}")


def run(arguments: argparse.Namespace) -> int:
    start = time.perf_counter()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    corpus = Corpus.of(standard_library_texts(), device)
    mebibytes = BATCH * corpus.words * 4 / 2**20
    print(f"text: {len(corpus.training)} words of Python's own documentation, {corpus.words} different ones")
    print(f"step: {BATCH} words, logits of {mebibytes:.0f} MiB; seed {SEED}")
    print(f"device: {device.type}, {torch.get_num_threads()} threads")
    probe = torch.zeros(1, corpus.words, device=device), torch.zeros(1, dtype=torch.int64, device=device)
    print(f"backend of fastloss: {fastloss.explain(fastloss.cross_entropy, *probe)}")
    others = OtherProcesses()
    runs = train(corpus, arguments.steps, device)
    share = others.share()
    measure_memory(runs, corpus.training[:BATCH])
    print_table(runs)
    perplexity = "  ".join(f"{run.name} {run.perplexity(corpus.validation):.2f}" for run in runs)
    print(f"perplexity of {len(corpus.validation)} words of other files: {perplexity}")
    difference = max(abs(a - b) for a, b in zip(runs[0].losses, runs[1].losses, strict=True))
    print(f"largest difference between the two curves: {difference:.1e}")
    if share is not None:
        print(f"other processes took {share:.0%} of the CPU meanwhile, which the times above include")
    save_plot(runs, arguments.plot)
    print(f"{time.perf_counter() - start:.0f} s in all")
    return 0
