"""The same tests under sanitizers: each lane is a pytest of its own, with the sanitizer's runtime preloaded."""

from __future__ import annotations

import os
import pathlib
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass

import pytest
from lanes.cuda import cuda_build, emulated
from lanes.cuda import emulated_pointwise as pointwise

HERE = pathlib.Path(__file__).resolve().parent
RUNTIMES = {"asan": ("libasan.so", "libubsan.so"), "tsan": ("libtsan.so",)}
ROWS = ("kernels", "selftest", "bugs")


@dataclass(frozen=True)
class Lane:
    """Builds under a sanitizer, the tests that run on them, and how many of those there are at least."""

    sanitizer: str
    builds: tuple[str, ...]
    files: tuple[str, ...]
    at_least: int
    seconds: int  # roughly


LANES = {
    "pointwise under TSan": Lane("tsan", (pointwise.BUILD,), ("test_pointwise_races.py",), 5, 55),
    "pointwise under ASan + UBSan": Lane("asan", (pointwise.BUILD,), ("test_pointwise.py",), 250, 120),
    "rows and pairs under ASan + UBSan": Lane(
        "asan",
        ROWS,
        ("test_rows.py", "test_row_statistics.py", "test_pairs.py", "test_emulator.py", "test_planted_bugs.py"),
        600,
        115,
    ),
    "recurrences under ASan + UBSan": Lane("asan", ("scan",), ("test_scans.py",), 30, 40),
    "recurrences under TSan": Lane("tsan", ("scan",), ("test_scan_races.py",), 2, 20),
    "rows and pairs under TSan": Lane(
        "tsan", ROWS, ("test_races.py", "test_pairs_races.py", "test_emulator.py", "test_planted_bugs.py"), 62, 65
    ),
}


def runtime(name: str) -> str:
    """The path of a sanitizer's library; its bare name if g++ does not have it."""
    command = ["g++", f"-print-file-name={name}"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(
            name,
            marks=[
                pytest.mark.slow(lane.seconds), *(pytest.mark.builds(build, lane.sanitizer) for build in lane.builds)
            ],
        )
        for name, lane in LANES.items()
    ],
)  # fmt: skip
@emulated.needed
@pytest.mark.skipif(emulated.LANE != "plain", reason="this is the subprocess of a lane")
def test_lane(name: str, lane_ran: Callable[[str, int], None]) -> None:
    """The lane is green and has not shrunk."""
    lane = LANES[name]
    missing = [library for library in RUNTIMES[lane.sanitizer] if not os.path.isabs(runtime(library))]
    assert not missing, f"the lane needs {missing}, which g++ does not have"
    for build in lane.builds:
        cuda_build.library(build, lane.sanitizer)
    environment = os.environ | {
        "FASTLOSS_EMULATOR_LANE": lane.sanitizer,
        "LD_PRELOAD": " ".join(runtime(name) for name in RUNTIMES[lane.sanitizer]),
        "OMP_NUM_THREADS": "1",
        "ASAN_OPTIONS": "detect_leaks=0:halt_on_error=0",  # Python leaks; a report fails the test it happened in
        "UBSAN_OPTIONS": "print_stacktrace=1",
        # Shared memory comes from the heap, so a second race is often at the address of a first.
        "TSAN_OPTIONS": "halt_on_error=0:exitcode=0:report_thread_leaks=0:suppress_equal_addresses=0",
    }
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--import-mode=importlib", *lane.files]
    result = subprocess.run(command, cwd=HERE, env=environment, capture_output=True, text=True)
    report = f"{name}:\n{result.stdout[-6000:]}{result.stderr[-2000:]}"
    passed = re.search(r"^(\d+) passed.*", result.stdout, re.MULTILINE)
    assert result.returncode == 0, report
    assert passed is not None, report
    assert int(passed[1]) >= lane.at_least, report
    lane_ran(f"CUDA C++ on the emulator, {name}", int(passed[1]))
