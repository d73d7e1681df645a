"""The emulator's own primitives do what the CUDA programming guide says, in every schedule."""

from __future__ import annotations

import pytest
import torch
from lanes.cuda import emulated

pytestmark = [
    pytest.mark.lane("CUDA C++ on the emulator, the emulator itself and planted bugs"),
    pytest.mark.builds("selftest", emulated.LANE),
    emulated.needed,
]


def run(which: int, schedule: tuple[int, int]) -> tuple[int, str, torch.Tensor]:
    library = emulated.load("selftest")
    library.emulator_set_order(*schedule)
    failures = torch.full((1024,), -1, dtype=torch.int32)
    status = library.selftest(which, emulated.ctypes.c_void_p(failures.data_ptr()))
    return status, library.emulator_last_error().decode(), failures


@pytest.mark.parametrize("schedule", [*emulated.SCHEDULES, (2, 3)])
@pytest.mark.parametrize(("which", "threads"), [(0, 256), (1, 768), (2, 768), (3, 32)])
def test_primitives(which: int, threads: int, schedule: tuple[int, int]) -> None:
    status, message, failures = run(which, schedule)
    assert (status, message) == (0, "")
    assert failures[:threads].unique().tolist() == [0], "source lines in selftest.cu, or -1 for threads that never ran"
    assert (failures[threads:] == -1).all()


@pytest.mark.parametrize(
    ("which", "reason"),
    [(10, "empty grid"), (11, "bad block size"), (12, "bad cluster size"), (13, "too much dynamic shared memory")],
)
def test_bad_launches_are_refused(which: int, reason: str) -> None:
    status, message, _ = run(which, (0, 0))
    assert status == 1
    assert reason in message
