"""The pairs kernels of csrc/cuda on the emulator: tiles and their edges, dtypes, strides, rows that are not there."""

from __future__ import annotations

import zlib

import pytest
import torch
from lanes.cuda import emulated
from lanes.cuda import emulated_pairs as pairs
from lanes.cuda.emulated import DTYPES
from lanes.cuda.emulated_pairs import Problem

pytestmark = [
    pytest.mark.lane("CUDA C++ on the emulator, pairs"),
    pytest.mark.builds(pairs.BUILD, emulated.LANE),
    emulated.needed,
]
# tiles of 32 sources and of 256 targets; the last one has partial sums of more rows than a block adds up at once
SIZES = [(1, 1, 1), (3, 33, 5), (2, 64, 256), (2, 31, 257), (1, 100, 600), (40, 8, 8)]


def problem(rows: int, sources: int, targets: int, dtype: torch.dtype = torch.float32, **more: object) -> Problem:
    seed = zlib.crc32(repr((rows, sources, targets, dtype)).encode())
    print(f"seed {seed}")
    generator = torch.Generator().manual_seed(seed)
    source, target = torch.randn(rows, sources, generator=generator), torch.randn(rows, targets, generator=generator)
    tau = torch.rand(rows, sources, generator=generator)
    return Problem(source.to(dtype), (2 * target).to(dtype), tau, **more)


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_outer_sizes(size: tuple[int, int, int]) -> None:
    for schedule in emulated.COMPARED_SCHEDULES:
        emulated.set_schedule(schedule, pairs.BUILD)
        problem(*size).check()
    emulated.set_schedule((0, 0), pairs.BUILD)


@pytest.mark.skipif(emulated.LANE != "plain", reason="half a million threads")
def test_more_tasks_than_blocks() -> None:
    p = problem(4100, 1, 1)
    losses, gradient = p.run(False)
    for actual, expected in zip((losses, gradient), p.expected(), strict=True):
        torch.testing.assert_close(actual, expected.float())


@pytest.mark.skipif(emulated.LANE != "plain", reason="half a million threads")
def test_more_tasks_than_a_block_adds() -> None:
    """Sums of blocks are beside those of tasks in the scratch."""
    p = problem(16385, 1, 1)
    loss, _ = p.run(True, wanted=False)
    torch.testing.assert_close(loss.double(), p.expected()[0].sum(), rtol=1e-6, atol=0)


@pytest.mark.parametrize("loss", ["quantile_huber_loss", "iqn_loss"])
@pytest.mark.parametrize("kappa", [0.0, 0.25, 1.0])
def test_losses(loss: str, kappa: float) -> None:
    problem(3, 40, 20, loss=loss, kappa=kappa).check()


@pytest.mark.parametrize(
    ("dtype", "target"), [*zip(DTYPES, DTYPES, strict=True), *zip(DTYPES, DTYPES[::-1], strict=True)], ids=str
)
def test_outer_dtypes(dtype: torch.dtype, target: torch.dtype) -> None:
    p = problem(2, 37, 21, dtype)
    p.target = p.target.to(target)
    p.tau = p.tau.to(dtype if dtype.itemsize > 2 else torch.float32)
    p.check()


def test_strides() -> None:
    p = problem(4, 36, 30)
    p.source = p.source.T.contiguous().T
    p.target = p.target[:, ::2]
    p.tau = p.tau[0]
    p.check()
    p.target = p.target[:1].expand(4, -1)
    p.check()


def test_rows_that_are_not_there() -> None:
    p = problem(4, 36, 30)
    p.row_factor = torch.tensor([0.5, 0.0, 2.0, 0.0])
    p.check()
    expected = p.run(False)
    p.source[1], p.target[3] = torch.nan, torch.nan
    for actual, wanted in zip(p.run(False), expected, strict=True):
        assert torch.equal(actual, wanted)


def test_schedules_give_the_same_bits() -> None:
    first: list[torch.Tensor] = []
    for schedule in emulated.COMPARED_SCHEDULES:
        emulated.set_schedule(schedule, pairs.BUILD)
        results = [*problem(3, 70, 300).run(True), *problem(3, 70, 300).run(False)]
        first = first or results
        assert all(torch.equal(a, b) for a, b in zip(first, results, strict=True))
    emulated.set_schedule((0, 0), pairs.BUILD)


def test_wrong_calls() -> None:
    p = problem(2, 3, 4)
    for status, change in ((-1, {"loss": b"unheard_of"}), (-2, {"parameter_count": 2}), (-5, {"operand_count": 2})):
        with pytest.raises(emulated.EmulatorError, match=f"status {status}"):
            p.run(True, **change)
