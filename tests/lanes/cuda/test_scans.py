"""The scan kernels of csrc/cuda on the emulator: every function by loops, both kernels, edges of lanes and of warps."""

from __future__ import annotations

import zlib
from typing import Any

import pytest
import torch
from cases import RETURNS, Case
from cases.case import Arguments
from cases.rl.returns import by_loops
from lanes.cuda import emulated
from lanes.cuda import emulated_scan as scans
from support import DTYPES, assert_close, to
from torch import Tensor

pytestmark = [
    pytest.mark.lane("CUDA C++ on the emulator, recurrences over time"),
    pytest.mark.builds(scans.BUILD, emulated.LANE),
    emulated.needed,
]
SCANS = [case for case in RETURNS if case.skeleton]
GAE = next(case for case in SCANS if case.name == "rl.gae")


def generator(*what: object) -> torch.Generator:
    seed = zlib.crc32(repr(what).encode())
    print(f"seed {seed}")
    return torch.Generator().manual_seed(seed)


def run(case: Case, arguments: Arguments, **options: Any) -> list[Tensor]:
    return scans.run(case.name.removeprefix("rl."), {**case.options, **arguments, **options})


@pytest.mark.parametrize("case", SCANS, ids=str)
def test_scans_by_loops_on_the_emulator(case: Case) -> None:
    for schedule in emulated.COMPARED_SCHEDULES[-2:]:
        emulated.set_schedule(schedule, scans.BUILD)
        for dtype in DTYPES:
            arguments = to(case.build(generator(str(case)), case.shape), "cpu", dtype)
            expected = by_loops(case, to(arguments, "cpu", torch.float64))
            for x, right in zip(run(case, arguments), expected, strict=True):
                assert_close(x, right, dtype)
    emulated.set_schedule((0, 0), scans.BUILD)


# a thread each, and a warp each: 4 steps of a lane, 128 of a warp, 128 threads of a block
@pytest.mark.parametrize("time_dim", [0, 1])
@pytest.mark.parametrize(("steps", "count"), [(1, 1), (7, 130), (9, 5), (128, 2), (129, 3), (300, 2)])
def test_lanes_and_warps_of_steps(steps: int, count: int, time_dim: int) -> None:
    made = GAE.build(generator(steps, count), (steps, count))
    mask = torch.rand(steps, count, generator=generator("mask")) < 0.7
    for flags in ((), ("terminated", "truncated", "mask")):
        given = {k: x for k, x in {**made, "mask": mask}.items() if x.is_floating_point() or k in flags}
        expected = by_loops(GAE, given)
        turned = {k: x.movedim(0, time_dim).contiguous() for k, x in to(given, "cpu", torch.float32).items()}
        for x, right in zip(run(GAE, turned, time_dim=time_dim), expected, strict=True):
            assert_close(x.movedim(time_dim, 0), right, torch.float32, terms=8.0)


@pytest.mark.parametrize("time_dim", [0, 1])
def test_a_sequence_has_its_bits_in_every_batch_on_the_emulator(time_dim: int) -> None:
    made = to(GAE.build(generator("batches"), (40, 9)), "cpu", torch.float32)
    made = {k: x.movedim(0, time_dim).contiguous() for k, x in made.items()}
    whole = run(GAE, made, time_dim=time_dim)
    part = {k: x.narrow(1 - time_dim, 3, 2).contiguous() for k, x in made.items()}
    for x, right in zip(run(GAE, part, time_dim=time_dim), whole, strict=True):
        assert torch.equal(x, right.narrow(1 - time_dim, 3, 2))


def test_packed_sequences_stay_inside_the_tensors() -> None:
    """Nothing checks the starts on a GPU: wrong ones give wrong numbers, and no access outside."""
    x = torch.randn(3, 20, generator=generator("starts"))
    call = {"rewards": x[0], "values": x[1], "next_values": x[2]}
    for starts in ([0, 5, 20], [0, 0, 20]):
        found = run(GAE, {**call, "cu_seqlens": torch.tensor(starts)})
        for y, right in zip(found, by_loops(GAE, {**to(call, "cpu", torch.float64),
                                                  "cu_seqlens": torch.tensor(starts)}), strict=True):  # fmt: skip
            assert_close(y, right, torch.float32)
    for starts in ([-3, 5, 40], [9, 4, 50], [30, 60, 90]):
        wrong = torch.tensor(starts)
        scans.run("gae", {**call, "cu_seqlens": torch.tensor([0, 5, 20])}, starts=wrong.data_ptr())


def test_a_wrong_scan_is_refused() -> None:
    made = to(GAE.build(generator("wrong"), (3, 2)), "cpu", torch.float32)
    for change in ({"loss": b"none"}, {"parameter_count": 1}, {"operand_count": 3}, {"output_count": 1}):
        with pytest.raises(emulated.EmulatorError, match="status -"):
            scans.run("gae", made, **change)
