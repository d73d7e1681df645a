"""The in-place scaling of a gradient by the upstream gradient."""

from __future__ import annotations

import triton
import triton.language as tl

from ..memory import aligned_body


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
