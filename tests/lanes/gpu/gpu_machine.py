"""What the tests of this folder need of a GPU. In a rehearsal (FASTLOSS_GPU_REHEARSAL=1) they run on the CPU instead,
so that a slip in a test shows before a GPU is there; what only a GPU has is left out here, and nowhere else."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch
from support import BACKENDS as ALL_BACKENDS
from support import generator
from torch import Tensor

REHEARSAL = os.environ.get("FASTLOSS_GPU_REHEARSAL") == "1"
DEVICE = "cpu" if REHEARSAL else "cuda"
PRESENT = REHEARSAL or torch.cuda.is_available()
BACKENDS = [name for name, device in ALL_BACKENDS if device == DEVICE]

needed = [pytest.mark.lane("on a GPU"), pytest.mark.skipif(not PRESENT, reason="no CUDA device")]
backends = pytest.mark.parametrize("backend", BACKENDS or [pytest.param("none", marks=pytest.mark.skip("no GPU"))])


def random_logits(name: str, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return (torch.randn(shape, generator=generator(name), dtype=torch.float64) * 3).to(DEVICE, dtype)


def random_index(name: str, classes: int, *shape: int, ignored: float = 0.0) -> Tensor:
    random = generator(f"{name} index")
    target = torch.randint(classes, shape, generator=random)
    hidden = torch.rand(shape, generator=random) < ignored
    hidden.view(-1)[0] = False  # one row counts: the mean is a number
    return target.masked_fill(hidden, -100).to(DEVICE)


def synchronize() -> None:
    if not REHEARSAL:
        torch.cuda.synchronize()


@contextmanager
def no_synchronisation() -> Iterator[None]:
    """An error for whatever in torch would wait for the device."""
    if REHEARSAL:
        yield
        return
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)


def captured(work: Callable[[], None]) -> Callable[[], None]:
    """The work as a CUDA graph: call it to replay. The work must not return new tensors, but fill given ones."""
    if REHEARSAL:
        return work
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):  # what the first calls compile and load must not happen during the capture
        for _ in range(3):
            work()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work()
    return graph.replay


@contextmanager
def late_stream() -> Iterator[None]:
    """A stream other than the default one, on which everything begins some 30 ms from now."""
    if REHEARSAL:
        yield
        return
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(50_000_000)  # clock cycles
        yield
    stream.synchronize()


def free_bytes() -> int:
    if REHEARSAL:
        return 1 << 30
    torch.cuda.empty_cache()
    return torch.cuda.mem_get_info()[0]


def poison(tensor_bytes: int) -> None:
    """Leaves NaN in the memory that torch hands out next for tensors of this size: an unwritten output shows."""
    torch.full((tensor_bytes // 4 + 1,), float("nan"), device=DEVICE)


def peak_bytes(work: Callable[[], object]) -> int | None:
    """Of torch's allocator beyond what is allocated now; None in a rehearsal."""
    if REHEARSAL:
        work()
        return None
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    work()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before
