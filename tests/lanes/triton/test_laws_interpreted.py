"""The laws of the case table on the Triton backend, through the public API, in the interpreter."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from lanes.triton.laws import ROW_FILES, ROW_LAWS

TESTS = Path(__file__).resolve().parents[2]


@pytest.mark.slow(60)
@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")
def test_laws_on_the_interpreter(lane_ran: Callable[[str, int], None]) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "ignore", "-k", ROW_LAWS]
    result = subprocess.run(
        [*command, *ROW_FILES],
        cwd=TESTS,
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout[-5000:] + result.stderr[-1000:]
    passed = re.search(r"^(\d+) passed", result.stdout, re.M)
    assert passed is not None, result.stdout[-1000:]
    lane_ran("Triton, interpreted: laws of the row losses", int(passed[1]))
