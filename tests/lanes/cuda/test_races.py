"""Every kernel path once, with few threads: ThreadSanitizer takes about 2000 a launch. What the tsan lane looks at."""

from __future__ import annotations

import pytest
import torch
from lanes.cuda import emulated
from lanes.cuda.emulated import GRID, H100, IGNORE, MEAN, NONE, TWO_READS, Device, Problem

pytestmark = [
    pytest.mark.lane("CUDA C++ on the emulator, rows"),
    pytest.mark.builds("kernels", emulated.LANE),
    emulated.needed,
]
# Room for 3 KB of a row in a block: 1100 floats are for 2 blocks, with a soft target for 4. A thread takes 1.2 MB.
SMALL_CLUSTERS = Device(90, 4, 8192, 2 * (2048 + 3072), GRID, None)


@pytest.mark.parametrize("soft", [False, True], ids=["index", "soft"])
@pytest.mark.parametrize("padding", [0, 3], ids=["aligned", "misaligned"])
@pytest.mark.parametrize(
    ("shape", "device"),
    [((10, 45), H100), ((2, 1100), H100), ((2, 1100), SMALL_CLUSTERS), ((2, 1100), TWO_READS), ((2, 40, 20), H100)],
    ids=["lanes", "block", "cluster", "two_reads", "class_stride"],
)
def test_row_paths(shape: tuple[int, ...], device: Device, padding: int, soft: bool) -> None:
    seed = 1
    print(f"seed {seed}")
    torch.manual_seed(seed)
    emulated.set_schedule((2, seed))
    rows = torch.Size(shape).numel() // shape[1]
    logits = emulated.placed(torch.randn(shape), 0, padding)
    target = torch.softmax(torch.randn(shape), 1) if soft else torch.randint(0, shape[1], (rows,))
    if not soft:
        target[1] = IGNORE
    p = Problem(logits, target, torch.rand(shape[1]) + 0.5, smoothing=0.1, device=device)
    loss, state = p.forward(NONE, with_state=True)
    emulated.assert_close(loss, p.reference(NONE)[0], 20)
    emulated.assert_close(p.fused(MEAN)[1], p.reference(MEAN)[1], 20)
    p.fused_in_place(MEAN)
    p.backward(torch.ones(rows), state)


def test_races_of_scale() -> None:
    emulated.set_schedule((2, 1))
    x = torch.randn(3, 3000)
    expected = x * 0.5
    emulated.scale(x, torch.tensor(0.5))
    assert torch.equal(x, expected)
