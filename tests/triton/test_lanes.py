"""The Triton backend, proven without a GPU: values in the interpreter, code by the compilers. See lanes.py."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # for lanes.py: pytest's importlib mode leaves sys.path alone
import lanes

CHIPS = ("sm_80", "sm_90", "sm_100", "gfx942")

pytestmark = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Future[lanes.Outcome]]]:
    """All lanes at once, as many at a time as there are workers."""
    with ThreadPoolExecutor(lanes.WORKERS) as pool:
        started = {"interpreter": pool.submit(lanes.interpret)}
        for chip in CHIPS:
            cache = tmp_path_factory.mktemp(chip)
            started[chip] = pool.submit(lanes.compile_for, chip, cache, "-rP")
        yield started


@pytest.mark.parametrize("lane", ["interpreter", *CHIPS])
def test_lane(lane, running, capsys):
    outcome = running[lane].result()
    with capsys.disabled():
        print(f"\n{lane}: {outcome.passed} cases passed, pytest's exit code {outcome.code}")
    print(outcome.output)
    assert outcome.code == 0
    assert outcome.passed > 0
