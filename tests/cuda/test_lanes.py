"""The same tests under sanitizers: each lane is a pytest of its own, with the sanitizer's runtime preloaded."""

from __future__ import annotations

import os
import pathlib
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import cuda_build
import emulated
import emulated_pointwise as pointwise
import pytest

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


LANES = {
    "pairs under TSan": Lane("tsan", ("pairs",), ("test_pairs.py",), 25),
    "pairs under ASan + UBSan": Lane("asan", ("pairs",), ("test_pairs.py",), 25),
    "pointwise under TSan": Lane("tsan", (pointwise.BUILD,), ("test_pointwise_races.py",), 5),
    "pointwise under ASan + UBSan": Lane("asan", (pointwise.BUILD,), ("test_pointwise.py",), 250),
    "rows under ASan + UBSan": Lane("asan", ROWS, ("test_rows.py", "test_emulator.py", "test_planted_bugs.py"), 450),
    "rows under TSan": Lane("tsan", ROWS, ("test_races.py", "test_emulator.py", "test_planted_bugs.py"), 60),
}


def runtime(name: str) -> str:
    """The path of a sanitizer's library; its bare name if g++ does not have it."""
    command = ["g++", f"-print-file-name={name}"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def run_lane(name: str) -> str:
    """pytest's last line, after an assertion that the lane is green and has not shrunk."""
    lane = LANES[name]
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
    return passed[0]


@pytest.mark.builds("kernels", "asan")
@pytest.mark.builds("kernels", "tsan")
@pytest.mark.builds(pointwise.BUILD, "asan")
@pytest.mark.builds(pointwise.BUILD, "tsan")
@pytest.mark.builds("pairs", "asan")
@pytest.mark.builds("pairs", "tsan")
@emulated.needed
@pytest.mark.skipif(emulated.LANE != "plain", reason="this is the subprocess of a lane")
def test_lanes(capfd: pytest.CaptureFixture[str]) -> None:
    for sanitizer, libraries in RUNTIMES.items():
        missing = [name for name in libraries if not os.path.isabs(runtime(name))]
        assert not missing, f"the {sanitizer} lanes need {missing}, which g++ does not have"
    with ThreadPoolExecutor(max_workers=2) as pool:  # a core each
        for lane, summary in zip(LANES, pool.map(run_lane, LANES), strict=True):
            with capfd.disabled():
                print(f"\nCUDA kernels on the emulator, {lane}: {summary}")
