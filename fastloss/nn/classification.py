"""Modules of :mod:`fastloss.losses.classification`; the functions have the formulas and describe every argument."""

from __future__ import annotations

import torch
from torch import Tensor

from fastloss import functional
from fastloss.nn.base import FunctionLoss

__all__ = ["CrossEntropyLoss", "SoftmaxFocalLoss"]


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
