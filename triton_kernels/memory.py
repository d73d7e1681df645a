"""Addresses, alignment, and the dtypes in memory."""

from __future__ import annotations

import contextlib

import torch
import triton
import triton.language as tl
from torch import Tensor

PACKET_BYTES = 16  # the widest access of one thread on every target: 128 bits


def on_device(tensor: Tensor) -> contextlib.AbstractContextManager[None]:
    """Triton launches on the current device; CPU tensors come from the interpreter and the compile-only tests."""
    if tensor.device.type == "cpu":
        return contextlib.nullcontext()
    return torch.get_device_module(tensor.device).device(tensor.device)


def is_aligned(tensor: Tensor, *steps: int) -> bool:
    """Whether the tensor's address, and each step in elements from it, is a multiple of 16 bytes."""
    itemsize = tensor.element_size()
    return tensor.data_ptr() % PACKET_BYTES == 0 and all(step * itemsize % PACKET_BYTES == 0 for step in steps)


def has_unit_stride(tensor: Tensor) -> bool:
    """Whether the elements of the last dimension lie next to each other. (One alone has a stride without meaning.)"""
    return tensor.stride(-1) == 1 or tensor.shape[-1] == 1


@triton.jit
def aligned_body(tensor, start, PACKET: tl.constexpr, BASE_ALIGNED: tl.constexpr):
    """tensor + start, an address that is a multiple of 16 bytes.

    The compiler for AMD takes pointers apart and loses a hint on them, and on their offsets; what it does not lose is
    arithmetic, so an offset that is a multiple (if the base is aligned too) is divided and multiplied again.
    """
    if BASE_ALIGNED:
        start = start // PACKET * PACKET
    return tl.multiple_of(tensor + start, 16)


@triton.jit
def widen(value, A: tl.constexpr):
    """Half types by way of fp32: not every target converts them to fp64."""
    if A == tl.float64 and (value.dtype == tl.bfloat16 or value.dtype == tl.float16):
        value = value.to(tl.float32)
    return value.to(A)


@triton.jit
def narrow(value, dtype: tl.constexpr):
    if value.dtype == tl.float64 and (dtype == tl.bfloat16 or dtype == tl.float16):
        value = value.to(tl.float32)
    return value.to(dtype)
