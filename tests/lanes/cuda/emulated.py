"""The launchers of csrc/cuda on torch CPU tensors, through ctypes and the emulator, and a float64 reference.

FASTLOSS_EMULATOR_LANE (plain, asan, tsan) says which build is loaded; test_lanes.py sets it for its subprocesses.
"""

from __future__ import annotations

import ctypes
import dataclasses
import functools
import os
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from lanes.cuda import cuda_build

LANE = os.environ.get("FASTLOSS_EMULATOR_LANE", "plain")
NONE, MEAN, SUM = 0, 1, 2
DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]
SCHEDULES = [(0, 0), (1, 0), (2, 1), (2, 2)]  # forward, reverse, random with two seeds
# What AddressSanitizer finds does not depend on the schedule, and it takes three times as long.
COMPARED_SCHEDULES = SCHEDULES if LANE == "plain" else [(2, 1)]
IGNORE = -100
NAN = float("nan")

# Skips a test where the emulator cannot be built, and says why.
needed = pytest.mark.skipif(
    cuda_build.missing_emulator_tools() is not None, reason=str(cuda_build.missing_emulator_tools())
)


class EmulatorError(RuntimeError):
    """What the emulator has to say about a kernel."""


class Matrix(ctypes.Structure):
    _fields_ = [("data", ctypes.c_void_p), ("outer", ctypes.c_longlong), ("step", ctypes.c_longlong)]


class Device(ctypes.Structure):
    _fields_ = [
        ("arch", ctypes.c_int),
        ("processors", ctypes.c_int),
        ("shared_per_block", ctypes.c_int),
        ("shared_per_processor", ctypes.c_int),
        ("grid_blocks", ctypes.c_int),
        ("stream", ctypes.c_void_p),
    ]


class RowCall(ctypes.Structure):
    _fields_ = [
        ("loss", ctypes.c_char_p),
        ("parameters", ctypes.POINTER(ctypes.c_double)),
        ("parameter_count", ctypes.c_int),
        ("dtype", ctypes.c_int),
        ("reduction", ctypes.c_int),
        ("rows", ctypes.c_longlong),
        ("classes", ctypes.c_longlong),
        ("inner", ctypes.c_longlong),
        ("ignore_index", ctypes.c_longlong),
        ("logits", Matrix),
        ("soft_target", Matrix),
        ("gradient", Matrix),
        ("index_target", ctypes.c_void_p),
        ("weight", ctypes.c_void_p),
        ("loss_gradient", ctypes.c_void_p),
        ("state", ctypes.c_void_p),
        ("row_loss", ctypes.c_void_p),
        ("reduced_loss", ctypes.c_void_p),
        ("scratch", ctypes.c_void_p),
    ]


# Devices that steer long rows to each kernel. A row of 2000 float32 is 8 KB.
GRID = 2**31 - 1  # blocks of a launch, at most
H100 = Device(90, 132, 232448, 233472, GRID, None)
A100 = Device(80, 108, 166912, 167936, GRID, None)
RTX_4090 = Device(89, 128, 101376, 102400, GRID, None)  # 99 KB for a block, 100 for a processor
CLUSTERS = Device(90, 4, 8192, 2 * (2048 + 1536), GRID, None)  # room for 1.5 KB of a row in a block: clusters
TWO_READS = Device(80, 4, 2048 + 64, 4096, GRID, None)  # no room for a row: it is read twice


@functools.cache
def load(name: str) -> ctypes.CDLL:
    library = ctypes.CDLL(str(cuda_build.library(name, LANE)))
    library.emulator_last_error.restype = ctypes.c_char_p
    library.emulator_launches.restype = ctypes.c_uint64
    library.emulator_rehearse.restype = ctypes.c_uint64
    if name == "kernels":
        library.fastloss_row_scratch.restype = ctypes.c_longlong
    library.emulator_last_shape.restype = ctypes.POINTER(ctypes.c_uint64 * 5)
    library.emulator_record.restype = ctypes.c_uint64
    library.emulator_accesses.restype = ctypes.POINTER(ctypes.c_uint64)
    return library


def accesses_of_warps(name: str, run: Callable[[], Sequence[torch.Tensor]]) -> list[list[int]]:
    """The addresses of each 16-byte access that a warp makes in one of the tensors which `run` returns, sorted."""
    library = load(name)
    library.emulator_record(1)
    tensors = run()
    count = library.emulator_record(0)
    rows = torch.tensor(library.emulator_accesses()[: 4 * count]).view(-1, 4)
    found: dict[tuple[int, int, int], list[int]] = {}
    for block, thread, number, address in rows.tolist():
        if any(x.data_ptr() <= address < x.data_ptr() + x.nbytes for x in tensors):
            found.setdefault((block, thread // 32, number), []).append(address)
    return [sorted(addresses) for addresses in found.values()]


def check(library: ctypes.CDLL, status: int) -> None:
    if status != 0:
        raise EmulatorError(library.emulator_last_error().decode() or f"status {status}")


def set_schedule(schedule: tuple[int, int], name: str = "kernels") -> None:
    load(name).emulator_set_order(*schedule)


def accumulator(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def pointer(tensor: torch.Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


def matrix(tensor: torch.Tensor) -> Matrix:
    return Matrix(tensor.data_ptr(), tensor.stride(0), 1 if tensor.shape[1] == 1 else tensor.stride(1))


@dataclasses.dataclass
class Problem:
    """The operands of a row operator: logits (rows, C) or (N, C, D), index or soft target, options."""

    logits: torch.Tensor
    target: torch.Tensor
    weight: torch.Tensor | None = None
    smoothing: float = 0.0
    z_loss: float = 0.0
    softcap: float = 0.0
    temperature: float = 1.0
    gamma: float | None = None  # a focal loss, else cross-entropy
    device: Device = dataclasses.field(default_factory=lambda: H100)

    @property
    def soft(self) -> bool:
        return self.target.dtype != torch.int64

    @property
    def rows(self) -> int:
        return self.logits.numel() // self.logits.shape[1]

    def call(self) -> RowCall:
        values = [self.smoothing, self.z_loss, self.softcap, self.temperature] if self.gamma is None else [self.gamma]
        parameters = (ctypes.c_double * len(values))(*values)
        call = RowCall()
        call.loss = b"cross_entropy" if self.gamma is None else b"softmax_focal_loss"
        call.parameters, call.parameter_count = parameters, len(values)
        call.dtype = DTYPES.index(self.logits.dtype)
        call.rows, call.classes = self.rows, self.logits.shape[1]
        call.inner = self.logits.shape[2] if self.logits.dim() == 3 else 1
        call.ignore_index = IGNORE
        call.logits = matrix(self.logits)
        if self.soft:
            call.soft_target = matrix(self.target)
        else:
            call.index_target = pointer(self.target)
        call.weight = pointer(self.weight)
        return call

    def forward(
        self, reduction: int, gradient: torch.Tensor | None = None, with_state: bool = False
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Loss, (rows,) or (), and state (2, rows). Writes the gradient of the reduced loss into `gradient`."""
        a = accumulator(self.logits.dtype)
        row_loss, state = torch.full((self.rows,), NAN, dtype=a), torch.full((2, self.rows), NAN, dtype=a)
        call, library = self.call(), load("kernels")
        count = library.fastloss_row_scratch(ctypes.byref(call))
        reduced, scratch = torch.full((), NAN, dtype=a), torch.full((count,), NAN, dtype=torch.float64)
        call.reduction = reduction
        if gradient is not None:
            call.gradient = matrix(gradient)
        call.row_loss = pointer(row_loss)
        call.state = pointer(state) if with_state else None
        if reduction != NONE:
            call.reduced_loss, call.scratch = pointer(reduced), pointer(scratch)
        check(library, library.fastloss_row(ctypes.byref(call), ctypes.byref(self.device)))
        return (row_loss if reduction == NONE else reduced), state

    def backward(self, loss_gradient: torch.Tensor, state: torch.Tensor) -> torch.Tensor:
        gradient = torch.full(self.logits.shape, NAN, dtype=self.logits.dtype)
        call = self.call()
        call.gradient = matrix(gradient)
        call.loss_gradient, call.state = pointer(loss_gradient), pointer(state)
        library = load("kernels")
        check(library, library.fastloss_row(ctypes.byref(call), ctypes.byref(self.device)))
        return gradient

    def fused(self, reduction: int) -> tuple[torch.Tensor, torch.Tensor]:
        gradient = torch.full(self.logits.shape, NAN, dtype=self.logits.dtype)
        return self.forward(reduction, gradient)[0], gradient

    def fused_in_place(self, reduction: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Works on a copy with the strides and the alignment of the logits."""
        copy = with_layout_of(self.logits)
        loss, _ = dataclasses.replace(self, logits=copy).forward(reduction, copy)
        return loss, copy

    def reference(self, reduction: int, loss_gradient: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """Loss and gradient, in float64 by torch's own cross_entropy."""
        x = self.logits.detach().double().contiguous().requires_grad_()
        rows = by_rows(x)
        z = self.softcap * torch.tanh(rows / self.softcap) if self.softcap > 0 else rows
        z = z / self.temperature
        target = by_rows(self.target).double() if self.soft else self.target
        weight = None if self.weight is None else self.weight.double()
        options: dict[str, Any] = {"label_smoothing": self.smoothing} | ({} if self.soft else {"ignore_index": IGNORE})
        if self.gamma is None:
            loss = F.cross_entropy(z, target, weight, reduction="none", **options)
        else:
            log_p = F.log_softmax(z, 1)
            loss = F.nll_loss(
                (1 - log_p.exp()) ** self.gamma * log_p, target, weight, reduction="none", ignore_index=IGNORE
            )
        counted = torch.ones(self.rows, dtype=torch.float64)
        if not self.soft:
            counted = (target != IGNORE).double()
            counted = counted if weight is None else counted * weight[target.clamp(min=0)]
        if self.z_loss > 0:
            loss = loss + self.z_loss * counted * torch.logsumexp(z, 1) ** 2
        if reduction == MEAN:
            loss = loss.sum() / counted.sum()
        elif reduction == SUM:
            loss = loss.sum()
        loss.backward(torch.ones_like(loss) if loss_gradient is None else loss_gradient.double())
        assert x.grad is not None
        if not self.soft:  # torch gives NaN gradients to ignored rows with NaN logits
            ignored = self.target == IGNORE
            x.grad.movedim(1, -1)[ignored.view(x.shape[0], *x.shape[2:])] = 0
        return loss.detach(), x.grad


def by_rows(x: torch.Tensor) -> torch.Tensor:
    """(rows, C) of (rows, C) or (N, C, D)."""
    return x if x.dim() == 2 else x.permute(0, 2, 1).reshape(-1, x.shape[1])


def placed(values: torch.Tensor, offset: int = 0, padding: int = 0) -> torch.Tensor:
    """The values, `offset` elements past an aligned address and with `padding` elements between their rows."""
    *outer, last = values.shape
    lines = values.numel() // last
    fill = NAN if values.is_floating_point() else 1
    storage = torch.full((offset + lines * (last + padding),), fill, dtype=values.dtype)
    strides = [1]
    for size in reversed([*outer[1:], last + padding] if outer else []):
        strides.insert(0, strides[0] * size)
    view = storage.as_strided(values.shape, strides, offset)
    view.copy_(values)
    return view


def with_layout_of(x: torch.Tensor) -> torch.Tensor:
    storage = torch.full((x.untyped_storage().nbytes() // x.element_size(),), NAN, dtype=x.dtype)
    return storage.as_strided(x.shape, x.stride(), x.storage_offset()).copy_(x)


def assert_close(actual: torch.Tensor, expected: torch.Tensor, scale: float | torch.Tensor = 1.0) -> None:
    """Half an ulp of the storage type, and 64 ulps of the accumulator at the size of the numbers that were added."""
    dtype = actual.dtype
    rounding = torch.finfo(dtype).eps / 2 if dtype != accumulator(dtype) else 0.0
    tiny = torch.finfo(dtype).smallest_normal * torch.finfo(dtype).eps  # float16's subnormal spacing
    bound = rounding * expected.abs() + tiny + 64 * torch.finfo(accumulator(dtype)).eps * scale
    actual = actual.double()
    same_specials = (actual.isnan() == expected.isnan()) & (actual.isinf() == expected.isinf())
    assert same_specials.all(), f"NaN or infinity in {(~same_specials).sum()} places only"
    wrong = (actual - expected).abs() > bound
    wrong = (wrong & expected.isfinite()) | (expected.isinf() & (actual != expected))
    first = (actual[wrong].flatten()[:1], expected[wrong].flatten()[:1])
    assert not wrong.any(), f"{int(wrong.sum())} wrong, the first is {first[0]} and not {first[1]}"


def same_bits_in_all_schedules(run: Callable[[], tuple[torch.Tensor, ...]]) -> tuple[torch.Tensor, ...]:
    """Results of run(), which must have the same bits in every schedule (NaN equals NaN)."""
    first: tuple[torch.Tensor, ...] | None = None
    for schedule in COMPARED_SCHEDULES:
        set_schedule(schedule)
        results = run()
        first = results if first is None else first
        for a, b in zip(first, results, strict=True):
            assert torch.equal(a.nan_to_num(nan=1e30), b.nan_to_num(nan=1e30)), f"schedule {schedule} differs"
    assert first is not None
    return first


class ScaleCall(ctypes.Structure):
    _fields_ = [
        ("matrix", Matrix),
        ("dtype", ctypes.c_int),
        ("factor_dtype", ctypes.c_int),
        ("outer", ctypes.c_longlong),
        ("classes", ctypes.c_longlong),
        ("inner", ctypes.c_longlong),
        ("factor", ctypes.c_void_p),
    ]


def scale_call(tensor: torch.Tensor, factor: torch.Tensor) -> ScaleCall:
    inner = tensor.shape[2] if tensor.dim() == 3 else 1
    dtypes = (DTYPES.index(tensor.dtype), DTYPES.index(factor.dtype))
    return ScaleCall(matrix(tensor), *dtypes, tensor.shape[0], tensor.shape[1], inner, factor.data_ptr())


def scale(tensor: torch.Tensor, factor: torch.Tensor, device: Device = H100) -> None:
    """tensor *= factor by fastloss_scale."""
    library = load("kernels")
    check(library, library.fastloss_scale(ctypes.byref(scale_call(tensor, factor)), ctypes.byref(device)))
