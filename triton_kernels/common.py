"""What the Triton skeletons share: device functions, deterministic sums, the in-place scaling of a gradient."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

PACKET_BYTES = 16  # the widest access of one thread on every target: 128 bits

# Sums over the rows: one program adds up SUM_CHUNK or more values, at most SUM_PROGRAMS programs write a partial sum
# each, one program adds those. The split depends on the number of values alone, so the same input gives the same bits.
SUM_BLOCK = 1024
SUM_CHUNK = 4 * SUM_BLOCK
SUM_PROGRAMS = 512
SCALE_BLOCK = 4096


def accumulator_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype of all arithmetic, of losses, states, weights and scale factors."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def on_device(tensor: Tensor) -> contextlib.AbstractContextManager[None]:
    """Triton launches on the current device; CPU tensors come from the interpreter and the compile-only tests."""
    if tensor.device.type == "cpu":
        return contextlib.nullcontext()
    return torch.get_device_module(tensor.device).device(tensor.device)


def kernel_constants(values: Sequence[float | None], dtype: torch.dtype) -> tuple[object, ...]:
    """Loss constants as one kernel argument; None marks a neutral one, whose code the kernel leaves out.

    Triton passes a Python float as fp32. For float64 arithmetic each constant therefore travels as three fp32 pieces of
    24 bits, whose sum (`constant` below) is the float64 number itself.
    """
    if dtype != torch.float64:
        return tuple(values)
    return tuple(None if value is None else float32_pieces(value) for value in values)


def float32_pieces(value: float) -> tuple[float, float, float]:
    if not math.isfinite(value):
        return value, 0.0, 0.0
    exact = torch.tensor(value, dtype=torch.float64)
    high = exact.float().double()
    middle = (exact - high).float().double()
    return high.item(), middle.item(), (exact - high - middle).item()


@triton.jit
def constant(pieces, dtype: tl.constexpr):
    if dtype == tl.float64:
        return pieces[0].to(dtype) + pieces[1].to(dtype) + pieces[2].to(dtype)
    else:
        return pieces


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
def tanh(x):
    """Not in tl, and libdevice differs between vendors. Relative error in fp32, measured with numpy: 1.9 eps.

    From exp where that is accurate. (1 - e) / (1 + e) cancels near 0, so below 0.4 an odd series: in fp32 a polynomial
    fitted to a relative error of 1e-9 on [0, 0.55], in fp64 Lambert's continued fraction x / (1 + x^2 / (3 + x^2 / (5 +
    ...))) cut after 7 terms, relative error 9e-18.
    """
    square = x * x
    if x.dtype == tl.float64:
        numerator = 135135.0 + square * (17325.0 + square * (378.0 + square))
        denominator = 135135.0 + square * (62370.0 + square * (3150.0 + square * 28.0))
        near = x * numerator / denominator
    else:
        series = 0.021077756 + square * -0.00628247
        series = -0.33333318 + square * (0.13332602 + square * (-0.053853857 + square * series))
        near = x + x * (square * series)
    size = tl.abs(x)
    decay = tl.exp(-2.0 * size)
    far = (1.0 - decay) / (1.0 + decay)
    return tl.where(size < 0.4, near, tl.where(x < 0, -far, far))


@triton.jit
def maximum(x, y):
    """NaN if either is, as torch.maximum and torch.clamp; tl.maximum by itself drops a NaN."""
    return tl.maximum(x, y, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def minimum(x, y):
    """NaN if either is."""
    return tl.minimum(x, y, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def clamp(x, low, high):
    """NaN stays NaN, as in torch.clamp."""
    return minimum(maximum(x, low), high)


@triton.jit
def sign(x):
    """-1, 0 or 1; 0 for NaN, as torch.sign, with which torch differentiates abs."""
    return tl.where(x > 0, 1.0, tl.where(x < 0, -1.0, 0.0)).to(x.dtype)


@triton.jit
def log1p(x):
    """log(1 + x) for x >= -1, inf and NaN included; not in tl.

    The rounding error of 1 + x is divided out again (Kahan): relative error 2 eps.
    """
    shifted = 1.0 + x
    exact = (shifted == 1.0) | (shifted == float("inf"))
    return tl.where(exact, x, tl.log(shifted) * (x / tl.where(exact, 1.0, shifted - 1.0)))


@triton.jit
def expm1(x):
    """exp(x) - 1 = tanh(x / 2) (exp(x) + 1), which does not cancel near 0; not in tl."""
    return tanh(0.5 * x) * (tl.exp(x) + 1.0)


@triton.jit
def sigmoid(x):
    """1 / (1 + exp(-x)), without overflow and accurate where it is small."""
    decay = tl.exp(-tl.abs(x))
    return tl.where(x >= 0, 1.0, decay) / (1.0 + decay)


@triton.jit
def log_sigmoid(x):
    """-log(1 + exp(-x))"""
    return minimum(x, tl.zeros_like(x)) - log1p(tl.exp(-tl.abs(x)))


@triton.jit
def sigmoids(x):
    """(s, 1 - s, log(s), log(1 - s)) with s = sigmoid(x), each as accurate as the other, from one exponential."""
    decay = tl.exp(-tl.abs(x))
    larger = 1.0 / (1.0 + decay)
    smaller = decay * larger
    log_larger = -log1p(decay)
    negative = x < 0
    return (
        tl.where(negative, smaller, larger),
        tl.where(negative, larger, smaller),
        log_larger + minimum(x, tl.zeros_like(x)),
        log_larger - maximum(x, tl.zeros_like(x)),
    )


@triton.jit
def xlogy(x, y):
    """x log(y), 0 where x is 0 whatever y is, except NaN."""
    return tl.where((x == 0.0) & (y == y), 0.0, x * tl.log(y))


@triton.jit
def power(x, exponent):
    """x ** exponent for x >= 0; 1 where the exponent is 0, also for x = 0. Relative error eps * |exponent * log(x)|."""
    return tl.where(exponent == 0.0, 1.0, tl.exp(exponent * tl.log(x)))


@triton.jit(do_not_specialize=["count", "chunk"])
def sum_kernel(values, denominator, output, count, chunk, BLOCK: tl.constexpr):
    """output[program] = sum of values[program * chunk : (program + 1) * chunk], divided by denominator[0] if given."""
    program = tl.program_id(0)
    start = program.to(tl.int64) * chunk
    end = tl.minimum(start + chunk, count)
    total = tl.zeros((BLOCK,), values.dtype.element_ty)
    for first in range(start, end, BLOCK):
        index = first + tl.arange(0, BLOCK)
        total += tl.load(values + index, mask=index < end, other=0.0)
    result = tl.sum(total, axis=0)
    if denominator is not None:
        result = result / tl.load(denominator)
    tl.store(output + program, result)


@triton.jit(do_not_specialize=["count", "chunk", "classes", "ignore_index"])
def target_weight_kernel(target, weight, output, count, chunk, classes, ignore_index, BLOCK: tl.constexpr):
    """output[program] = sum of the class weights of the targets that count (1 each without class weights)."""
    program = tl.program_id(0)
    start = program.to(tl.int64) * chunk
    end = tl.minimum(start + chunk, count)
    total = tl.zeros((BLOCK,), output.dtype.element_ty)
    for first in range(start, end, BLOCK):
        row = first + tl.arange(0, BLOCK)
        index = tl.load(target + row, mask=row < end, other=ignore_index)
        counted = index != ignore_index
        if weight is None:
            total += tl.where(counted, 1.0, 0.0)
        else:
            inside = counted & (index >= 0) & (index < classes)
            total += tl.load(weight + index, mask=inside, other=0.0)
    tl.store(output + program, tl.sum(total, axis=0))


def sum_plan(count: int) -> tuple[int, int]:
    """(programs, values a program)"""
    programs = min(triton.cdiv(count, SUM_CHUNK), SUM_PROGRAMS)
    return programs, triton.cdiv(triton.cdiv(count, programs), SUM_BLOCK) * SUM_BLOCK


def sum_rows(values: Tensor, denominator: Tensor | None) -> Tensor:
    """Sum of the contiguous values (rows,), divided by the 0-d denominator if there is one; 0-d, on the device."""
    result = values.new_empty(())
    programs, chunk = sum_plan(values.numel())
    if programs > 1:
        partial = values.new_empty(programs)
        sum_kernel[(programs,)](values, None, partial, values.numel(), chunk, BLOCK=SUM_BLOCK)
        values, chunk = partial, SUM_BLOCK
    sum_kernel[(1,)](values, denominator, result, values.numel(), chunk, BLOCK=SUM_BLOCK)
    return result


def sum_target_weights(
    target: Tensor, weight: Tensor | None, classes: int, ignore_index: int, dtype: torch.dtype
) -> Tensor:
    """Sum of the weights of the index targets (rows,) that count; 0-d, on the device."""
    programs, chunk = sum_plan(target.numel())
    partial = torch.empty(programs, dtype=dtype, device=target.device)
    target_weight_kernel[(programs,)](
        target, weight, partial, target.numel(), chunk, classes, ignore_index, BLOCK=SUM_BLOCK
    )
    return sum_rows(partial, None) if programs > 1 else partial[0]


@triton.jit(do_not_specialize=["blocks", "inner", "length", "outer_stride", "inner_stride"])
def scale_kernel(
    tensor, factor, blocks, inner, length, outer_stride, inner_stride, PACKET: tl.constexpr, BLOCK: tl.constexpr
):
    """tensor[o, i, :length] *= factor; a program takes one of the blocks of one line (o, i)."""
    scale = tl.load(factor)
    if scale == 1.0:
        return
    program = tl.program_id(0).to(tl.int64)
    line = program // blocks
    start = program % blocks * BLOCK
    offset = (line // inner) * outer_stride + (line % inner) * inner_stride + start
    if PACKET > 1:
        pointers = aligned_body(tensor, offset, PACKET, True) + tl.arange(0, BLOCK)
    else:
        pointers = tensor + offset + tl.arange(0, BLOCK)
    if start + BLOCK <= length:
        tl.store(pointers, (tl.load(pointers).to(scale.dtype) * scale).to(tensor.dtype.element_ty))
    else:
        inside = start + tl.arange(0, BLOCK) < length
        value = tl.load(pointers, mask=inside, other=0.0)
        tl.store(pointers, (value.to(scale.dtype) * scale).to(tensor.dtype.element_ty), mask=inside)


def scale_(tensor: Tensor, factor: Tensor) -> None:
    """tensor *= factor, in place; factor is a 0-d tensor of the accumulator dtype on the same device.

    The kernel reads the factor, so nothing waits for the device; where it is exactly 1 (the usual upstream gradient of
    a loss) the tensor is neither read nor written. tensor: any contiguous shape, (rows, C) with unit class stride, or
    (N, C, D) with unit stride of the last dimension.
    """
    if tensor.is_contiguous():
        outer, inner, length, outer_stride, inner_stride = 1, 1, tensor.numel(), 0, 0
    elif tensor.dim() == 2:
        (outer, length), inner, outer_stride, inner_stride = tensor.shape, 1, tensor.stride(0), 0
    else:
        (outer, inner, length), (outer_stride, inner_stride, _) = tensor.shape, tensor.stride()
    if not tensor.is_contiguous() and not has_unit_stride(tensor):
        raise ValueError(f"the last dimension must have stride 1, not {tensor.stride(-1)}")
    block = min(SCALE_BLOCK, triton.next_power_of_2(length))
    blocks = triton.cdiv(length, block)
    packet = PACKET_BYTES // tensor.element_size()
    with on_device(tensor):
        scale_kernel[(outer * inner * blocks,)](
            tensor, factor, blocks, inner, length, outer_stride, inner_stride,
            PACKET=packet if is_aligned(tensor, outer_stride, inner_stride, block) else 1, BLOCK=block, num_warps=8,
        )  # fmt: skip


def is_aligned(tensor: Tensor, *steps: int) -> bool:
    """Is the tensor's address, and each step in elements from it, a multiple of 16 bytes?"""
    itemsize = tensor.element_size()
    return tensor.data_ptr() % PACKET_BYTES == 0 and all(step * itemsize % PACKET_BYTES == 0 for step in steps)


def has_unit_stride(tensor: Tensor) -> bool:
    """Do the elements of the last dimension lie next to each other? (The stride of a single element means nothing.)"""
    return tensor.stride(-1) == 1 or tensor.shape[-1] == 1
