"""What the reference bodies with masks and logged terms share; :mod:`fastloss.core.reductions` reduces."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fastloss.core.dtypes import widened
from fastloss.core.reductions import aggregate, masked_max, masked_min

Metrics = dict[str, Tensor]

REWARD_METRICS = {"chosen_reward": "mean", "rejected_reward": "mean", "margin": "mean", "accuracy": "mean"}


def detached(operand: Any) -> Any:
    """The operand, a tensor or a number, as a constant of the differentiation."""
    return operand.detach() if isinstance(operand, Tensor) else operand


def counted(mask: Tensor | None, *operands: Any) -> tuple[Any, ...]:
    """The operands in the dtype of the kernels' arithmetic, and 0 where the mask has taken an element out.

    The zeros keep a NaN there from the gradients: autograd multiplies its derivative by 0, and 0 * NaN is NaN.
    """
    operands = widened(*operands)
    if mask is None:
        return operands
    return tuple(torch.where(mask != 0, x, 0) if isinstance(x, Tensor) else x for x in operands)


class Batch:
    """Losses of elements and how they are reduced. What is logged beside them is detached and 0-d; all results have the
    dtype of the loss, whatever the arithmetic was in."""

    def __init__(
        self,
        losses: Tensor,
        how: str,
        mask: Tensor | None,
        normalizer: float | Tensor | None,
        dtype: torch.dtype,
    ) -> None:
        self.losses, self.how, self.mask, self.normalizer, self.dtype = losses, how, mask, normalizer, dtype

    def _elements(self, values: Tensor) -> Tensor:
        return values.detach().to(self.losses.dtype).expand(self.losses.shape)

    def loss(self) -> Tensor:
        return aggregate(self.losses, self.how, self.mask, self.normalizer).to(self.dtype)

    def part(self, values: Tensor) -> Tensor:
        """A part of the loss, reduced as the loss is; the sum where the loss is not reduced."""
        how = "sum" if self.how == "none" else self.how
        return aggregate(self._elements(values), how, self.mask, self.normalizer).to(self.dtype)

    def mean(self, values: Tensor) -> Tensor:
        """Over the elements that count; 0 if there are none."""
        values = self._elements(values)
        if self.mask is None:
            return aggregate(values, "mean").to(self.dtype)
        weight = self.mask.to(values.dtype).expand(self.losses.shape)
        total, count = torch.where(weight != 0, values * weight, 0).sum(), weight.sum()
        return (total / torch.where(count == 0, 1, count)).to(self.dtype)

    def least(self, values: Tensor) -> Tensor:
        return masked_min(self._elements(values), self.mask).to(self.dtype)

    def greatest(self, values: Tensor) -> Tensor:
        return masked_max(self._elements(values), self.mask).to(self.dtype)

    def rewards(self, chosen: Tensor, rejected: Tensor) -> Metrics:
        """What is logged of the rewards of pairs."""
        return {
            "chosen_reward": self.mean(chosen),
            "rejected_reward": self.mean(rejected),
            "margin": self.mean(chosen - rejected),
            "accuracy": self.mean(chosen > rejected),
        }
