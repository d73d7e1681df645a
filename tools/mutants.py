"""`make mutants`: breaks one thing at a time in the kernels and asks whether the tests notice. Hours; not part of CI.

    python tools/mutants.py [KIND ...] [--sample N [--seed S]] [--minutes M] [--only TEXT] [--skip LANE ...]
                            [--list]

A mutant deletes a barrier or a statement, bends a bound, drops a mask or flips a sign. It is killed if a lane of the
tests fails, the quickest lane first. A survivor is to be read: either a test is missing, or the mutant is equivalent,
that is no input and no schedule can tell it from the original; EQUIVALENT holds those, with the reason.

Mutants of C++ are built together where they can be (mutant_schemata.py) and chosen when a lane runs; the others, and those
that no lane reached that way, one by one.

`--sample 40` takes 40 of each kind, spread evenly over its files: one, chosen by the seed, of every 40th part of the
list. `--minutes 10` stops after that time; the next run goes on from there, if no file has changed. docs/mutants.md
has what was run last.
"""

from __future__ import annotations

import argparse
import gc
import hashlib
import io
import json
import multiprocessing
import os
import random
import re
import signal
import subprocess
import sys
import time
import tokenize
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import ClassVar

import hypothesis  # noqa: F401 (for the lanes, which fork, as the others)
import numpy  # noqa: F401
import pytest

os.environ["TRITON_INTERPRET"] = "1"  # when the functions of Triton's language are defined
import torch._inductor  # noqa: E402, F401
from mutant_kinds import DECLARATIONS, EQUIVALENT, KINDS, Kind, Lane
from mutant_schemata import Edit, switched

ROOT = Path(__file__).resolve().parent.parent
BUILD = ROOT / "build" / "mutants"
NOT_BUILT = "does not build"
EXTREME = r"([^=?:;(]+?) [<>]=? ([^?:;]+?)\)? \? (?:\1 : \2|\2 : \1)[;,)]"
del os.environ["TRITON_INTERPRET"]
FORK = multiprocessing.get_context("fork")


@dataclass(frozen=True)
class Mutant:
    file: str
    number: int
    before: str  # the line
    after: str
    source: str  # of the file
    edit: Edit

    def __str__(self) -> str:
        return f"{self.file}:{self.number}: {self.before}  ->  {self.after or 'gone'}"

    @property
    def equivalent(self) -> str | None:
        """The reason why it is."""
        bounds = [re.sub(r"([<>])=", r"\1", line) for line in (self.before, self.after)]
        if bounds[0] == bounds[1] and re.search(EXTREME, self.after):
            return "the lesser or greater of two, which are the same at a tie"
        for known in EQUIVALENT:
            if (known.file, known.line) == (self.file, self.after):
                return known.reason
        return None


def without_text(name: str, source: str) -> str:
    """The source with spaces for its comments and strings: an edit there would be no mutant."""

    def spaces(text: str) -> str:
        return re.sub(r"\S", " ", text)

    if not name.endswith(".py"):
        return re.sub(r"//.*", lambda match: spaces(match.group()), source)
    lines = source.splitlines(keepends=True)
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type in (tokenize.STRING, tokenize.COMMENT):
            (first, begin), (last, end) = token.start, token.end
            for number in range(first - 1, last):
                line = lines[number]
                left, right = begin if number == first - 1 else 0, end if number == last - 1 else len(line)
                lines[number] = line[:left] + spaces(line[left:right]) + line[right:]
    return "".join(lines)


def mutants(kind: Kind, root: Path) -> Iterator[Mutant]:
    for name in kind.files:
        source = (root / name).read_text()
        code, seen = without_text(name, source), {source}
        for pattern, replacement in kind.edits:
            for match in re.finditer(pattern, code):
                line = code[code.rfind("\n", 0, match.start()) + 1 : code.find("\n", match.start())]
                if re.search(DECLARATIONS, line):
                    continue
                edit = Edit(match.start(), match.end(), source[match.start() : match.end()], match.expand(replacement))
                mutated = source[: edit.begin] + edit.after + source[edit.end :]
                if mutated in seen:
                    continue
                seen.add(mutated)
                start = source.rfind("\n", 0, match.start()) + 1
                before, after = (text[start : text.find("\n", match.start())].strip() for text in (source, mutated))
                yield Mutant(name, source.count("\n", 0, start) + 1, before, after, mutated, edit)


# Edits of the copy. One instruction set and little optimisation take a quarter of a build's time; without any, mutants that
# are built together would make the tests slow. "some": pointwise losses of some families only, as in the sanitizers' builds.
SWITCH = ROOT / "tools" / "mutant_switch.h"
CHEAPER = {
    "tests/cuda/cuda_build.py": (
        ('"plain": ["-O2"]', '"plain": ["-O1"], "some": ["-O1"]'),
        ('"-std=c++17", "-g1"', f'"-w", "-include", "{SWITCH}", "-std=c++17", "-g1"'),
        ('{messages}"[:8000]', '{messages}"[:800000]'),
    ),
    "setup.py": (
        ('"-O3 -std=c++17 -fPIC -fvis', f'"-O1 -w -include {SWITCH} -std=c++17 -fPIC -fvis'),
        ('"FASTLOSS_INSTRUCTION_SETS", "avx2 avx512"', '"FASTLOSS_INSTRUCTION_SETS", ""'),
    ),
}  # fmt: skip


def copy_tree(tree: Path) -> tuple[str, str]:
    """The digests of what it has copied: of the package and its kernels, and of the tests."""
    files = subprocess.check_output(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, text=True).splitlines()
    package, tests = hashlib.sha256(), hashlib.sha256()
    for name in files:
        content = (ROOT / name).read_bytes()
        for folder, digest in (
            ("csrc/", package),
            ("triton_kernels/", package),
            ("fastloss/", package),
            ("tests/", tests),
        ):
            if name.startswith(folder):
                digest.update(name.encode() + content)
        for costly, cheap in CHEAPER.get(name, ()):
            assert content.count(costly.encode()) == 1, (name, costly)
            content = content.replace(costly.encode(), cheap.encode())
        copy = tree / name
        if not copy.exists() or copy.read_bytes() != content:  # what an interrupted run left mutated, too
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(content)
    return package.hexdigest(), tests.hexdigest()


def begin(folder: Path, output: Path) -> None:
    """In the child: a group of its own, and a file for what it says."""
    os.setsid()
    with output.open("wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.chdir(folder)


class First:
    """What failed last comes first: mutants of neighbouring lines fail the same tests."""

    failed: ClassVar[dict[Lane, str]] = {}

    def __init__(self, lane: Lane) -> None:
        self.test = self.failed.get(lane, "")

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        items.sort(key=lambda item: self.test not in item.nodeid)


def executed(lane: Lane, folder: Path, environment: dict[str, str], output: Path) -> None:
    begin(folder, output)
    os.execvpe(lane.command[0], lane.command, environment)


def forked(lane: Lane, folder: Path, environment: dict[str, str], output: Path) -> None:
    """`python -m pytest` without the 2 s in which it would import torch."""
    begin(folder, output)
    os.environ.clear()
    os.environ.update(environment)
    sys.path[0:1] = [str(folder), environment["PYTHONPATH"]]
    sys.dont_write_bytecode = True
    sys.argv = list(lane.command)
    code = int(pytest.main(list(lane.command[1:]), plugins=[First(lane)]))
    sys.stdout.flush()
    os._exit(code)


def run(lane: Lane, tree: Path, timeout: float, number: int = 0) -> str | None:
    """What noticed: the first test that failed, or how the lane ended; None if nothing did."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(tree / "build" / "lib"),
        "PYTHONDONTWRITEBYTECODE": "1",  # two mutants of one second and size would share their bytecode
        "FASTLOSS_TEST_SEED": "1",
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        "FASTLOSS_MUTANT": str(number),
        "FASTLOSS_MUTANT_REACHED": str(tree / "reached"),
        **dict(lane.environment),
    }
    log, folder = tree / "lane.log", tree / lane.folder
    start = forked if lane.command[0] == "pytest" else executed
    process = FORK.Process(target=start, args=(lane, folder, environment, log))
    process.start()
    process.join(timeout)
    if process.is_alive():
        os.killpg(process.pid, signal.SIGKILL)  # a lane may have started processes of its own
        process.join()
        return "timeout"
    if process.exitcode == 0:
        return None
    output = log.read_text(errors="replace")
    if " does not build:" in output:  # cuda_build.py
        return NOT_BUILT
    failed = re.findall(r"^(?:FAILED|ERROR) (\S+)", output, re.M)
    if not failed:
        return f"exit code {process.exitcode}"
    First.failed[lane] = failed[0].split("/")[-1]
    return failed[0]


class Journal:
    """What a run has found out, kept for the next one over the same package: of other tests than then, the kills."""

    def __init__(self, name: str, package: str, tests: str) -> None:
        self.path = BUILD / f"{name}.json"
        known = json.loads(self.path.read_text()) if self.path.exists() else {}
        same, same_tests = known.get("package") == package, known.get("tests") == tests
        self.digests = {"package": package, "tests": tests}
        self.seconds: dict[str, float] = known["seconds"] if same and same_tests else {}  # of a lane without a mutant
        self.outcomes: dict[str, tuple[str, str]] = {
            mutant: outcome
            for mutant, outcome in (known["outcomes"] if same else {}).items()
            if same_tests or outcome[0] in ("killed", "not compiled")
        }

    def save(self) -> None:
        self.path.write_text(json.dumps(self.digests | {"seconds": self.seconds, "outcomes": self.outcomes}, indent=1))


class Unmutated:
    """The lanes without a mutant, each run when it is first needed. They must pass, and test the copy: an editable
    install of fastloss may be near."""

    def __init__(self, name: str, kind: Kind, tree: Path, journal: Journal) -> None:
        self.name, self.kind, self.tree, self.journal = name, kind, tree, journal
        package = (sys.executable, "setup.py", "-q", "build", "--build-lib", "build/lib")
        self.run(Lane("build", package, ".", (("FASTLOSS_BUILD", kind.binaries),)))
        modules = "fastloss.dispatch, fastloss.triton_kernels" if "triton" in name else "fastloss.dispatch"
        where = f"import sys, {modules}; assert fastloss.__file__.startswith({str(tree)!r})"
        if kind.binaries == "cpu":
            where += "; sys.exit(fastloss.dispatch.unavailable('cpu', 'cpu'))"
        assert run(Lane("import", (sys.executable, "-c", where)), tree, 120) is None, "the tests import another tree"
        for lane in kind.lanes:
            if lane.name == "build" or lane is next(first for first in kind.lanes if first.name != "build"):
                self.run(lane)

    def run(self, lane: Lane) -> None:
        start = time.time()
        failure = run(lane, self.tree, 1800)
        seconds = time.time() - start
        print(f"{self.name}, without a mutant: {lane.name} {failure or 'passes'}, {seconds:.0f} s", flush=True)
        if failure:
            sys.exit(f"see {self.tree}/lane.log")
        if lane.name != "build":
            self.journal.seconds[lane.name] = seconds
            self.journal.save()

    def timeout(self, lane: Lane) -> float:
        return 900 if lane.name == "build" else 20 + 3 * self.journal.seconds[lane.name]


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
    name: str, kind: Kind, tree: Path, journal: Journal, todo: list[Mutant], minutes: float | None
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
    together.end()
    one_by_one = OneByOne(kind, tree, unmutated)
    print(f"{name}: {len(left)} one by one", flush=True)
    for mutant in left:
        if time.time() < end:
            yield mutant, *one_by_one.verdict(mutant)


def sampled(found: list[Mutant], count: int, seed: int) -> list[Mutant]:
    """One of each of `count` equal parts of the list."""
    if count >= len(found):
        return found
    chosen = random.Random(seed)
    edges = [len(found) * part // count for part in range(count + 1)]
    return [found[chosen.randrange(begin, end)] for begin, end in pairwise(edges)]


def report(name: str, of: int, rows: list[tuple[Mutant, str, str]]) -> str:
    """A row of the table of docs/mutants.md, and every mutant with what became of it."""
    outcomes = Counter(outcome for _, outcome, _ in rows)
    by_lane = Counter(detail.split(":")[0] for _, outcome, detail in rows if outcome == "killed")
    lanes = ", ".join(f"{lane} {count}" for lane, count in by_lane.items())
    counts = " | ".join(str(outcomes[outcome]) for outcome in ("timeout", "not compiled", "equivalent", "survived"))
    lines = [
        "| kind | mutants | run | killed | by lane | timeout | do not compile | equivalent | survived |",
        "|---|---|---|---|---|---|---|---|---|",
        f"| {name} | {of} | {len(rows)} | {outcomes['killed']} | {lanes} | {counts} |",
    ]
    for heading in ("survived", "timeout", "equivalent", "not compiled", "killed"):
        lines += ["", f"## {heading}", ""]
        lines += [f"- `{mutant}` {detail}" for mutant, outcome, detail in rows if outcome == heading]
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kinds", nargs="*", choices=[*KINDS, []], default=[], metavar="KIND")
    parser.add_argument("--only", default="", help="mutants whose description contains this")
    parser.add_argument("--sample", type=int, metavar="N", help="N of each kind, spread over its files")
    parser.add_argument("--seed", type=int, default=1, help="of the sample")
    parser.add_argument("--minutes", type=float, metavar="M", help="no new mutant of a kind after this time")
    parser.add_argument("--skip", nargs="*", default=[], metavar="LANE", help="lanes to leave out: a first look")
    parser.add_argument("--list", action="store_true", help="list them, run nothing")
    arguments = parser.parse_args()
    survived = 0
    gc.freeze()  # pytest collects garbage twice; of what the lanes inherit there is none
    for name in arguments.kinds or KINDS:
        kind, tree = KINDS[name], BUILD / name
        skipped = [lane.name for lane in kind.lanes if lane.name in arguments.skip]
        kind = replace(kind, lanes=tuple(lane for lane in kind.lanes if lane.name not in skipped))
        without = f"without {', '.join(skipped)}" if skipped else ""
        every = list(mutants(kind, ROOT))
        chosen = [mutant for mutant in every if arguments.only in str(mutant)]
        chosen = sampled(chosen, arguments.sample, arguments.seed) if arguments.sample else chosen
        if arguments.list:
            print(*chosen, sep="\n")
            continue
        journal = Journal(name, *copy_tree(tree))
        for mutant in chosen:
            if mutant.equivalent:
                journal.outcomes[str(mutant)] = ("equivalent", mutant.equivalent)
        todo = [
            mutant
            for mutant in chosen
            if (known := journal.outcomes.get(str(mutant))) is None
            or (known[0] == "survived" and known[1] not in ("", without))
        ]
        for mutant, outcome, detail in outcomes(name, kind, tree, journal, todo, arguments.minutes):
            print(f"{mutant}\n    {outcome} {detail}", flush=True)
            journal.outcomes[str(mutant)] = (outcome, without if outcome == "survived" else detail)
            journal.save()
        journal.save()
        rows = [(mutant, *journal.outcomes[str(mutant)]) for mutant in every if str(mutant) in journal.outcomes]
        (BUILD / f"{name}.md").write_text(report(name, len(every), rows))
        print(report(name, len(every), rows).split("\n\n")[0], flush=True)
        survived += sum(outcome == "survived" for _, outcome, _ in rows)
    return survived > 0


if __name__ == "__main__":
    sys.exit(main())
