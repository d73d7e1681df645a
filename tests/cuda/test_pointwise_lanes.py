"""The pointwise tests under sanitizers; see test_lanes.py."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import emulated
import emulated_pointwise as pointwise
import pytest
import test_lanes

LANES = {
    "asan": (test_lanes.LANES["asan"][0], ["test_pointwise.py"], 250),
    "tsan": (test_lanes.LANES["tsan"][0], ["test_pointwise_races.py"], 5),
}


@pytest.mark.builds(pointwise.BUILD, "asan")
@pytest.mark.builds(pointwise.BUILD, "tsan")
@emulated.needed
@pytest.mark.skipif(emulated.LANE != "plain", reason="this is the subprocess of a lane")
def test_pointwise_lanes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(test_lanes, "LANES", LANES)
    monkeypatch.setattr(test_lanes, "BUILDS", (pointwise.BUILD,))
    with ThreadPoolExecutor() as pool:  # a core each
        for lane, summary in zip(LANES, pool.map(test_lanes.run_lane, LANES), strict=True):
            print(f"{lane}: {summary}")
