"""What the kernels of recurrences over time compile to for the GPU named by FASTLOSS_TEST_CHIP; run by test_lanes.py.

The gates: no spills, one read of each input, and shared memory for what crosses threads only.
"""

from __future__ import annotations

import os

import pytest
import torch
from lanes.triton.compile_only import CHIPS, compiling
from lanes.triton.kernels import scan

from fastloss.operators.scan import ScanOptions

NAME = os.environ["FASTLOSS_TEST_CHIP"]
CHIP = CHIPS[NAME]
# shape, time_dim, dtype, loss, flags, ragged
CASES = {
    "columns": ((1024, 4096), 0, torch.float32, "gae", (), False),
    "columns, flags": ((128, 4096), 0, torch.bfloat16, "gae", ("terminated", "truncated", "there"), False),
    "blocks": ((512, 8192), 1, torch.float32, "gae", (), False),
    "blocks, flags": ((512, 8192), 1, torch.bfloat16, "vtrace", ("terminated", "truncated", "there"), False),
    "blocks of columns": ((4096, 64), 0, torch.float32, "retrace", ("terminated",), False),
    "ragged": ((9000,), 0, torch.float32, "upgo", ("there",), True),
    "fp64": ((64, 300), 1, torch.float64, "lambda_returns", (), False),
}
OPERANDS = {"gae": (3, 2, ()), "vtrace": (4, 2, (1.0, 1.0, 1.0)), "retrace": (4, 2, (1.0,)), "upgo": (3, 1, ()),
            "lambda_returns": (2, 2, ())}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_scan_kernel(case):
    shape, time_dim, dtype, loss, flags, ragged = CASES[case]
    tensors, rates, parameters = OPERANDS[loss]
    operands = [torch.empty(shape, dtype=dtype) for _ in range(tensors)]
    ends = {name: torch.empty(shape, dtype=torch.bool) for name in flags}
    options = ScanOptions(
        (*[0.0] * tensors, *[0.9] * rates), (1 << tensors) - 1, ends.get("terminated"), ends.get("truncated"),
        ends.get("there"), torch.zeros(9, dtype=torch.int64) if ragged else None, loss, parameters, time_dim, True,
        2 if loss in ("gae", "vtrace") else 1, 0,
    )  # fmt: skip
    with compiling(CHIP) as compiled:
        scan.scan(operands, *options)
    (kernel,) = compiled
    print(f"{NAME} {case} {kernel}")
    assert kernel.kernel == ("column_kernel" if case.startswith("columns") else "block_kernel")
    assert kernel.spills == 0
    assert kernel.shared <= 16 * 1024
