"""Row losses in Triton: losses over one row of logits, with the softmax over the classes. The launchers.

kernels/row.py has the three kernels. Which kernel runs, and how often it reads the s bytes of
the logits (soft targets are read as often as the logits):

    kernel     logits                              forward    forward + backward    backward from the state
    resident   (rows, C), up to RESIDENT_BYTES     1 s        1 s                   1 s
    streaming  (rows, C), above                    1 s        2 s (2nd: cache)      1 s (soft targets twice)
    strided    (N, C, D), stride 1 along D         1 s        2 s (2nd: cache)      1 s (soft targets twice)

and the gradient is written once. An index target outside [0, C) that is not ignore_index is never used as an address.
On an NVIDIA GPU it traps, as in torch (tl.device_assert); on an AMD GPU its row gives NaN.

The plan of a launch follows from shape, strides and dtype alone: no autotuning, so no first-call cost and the same bits
on every run. The coefficients of the plan come from registers and loads in flight as compiled; nothing here has been
measured on a GPU yet.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import triton
from torch import Tensor

from fastloss.core.arguments import accumulator_dtype

from ..coefficients import in_arithmetic, kernel_numbers
from ..kernels.row import resident_kernel, streaming_kernel, strided_kernel
from ..losses import declared
from ..memory import PACKET_BYTES, has_unit_stride, is_aligned, on_device
from ..sums import sum_rows, sum_target_weights
from .row_steps import row_gradient, row_merge, row_outputs, row_statistics

__all__ = [
    "row_backward",
    "row_forward",
    "row_forward_backward",
    "row_forward_backward_",
    "row_gradient",
    "row_merge",
    "row_outputs",
    "row_statistics",
]

NONE, MEAN, SUM = 0, 1, 2  # reduction

# For AMD an assert compiles to a printf through the host, 65 more memory accesses in every kernel.
TRAPS = torch.version.hip is None

RESIDENT_BYTES = 32768  # of the accumulator: 8192 classes in fp32. A row of more leaves an SM room for one program only
RESIDENT_WARP_BYTES = 2048  # of the accumulator: 16 fp32 a thread (32 a thread doubles the registers for the same rows)
RESIDENT_TILE = 2048  # elements a program aims at with several short rows
STREAMING_WARPS = 8
STREAMING_TILE_BYTES = 32768  # of the accumulator: 32 fp32 a thread, four 128-bit loads of bf16 in flight
STRIDED_WARPS = 4
STRIDED_TILE_BYTES = 16384  # of the accumulator: 32 fp32 a thread


def class_packet(logits: Tensor, aligned: bool) -> int:
    """Elements of a packet along the classes; 1 for short misaligned rows, where edges would be most of the row."""
    packet = PACKET_BYTES // logits.element_size()
    return packet if aligned or logits.shape[1] >= 16 * packet else 1


def co_aligned(tensor: Tensor, logits: Tensor) -> bool:
    """Is each row of the tensor as far from a 16-byte address as the same row of the logits?"""
    step = (tensor.stride(0) - logits.stride(0)) * logits.element_size()
    return (tensor.data_ptr() - logits.data_ptr()) % PACKET_BYTES == 0 and step % PACKET_BYTES == 0


def launch(
    mode: str,
    logits: Tensor,
    target: Tensor,
    weight: Tensor | None,
    loss: str,
    parameters: Sequence[float],
    ignore_index: int,
    *,
    row_losses: Tensor | None = None,
    state: Tensor | None = None,
    grad_loss: Tensor | None = None,
    denominator: Tensor | None = None,
    gradient: Tensor | None = None,
) -> None:
    """Chooses the skeleton and its tile, and launches it. logits: (rows, C) or (N, C, D)."""
    classes = logits.shape[1]
    if not all(has_unit_stride(tensor) for tensor in (logits, target)):
        raise ValueError("the last dimension of the logits and of soft targets must have stride 1")
    if classes >= 2**31 - RESIDENT_BYTES:
        raise ValueError(f"{classes} classes: columns are 32-bit")
    accumulate = accumulator_dtype(logits.dtype)
    description = declared(loss)
    coefficients = description.coefficients(in_arithmetic(parameters, accumulate), classes)
    soft = target.is_floating_point()
    pointers = (logits, target, weight, state, grad_loss, denominator, row_losses, gradient)
    in_place = gradient is not None and gradient.data_ptr() == logits.data_ptr()
    spreads = getattr(coefficients, "uniform", None) is not None
    flags = {
        "LOSS": description.helper, "MODE": mode, "SOFT": soft, "DENSE": soft or spreads, "IN_PLACE": in_place,
    }  # fmt: skip
    numbers = kernel_numbers(coefficients, accumulate)
    with on_device(logits):
        if logits.dim() == 3:
            launch_strided(pointers, logits, target, gradient, ignore_index, numbers, accumulate.itemsize, flags)
        else:
            launch_rows(pointers, logits, target, gradient, ignore_index, numbers, accumulate.itemsize, flags)


Pointers = tuple[Tensor | None, ...]


def launch_rows(
    pointers: Pointers,
    logits: Tensor,
    target: Tensor,
    gradient: Tensor | None,
    ignore_index: int,
    coefficients: tuple[object, ...],
    accumulator_bytes: int,
    flags: dict[str, Any],
) -> None:
    rows, classes = logits.shape
    aligned = is_aligned(logits, logits.stride(0), classes)
    packet = class_packet(logits, aligned)
    soft_stride = target.stride(0) if flags["SOFT"] else 0
    gradient_stride = 0 if gradient is None else gradient.stride(0)
    arguments = (rows, classes, logits.stride(0), soft_stride, gradient_stride, ignore_index, coefficients)
    flags |= {
        "PACKET": packet,
        "EDGES": packet > 1 and not aligned,
        "BASE_ALIGNED": is_aligned(logits),
        "TARGET_ALIGNED": packet > 1 and bool(flags["SOFT"]) and co_aligned(target, logits),
        "GRADIENT_ALIGNED": packet > 1 and gradient is not None and co_aligned(gradient, logits),
    }
    if classes * accumulator_bytes <= RESIDENT_BYTES:
        packets = triton.next_power_of_2(max(1, classes // packet))
        rows_a_program = max(1, RESIDENT_TILE // (packets * packet))
        tile_bytes = rows_a_program * packets * packet * accumulator_bytes
        resident_kernel[(triton.cdiv(rows, rows_a_program),)](
            *pointers, *arguments, **flags, ROWS=rows_a_program, PACKETS=packets,
            num_warps=min(32, max(4, tile_bytes // RESIDENT_WARP_BYTES)), debug=TRAPS, sanitize_overflow=False,
        )  # fmt: skip
    else:
        streaming_kernel[(rows,)](
            *pointers, *arguments, **flags, PACKETS=STREAMING_TILE_BYTES // accumulator_bytes // packet,
            num_warps=STREAMING_WARPS, debug=TRAPS, sanitize_overflow=False,
        )  # fmt: skip


def launch_strided(
    pointers: Pointers,
    logits: Tensor,
    target: Tensor,
    gradient: Tensor | None,
    ignore_index: int,
    coefficients: tuple[object, ...],
    accumulator_bytes: int,
    flags: dict[str, Any],
) -> None:
    batches, classes, positions = logits.shape
    packet = PACKET_BYTES // logits.element_size()
    positions_a_program = min(triton.next_power_of_2(positions), 32 * STRIDED_WARPS * packet)
    heavy = (
        flags["LOSS"].modulation is not None and flags["MODE"] != "backward"
    )  # 2 registers of a whole tile spill on sm_100
    tile_bytes = STRIDED_TILE_BYTES // 2 if heavy else STRIDED_TILE_BYTES
    classes_a_tile = tile_bytes // accumulator_bytes // positions_a_program
    blocks = triton.cdiv(positions, positions_a_program)
    target_strides = target.stride()[:2] if flags["SOFT"] else (0, 0)
    gradient_strides = (0, 0) if gradient is None else gradient.stride()[:2]

    def aligned(tensor: Tensor | None) -> bool:
        return tensor is not None and is_aligned(tensor, tensor.stride(0), tensor.stride(1), positions)

    strided_kernel[(batches * blocks,)](
        *pointers, batches * positions, classes, positions, blocks, *logits.stride()[:2], *target_strides,
        *gradient_strides, ignore_index, coefficients, **flags,
        CLASSES=min(classes_a_tile, triton.next_power_of_2(classes)), POSITIONS=positions_a_program, PACKET=packet,
        ALIGNED=aligned(logits), TARGET_ALIGNED=bool(flags["SOFT"]) and aligned(target),
        GRADIENT_ALIGNED=aligned(gradient), num_warps=STRIDED_WARPS, debug=TRAPS, sanitize_overflow=False,
    )  # fmt: skip


def row_count(logits: Tensor) -> int:
    return logits.numel() // logits.shape[1]


def mean_denominator(
    logits: Tensor, target: Tensor, weight: Tensor | None, ignore_index: int, reduction: int
) -> Tensor | None:
    """What the mean divides by, 0-d on the device; None unless the reduction is the mean."""
    if reduction != MEAN:
        return None
    dtype = accumulator_dtype(logits.dtype)
    with on_device(logits):
        if target.is_floating_point():
            return torch.full((), row_count(logits), dtype=dtype, device=logits.device)
        return sum_target_weights(target, weight, logits.shape[1], ignore_index, dtype)


def reduce_losses(row_losses: Tensor, denominator: Tensor | None) -> Tensor:
    with on_device(row_losses):
        return sum_rows(row_losses, denominator)


def row_forward(
    logits: Tensor, target: Tensor, weight: Tensor | None, loss: str, parameters: Sequence[float], ignore_index: int,
    reduction: int,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """(loss, state): loss (rows,) or 0-d, state (2, rows) with max_j z_j and log(sum_j exp(z_j - max))."""
    rows = row_count(logits)
    dtype = accumulator_dtype(logits.dtype)
    row_losses = torch.empty(rows, dtype=dtype, device=logits.device)
    state = torch.empty(2, rows, dtype=dtype, device=logits.device)
    launch("forward", logits, target, weight, loss, parameters, ignore_index, row_losses=row_losses, state=state)
    if reduction == NONE:
        return row_losses, state
    return reduce_losses(row_losses, mean_denominator(logits, target, weight, ignore_index, reduction)), state


def row_backward(
    grad_loss: Tensor, logits: Tensor, target: Tensor, weight: Tensor | None, state: Tensor, loss: str,
    parameters: Sequence[float], ignore_index: int,
) -> Tensor:  # fmt: skip
    """The gradient with respect to the logits, contiguous; grad_loss (rows,) is that of the row losses."""
    gradient = torch.empty(logits.shape, dtype=logits.dtype, device=logits.device)
    launch(
        "backward", logits, target, weight, loss, parameters, ignore_index,
        state=state, grad_loss=grad_loss, gradient=gradient,
    )  # fmt: skip
    return gradient


def row_forward_backward(
    logits: Tensor, target: Tensor, weight: Tensor | None, loss: str, parameters: Sequence[float], ignore_index: int,
    reduction: int,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """(loss, gradient of the loss) for a mean or a sum; the gradient is contiguous."""
    gradient = torch.empty(logits.shape, dtype=logits.dtype, device=logits.device)
    return loss_with_gradient(logits, target, weight, loss, parameters, ignore_index, reduction, gradient), gradient


def row_forward_backward_(
    logits: Tensor, target: Tensor, weight: Tensor | None, loss: str, parameters: Sequence[float], ignore_index: int,
    reduction: int,
) -> Tensor:  # fmt: skip
    """The loss, a mean or a sum; its gradient overwrites the logits."""
    return loss_with_gradient(logits, target, weight, loss, parameters, ignore_index, reduction, logits)


def loss_with_gradient(
    logits: Tensor, target: Tensor, weight: Tensor | None, loss: str, parameters: Sequence[float], ignore_index: int,
    reduction: int, gradient: Tensor,
) -> Tensor:  # fmt: skip
    denominator = mean_denominator(logits, target, weight, ignore_index, reduction)
    row_losses = torch.empty(row_count(logits), dtype=accumulator_dtype(logits.dtype), device=logits.device)
    launch(
        "forward_backward", logits, target, weight, loss, parameters, ignore_index,
        row_losses=row_losses, denominator=denominator, gradient=gradient,
    )  # fmt: skip
    return reduce_losses(row_losses, denominator)
