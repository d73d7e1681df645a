"""The same tests under sanitizers: each lane is a pytest of its own, with the sanitizer's runtime preloaded."""

from __future__ import annotations

import os
import pathlib
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import cuda_build
import emulated
import pytest

HERE = pathlib.Path(__file__).resolve().parent
BUILDS = ("kernels", "selftest", "bugs")
LANES = {
    "asan": (["libasan.so", "libubsan.so"], ["test_rows.py", "test_emulator.py", "test_planted_bugs.py"], 450),
    "tsan": (["libtsan.so"], ["test_races.py", "test_emulator.py", "test_planted_bugs.py"], 60),
}


def runtime(name: str) -> str:
    """The path of a sanitizer's library; its bare name if g++ does not have it."""
    command = ["g++", f"-print-file-name={name}"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def run_lane(lane: str) -> str:
    """pytest's last line, after an assertion that the lane is green and has not shrunk."""
    runtimes, files, at_least = LANES[lane]
    for name in BUILDS:
        cuda_build.library(name, lane)
    environment = os.environ | {
        "FASTLOSS_EMULATOR_LANE": lane,
        "LD_PRELOAD": " ".join(runtime(name) for name in runtimes),
        "OMP_NUM_THREADS": "1",
        "ASAN_OPTIONS": "detect_leaks=0:halt_on_error=0",  # Python leaks; a report fails the test it happened in
        "UBSAN_OPTIONS": "print_stacktrace=1",
        # Shared memory comes from the heap, so a second race is often at the address of a first.
        "TSAN_OPTIONS": "halt_on_error=0:exitcode=0:report_thread_leaks=0:suppress_equal_addresses=0",
    }
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--import-mode=importlib", *files]
    result = subprocess.run(command, cwd=HERE, env=environment, capture_output=True, text=True)
    report = f"the {lane} lane:\n{result.stdout[-6000:]}{result.stderr[-2000:]}"
    passed = re.search(r"^(\d+) passed.*", result.stdout, re.MULTILINE)
    assert result.returncode == 0, report
    assert passed is not None, report
    assert int(passed[1]) >= at_least, report
    return passed[0]


@pytest.mark.builds("kernels", "asan")
@pytest.mark.builds("kernels", "tsan")
@emulated.needed
@pytest.mark.skipif(emulated.LANE != "plain", reason="this is the subprocess of a lane")
def test_lanes() -> None:
    for lane, (runtimes, _, _) in LANES.items():
        missing = [name for name in runtimes if not os.path.isabs(runtime(name))]
        assert not missing, f"the {lane} lane needs {missing}, which g++ does not have"
    with ThreadPoolExecutor() as pool:  # a core each
        for lane, summary in zip(LANES, pool.map(run_lane, LANES), strict=True):
            print(f"{lane}: {summary}")
