"""What the pairwise kernels compile to for the GPU named by FASTLOSS_TEST_CHIP; run by test_lanes.py.

The gates: no spills, shared memory within the chip's limit, at least 8 warps on a processor.
"""

from __future__ import annotations

import os
from types import SimpleNamespace

import pytest
import torch
from compile_only import CHIPS, compiling
from kernels import pairwise

NAME = os.environ["FASTLOSS_TEST_CHIP"]
CHIP = CHIPS[NAME]
NVIDIA = CHIP.target.backend == "cuda"
F32 = torch.float32


def vectors(size: int, width: int, dtype: torch.dtype) -> torch.Tensor:
    return torch.empty(size, width, dtype=dtype)


def operands(operation: str, width: int, dtype: torch.dtype) -> tuple[object, ...]:
    q, k = vectors(1024, width, dtype), vectors(2048, width, dtype)
    scale, target = torch.empty((), dtype=dtype), torch.zeros(1024, dtype=torch.long)
    labels = torch.zeros(2048, dtype=torch.long)
    return {
        "softmax": (q, k, None, scale, target, None, None, None, None, 0b1011),
        "excluded": (q, k, q, scale, target, target, target, labels, None, 0b1111),
        "self": (q, None, None, scale, target, None, None, None, None, 0b1001),
        "two_way": (q, vectors(1024, width, dtype), scale, None, 0b111),
        "sigmoid": (q, vectors(1024, width, dtype), scale, scale, None, 0b1111),
    }[operation]


# (operation, width, tf32): a compilation takes seconds, so the first for every chip, all of them for one
CASES = [("excluded", 256, NVIDIA), ("softmax", 128, False), ("two_way", 512, True)]


@pytest.mark.parametrize(("operation", "width", "tf32"), CASES if NAME == "sm_90" else CASES[:1])
def test_similarities(operation, width, tf32, monkeypatch):
    monkeypatch.setattr(pairwise, "precision", lambda a: "tf32" if tf32 else "ieee")
    launcher = "pairwise_softmax" if operation in ("softmax", "excluded", "self") else f"pairwise_{operation}"
    with compiling(CHIP) as compiled:
        getattr(pairwise, launcher)(*operands(operation, width, F32))
    assert {kernel.kernel for kernel in compiled} == {"sum_kernel", "gradient_kernel"}
    for kernel in compiled:
        print(f"{NAME} {operation} {width} {'tf32' if tf32 else 'fp32'} {kernel}")
        assert kernel.spills == 0
        assert kernel.shared <= CHIP.shared_limit
        assert kernel.warps_on_chip >= (8 if NVIDIA else 1)


@pytest.mark.parametrize(
    ("allowed", "dtype", "kind"), [(True, F32, "tf32"), (True, torch.float64, "ieee"), (False, F32, "ieee")]
)
def test_precision_is_that_of_torchs_products(allowed, dtype, kind, monkeypatch):
    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.setattr(torch.backends.cuda, "matmul", SimpleNamespace(allow_tf32=allowed))
    assert pairwise.precision(vectors(2, 2, dtype)) == kind
