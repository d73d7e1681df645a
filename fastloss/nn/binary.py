"""Modules of :mod:`fastloss.losses.binary`; the functions have the formulas and describe every argument."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from fastloss import functional
from fastloss.nn.base import FunctionLoss

__all__ = [
    "BCELoss",
    "BCEWithLogitsLoss",
    "HingeEmbeddingLoss",
    "HingeLoss",
    "MarginRankingLoss",
    "SigmoidFocalLoss",
    "SoftMarginLoss",
]


class BCELoss(FunctionLoss):
    """Binary cross-entropy of probabilities, the Module of :func:`fastloss.binary_cross_entropy`.

    A drop-in for :class:`torch.nn.BCELoss`.
    """

    function = staticmethod(functional.binary_cross_entropy)
    __constants__: ClassVar[list[str]] = ["weight", "reduction"]
    weight: Tensor | None

    def __init__(
        self,
        weight: Tensor | None = None,
        size_average: bool | None = None,
        reduce: bool | None = None,
        reduction: str = "mean",
    ) -> None:
        super().__init__(size_average, reduce, reduction)
        self.register_buffer("weight", weight)

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return self.call(input, target)


class BCEWithLogitsLoss(FunctionLoss):
    """Binary cross-entropy of logits, the Module of :func:`fastloss.binary_cross_entropy_with_logits`.

    A drop-in for :class:`torch.nn.BCEWithLogitsLoss`.
    """

    function = staticmethod(functional.binary_cross_entropy_with_logits)
    __constants__: ClassVar[list[str]] = ["weight", "reduction", "pos_weight"]
    weight: Tensor | None
    pos_weight: Tensor | None

    def __init__(
        self,
        weight: Tensor | None = None,
        size_average: bool | None = None,
        reduce: bool | None = None,
        reduction: str = "mean",
        pos_weight: Tensor | None = None,
    ) -> None:
        super().__init__(size_average, reduce, reduction)
        self.register_buffer("weight", weight)
        self.register_buffer("pos_weight", pos_weight)

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return self.call(input, target)


class SigmoidFocalLoss(FunctionLoss):
    """Focal loss of binary labels, the Module of :func:`fastloss.sigmoid_focal_loss`."""

    function = staticmethod(functional.sigmoid_focal_loss)
    __constants__: ClassVar[list[str]] = ["alpha", "gamma", "reduction"]

    def __init__(self, alpha: float = 0.25, gamma: float = 2.0, reduction: str = "none") -> None:
        super().__init__(reduction=reduction)
        self.alpha = alpha
        self.gamma = gamma

    def forward(
        self,
        inputs: Tensor,
        targets: Tensor,
        *,
        mask: Tensor | None = None,
        normalizer: float | Tensor | str | None = None,
    ) -> Tensor:
        return self.call(inputs, targets, mask=mask, normalizer=normalizer)


class SoftMarginLoss(FunctionLoss):
    """Logistic loss of labels -1 and 1, the Module of :func:`fastloss.soft_margin_loss`.

    A drop-in for :class:`torch.nn.SoftMarginLoss`.
    """

    function = staticmethod(functional.soft_margin_loss)

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return self.call(input, target)


class HingeEmbeddingLoss(FunctionLoss):
    """Loss of distances, the Module of :func:`fastloss.hinge_embedding_loss`.

    A drop-in for :class:`torch.nn.HingeEmbeddingLoss`.
    """

    function = staticmethod(functional.hinge_embedding_loss)
    __constants__: ClassVar[list[str]] = ["margin", "reduction"]

    def __init__(
        self,
        margin: float = 1.0,
        size_average: bool | None = None,
        reduce: bool | None = None,
        reduction: str = "mean",
    ) -> None:
        super().__init__(size_average, reduce, reduction)
        self.margin = margin

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return self.call(input, target)


class MarginRankingLoss(FunctionLoss):
    """Ranking loss, the Module of :func:`fastloss.margin_ranking_loss`.

    A drop-in for :class:`torch.nn.MarginRankingLoss`.
    """

    function = staticmethod(functional.margin_ranking_loss)
    __constants__: ClassVar[list[str]] = ["margin", "reduction"]

    def __init__(
        self,
        margin: float = 0.0,
        size_average: bool | None = None,
        reduce: bool | None = None,
        reduction: str = "mean",
    ) -> None:
        super().__init__(size_average, reduce, reduction)
        self.margin = margin

    def forward(self, input1: Tensor, input2: Tensor, target: Tensor) -> Tensor:
        return self.call(input1, input2, target)


class HingeLoss(FunctionLoss):
    """Hinge loss of labels -1 and 1, the Module of :func:`fastloss.hinge_loss`."""

    function = staticmethod(functional.hinge_loss)
    __constants__: ClassVar[list[str]] = ["margin", "squared", "reduction"]

    def __init__(self, *, margin: float = 1.0, squared: bool = False, reduction: str = "mean") -> None:
        super().__init__(reduction=reduction)
        self.margin = margin
        self.squared = squared

    def forward(
        self,
        input: Tensor,
        target: Tensor,
        *,
        mask: Tensor | None = None,
        normalizer: float | Tensor | None = None,
    ) -> Tensor:
        return self.call(input, target, mask=mask, normalizer=normalizer)
