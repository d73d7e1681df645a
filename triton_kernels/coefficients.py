"""The numbers of a loss on their way to a kernel."""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Sequence
from typing import Any

import torch
import triton
import triton.language as tl


def in_arithmetic(parameters: Sequence[float], dtype: torch.dtype) -> Sequence[float]:
    """The hyper-parameters as the arithmetic has them: a beta of 1e-50 is 0 in float32, and a loss that has another
    formula at 0 must take that one."""
    return parameters if dtype == torch.float64 else [ctypes.c_float(number).value for number in parameters]


def kernel_numbers(values: tuple[float | None, ...], dtype: torch.dtype) -> tuple[Any, ...]:
    """Numbers as one kernel argument, a tuple of the same type; None marks one whose code the kernel leaves out.

    Triton passes a Python float as fp32, so for float64 arithmetic each number travels as the integer of its bits.
    """
    if dtype != torch.float64:
        return values
    bits = (None if value is None else bits_of(value) for value in values)
    return values._make(bits) if hasattr(values, "_make") else tuple(bits)


def bits_of(value: float) -> int:
    return struct.unpack("<q", struct.pack("<d", value))[0]


@triton.jit
def number(value, dtype: tl.constexpr):
    """The scalar of a dtype that kernel_numbers sent. tl.full: Triton's interpreter passes Python numbers on."""
    if dtype == tl.float64:
        return tl.full((), value, tl.int64).to(tl.float64, bitcast=True)
    else:
        return tl.full((), value, dtype)
