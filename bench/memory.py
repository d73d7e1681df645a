"""The peak memory of one call, over what was there before it."""

from __future__ import annotations

import ctypes
import gc
import statistics
import sys
from collections.abc import Callable

import torch


def peak_extra_bytes(call: Callable[[], object], device: torch.device, repeats: int = 3) -> int | None:
    """Bytes that `call` needs at its peak beyond those in use before it; None where that cannot be measured.

    CUDA: torch's allocator. Linux: resident memory, which sees every allocation, whoever made it: the kernel's
    high-water mark (VmHWM) is reset by writing 5 to clear_refs. Freed memory that malloc has kept would hide an
    allocation, so it is given back first. The kernel counts pages in batches per thread: expect +- 1 MiB.
    """
    if device.type == "cuda":
        return int(statistics.median(_cuda_peak(call, device) for _ in range(repeats)))
    if sys.platform.startswith("linux"):
        return int(statistics.median(_resident_peak(call) for _ in range(repeats)))
    return None


def _cuda_peak(call: Callable[[], object], device: torch.device) -> int:
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    call()
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) - before


def _resident_peak(call: Callable[[], object]) -> int:
    gc.collect()
    libc = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):  # glibc; musl gives large blocks back by itself
        libc.malloc_trim(0)
    with open("/proc/self/clear_refs", "w") as clear:
        clear.write("5")
    before = _status_bytes("VmRSS")
    call()
    return max(0, _status_bytes("VmHWM") - before)


def _status_bytes(key: str) -> int:
    with open("/proc/self/status") as status:
        for line in status:
            if line.startswith(key + ":"):
                return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status has no {key}")
