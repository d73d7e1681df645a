"""Modules of :mod:`fastloss.losses.binary`; the functions have the formulas and describe every argument."""

from __future__ import annotations

import torch
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


class BCELoss(FunctionLoss, torch.nn.BCELoss):
    """Binary cross-entropy of probabilities, the Module of :func:`fastloss.binary_cross_entropy`.

    A drop-in for :class:`torch.nn.BCELoss`.
    """

    function = staticmethod(functional.binary_cross_entropy)
    __constants__ = ["weight", "reduction"]

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return self.call(input, target)


class BCEWithLogitsLoss(FunctionLoss, torch.nn.BCEWithLogitsLoss):
    """Binary cross-entropy of logits, the Module of :func:`fastloss.binary_cross_entropy_with_logits`.

    A drop-in for :class:`torch.nn.BCEWithLogitsLoss`.
    """

    function = staticmethod(functional.binary_cross_entropy_with_logits)
    __constants__ = ["weight", "reduction", "pos_weight"]

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return self.call(input, target)


class SigmoidFocalLoss(FunctionLoss):
    """Focal loss of binary labels, the Module of :func:`fastloss.sigmoid_focal_loss`."""

    function = staticmethod(functional.sigmoid_focal_loss)
    __constants__ = ["alpha", "gamma", "reduction"]

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


class SoftMarginLoss(FunctionLoss, torch.nn.SoftMarginLoss):
    """Logistic loss of labels -1 and 1, the Module of :func:`fastloss.soft_margin_loss`.

    A drop-in for :class:`torch.nn.SoftMarginLoss`.
    """

    function = staticmethod(functional.soft_margin_loss)

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return self.call(input, target)


class HingeEmbeddingLoss(FunctionLoss, torch.nn.HingeEmbeddingLoss):
    """Loss of distances, the Module of :func:`fastloss.hinge_embedding_loss`.

    A drop-in for :class:`torch.nn.HingeEmbeddingLoss`.
    """

    function = staticmethod(functional.hinge_embedding_loss)
    __constants__ = ["margin", "reduction"]

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return self.call(input, target)


class MarginRankingLoss(FunctionLoss, torch.nn.MarginRankingLoss):
    """Ranking loss, the Module of :func:`fastloss.margin_ranking_loss`.

    A drop-in for :class:`torch.nn.MarginRankingLoss`.
    """

    function = staticmethod(functional.margin_ranking_loss)
    __constants__ = ["margin", "reduction"]

    def forward(self, input1: Tensor, input2: Tensor, target: Tensor) -> Tensor:
        return self.call(input1, input2, target)


class HingeLoss(FunctionLoss):
    """Hinge loss of labels -1 and 1, the Module of :func:`fastloss.hinge_loss`."""

    function = staticmethod(functional.hinge_loss)
    __constants__ = ["margin", "squared", "reduction"]

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
