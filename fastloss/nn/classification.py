"""Modules of :mod:`fastloss.losses.classification`; the functions have the formulas and describe every argument."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fastloss import functional
from fastloss.nn.base import FunctionLoss

__all__ = ["CrossEntropyLoss", "LinearCrossEntropyLoss", "SoftmaxFocalLoss"]


class CrossEntropyLoss(FunctionLoss, torch.nn.CrossEntropyLoss):
    r"""Softmax cross-entropy, the Module of :func:`fastloss.cross_entropy`, which has the formula and every argument.

    A drop-in for :class:`torch.nn.CrossEntropyLoss`; ``z_loss``, ``softcap``, ``temperature``, ``inplace`` are extras.

    Shape:
        - input: (C), (N, C) or (N, C, d1, ..., dk)
        - target: (), (N) or (N, d1, ..., dk) of class indices; or the shape of ``input``
        - output: the shape of the class indices for ``reduction="none"``, else ()
    """

    function = staticmethod(functional.cross_entropy)
    __constants__ = [
        "weight",
        "ignore_index",
        "reduction",
        "label_smoothing",
        "z_loss",
        "softcap",
        "temperature",
        "inplace",
    ]

    def __init__(
        self,
        weight: Tensor | None = None,
        size_average: bool | None = None,
        ignore_index: int = -100,
        reduce: bool | None = None,
        reduction: str = "mean",
        label_smoothing: float = 0.0,
        *,
        z_loss: float = 0.0,
        softcap: float | None = None,
        temperature: float = 1.0,
        inplace: bool = False,
    ) -> None:
        super().__init__(weight, size_average, ignore_index, reduce, reduction, label_smoothing)
        self.z_loss = z_loss
        self.softcap = softcap
        self.temperature = temperature
        self.inplace = inplace

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return self.call(input, target)


class LinearCrossEntropyLoss(FunctionLoss):
    """A linear layer and the softmax cross-entropy of its output, the Module of :func:`fastloss.linear_cross_entropy`.

    A drop-in for :class:`torch.nn.LinearCrossEntropyLoss`, with its parameters ``linear.weight`` and ``linear.bias``;
    ``z_loss``, ``softcap``, ``temperature``, ``accumulate_float32`` are extras.

    Shape:
        - input: (in_features) or (N, in_features)
        - target: (), (N) or (N, *out_features) of class indices; or (C), (N, C), (N, C, *out_features)
        - output: the shape of the class indices for ``reduction="none"``, else ()
    """

    function = staticmethod(functional.linear_cross_entropy)
    __constants__ = [
        "weight",
        "reduction",
        "ignore_index",
        "label_smoothing",
        "options",
        "z_loss",
        "softcap",
        "temperature",
        "accumulate_float32",
    ]
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


class SoftmaxFocalLoss(FunctionLoss):
    """Focal loss over exclusive classes, the Module of :func:`fastloss.softmax_focal_loss`.

    Shape:
        - input: (C), (N, C) or (N, C, d1, ..., dk)
        - target: (), (N) or (N, d1, ..., dk) of class indices; or the shape of ``input``
        - output: the shape of the class indices for ``reduction="none"``, else ()
    """

    function = staticmethod(functional.softmax_focal_loss)
    __constants__ = [
        "alpha",
        "gamma",
        "ignore_index",
        "reduction",
        "label_smoothing",
        "inplace",
    ]
    alpha: Tensor | None

    def __init__(
        self,
        alpha: Tensor | None = None,
        gamma: float = 2.0,
        *,
        ignore_index: int = -100,
        reduction: str = "mean",
        label_smoothing: float = 0.0,
        inplace: bool = False,
    ) -> None:
        super().__init__(reduction=reduction)
        self.register_buffer("alpha", alpha)
        self.gamma = gamma
        self.ignore_index = ignore_index
        self.label_smoothing = label_smoothing
        self.inplace = inplace

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return self.call(input, target)
