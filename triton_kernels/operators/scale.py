"""The launcher of the in-place scaling of a gradient."""

from __future__ import annotations

import triton
from torch import Tensor

from ..kernels.scale import scale_kernel
from ..memory import PACKET_BYTES, has_unit_stride, is_aligned, on_device

SCALE_BLOCK = 4096


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
