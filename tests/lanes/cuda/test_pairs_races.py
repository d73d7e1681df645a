"""Every way through the pairs kernels once, with few threads: what the tsan lane looks at."""

from __future__ import annotations

import pytest
import torch
from lanes.cuda import emulated
from lanes.cuda import emulated_pairs as pairs
from lanes.cuda.emulated_pairs import Problem

pytestmark = [
    pytest.mark.builds(pairs.BUILD, emulated.LANE),
    emulated.needed,
]


@pytest.mark.parametrize("reduce", [True, False])
def test_outer_paths(reduce: bool) -> None:
    """Two tiles of sources and two of targets, in an order of the threads that is as random as can be."""
    emulated.set_schedule((2, 1), pairs.BUILD)
    generator = torch.Generator().manual_seed(1)
    source, target = torch.randn(1, 33, generator=generator), torch.randn(1, 257, generator=generator)
    p = Problem(source, target, torch.rand(33, generator=generator), row_factor=torch.ones(1))
    losses, gradient = p.run(reduce)
    expected, expected_gradient = p.expected()
    torch.testing.assert_close(losses.reshape(1), expected.float())
    torch.testing.assert_close(gradient, expected_gradient.float())
    emulated.set_schedule((0, 0), pairs.BUILD)
