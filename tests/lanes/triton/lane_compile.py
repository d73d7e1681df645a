"""What the Triton kernels compile to for the GPU named by FASTLOSS_TEST_CHIP; run by test_lanes.py, one process a chip.

The gates: no spills, shared memory within the chip's limit, 128-bit accesses of aligned and of misaligned rows, and
enough programs on the chip to keep its memory busy. Figures are printed: they are counts of a compiler, not timings.
"""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass

import pytest
import torch
from lanes.triton.compile_only import CHIPS, Compiled, compiling
from lanes.triton.kernels import row
from lanes.triton.kernels import scale as scaling

NAME = os.environ["FASTLOSS_TEST_CHIP"]
CHIP = CHIPS[NAME]
NVIDIA = CHIP.target.backend == "cuda"
NONE, MEAN, SUM = 0, 1, 2
PLAIN = [0.0, 0.0, 0.0, 1.0]
EVERYTHING = [0.1, 1e-3, 30.0, 2.0]
BF16, F32, F64 = torch.bfloat16, torch.float32, torch.float64

row.TRAPS = NVIDIA  # decided by the torch build, which is that of the CPU here


@dataclass(frozen=True)
class Case:
    operation: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    kernel: str
    warps: int  # at least so many must fit on an SM
    narrow_loads: int  # at most so many loads of less than 128 bits (targets, edges, single logits)
    narrow_stores: int  # likewise (losses, states, edges)
    parameters: tuple[float, ...] = tuple(PLAIN)
    soft: bool = False
    weighted: bool = False
    loss: str = "cross_entropy"


FOCAL = {"loss": "softmax_focal_loss", "parameters": (1.5,), "weighted": True}
EVERY = {"parameters": tuple(EVERYTHING), "soft": True, "weighted": True}
CASES = {
    "resident, aligned": Case("forward_backward", (64, 4096), BF16, "resident", 24, 2, 1),
    "resident, forward": Case("forward", (64, 4096), BF16, "resident", 40, 2, 3),
    "resident, backward": Case("backward", (64, 4096), BF16, "resident", 40, 6, 0),
    "resident, edges": Case("forward_backward", (64, 4097), BF16, "resident", 24, 10, 2),
    "resident, 1000 classes": Case("forward_backward", (64, 1000), BF16, "resident", 32, 3, 1),
    "resident, fp32": Case("forward_backward", (64, 8192), F32, "resident", 32, 2, 1),
    "resident, everything": Case("forward_backward", (64, 4096), BF16, "resident", 16, 0, 1, **EVERY),
    "streaming, forward": Case("forward", (64, 32000), BF16, "streaming", 40, 2, 6),
    "streaming, aligned": Case("forward_backward", (64, 32000), BF16, "streaming", 32, 2, 2),
    "streaming, backward": Case("backward", (64, 32000), BF16, "streaming", 32, 4, 0),
    "streaming, edges": Case("forward_backward", (64, 50257), BF16, "streaming", 24, 3, 4),
    "streaming, in place": Case("forward_backward_", (64, 50257), BF16, "streaming", 24, 3, 4),
    "streaming, fp32": Case("forward_backward", (64, 32000), F32, "streaming", 24, 2, 2),
    "streaming, fp64": Case("forward_backward", (64, 32000), F64, "streaming", 16, 2, 2),
    "streaming, softcap": Case("forward_backward", (64, 32000), BF16, "streaming", 24, 2, 2, (0.0, 0.0, 30.0, 1.0)),
    "streaming, everything": Case("forward_backward", (64, 32000), BF16, "streaming", 16, 0, 1, **EVERY),
    "strided": Case("forward_backward", (8, 19, 65536), BF16, "strided", 12, 8, 8),
    "strided, fp32": Case("forward_backward", (8, 80, 900), F32, "strided", 12, 4, 4),
    "strided, everything": Case("forward_backward", (8, 19, 65536), BF16, "strided", 12, 8, 8, **EVERY),
    "resident, focal": Case("forward_backward", (64, 4096), BF16, "resident", 24, 3, 1, **FOCAL),
    "resident, focal, backward": Case("backward", (64, 4096), BF16, "resident", 24, 7, 0, **FOCAL),
    "streaming, focal": Case("forward_backward", (64, 32000), BF16, "streaming", 24, 4, 2, **FOCAL),
    "streaming, focal, backward": Case("backward", (64, 32000), BF16, "streaming", 24, 6, 0, **FOCAL),
    "strided, focal": Case("forward_backward", (8, 19, 65536), BF16, "strided", 8, 16, 8, **FOCAL),
    # six numbers of each of a thread's 8 rows: upstream, maximum, log-sum, class weight, target, and the target's logit
    "strided, focal, backward": Case("backward", (8, 19, 65536), BF16, "strided", 8, 48, 8, **FOCAL),
}


def compile_case(case: Case) -> list[Compiled]:
    classes = case.shape[1]
    rows = torch.Size(case.shape).numel() // classes
    dtype = F64 if case.dtype == F64 else F32
    logits = torch.empty(case.shape, dtype=case.dtype)
    target = torch.empty_like(logits) if case.soft else torch.empty(rows, dtype=torch.long)
    weight = torch.empty(classes, dtype=dtype) if case.weighted else None
    loss = (case.loss, list(case.parameters), -100)
    with compiling(CHIP) as compiled:
        if case.operation == "backward":
            grad_loss, state = torch.empty(rows, dtype=dtype), torch.empty(2, rows, dtype=dtype)
            row.row_backward(grad_loss, logits, target, weight, state, *loss)
        else:
            reduction = NONE if case.operation == "forward" else SUM
            getattr(row, f"row_{case.operation}")(logits, target, weight, *loss, reduction)
    return compiled


def gate(compiled: Compiled) -> None:
    print(f"{NAME} {compiled}")
    assert compiled.spills == 0
    assert compiled.shared <= CHIP.shared_limit


def narrow(accesses: Counter[int]) -> int:
    return sum(count for bits, count in accesses.items() if bits < 128)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_row_kernel(case):
    compiled, *sums = compile_case(case)
    assert compiled.kernel == f"{case.kernel}_kernel"
    assert [kernel.kernel for kernel in sums] == ["sum_kernel"] * len(sums)
    gate(compiled)
    assert compiled.loads[128] > 0
    assert narrow(compiled.loads) <= case.narrow_loads
    assert (compiled.stores[128] > 0) == (case.operation != "forward")
    assert narrow(compiled.stores) <= case.narrow_stores
    assert compiled.warps_on_chip >= (case.warps if NVIDIA else 4)
    assert compiled.traps == (NVIDIA and not case.soft)


@pytest.mark.parametrize("shape", [(64, 4096), (64, 32000), (8, 19, 65536)], ids=["resident", "streaming", "strided"])
def test_threads_wait_before_they_overwrite_logits(shape):
    """A thread may still read what another one overwrites; the interpreter, tile after tile, cannot see it."""
    target = torch.empty(torch.Size(shape).numel() // shape[1], dtype=torch.long)
    with compiling(CHIP) as compiled:
        for operation in (row.row_forward_backward, row.row_forward_backward_):
            operation(torch.empty(shape, dtype=BF16), target, None, "cross_entropy", PLAIN, -100, SUM)
    apart, in_place = (kernel for kernel in compiled if kernel.kernel != "sum_kernel")
    assert in_place.barriers > apart.barriers


def test_sums_and_scale():
    with compiling(CHIP) as compiled:
        logits, target = torch.empty(100_000, 16), torch.empty(100_000, dtype=torch.long)
        row.row_forward(logits, target, torch.empty(16), "cross_entropy", PLAIN, -100, MEAN)
        scaling.scale_(torch.empty(64, 32000, dtype=BF16), torch.empty(()))
    names = ["resident_kernel", "target_weight_kernel", "sum_kernel", "sum_kernel", "sum_kernel", "scale_kernel"]
    assert [kernel.kernel for kernel in compiled] == names
    for kernel in compiled:
        gate(kernel)
    scale = compiled[-1]
    assert scale.loads[128] > 0
    assert scale.stores[128] > 0
