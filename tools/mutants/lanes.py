"""Running the lanes of the tests, by processes that have imported already what takes seconds."""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import signal
import sys
import time
from pathlib import Path
from typing import ClassVar

import hypothesis  # noqa: F401 (for the lanes, which fork, as the others)
import numpy  # noqa: F401
import pytest

from .kinds import Kind, Lane

os.environ["TRITON_INTERPRET"] = "1"  # when the functions of Triton's language are defined
import torch._inductor  # noqa: F401

del os.environ["TRITON_INTERPRET"]
BUILD = Path(__file__).resolve().parents[2] / "build" / "mutants"
FORK = multiprocessing.get_context("fork")
NOT_BUILT = "does not build"


def begin(folder: Path, output: Path) -> None:
    """In the child: a group of its own, and a file for what it says."""
    os.setsid()
    with output.open("wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.chdir(folder)


class First:
    """The tests that have noticed a mutant come first, the last one at the front."""

    failed: ClassVar[dict[str, list[str]]] = {}  # by lane

    def __init__(self, lane: Lane) -> None:
        self.tests = self.failed.get(lane.name, [])

    @classmethod
    def noticed(cls, lane: str, test: str) -> None:
        test = test.split("/")[-1]
        others = [other for other in cls.failed.get(lane, []) if other != test]
        cls.failed[lane] = [test, *others[:30]]

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        def place(item: pytest.Item) -> int:
            return next((k for k, test in enumerate(self.tests) if test in item.nodeid), len(self.tests))

        items.sort(key=place)


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
        assert process.pid is not None
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
    First.noticed(lane.name, failed[0])
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
            if same_tests or outcome[0] in ("killed", "timeout", "not compiled")
        }
        First.failed.clear()
        for outcome, detail in self.outcomes.values():
            if outcome == "killed" and "::" in detail:
                First.noticed(*detail.split(": ", 1))

    def save(self) -> None:
        self.path.write_text(json.dumps(self.digests | {"seconds": self.seconds, "outcomes": self.outcomes}, indent=1))


class Unmutated:
    """The lanes without a mutant, each run when it is first needed. They must pass, and test the copy: an editable
    install of fastloss may be near."""

    def __init__(self, name: str, kind: Kind, tree: Path, journal: Journal) -> None:
        self.name, self.kind, self.tree, self.journal = name, kind, tree, journal
        package = (sys.executable, "setup.py", "-q", "build", "--build-lib", "build/lib")
        self.run(Lane("build", package, ".", (("FASTLOSS_BUILD", kind.binaries),)))
        modules = "fastloss.core.dispatch, fastloss.triton_kernels" if "triton" in name else "fastloss.core.dispatch"
        where = f"import sys, {modules}; assert fastloss.__file__.startswith({str(tree)!r})"
        if kind.binaries == "cpu":
            where += "; sys.exit(fastloss.core.dispatch.unavailable('cpu', 'cpu'))"
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
        return 900 if lane.name == "build" else 10 + 2 * self.journal.seconds[lane.name]
