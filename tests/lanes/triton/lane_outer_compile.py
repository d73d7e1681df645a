"""What the pairs kernel compiles to for the GPU named by FASTLOSS_TEST_CHIP; run by test_lanes.py.

The gates: no spills, shared memory for the sums across threads only, and enough warps on the chip to hide the latency
of the arithmetic, which is all that there is.
"""

from __future__ import annotations

import os

import pytest
import torch
from lanes.triton.compile_only import CHIPS, compiling
from lanes.triton.kernels import outer

NAME = os.environ["FASTLOSS_TEST_CHIP"]
CHIP = CHIPS[NAME]
NVIDIA = CHIP.target.backend == "cuda"
CASES = {
    "200 x 200": (4096, 200, 200, torch.float32, True, True, 1.0),
    "200 x 200, none": (4096, 200, 200, torch.float32, False, True, 1.0),
    "forward": (4096, 200, 200, torch.bfloat16, True, False, 1.0),
    "8 x 8": (32, 8, 8, torch.bfloat16, True, True, 0.0),
    "strided": (32, 64, 64, torch.float32, True, True, 1.0),
    "fp64": (32, 64, 64, torch.float64, True, True, 1.0),
}


@pytest.mark.parametrize("case", CASES)
def test_kernel(case):
    loss = "iqn_loss" if case == "forward" else "quantile_huber_loss"
    rows, sources, targets, dtype, reduce, wanted, kappa = CASES[case]
    source, target = torch.empty(rows, sources, dtype=dtype), torch.empty(rows, targets, dtype=dtype)
    if case == "strided":
        source, target = source.T.contiguous().T, target[:, ::2]
    factors = torch.empty(rows, dtype=torch.float64 if dtype == torch.float64 else torch.float32)
    with compiling(CHIP) as compiled:
        outer.outer(source, target, [torch.empty(sources)], factors, loss, [kappa], 0.5, reduce, wanted)
    kernel, *sums = compiled
    print(f"{NAME} {case} {kernel}")
    assert kernel.kernel == "outer_kernel"
    assert [after.kernel for after in sums] == ["sum_kernel"] * len(sums)
    assert bool(sums) == reduce
    assert kernel.spills == 0
    assert kernel.shared <= 1024
    assert kernel.warps_on_chip >= (24 if dtype != torch.float64 else 12) if NVIDIA else 2
