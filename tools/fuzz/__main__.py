"""`make fuzz`: random calls for some minutes, and the smallest form of each that goes wrong.

    python -m tools.fuzz [--minutes M | --trials N] [--seed S] [--only TEXT] [--slow SHARE]
    python -m tools.fuzz --replay TRIAL

A failure is printed with the command that repeats it.
"""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from collections import Counter

import torch

from .arguments import NotBuilt, make
from .check import Failure, check
from .draw import Draw
from .shrink import shrink
from .trial import Trial


def command(trial: Trial) -> str:
    return f".venv/bin/python -m tools.fuzz --replay {shlex.quote(str(trial))}"


def replay(trial: Trial) -> int:
    for name, x in make(trial).items():
        print(f"{name} = {x}")
    verdict = check(trial)
    print(verdict.failure or verdict.outcome)
    return verdict.failure is not None


class Report:
    """Counts what became of trials, and prints the first failures of each kind and loss, made small."""

    def __init__(self) -> None:
        self.outcomes: Counter[str] = Counter()
        self.failures: Counter[tuple[str, str]] = Counter()

    def failed(self, trial: Trial, failure: Failure) -> None:
        key = (trial.of.name, failure.kind)
        self.failures[key] += 1
        if self.failures[key] > 1:
            return
        smaller, how = shrink(trial, failure)
        print(f"{trial.of.name}: {how}\n    {command(smaller)}", flush=True)


def fuzz(draw: Draw, trials: int, seconds: float) -> Report:
    """Runs until one of the two is used up."""
    report, begun = Report(), time.monotonic()
    while report.outcomes.total() < trials and time.monotonic() - begun < seconds:
        try:
            trial = draw.trial()
            verdict = check(trial)
        except NotBuilt:
            continue
        report.outcomes[verdict.outcome] += 1
        if verdict.failure:
            report.failed(trial, verdict.failure)
    return report


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=10.0, metavar="M")
    parser.add_argument("--trials", type=int, default=10**9, metavar="N")
    parser.add_argument("--seed", type=int, help="of the trials; default: another one each time")
    parser.add_argument("--only", default="", metavar="TEXT", help="cases in whose name this is")
    parser.add_argument("--slow", type=float, default=0.0005, metavar="SHARE", help="of compiled and exported trials")
    parser.add_argument("--replay", type=Trial.parse, metavar="TRIAL", help="one trial, as a failure prints it")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.replay:
        return replay(arguments.replay)
    seed = int(torch.randint(2**31, ())) if arguments.seed is None else arguments.seed
    print(f"seed {seed}", flush=True)
    begun = time.monotonic()
    report = fuzz(Draw(seed, arguments.only, arguments.slow), arguments.trials, arguments.minutes * 60)
    seconds = time.monotonic() - begun
    total = report.outcomes.total()
    print(f"{total} trials in {seconds:.0f} s, {total / seconds:.0f} a second: {dict(report.outcomes)}")
    for (name, kind), count in sorted(report.failures.items()):
        print(f"{count:6} {name}: {kind}")
    return bool(report.failures)


if __name__ == "__main__":
    sys.exit(main())
