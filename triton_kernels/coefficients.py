"""The numbers of a loss on their way to a kernel."""

from __future__ import annotations

import ctypes
import math
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

    Triton passes a Python float as fp32. For float64 arithmetic each number therefore travels as three fp32 pieces of
    24 bits, whose sum (`number` below) is the float64 number itself.
    """
    if dtype != torch.float64:
        return values
    pieces = (None if value is None else float32_pieces(value) for value in values)
    return values._make(pieces) if hasattr(values, "_make") else tuple(pieces)


def float32_pieces(value: float) -> tuple[float, float, float]:
    if not math.isfinite(value):
        return value, 0.0, 0.0
    exact = torch.tensor(value, dtype=torch.float64)
    high = exact.float().double()
    middle = (exact - high).float().double()
    return high.item(), middle.item(), (exact - high - middle).item()


@triton.jit
def number(pieces, dtype: tl.constexpr):
    """The scalar of a dtype that kernel_numbers sent. tl.full, because Triton's interpreter passes Python floats on."""
    if dtype == tl.float64:
        return tl.full((), pieces[0], dtype) + tl.full((), pieces[1], dtype) + tl.full((), pieces[2], dtype)
    else:
        return tl.full((), pieces, dtype)
