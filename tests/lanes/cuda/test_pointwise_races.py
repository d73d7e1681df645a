"""Every way through the pointwise kernels once, with few threads: what the tsan lane looks at."""

from __future__ import annotations

import pytest
import torch
from lanes.cuda import emulated
from lanes.cuda import emulated_pointwise as pointwise
from lanes.cuda.emulated_pointwise import Problem, describe, parameters_of, values

pytestmark = [
    pytest.mark.lane("CUDA C++ on the emulator, pointwise"),
    pytest.mark.builds(pointwise.BUILD, emulated.LANE),
    emulated.needed,
]


@pytest.mark.parametrize(
    ("loss", "shape", "dtype"),
    [
        ("huber_loss", (3, 700), torch.float32),  # packs, and elements after them
        ("huber_loss", (3, 200), torch.float64),
        ("ppo_loss", (2, 1024), torch.bfloat16),  # packs only
        ("ppo_loss", (40,), torch.float32),  # one block
        ("ppo_loss", (30, 41), torch.float32),
    ],
)
def test_pointwise_paths(loss: str, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    seed = 1
    print(f"seed {seed}")
    emulated.set_schedule((2, seed), pointwise.BUILD)
    generator = torch.Generator().manual_seed(seed)
    p = Problem(loss, [values(shape, dtype, generator) for _ in range(describe(loss).operands)], [])
    p.parameters = parameters_of(loss)
    p.weight = values(shape[-1:], torch.bool, generator)
    p.masked = True
    p.check_elements()
    p.check_sums()
