"""The vmap rule of any operator: entry by entry, where the work of one is far above the overhead of a call."""

from __future__ import annotations

from typing import Any

import torch


def one_by_one(operator: Any, info: Any, in_dims: Any, *arguments: Any) -> Any:
    """The outputs of the operator for every entry of the batch, stacked, and where the batch is in them."""
    results = [
        operator(*(_entry(x, dim, number) for x, dim in zip(arguments, in_dims, strict=True)))
        for number in range(info.batch_size)
    ]
    if isinstance(results[0], torch.Tensor):
        return torch.stack(results), 0
    outputs = tuple(
        [torch.stack(x) for x in zip(*parts, strict=True)] if isinstance(parts[0], list) else torch.stack(parts)
        for parts in zip(*results, strict=True)
    )
    return outputs, tuple([0] * len(x) if isinstance(x, list) else 0 for x in outputs)


def _entry(x: Any, dim: Any, number: int) -> Any:
    return x.select(dim, number).contiguous() if isinstance(dim, int) else x
