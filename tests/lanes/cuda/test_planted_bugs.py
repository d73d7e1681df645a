"""Kernels with a bug each: who notices. A lane that stops noticing is a lane that no longer works.

"numbers": the output is wrong or differs between schedules. "emulator": the launch fails, with this in its message.
"asan", "ubsan", "tsan": that sanitizer reports, in its lane. A bug must be noticed by all that it lists, and by no lane
that it does not list.
"""

from __future__ import annotations

import dataclasses

import pytest
import torch
from lanes.cuda import emulated

pytestmark = [
    pytest.mark.lane("CUDA C++ on the emulator, the emulator itself and planted bugs"),
    pytest.mark.builds("bugs", emulated.LANE),
    pytest.mark.planted,
    emulated.needed,
]

BLOCK = [127.0 - i for i in range(128)]
WARP = [float(i ^ 31) for i in range(128)]
ROUNDS = [3 * (127.0 - i) + 3 for i in range(128)]
NEIGHBOUR = [float((i // 32 + 1) % 4) for i in range(128)]


@dataclasses.dataclass
class Bug:
    expected: list[float] | None = None  # output of a correct kernel, where the bug may show there
    numbers: bool = False
    emulator: str | None = None
    asan: str | None = None
    tsan: bool = False


BUGS = {
    "two_barriers": Bug(expected=ROUNDS),
    "both_cluster_barriers": Bug(expected=NEIGHBOUR),
    "writes_past_the_end": Bug(asan="heap-buffer-overflow"),
    "reads_past_the_end": Bug(asan="heap-buffer-overflow"),
    "no_barrier": Bug(expected=BLOCK, numbers=True, tsan=True),
    "no_second_barrier": Bug(expected=ROUNDS, numbers=True, tsan=True),
    "no_syncwarp": Bug(expected=WARP, numbers=True, tsan=True),
    "shuffle_for_barrier": Bug(expected=WARP, tsan=True),
    "two_pieces": Bug(emulator="takes 1024 bytes of dynamic shared memory, the launch gave 512"),
    "writes_into_the_next_piece": Bug(asan="heap-buffer-overflow"),
    "static_array_too_small": Bug(asan="heap-buffer-overflow"),
    "two_places_of_one_barrier": Bug(emulator="divergent barrier"),
    "barrier_in_a_ragged_loop": Bug(emulator="divergent barrier|deadlock"),
    "shuffle_in_half_a_warp": Bug(emulator="deadlock|has returned"),
    "shuffle_from_nobody": Bug(emulator="which is not in the mask ffffffff or has returned"),
    "misaligned_pack": Bug(emulator="misaligned 16-byte access"),
    "reads_uninitialised": Bug(expected=[1.0] * 128, numbers=True),
    "int_overflow": Bug(asan="signed integer overflow"),
    "same_output_from_all_blocks": Bug(tsan=True),
    "traps": Bug(emulator=r"block \(0,0,0\) thread \(77,0,0\): trap: something is wrong"),
    "no_first_cluster_barrier": Bug(expected=NEIGHBOUR, numbers=True, emulator="before it has started", tsan=True),
    "no_last_cluster_barrier": Bug(emulator="after it has ended", tsan=True),
    "half_a_cluster_barrier": Bug(emulator="returns between the halves of a cluster barrier"),
}


def run(name: str, schedule: tuple[int, int]) -> tuple[str, torch.Tensor]:
    """The emulator's message, empty if it has none, and the output."""
    library = emulated.load("bugs")
    library.emulator_set_order(*schedule)
    values, output = torch.arange(128.0), torch.zeros(128)
    pointers = (emulated.ctypes.c_void_p(t.data_ptr()) for t in (values, output))
    status = library.bug(name.encode(), *pointers, 128)
    assert status in (0, 1), "no such bug"
    return library.emulator_last_error().decode() if status == 1 else "", output


@pytest.mark.parametrize("name", BUGS)
def test_who_notices(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    bug = BUGS[name]
    if emulated.LANE == "plain" and bug.asan is not None:
        pytest.skip("undefined behaviour: only the asan lane may run it")
    messages, outputs = zip(*(run(name, schedule) for schedule in emulated.SCHEDULES), strict=True)
    report = capfd.readouterr().err
    print(messages, report[:3000], sep="\n")

    own = [m for m in messages if m and "AddressSanitizer" not in m]
    if bug.emulator is None:
        assert not own
    else:
        assert own, "the emulator did not notice in any schedule"
        matcher = pytest.raises(AssertionError, match=bug.emulator)
        for message in own:
            with matcher:
                raise AssertionError(message)
    if bug.expected is not None:
        expected = torch.tensor(bug.expected)
        wrong = any(not torch.equal(o, expected) for o, m in zip(outputs, messages, strict=True) if not m)
        assert wrong == bug.numbers or (bug.numbers and own)
    if emulated.LANE == "asan":
        assert (bug.asan or "") in report
        assert bool(report) == (bug.asan is not None)
    if emulated.LANE == "tsan":
        assert ("ThreadSanitizer: data race" in report) == bug.tsan
