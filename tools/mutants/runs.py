"""What becomes of mutants: each in a build of its own, or many in one."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from .kinds import Kind, Lane
from .lanes import NOT_BUILT, Journal, Unmutated, run
from .schemata import switched
from .sources import ROOT, Mutant


def verdict(lanes: list[Lane], attempt: Callable[[Lane], str | None]) -> tuple[str, str]:
    """("killed", "not compiled", "timeout" or "survived", by which lane's test or why)"""
    for lane in lanes:
        noticed = attempt(lane)
        if noticed == NOT_BUILT or (noticed and lane.name == "build"):
            return "not compiled", ""
        if noticed == "timeout":  # a kill if the mutant can hang, which is to be read
            return "timeout", lane.name
        if noticed:
            return "killed", f"{lane.name}: {noticed}"
    return "survived", ""


class OneByOne:
    """A build for each mutant."""

    def __init__(self, kind: Kind, tree: Path, unmutated: Unmutated) -> None:
        self.kind, self.tree, self.unmutated = kind, tree, unmutated
        self.builds = [lane for lane in kind.lanes if lane.name == "build"]

    def verdict(self, mutant: Mutant) -> tuple[str, str]:
        target = self.tree / mutant.file
        original = target.read_text()

        def attempt(lane: Lane) -> str | None:
            if lane.name != "build" and lane.name not in self.unmutated.journal.seconds:
                target.write_text(original)
                for build in self.builds:
                    run(build, self.tree, 1800)
                self.unmutated.run(lane)
                target.write_text(mutant.source)
                for build in self.builds:
                    run(build, self.tree, 1800)
            return run(lane, self.tree, self.unmutated.timeout(lane))

        target.write_text(mutant.source)
        try:
            return verdict(list(self.kind.lanes), attempt)
        finally:
            target.write_text(original)


class Together:
    """One build for many mutants, those of C++ that can be switched on when the program runs."""

    def __init__(self, kind: Kind, tree: Path, unmutated: Unmutated, mutants: list[Mutant]) -> None:
        self.kind, self.tree, self.unmutated = kind, tree, unmutated
        self.numbers: dict[Mutant, int] = {}
        self.files = [name for name in kind.files if not name.endswith(".py")]
        # A constant may be asked for by the compiler in one place and by the program in another.
        wanted = {k: mutant for k, mutant in enumerate(mutants, 1) if "constexpr" not in mutant.before}
        while wanted and self.files:
            self.numbers = {}
            for name in self.files:
                edits = {number: mutant.edit for number, mutant in wanted.items() if mutant.file == name}
                source, done = switched((ROOT / name).read_text(), edits)
                (tree / name).write_text(source)
                self.numbers |= {wanted[number]: number for number in done}
            if all(run(lane, tree, 1800) is None for lane in kind.lanes if lane.name == "build"):
                break
            for mutant in self.refused((tree / "lane.log").read_text(errors="replace")):
                del wanted[self.numbers[mutant]]

    def refused(self, log: str) -> list[Mutant]:
        """Those in the lines that the compiler names; for an error in the switch itself, in all that lead there."""
        known = {(mutant.file, mutant.number) for mutant in self.numbers}
        for lines in (re.findall(r"^.* error: .*$", log, re.M), [log]):
            named = {
                (name, int(line))
                for name in self.files
                for line in re.findall(rf"{Path(name).name}:(\d+):", "\n".join(lines))
            } & known
            if named:
                there = [mutant for mutant in self.numbers if (mutant.file, mutant.number) in named]
                # Branches of unlike types in each other's place are what fails most.
                branches = [mutant for mutant in there if mutant.edit.before.startswith(" ? ")]
                print(f"{len(branches or there)} to be built one by one: {sorted(named)}", flush=True)
                return branches or there
        sys.exit(f"mutants do not build together, see {self.tree}/lane.log")

    def verdict(self, mutant: Mutant) -> tuple[str, str] | None:
        """None if no lane came to it: the constants that a compiler computes are never mutated here."""
        reached = self.tree / "reached"
        reached.unlink(missing_ok=True)

        def attempt(lane: Lane) -> str | None:
            if lane.name not in self.unmutated.journal.seconds:
                self.unmutated.run(lane)
            return run(lane, self.tree, self.unmutated.timeout(lane), self.numbers[mutant])

        lanes = [lane for lane in self.kind.lanes if lane.name != "build"]
        outcome = verdict(lanes, attempt)
        return outcome if reached.exists() else None

    def end(self) -> None:
        """The sources and builds as they were."""
        for name in self.files:
            (self.tree / name).write_bytes((ROOT / name).read_bytes())
        for lane in self.kind.lanes:
            if lane.name == "build":
                run(lane, self.tree, 1800)


def outcomes(
    name: str, kind: Kind, tree: Path, journal: Journal, todo: list[Mutant], minutes: float | None, only_together: bool
) -> Iterator[tuple[Mutant, str, str]]:
    """Of each mutant, until the time is over."""
    if not todo:
        return
    end = time.time() + 60 * minutes if minutes else float("inf")
    unmutated = Unmutated(name, kind, tree, journal)
    together = Together(kind, tree, unmutated, todo)
    left = [mutant for mutant in todo if mutant not in together.numbers]
    for mutant in together.numbers:
        if time.time() < end:
            outcome = together.verdict(mutant)
            if outcome:
                yield mutant, *outcome
            else:
                left.append(mutant)
    if only_together:
        return
    together.end()
    one_by_one = OneByOne(kind, tree, unmutated)
    print(f"{name}: {len(left)} one by one", flush=True)
    for mutant in left:
        if time.time() < end:
            yield mutant, *one_by_one.verdict(mutant)
