"""The reference of losses whose classes are shared out: the logits of all ranks, gathered, and the reference body."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fastloss.core.arguments import accumulator_dtype
from fastloss.core.registry import LOSSES
from fastloss.distributed.collectives import Ranks, summed
from fastloss.losses.log_prob import OUTPUTS
from fastloss.operators.row import NONE, RowOptions
from fastloss.skeletons.row import Row


def whole(own: Tensor, first_class: int, classes: int, ranks: Ranks) -> Tensor:
    """(..., own classes) of this rank -> (..., classes) of all: a class is of one rank, and 0 on the others."""
    placed = own.new_zeros(*own.shape[:-1], classes)
    placed[..., first_class : first_class + own.shape[-1]] = own
    return summed(placed, ranks) if ranks.size > 1 else placed


def outputs(
    loss: str, parameters: Sequence[float], ignore_index: int, logits: Tensor, target: Tensor, weight: Tensor | None
) -> tuple[Tensor, ...]:
    """Of whole rows (rows, C): the row function's outputs; of a loss the losses (1, rows) and, for what is logged, lse,
    class weight and whether the target is the largest, (3, rows)."""
    of: Any = LOSSES[loss]
    wide = logits.to(accumulator_dtype(logits.dtype))
    if not isinstance(of, Row):
        return (of.signature.reference(wide, target, **dict(zip(of.parameters, parameters, strict=True))),)
    soft = target.is_floating_point()
    target = target.to(wide.dtype) if soft else target
    losses = of.on_operands(RowOptions(target, weight, loss, parameters, ignore_index, NONE), wide)
    given = dict(zip(of.parameters, parameters, strict=True))
    numbers: Any = LOSSES["log_softmax_of_index"]
    counted = torch.ones_like(losses, dtype=torch.bool) if soft else target != ignore_index
    index = torch.zeros_like(losses, dtype=torch.int64) if soft else target.where(counted, 0)
    how = {"temperature": given["temperature"], "softcap": given["softcap"]}
    found = dict(zip(OUTPUTS, numbers.signature.reference(wide, index, **how), strict=True))
    weights = torch.ones_like(losses) if weight is None or soft else weight.to(wide.dtype)[index]
    return losses[None], torch.stack([found["logsumexp"], weights, found["is_top1"]]) * counted
