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
COMPILED = {
    "row": ("lane_compile", ()),
    "pointwise": ("lane_pointwise_compile", ("-k", "test_skeleton")),
    "pairwise": ("lane_pairwise_compile", ()),
}
EVERY_LOSS = "every pointwise loss for sm_90"
LAWS = "laws of the pointwise losses"
# What the lanes have not tested themselves; the rest of the laws takes minutes in the interpreter.
POINTWISE_LAWS = "triton and (test_terms or broadcasting)"
# One case of each path of the launchers; the whole table takes minutes.
PAIRWISE_PATHS = (
    "triton and kernels_agree and (labels or queue or supcon_loss-triton or siglip or clip_loss-triton or iqn)"
)
INTERPRETED = {
    "pairwise": ("../test_pairwise", ("-k", PAIRWISE_PATHS, "-W", "ignore")),
    LAWS: ("../test_pointwise", ("-k", POINTWISE_LAWS, "-W", "ignore")),
    "row": ("lane_interpreter", ()),
    "pointwise": ("lane_pointwise", ()),
    "pointwise losses": ("lane_pointwise_losses", ()),
}
LANES = [EVERY_LOSS, *INTERPRETED, *(f"{skeleton} for {chip}" for chip in CHIPS for skeleton in COMPILED)]

pytestmark = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Future[lanes.Outcome]]]:
    """All lanes at once, as many at a time as there are workers."""
    with ThreadPoolExecutor(lanes.WORKERS) as pool:
        cache = tmp_path_factory.mktemp("losses")
        every = pool.submit(lanes.compile_for, "sm_90", "lane_pointwise_compile", cache, "-rP", "-k", "test_every_loss")
        started = {EVERY_LOSS: every}
        for name, (lane, options) in INTERPRETED.items():
            started[name] = pool.submit(lanes.interpret, lane, *options)
        for chip in CHIPS:
            for skeleton, (lane, options) in COMPILED.items():
                cache = tmp_path_factory.mktemp(chip)
                started[f"{skeleton} for {chip}"] = pool.submit(lanes.compile_for, chip, lane, cache, "-rP", *options)
        yield started


@pytest.mark.parametrize("lane", LANES)
def test_lane(lane, running, capsys):
    outcome = running[lane].result()
    with capsys.disabled():
        print(f"\n{lane}: {outcome.passed} cases passed, pytest's exit code {outcome.code}")
    print(outcome.output)
    assert outcome.code == 0
    assert outcome.passed > 0
