"""What losses over all pairs of a batch of vectors share.

The shape is that of the first argument, by which the loss is differentiated; what does not require a gradient costs no
provider one. `%` of a copy means nothing here: these losses are bound by matrix products.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..loss import Arguments, Loss, Shape

CLASSES = 64


def two(shape: Shape, dtype: torch.dtype, generator: torch.Generator) -> Arguments:
    a, b = (torch.randn(shape, generator=generator, device=generator.device, dtype=dtype) for _ in range(2))
    return a, a + b


def labelled(shape: Shape, dtype: torch.dtype, generator: torch.Generator) -> Arguments:
    labels = torch.randint(CLASSES, shape[:1], generator=generator, device=generator.device)
    return two(shape, dtype, generator)[0], labels


def loss(name: str, function: str, torch_function: Callable[..., Tensor], make: Callable[..., Arguments], shape: Shape,
          cuda_shape: Shape, **options: float | str) -> Loss:  # fmt: skip
    return Loss(name, function, torch_function, make, (shape,), (cuda_shape,), options, 2, cold=False)
