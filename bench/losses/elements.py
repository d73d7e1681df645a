"""What losses of elements share: shapes, and inputs that are normal."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..loss import Arguments, Loss, Shape

# 64 MB a tensor in float32, larger than the caches; 4 MB, inside them; a call so small that only its overhead counts.
SHAPES = ((2048, 8192), (1024, 1024), (64, 64))
CUDA_SHAPES = ((8192, 8192), (1024, 1024), (64, 64))


def normal(streams: int) -> Callable[[Shape, torch.dtype, torch.Generator], Arguments]:
    def make(shape: Shape, dtype: torch.dtype, generator: torch.Generator) -> Arguments:
        return tuple(
            torch.randn(shape, generator=generator, device=generator.device, dtype=dtype) for _ in range(streams)
        )

    return make


def loss(name: str, function: str, torch_function: Callable[..., Tensor], make: Callable[..., Arguments], streams: int,
          **options: float | str) -> Loss:  # fmt: skip
    return Loss(name, function, torch_function, make, SHAPES, CUDA_SHAPES, options, streams)
