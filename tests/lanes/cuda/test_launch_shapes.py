"""With how many blocks, threads and bytes the launchers of rows and pairs start a kernel: what no value can show."""

from __future__ import annotations

from typing import NamedTuple

import pytest
import torch
from lanes.cuda import emulated
from lanes.cuda import emulated_pairs as pairs
from lanes.cuda.emulated import A100, CLUSTERS, H100, NONE, RTX_4090, Device, Problem

pytestmark = [
    pytest.mark.lane("CUDA C++ on the emulator, rows"),
    pytest.mark.builds("kernels", emulated.LANE),
    emulated.needed,
]


class Shape(NamedTuple):
    blocks: int
    threads: int
    parts: int = 1
    cluster: int = 1
    shared: int = 0


def last() -> Shape:
    return Shape(*emulated.load("kernels").emulator_last_shape().contents)


def problem(shape: tuple[int, ...], dtype: torch.dtype, device: Device = H100, soft: bool = False) -> Problem:
    rows = shape[0] * (shape[2] if len(shape) == 3 else 1)
    target = torch.full(shape, 1 / shape[1], dtype=dtype) if soft else torch.zeros(rows, dtype=torch.int64)
    return Problem(torch.zeros(shape, dtype=dtype), target, device=device)


# The lanes of a row are the fewest, from 4 to 32, that read it in one pack each.
LANES = {
    ((64, 16), torch.float32, False): Shape(1, 256, shared=64 * (16 + 4) * 4),
    ((65, 16), torch.float32, False): Shape(2, 256, shared=64 * (16 + 4) * 4),
    ((64, 17), torch.float32, False): Shape(2, 256, shared=32 * (20 + 4) * 4),
    ((9, 1024), torch.bfloat16, True): Shape(2, 256, shared=2 * 8 * (1024 + 8) * 2),
}
# A thread has 4 packs in flight, so 128 threads have 4096 halves.
BLOCKS = [
    ((3, 16), torch.float64, H100, False, Shape(3, 128, shared=(16 + 2) * 8)),  # no lanes for doubles
    ((3, 4096), torch.bfloat16, H100, False, Shape(3, 128, shared=(4096 + 8) * 2)),
    ((3, 4097), torch.bfloat16, H100, False, Shape(3, 256, shared=(4104 + 8) * 2)),
    ((1, 8193), torch.bfloat16, H100, False, Shape(1, 512, shared=(8200 + 8) * 2)),
    # 114688 bytes of a row leave room for a second block, and 164864 are all that a block has.
    ((1, 57336), torch.bfloat16, H100, False, Shape(1, 512, shared=114688)),
    ((1, 57337), torch.bfloat16, H100, False, Shape(2, 512, cluster=2, shared=(28672 + 8) * 2)),
    ((1, 82424), torch.bfloat16, A100, False, Shape(1, 512, shared=164864)),
    ((1, 82425), torch.bfloat16, A100, False, Shape(1, 512)),
    # 99 KB: a row of 99328 bytes stays, a longer one is read twice.
    ((1, 49656), torch.bfloat16, RTX_4090, False, Shape(1, 512, shared=99328)),
    ((1, 49657), torch.bfloat16, RTX_4090, False, Shape(1, 512)),
    # The same with 1536 and 6144 bytes: 4 x 380 numbers, 8 x 1532, and of soft targets beside them 8 x 764.
    ((2, 1520), torch.float32, CLUSTERS, False, Shape(8, 128, cluster=4, shared=1536)),
    ((2, 1521), torch.float32, CLUSTERS, False, Shape(16, 128, cluster=8, shared=(192 + 4) * 4)),
    ((2, 12256), torch.float32, CLUSTERS, False, Shape(16, 128, cluster=8, shared=6144)),
    ((2, 12257), torch.float32, CLUSTERS, False, Shape(2, 512)),
    ((2, 6112), torch.float32, CLUSTERS, True, Shape(16, 128, cluster=8, shared=6144)),
    ((2, 6113), torch.float32, CLUSTERS, True, Shape(16, 128, cluster=8, shared=(768 + 4) * 4)),
]
# A part takes groups of 8 classes, as long as each has one.
COLUMNS = {
    (2, 15, 32): Shape(2, 32, 1),
    (2, 16, 32): Shape(2, 32, 2),
    (2, 64, 33): Shape(3, 32, 8),
}


@pytest.mark.parametrize(("shape", "dtype", "soft"), LANES)
def test_lanes(shape: tuple[int, ...], dtype: torch.dtype, soft: bool) -> None:
    problem(shape, dtype, soft=soft).fused(NONE)
    assert last() == LANES[shape, dtype, soft]


@pytest.mark.parametrize(("shape", "dtype", "device", "soft", "expected"), BLOCKS)
def test_shapes_of_blocks(
    shape: tuple[int, ...], dtype: torch.dtype, device: Device, soft: bool, expected: Shape
) -> None:
    problem(shape, dtype, device, soft).fused(NONE)
    assert last() == expected


def test_a_block_keeps_nothing_without_a_gradient() -> None:
    problem((3, 4097), torch.bfloat16).forward(NONE)
    assert last() == Shape(3, 256)


def test_accesses_of_a_warp_are_one_stretch() -> None:
    p = problem((2, 4096), torch.bfloat16)

    def run() -> list[torch.Tensor]:
        return [p.logits, p.fused(NONE)[1]]

    found = emulated.accesses_of_warps("kernels", run)
    assert len(found) == 2 * 2 * 4096 * 2 // 512
    for addresses in found:
        assert addresses == list(range(addresses[0], addresses[0] + 512, 16))


@pytest.mark.parametrize("shape", COLUMNS)
def test_columns(shape: tuple[int, ...]) -> None:
    problem(shape, torch.bfloat16).fused(NONE)
    assert last() == COLUMNS[shape]


@pytest.mark.parametrize(("length", "blocks"), [(4096, 1), (4097, 2)])
def test_launch_of_scale(length: int, blocks: int) -> None:
    emulated.scale(torch.ones(1, length), torch.tensor(2.0))
    assert last().blocks == blocks


@pytest.mark.parametrize(("rows", "blocks"), [(128, 1), (129, 2)])
def test_rows_of_pairs(rows: int, blocks: int) -> None:
    """A thread adds up the tiles of a row."""
    pairs.Problem(torch.zeros(rows, 1), torch.zeros(rows, 1), torch.zeros(rows, 1)).run(False)
    assert last() == Shape(blocks, 128)
