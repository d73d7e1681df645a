"""Dtypes of the reference bodies: what torch's own rules decide, and float32 arithmetic where a half is too coarse."""

from __future__ import annotations

import contextlib
from typing import Any

import torch
from torch import Tensor

from fastloss.core.arguments import DEVICES, autocast_applies


def result_dtype(*operands: Any) -> torch.dtype:
    """What torch promotes the operands to; numbers do not count. Integers become the default dtype."""
    tensors = [x for x in operands if isinstance(x, Tensor)]
    first = tensors[0].dtype
    if first.is_floating_point and all(x.dtype == first for x in tensors):
        return first  # most calls; the additions take 0.3 ms
    total: Any = 0
    for x in tensors:
        total = total + torch.empty((1,) * x.dim(), dtype=x.dtype, device="meta")
    return total.dtype if total.dtype.is_floating_point else torch.get_default_dtype()


_WIDE = {torch.float16: torch.float32, torch.bfloat16: torch.float32}
_WIDE |= dict.fromkeys((torch.bool, torch.uint8, torch.int8, torch.int16), torch.int32)


def widened(*operands: Any) -> tuple[Any, ...]:
    """The operands, tensors of halves in float32; of bool, which torch does not subtract, and of narrow integers, whose
    differences wrap around, in int32."""
    return tuple(x.to(_WIDE.get(x.dtype, x.dtype)) if isinstance(x, Tensor) else x for x in operands)


def in_float32(value: Any) -> Any:
    """A tensor of halves in float32; anything else as it is."""
    half = isinstance(value, Tensor) and value.dtype in (torch.float16, torch.bfloat16)
    return value.float() if half else value


def without_autocast(tensor: Tensor) -> contextlib.AbstractContextManager[Any]:
    """No autocast inside, on the tensor's device; torch has none for meta tensors, and raises."""
    device = tensor.device.type
    return torch.autocast(device, enabled=False) if device in DEVICES else contextlib.nullcontext()


def one_dtype(arguments: dict[str, Any], *names: str) -> bool:
    """Whether arguments of these names have one dtype. Under autocast all become float32, unless one is a double."""
    tensors = [arguments[name] for name in names if isinstance(arguments.get(name), Tensor)]
    dtypes = {x.dtype for x in tensors}
    if len(dtypes) < 2:
        return True
    return autocast_applies(tensors[0]) and all(x.is_floating_point() for x in tensors) and torch.float64 not in dtypes
