"""The Triton backend, proven without a GPU: values in the interpreter, code by the compilers. See processes.py."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from lanes.triton import processes
from lanes.triton.laws import (
    NUMBER_FILES,
    NUMBER_LAWS,
    OUTER_FILES,
    OUTER_LAWS,
    POINTWISE_FILES,
    POINTWISE_LAWS,
    SCAN_FILES,
    SCAN_LAWS,
    SIMILARITY_FILES,
    SIMILARITY_PATHS,
)

CHIPS = ("sm_80", "sm_90", "sm_100", "gfx942")
COMPILED = {
    "row": ("lane_compile", (), CHIPS),
    "pointwise": ("lane_pointwise_compile", ("-k", "test_skeleton"), CHIPS),
    "outer": ("lane_outer_compile", (), ("sm_90", "gfx942")),  # one of each vendor: it is arithmetic alone
    "scan": ("lane_scan_compile", (), ("sm_90", "gfx942")),
    "similarity": ("lane_similarity_compile", (), CHIPS),
    "row_statistics": ("lane_row_statistics_compile", (), ("sm_90", "gfx942")),
}


def laws(files: tuple[str, ...], chosen: str) -> tuple[str, tuple[str, ...]]:
    """A lane of some of the laws."""
    first, *more = (f"../../{file}" for file in files)
    return first.removesuffix(".py"), (*more, "-k", chosen, "-W", "ignore")


# file, options of pytest, about so many seconds
INTERPRETED = {
    "laws of the pointwise losses": (*laws(POINTWISE_FILES, POINTWISE_LAWS), 60),
    "laws of the losses over pairs": (*laws(OUTER_FILES, OUTER_LAWS), 30),
    "pairwise losses": (*laws(SIMILARITY_FILES, SIMILARITY_PATHS), 40),
    "laws of recurrences over time": (*laws(SCAN_FILES, SCAN_LAWS), 30),
    "laws of numbers": (*laws(NUMBER_FILES, NUMBER_LAWS), 20),
    "row kernels": ("lane_interpreter", (), 60),
    "rows in steps": ("lane_row_statistics", (), 30),
    "pointwise kernels": ("lane_pointwise", (), 60),
    "pointwise losses": ("lane_pointwise_losses", (), 60),
}

pytestmark = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")


def check(outcome: processes.Outcome) -> int:
    """How many cases passed."""
    print(outcome.output)
    assert outcome.code == 0
    assert outcome.passed > 0
    return outcome.passed


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow(seconds)) for name, (*_, seconds) in INTERPRETED.items()]
)
def test_interpreted(name: str, lane_ran: Callable[[str, int], None]) -> None:
    lane, options, _ = INTERPRETED[name]
    lane_ran(f"Triton, interpreted: {name}", check(processes.interpret(lane, *options)))


@pytest.mark.slow(20)
def test_the_interpreter_as_it_is_installed(lane_ran: Callable[[str, int], None]) -> None:
    command = [sys.executable, str(processes.FOLDER / "stock.py")]
    done = subprocess.run(command, env={**os.environ, "TRITON_INTERPRET": "1"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    lane_ran("Triton, the interpreter as it is installed", int(done.stdout.split()[0]))


@pytest.mark.slow(30)
@pytest.mark.parametrize(
    ("chip", "skeleton"), [(chip, name) for name, (*_, chips) in COMPILED.items() for chip in chips]
)
def test_compiled(chip: str, skeleton: str, tmp_path: Path, lane_ran: Callable[[str, int], None]) -> None:
    lane, options, _ = COMPILED[skeleton]
    lane_ran(f"Triton, compiled for {chip}", check(processes.compile_for(chip, lane, tmp_path, "-rP", *options)))


@pytest.mark.slow(60)
def test_every_loss_compiles(tmp_path: Path, lane_ran: Callable[[str, int], None]) -> None:
    options = ("-rP", "-k", "test_every_loss")
    outcome = processes.compile_for("sm_90", "lane_pointwise_compile", tmp_path, *options)
    lane_ran("Triton, compiled for sm_90", check(outcome))
