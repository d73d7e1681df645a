"""compute-sanitizer over all operators: accesses out of bounds and misaligned, races in shared memory."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from lanes.gpu.gpu_machine import DEVICE, REHEARSAL, backends, needed

pytestmark = needed

TESTS = Path(__file__).resolve().parents[2]
SANITIZER = shutil.which("compute-sanitizer")
UNSUPPORTED = "Device not supported"  # what it says in some virtual machines
FOUND = 86


def run(backend: str, *prefix: str) -> subprocess.CompletedProcess[str]:
    # without torch's cache each tensor is an allocation of its own, whose end the sanitizer knows
    environment = {**os.environ, "PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    command = [*prefix, sys.executable, "-m", "lanes.gpu.sanitized", backend, DEVICE]
    return subprocess.run(command, cwd=TESTS, capture_output=True, text=True, env=environment, timeout=180)


@backends
def test_without_a_sanitizer(backend: str) -> None:
    """Also leaves Triton's compiled kernels in its cache for the next tests."""
    done = run(backend)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    assert "problems right" in done.stdout


@backends
@pytest.mark.parametrize("tool", ["memcheck", "racecheck"])
@pytest.mark.skipif(REHEARSAL, reason="compute-sanitizer needs a GPU")
@pytest.mark.skipif(SANITIZER is None, reason="compute-sanitizer is not on the PATH")
def test_sanitizer(backend: str, tool: str) -> None:
    assert SANITIZER is not None
    options = ["--tool", tool, "--error-exitcode", str(FOUND), "--target-processes", "application-only"]
    done = run(backend, SANITIZER, *options)
    report = done.stdout[-6000:] + done.stderr[-3000:]
    if UNSUPPORTED in report:
        pytest.skip(f"compute-sanitizer: {UNSUPPORTED}")
    assert done.returncode == 0, report
    assert "problems right" in done.stdout, report
    assert "SUMMARY: 0 " in done.stdout, report
