"""The scan launcher of csrc/cuda on torch CPU tensors: calls as fastloss lowers them."""

from __future__ import annotations

import ctypes
from typing import Any

import torch
from lanes.cuda import emulated
from lanes.cuda.emulated import DTYPES, H100, NAN
from torch import Tensor

from fastloss.core.registry import LOSSES
from fastloss.operators.scan import MAX_OPERANDS, accumulator

BUILD = "scan"
BOOLEAN = 4


class TensorOfSteps(ctypes.Structure):
    _fields_ = [
        ("data", ctypes.c_void_p),
        ("dtype", ctypes.c_int),
        ("outer", ctypes.c_longlong),
        ("step", ctypes.c_longlong),
        ("inner", ctypes.c_longlong),
    ]


class Call(ctypes.Structure):
    _fields_ = [
        ("loss", ctypes.c_char_p),
        ("parameters", ctypes.POINTER(ctypes.c_double)),
        ("parameter_count", ctypes.c_int),
        ("operand_count", ctypes.c_int),
        ("output_count", ctypes.c_int),
        ("in_double", ctypes.c_int),
        ("reverse", ctypes.c_int),
        ("outer", ctypes.c_longlong),
        ("steps", ctypes.c_longlong),
        ("inner", ctypes.c_longlong),
        ("starts", ctypes.c_void_p),
        ("operand", TensorOfSteps * MAX_OPERANDS),
        ("constant", ctypes.c_double * MAX_OPERANDS),
        ("terminated", TensorOfSteps),
        ("truncated", TensorOfSteps),
        ("there", TensorOfSteps),
        ("output", TensorOfSteps * 2),
    ]


def described(x: Tensor, time_dim: int) -> TensorOfSteps:
    last = x.dim() - 1
    dtype = BOOLEAN if x.dtype == torch.bool else DTYPES.index(x.dtype)
    outer, inner = x.stride(0) if time_dim else 0, x.stride(last) if last > time_dim else 0
    return TensorOfSteps(x.data_ptr(), dtype, outer, x.stride(time_dim), inner)


def run(name: str, arguments: dict[str, Any], **change: Any) -> list[Tensor]:
    """What a call of a function of fastloss.rl comes to on the emulated GPU."""
    lowered = LOSSES[name].lower((), arguments, automatic=False)
    operands, o = lowered.operands, lowered.options
    first, time_dim = operands[0], o.time_dim
    call = Call()
    call.loss, call.parameters = name.encode(), (ctypes.c_double * max(1, len(o.parameters)))(*o.parameters)
    call.parameter_count, call.operand_count, call.output_count = len(o.parameters), len(o.constants), o.outputs
    call.in_double, call.reverse = accumulator(operands) == torch.float64, o.reverse
    call.outer = len(o.starts) - 1 if o.starts is not None else first.shape[0] if time_dim else 1
    call.steps = first.shape[time_dim]
    call.inner = first.shape[-1] if first.dim() - 1 > time_dim else 1
    call.starts = emulated.pointer(o.starts)
    given = iter(operands)
    for k, constant in enumerate(o.constants):
        call.constant[k] = constant
        if o.present >> k & 1:
            call.operand[k] = described(next(given), time_dim)
    for flag in ("terminated", "truncated", "there"):
        if getattr(o, flag) is not None:
            setattr(call, flag, described(getattr(o, flag), time_dim))
    outputs = [torch.full_like(first, NAN, dtype=lowered.dtype) for _ in range(o.outputs)]
    for k, output in enumerate(outputs):
        call.output[k] = described(output, time_dim)
    for field, value in change.items():
        setattr(call, field, value)
    library = emulated.load(BUILD)
    emulated.check(library, library.fastloss_scan(ctypes.byref(call), ctypes.byref(H100)))
    return [x.view(lowered.shape) for x in outputs]
