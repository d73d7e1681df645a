"""The outer launcher of csrc/cuda on torch CPU tensors, and the formulas in float64."""

from __future__ import annotations

import ctypes
import dataclasses
import functools

import torch
from lanes.cuda import emulated
from lanes.cuda.emulated import DTYPES, H100, NAN
from torch import Tensor

BUILD = "kernels"


class TensorOfPairs(ctypes.Structure):
    _fields_ = [
        ("data", ctypes.c_void_p),
        ("dtype", ctypes.c_int),
        ("row", ctypes.c_longlong),
        ("step", ctypes.c_longlong),
    ]


class Call(ctypes.Structure):
    _fields_ = [
        ("loss", ctypes.c_char_p),
        ("parameters", ctypes.POINTER(ctypes.c_double)),
        ("parameter_count", ctypes.c_int),
        ("operand_count", ctypes.c_int),
        ("in_double", ctypes.c_int),
        ("reduce", ctypes.c_int),
        ("rows", ctypes.c_longlong),
        ("sources", ctypes.c_longlong),
        ("targets", ctypes.c_longlong),
        ("source", TensorOfPairs),
        ("target", TensorOfPairs),
        ("operand", TensorOfPairs * 2),
        ("gradient", ctypes.c_void_p),
        ("row_factor", ctypes.c_void_p),
        ("factor", ctypes.c_double),
        ("losses", ctypes.c_void_p),
        ("scratch", ctypes.c_void_p),
    ]


@functools.cache
def library() -> ctypes.CDLL:
    loaded = emulated.load(BUILD)
    loaded.fastloss_outer_scratch.restype = ctypes.c_longlong
    return loaded


def described(tensor: Tensor) -> TensorOfPairs:
    row = 0 if tensor.dim() == 1 else tensor.stride(0)
    return TensorOfPairs(tensor.data_ptr(), DTYPES.index(tensor.dtype), row, tensor.stride(-1))


@dataclasses.dataclass
class Problem:
    """A call of the outer operator: source (rows, N), target (rows, M), tau (N,) or (rows, N)."""

    source: Tensor
    target: Tensor
    tau: Tensor
    kappa: float = 1.0
    loss: str = "quantile_huber_loss"
    row_factor: Tensor | None = None
    factor: float = 0.37

    @property
    def accumulator(self) -> torch.dtype:
        return torch.float64 if torch.float64 in (self.source.dtype, self.target.dtype) else torch.float32

    def run(self, reduce: bool, wanted: bool = True, **change: object) -> tuple[Tensor, Tensor | None]:
        """(losses, gradient)"""
        a, (rows, sources) = self.accumulator, self.source.shape
        call = Call()
        call.loss, call.parameters = self.loss.encode(), (ctypes.c_double * 1)(self.kappa)
        call.parameter_count = call.operand_count = 1
        call.in_double, call.reduce = a == torch.float64, reduce
        call.rows, call.sources, call.targets = rows, sources, self.target.shape[1]
        call.source, call.target = described(self.source), described(self.target)
        call.operand[0] = described(self.tau)
        factors = None if self.row_factor is None else self.row_factor.to(a)
        call.row_factor, call.factor = emulated.pointer(factors), self.factor
        losses = torch.full(() if reduce else (rows,), NAN, dtype=a)
        gradient = torch.full((rows, sources), NAN, dtype=self.source.dtype) if wanted else None
        call.losses, call.gradient = losses.data_ptr(), emulated.pointer(gradient)
        for name, value in change.items():
            setattr(call, name, value)
        count = library().fastloss_outer_scratch(ctypes.byref(call))
        before, scratch, after = torch.full((3 * count,), NAN, dtype=torch.float64).split(count)
        call.scratch = scratch.data_ptr()
        emulated.check(library(), library().fastloss_outer(ctypes.byref(call), ctypes.byref(H100)))
        assert before.isnan().all(), "written before the scratch"
        assert after.isnan().all(), "written behind the scratch"
        return losses, gradient

    def expected(self) -> tuple[Tensor, Tensor]:
        """(losses of the rows, gradient of their sum) in float64"""
        leaf = self.source.double().requires_grad_()
        error = self.target.double().unsqueeze(1) - leaf.unsqueeze(2)
        size = error.abs()
        huber = (
            torch.where(size <= self.kappa, size**2 / 2, self.kappa * (size - self.kappa / 2)) if self.kappa else size
        )
        if self.loss == "iqn_loss" and self.kappa:
            huber = huber / self.kappa
        tau = self.tau.double().unsqueeze(-1)
        losses = self.factor * ((tau - (error.detach() < 0).double()).abs() * huber).mean(2).sum(1)
        if self.row_factor is not None:
            losses = torch.where(self.row_factor != 0, losses * self.row_factor.double(), 0)
        (gradient,) = torch.autograd.grad(losses.sum(), leaf)
        return losses.detach(), gradient

    def check(self) -> None:
        losses, gradient = self.expected()
        wide, narrow = torch.finfo(self.accumulator).eps, torch.finfo(self.source.dtype).eps
        for reduce, wanted in ((True, True), (False, True), (True, False)):
            actual, by_source = self.run(reduce, wanted)
            wanted_losses = losses.sum() if reduce else losses
            scale = float(losses.abs().max())
            torch.testing.assert_close(actual.double(), wanted_losses, rtol=32 * wide, atol=32 * wide * scale)
            if by_source is not None:
                tolerance = {"rtol": 2 * narrow, "atol": 64 * wide * max(1.0, float(gradient.abs().max()))}
                torch.testing.assert_close(by_source.double(), gradient, **tolerance)
