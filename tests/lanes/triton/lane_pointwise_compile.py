"""What the pointwise kernels compile to for the GPU named by FASTLOSS_TEST_CHIP; run by test_lanes.py.

The gates: no spills, 128-bit accesses of aligned tensors, no exchange between threads but for the sums, and enough
warps on the chip to keep its memory busy. The skeleton is compiled for every chip, every loss for EVERY_LOSS_ON.
"""

from __future__ import annotations

import os
import warnings
from collections import Counter
from dataclasses import dataclass

import pytest
import torch
from cases import FUSED
from lanes.triton.compile_only import CHIPS, Compiled, compiling
from lanes.triton.kernels import pointwise
from torch import Tensor

import fastloss.skeletons.pointwise

NAME = os.environ["FASTLOSS_TEST_CHIP"]
CHIP = CHIPS[NAME]
NVIDIA = CHIP.target.backend == "cuda"
EVERY_LOSS_ON = "sm_90"
BF16, F32, F64 = torch.bfloat16, torch.float32, torch.float64

pointwise.TRAPS, pointwise.WARPS = (
    (True, 4) if NVIDIA else (False, 2)
)  # else decided by the torch build: here the CPU's

EVEN, ODD = 1 << 20, (1 << 20) + 3


@dataclass(frozen=True)
class Case:
    shape: tuple[int, ...]
    dtypes: tuple[torch.dtype, ...] = (BF16, BF16)
    warps: int = 40  # at least so many must fit on an SM
    wide_loads: int = 1  # at least so many 128-bit loads
    wide_stores: int = 1
    narrow_loads: int = 0  # at most so many others; the last elements of an odd count are one packet more
    narrow_stores: int = 0
    masked: bool = False
    strides: tuple[tuple[int, ...], ...] = ()
    reduce: bool = True
    wanted: int = 1
    rest: tuple[int, ...] | None = None  # shape of the second operand
    shared: int = 256  # bytes: the sums of the warps; a change of layout takes kilobytes


CASES = {
    "bf16": Case((EVEN,), wide_loads=2, wide_stores=1, narrow_stores=1),
    "fp32": Case((EVEN,), (F32, F32), wide_loads=4, wide_stores=2, narrow_stores=1),
    "bf16 and fp32": Case((EVEN,), (BF16, F32), wide_loads=3, wide_stores=1, narrow_stores=1),
    "bf16 and fp64": Case((EVEN,), (BF16, F64), wide_loads=2, wide_stores=0, narrow_loads=1, narrow_stores=2),
    "fp64": Case((EVEN,), (F64, F64), wide_loads=4, wide_stores=2, narrow_stores=1),
    "forward": Case((EVEN,), wide_loads=2, wide_stores=1, reduce=False, wanted=0),
    "odd": Case((ODD,), wide_loads=2, wide_stores=1, narrow_loads=4, narrow_stores=3),
    "mask": Case((EVEN,), wide_loads=2, wide_stores=1, narrow_loads=1, narrow_stores=1, masked=True),
    "both gradients": Case((EVEN,), (F32, F32), wide_loads=4, wide_stores=4, narrow_stores=1, wanted=3),
    "a row": Case((1024, 4096), rest=(4096,), wide_loads=2, wide_stores=1, narrow_stores=1),
    "a column": Case((1024, 4096), rest=(1024, 1), wide_stores=1, narrow_loads=1, narrow_stores=1),
    "padded rows": Case((1024, 4096), strides=((4360, 1), (4104, 1)), wide_loads=2, narrow_stores=1),
    "channels": Case((64, 3, 64, 64), rest=(3, 1, 1), narrow_loads=2, narrow_stores=1),
    "transposed": Case(
        (1024, 4096), warps=28, strides=((4096, 1), (1, 1024)), narrow_loads=8, narrow_stores=1, shared=4096
    ),
}


def gate(compiled: Compiled, warps: int, shared: int = 256) -> None:
    print(f"{NAME} {compiled}")
    assert compiled.spills == 0
    assert compiled.shared <= shared
    assert compiled.warps_on_chip >= (warps if NVIDIA else 4)


def narrow(accesses: Counter[int]) -> int:
    return sum(count for bits, count in accesses.items() if bits < 128)


def operand(shape: tuple[int, ...], dtype: torch.dtype, strides: tuple[int, ...] | None) -> Tensor:
    return torch.empty(shape, dtype=dtype) if strides is None else torch.empty_strided(shape, strides, dtype=dtype)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_skeleton(case):
    strides = case.strides or (None, None)
    operands = [
        operand(case.shape, case.dtypes[0], strides[0]), operand(case.rest or case.shape, case.dtypes[1], strides[1])
    ]  # fmt: skip
    weight = torch.empty(case.shape, dtype=torch.bool) if case.masked else None
    with compiling(CHIP) as compiled:
        pointwise.pointwise(
            operands, weight, None, "huber_loss", [0.0, 0.0], [0.5], 3, case.wanted, case.masked, 0.5, case.reduce,
            False, 3,
        )  # fmt: skip
    kernel, *finish = compiled
    assert [after.kernel for after in finish] == ["finish_kernel"] * case.reduce
    gate(kernel, case.warps, case.shared)
    for after in finish:
        gate(after, 16)
    assert not kernel.traps
    assert kernel.loads[128] >= case.wide_loads
    assert kernel.stores[128] >= case.wide_stores
    assert narrow(kernel.loads) <= case.narrow_loads
    assert narrow(kernel.stores) <= case.narrow_stores


def calls() -> dict[str, fastloss.skeletons.pointwise.PointwiseCall]:
    """A call of every loss, by the kernel's name."""
    found = {}
    for case in (case for case in FUSED if case.skeleton == "pointwise"):
        made = case.make(torch.Generator().manual_seed(0))
        leaves = {
            name: made[name].requires_grad_() for name in case.differentiable if isinstance(made.get(name), Tensor)
        }
        with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            patch.setattr(fastloss.core.arguments, "SMALL_ON_CPU", 0)
            _, call = case.loss.resolve((), {**made, **leaves, **case.options})
        found.setdefault(call.plan.problem.loss, call)
    return found


@pytest.mark.skipif(NAME != EVERY_LOSS_ON, reason=f"every loss is compiled for {EVERY_LOSS_ON}")
@pytest.mark.parametrize("name", calls() if NAME == EVERY_LOSS_ON else [])
def test_every_loss(name):
    """Forward and all gradients of bf16, with the metrics that there are, under a mask."""
    call = calls_made[name]
    how = call.plan.problem
    operands = [torch.empty(EVEN, dtype=BF16) for _ in how.names]
    described = pointwise.declared(name)
    with compiling(CHIP) as compiled:
        pointwise.pointwise(
            operands, torch.empty(EVEN, dtype=torch.bool), None, name, how.constants, how.parameters, how.present,
            how.wanted_operands, True, 0.5, True, bool(described.metrics), 0,
        )  # fmt: skip
    kernel, finish = compiled
    gate(kernel, 12)
    gate(finish, 16)
    assert kernel.traps == (described.requirement is not None)
    assert kernel.loads[128] > 0  # not one an operand: a loss may not use all
    assert kernel.stores[128] >= how.wanted_operands.bit_count()
    assert narrow(kernel.loads) <= 1  # the mask


calls_made = calls()
