"""What the similarity kernels compile to for the GPU named by FASTLOSS_TEST_CHIP; run by test_lanes.py.

The gates: no spills, shared memory within the chip's limit, at least 8 warps on a processor.
"""

from __future__ import annotations

import os
from types import SimpleNamespace

import pytest
import torch
from lanes.triton.compile_only import CHIPS, compiling
from lanes.triton.kernels import similarity

NAME = os.environ["FASTLOSS_TEST_CHIP"]
CHIP = CHIPS[NAME]
NVIDIA = CHIP.target.backend == "cuda"
F32, F64 = torch.float32, torch.float64


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


# (operation, width, dtype, tf32): a compilation takes seconds, so the first for every chip, all of them for one
CASES = [
    ("excluded", 256, F32, NVIDIA),
    ("softmax", 128, F32, False),
    ("two_way", 512, F32, True),
    ("softmax", 128, F64, False),
]


@pytest.mark.parametrize(("operation", "width", "dtype", "tf32"), CASES if NAME == "sm_90" else CASES[:1])
def test_similarities(operation, width, dtype, tf32, monkeypatch):
    monkeypatch.setattr(similarity, "precision", lambda a: "tf32" if tf32 else "ieee")
    launcher = "similarity_softmax" if operation in ("softmax", "excluded", "self") else f"similarity_{operation}"
    with compiling(CHIP) as compiled:
        getattr(similarity, launcher)(*operands(operation, width, dtype))
    assert {kernel.kernel for kernel in compiled} == {"sum_kernel", "gradient_kernel"}
    for kernel in compiled:
        print(f"{NAME} {operation} {width} {'tf32' if tf32 else dtype} {kernel}")
        assert kernel.spills == 0
        assert kernel.shared <= CHIP.shared_limit
        assert kernel.warps_on_chip >= (8 if NVIDIA else 1)


@pytest.mark.parametrize(("allowed", "dtype", "kind"), [(True, F32, "tf32"), (True, F64, "ieee"), (False, F32, "ieee")])
def test_precision_is_that_of_torchs_products(allowed, dtype, kind, monkeypatch):
    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.setattr(torch.backends.cuda, "matmul", SimpleNamespace(allow_tf32=allowed))
    assert similarity.precision(vectors(2, 2, dtype)) == kind


@pytest.mark.parametrize(
    ("dtype", "tf32", "tiles", "outputs", "warps"),
    [(F32, True, (64, 64, 32), 256, 4), (F32, False, (32, 32, 32), 128, 8), (F64, False, (16, 16, 16), 64, 8)],
)
def test_tiles(dtype, tf32, tiles, outputs, warps, monkeypatch):
    """More would spill, or leave too few warps on a processor; fewer recompute more similarities."""
    launches = []

    class Launched:
        def __getitem__(self, grid):
            return lambda *tensors, **constants: launches.append((grid, constants))

    monkeypatch.setattr(similarity, "precision", lambda a: "tf32" if tf32 else "ieee")
    monkeypatch.setattr(similarity, "sum_kernel", Launched())
    monkeypatch.setattr(similarity, "gradient_kernel", Launched())
    a, b = vectors(1000, 512, dtype), vectors(2000, 512, dtype)
    similarity.sums(a, b, None, None)
    similarity.weighted(a, b, None, None)
    (sum_grid, of_sums), (gradient_grid, of_gradients) = launches
    rows = -(-1000 // tiles[0])
    assert (sum_grid, gradient_grid) == ((rows,), (rows, 512 // outputs))
    assert of_gradients["OUTPUTS"] == outputs
    assert (of_sums["num_warps"], of_gradients["num_warps"]) == (warps, 8)
    for constants in (of_sums, of_gradients):
        assert tuple(constants[name] for name in ("ROWS", "COLUMNS", "DEPTH")) == tiles
