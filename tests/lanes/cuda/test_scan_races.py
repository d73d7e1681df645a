"""Both scan kernels once, with few threads: what the tsan lane looks at."""

from __future__ import annotations

import pytest
import torch
from lanes.cuda import emulated
from lanes.cuda import emulated_scan as scans

pytestmark = [
    pytest.mark.builds(scans.BUILD, emulated.LANE),
    emulated.needed,
]


@pytest.mark.parametrize("time_dim", [0, 1])
def test_scan_paths(time_dim: int) -> None:
    emulated.set_schedule((2, 1), scans.BUILD)
    x = torch.ones(2, 2)
    (y,) = scans.run("linear_scan", {"inputs": x, "coefficients": 0.5, "time_dim": time_dim})
    assert y.movedim(time_dim, 0).tolist() == [[1.5, 1.5], [1.0, 1.0]]
    emulated.set_schedule((0, 0), scans.BUILD)
