"""What the machine can do, measured in the same run: the rates that all other numbers are read against."""

from __future__ import annotations

import statistics
from collections.abc import Callable

import torch

from .measure import make_stopwatch

REPEATS = 20


def ceilings(device: torch.device) -> dict[str, float]:
    """Of a copy, bytes read plus bytes written; of a product of bfloat16 matrices, 2 n^3 operations. Random numbers:
    a product of zeros takes less power, and its clocks are higher."""
    on_gpu = device.type == "cuda"
    elements, n = (2**30, 8192) if on_gpu else (2**24, 512)
    source = torch.randn(elements, device=device, dtype=torch.bfloat16)
    destination = torch.zeros_like(source)
    a, b = (torch.randn(n, n, device=device, dtype=torch.bfloat16) for _ in range(2))
    product = torch.zeros_like(a)
    stopwatch = make_stopwatch(device)

    def seconds(work: Callable[[], object]) -> float:
        for _ in range(3):
            work()
        return statistics.median(stopwatch(work) for _ in range(REPEATS))

    return {
        "copy GB/s": 2 * source.nbytes / seconds(lambda: destination.copy_(source)) / 1e9,
        f"bfloat16 product {n} x {n} x {n} TFLOP/s": 2 * n**3 / seconds(lambda: torch.mm(a, b, out=product)) / 1e12,
    }
