"""Starts the lanes: pytest runs of the lane_*.py files and of some laws, each in a process of its own, because Triton
decides between interpreter and compiler when it is imported, and compiles for one chip at a time."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Outcome:
    code: int  # of pytest: 0 passed, 1 tests failed, above: nothing sensible ran
    output: str

    @property
    def passed(self) -> int:
        counts = re.findall(r"^(\d+) passed", self.output, re.M)
        return int(counts[-1]) if counts else 0


def run_lane(lane: str, environment: dict[str, str], *options: str) -> Outcome:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("TRITON_", "PYTEST_"))}
    inherited["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    command = [sys.executable, "-m", "pytest", "-q", "--import-mode=importlib", "-p", "no:cacheprovider", "--tb=short"]
    done = subprocess.run(
        [*command, *options, f"{lane}.py"], cwd=FOLDER, env=inherited | environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    return Outcome(done.returncode, done.stdout)


def interpret(lane: str, *options: str, **environment: str) -> Outcome:
    return run_lane(lane, {"TRITON_INTERPRET": "1", **environment}, *options)


def compile_for(chip: str, lane: str, cache: Path, *options: str, **environment: str) -> Outcome:
    """The cache is a fresh folder, so that everything is compiled."""
    variables = {"FASTLOSS_TEST_CHIP": chip, "TRITON_CACHE_DIR": str(cache), **environment}
    return run_lane(lane, variables, *options)
