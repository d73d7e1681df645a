"""Modules of :mod:`fastloss.losses.classification`."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fastloss.losses import classification as losses
from fastloss.nn.base import FunctionLoss

__all__ = ["CrossEntropyLoss", "LinearCrossEntropyLoss", "SoftmaxFocalLoss"]


class CrossEntropyLoss(FunctionLoss, torch.nn.CrossEntropyLoss, of=losses.cross_entropy):
    """Softmax cross-entropy."""


class LinearCrossEntropyLoss(FunctionLoss, of=losses.linear_cross_entropy):
    """A linear layer and the softmax cross-entropy of its output.

    A drop-in for :class:`torch.nn.LinearCrossEntropyLoss`, with its parameters ``linear.weight`` and ``linear.bias``.
    """

    weight: Tensor | None

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        *,
        out_features: tuple[int, ...] = (),
        bias: bool = False,
        device: Any = None,
        dtype: torch.dtype | None = None,
        reduction: str = "mean",
        weight: Tensor | None = None,
        ignore_index: int | None = None,
        label_smoothing: float = 0.0,
        options: Any = None,
        z_loss: float = 0.0,
        softcap: float | None = None,
        temperature: float = 1.0,
        accumulate_float32: bool = True,
    ) -> None:
        if weight is not None and weight.shape != (num_classes,):
            raise RuntimeError(f"expected weight shape to be {(num_classes,)}, got {tuple(weight.shape)}")
        if label_smoothing < 0 or label_smoothing > 1.0:
            raise RuntimeError(f"expected label_smoothing to be in range [0, 1], got {label_smoothing}")
        super().__init__(reduction=reduction)
        self.register_buffer("weight", weight)
        self.num_classes = num_classes
        self.out_features = out_features
        self.ignore_index = ignore_index
        self.label_smoothing = label_smoothing
        self.linear = torch.nn.Linear(
            in_features, math.prod(out_features, start=num_classes), bias=bias, device=device, dtype=dtype
        )
        self.options = options
        self.z_loss = z_loss
        self.softcap = softcap
        self.temperature = temperature
        self.accumulate_float32 = accumulate_float32

    def bind(self, *args: Any, **kwargs: Any) -> tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]:
        """The function that ``forward`` calls, and its arguments."""
        function, (input, target), options = super().bind(*args, **kwargs)
        classes = (self.num_classes, *self.out_features)
        bias = None if self.linear.bias is None else self.linear.bias.reshape(classes)
        linear_weight = self.linear.weight.reshape(*classes, self.linear.in_features)
        return function, (input, linear_weight, target), {**options, "linear_bias": bias}

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return self.call(input, target)

    def extra_repr(self) -> str:
        return (
            f"in_features={self.linear.in_features},"
            f" num_classes={self.num_classes},"
            f" out_features={self.out_features},"
            f" bias={self.linear.bias is not None},"
            f" reduction={self.reduction},"
            f" ignore_index={self.ignore_index},"
            f" label_smoothing={self.label_smoothing},"
            f" options={self.options}"
        )


class SoftmaxFocalLoss(FunctionLoss, of=losses.softmax_focal_loss, buffers=("alpha",)):
    """Focal loss over exclusive classes."""
