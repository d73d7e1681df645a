"""Starts the lanes: pytest runs of the lane_*.py files and of some laws, each in a process of its own, because Triton
decides between interpreter and compiler when it is imported, and compiles for one chip at a time. lane_starter.py forks
them: a lane would take 2 s to import torch and Triton, and there are forty."""

from __future__ import annotations

import functools
import json
import os
import re
import subprocess
import sys
import tempfile
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


@functools.cache
def starter(interpret: str) -> subprocess.Popen[str]:
    """Ends with this process, whose end closes its input."""
    return subprocess.Popen(
        [sys.executable, "lane_starter.py"], cwd=FOLDER, env=os.environ | {"TRITON_INTERPRET": interpret}, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip


def run_lane(lane: str, environment: dict[str, str], *options: str) -> Outcome:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("TRITON_", "PYTEST_"))}
    inherited["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    arguments = ["-q", "--import-mode=importlib", "-p", "no:cacheprovider", "--tb=short", *options, f"{lane}.py"]
    process = starter(environment.get("TRITON_INTERPRET", "0"))
    assert process.stdin is not None
    assert process.stdout is not None
    with tempfile.NamedTemporaryFile("r", errors="replace") as output:
        print(json.dumps([arguments, inherited | environment, output.name]), file=process.stdin, flush=True)
        code = int(process.stdout.readline())
        return Outcome(code, output.read())


def interpret(lane: str, *options: str, **environment: str) -> Outcome:
    return run_lane(lane, {"TRITON_INTERPRET": "1", **environment}, *options)


def compile_for(chip: str, lane: str, cache: Path, *options: str, **environment: str) -> Outcome:
    """The cache is a fresh folder, so that everything is compiled."""
    variables = {"FASTLOSS_TEST_CHIP": chip, "TRITON_CACHE_DIR": str(cache), **environment}
    return run_lane(lane, variables, *options)
