"""What the kernels of the row losses in steps compile to for the GPU named by FASTLOSS_TEST_CHIP; run by test_lanes.py.

The gates: no spills, shared memory for the sums across threads only, 128-bit loads of aligned rows.
"""

from __future__ import annotations

import os

import pytest
import torch
from lanes.triton.compile_only import CHIPS, Compiled, compiling
from lanes.triton.kernels import row, row_steps

from fastloss.core.registry import BY_KERNEL

NAME = os.environ["FASTLOSS_TEST_CHIP"]
CHIP = CHIPS[NAME]
row_steps.TRAPS = CHIP.target.backend == "cuda"  # decided by the torch build, which is that of the CPU here
BF16, F32, F64 = torch.bfloat16, torch.float32, torch.float64
# loss, parameters, shape, dtype, soft targets
CASES = {
    "long rows": ("cross_entropy", [0.0, 0.0, 0.0, 1.0], (64, 32000), BF16, False),
    "short rows": ("cross_entropy", [0.0, 0.0, 0.0, 1.0], (640, 1024), F32, False),
    "everything": ("cross_entropy", [0.1, 1e-3, 30.0, 2.0], (64, 32000), BF16, True),
    "strided": ("cross_entropy", [0.0, 0.0, 0.0, 1.0], (8, 19, 65536), F32, False),
    "fp64": ("cross_entropy", [0.0, 0.0, 0.0, 1.0], (64, 32000), F64, False),
    "focal": ("softmax_focal_loss", [1.5], (64, 32000), BF16, False),
    "log-prob": ("log_softmax_of_index", [1.0, 0.0, 1.0], (64, 32000), BF16, False),
    "all outputs": ("log_softmax_and_more", [1.0, 0.0, 1.0], (64, 32000), BF16, False),
    "margin": ("margin_softmax", [16.0, 1.0, 0.4, 0.0, 0.0, 1.0], (64, 32000), F32, False),
    "two rows": ("forward_kl", [1.0], (64, 32000), BF16, False),
    "mixture": ("jsd", [1.0, 0.5], (64, 32000), BF16, False),
    "skewed": ("skewed_reverse_kl", [1.0, 0.1], (64, 32000), F32, False),
    "mixture, strided": ("jsd", [1.0, 0.5], (8, 19, 65536), F32, False),
    "mixture, fp64": ("skewed_forward_kl", [1.0, 0.5], (64, 32000), F64, False),
    "variation": ("tvd", [1.0], (64, 32000), BF16, False),
}


def compile_case(loss: str, parameters: list[float], shape: tuple[int, ...], dtype: torch.dtype, soft: bool):
    classes, wide = shape[1], F64 if dtype == F64 else F32
    rows = torch.Size(shape).numel() // classes
    logits = torch.empty(shape, dtype=dtype)
    second = torch.empty_like(logits) if BY_KERNEL[loss].two_rows else None
    target = torch.empty_like(logits) if soft else torch.empty(rows, dtype=torch.long)
    how = (logits, second, target, torch.empty(classes, dtype=wide), loss, parameters, -100, 0, classes)
    with compiling(CHIP) as compiled:
        statistics = row.row_statistics(*how)
        outputs = row.row_outputs(statistics, target, loss, parameters, -100, classes)
        row.row_merge(torch.empty(4, *statistics.shape, dtype=wide), loss, parameters)
        row.row_gradient(outputs, statistics, *how)
    return compiled


@pytest.mark.parametrize("case", CASES)
def test_steps(case: str) -> None:
    compiled: list[Compiled] = compile_case(*CASES[case])
    names = ["row_statistics_kernel", "row_outputs_kernel", "row_merge_kernel", "row_gradient_kernel"]
    assert [kernel.kernel for kernel in compiled] == names
    for kernel in compiled:
        print(f"{NAME} {case} {kernel}")
        assert kernel.spills == 0
        assert kernel.shared <= 16384
        if case != "strided" and kernel.kernel in ("row_statistics_kernel", "row_gradient_kernel"):
            assert kernel.loads[128] > 0
            assert kernel.stores[128] > 0 or kernel.kernel == "row_statistics_kernel"
