"""Modules of :mod:`fastloss.losses.metric`; the functions have the formulas and describe every argument.

Hyper-parameters go to the constructor, tensors to the call. A temperature or scale that is trained is a tensor: use the
function.
"""

from __future__ import annotations

from torch import Tensor

from fastloss import functional
from fastloss.nn.base import FunctionLoss

__all__ = ["BatchHardTripletLoss", "InfoNCELoss", "NTXentLoss", "SemiHardTripletLoss", "SupConLoss"]


class InfoNCELoss(FunctionLoss):
    """Each query is to find its positive key, the Module of :func:`fastloss.info_nce`."""

    function = staticmethod(functional.info_nce)
    __constants__ = ["reduction", "temperature", "normalize", "decoupled", "label_smoothing"]

    def __init__(
        self,
        *,
        temperature: float = 0.1,
        normalize: bool = True,
        decoupled: bool = False,
        label_smoothing: float = 0.0,
        reduction: str = "mean",
    ) -> None:
        super().__init__(reduction=reduction)
        self.temperature = temperature
        self.normalize = normalize
        self.decoupled = decoupled
        self.label_smoothing = label_smoothing

    def forward(
        self,
        query: Tensor,
        positive: Tensor,
        negatives: Tensor | None = None,
        *,
        target: Tensor | None = None,
        labels: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        return self.call(query, positive, negatives, target=target, labels=labels)


class NTXentLoss(FunctionLoss):
    """Each view is to find the other one of its sample, the Module of :func:`fastloss.nt_xent`."""

    function = staticmethod(functional.nt_xent)
    __constants__ = ["reduction", "temperature", "normalize", "decoupled", "label_smoothing"]

    def __init__(
        self,
        *,
        temperature: float = 0.5,
        normalize: bool = True,
        decoupled: bool = False,
        label_smoothing: float = 0.0,
        reduction: str = "mean",
    ) -> None:
        super().__init__(reduction=reduction)
        self.temperature = temperature
        self.normalize = normalize
        self.decoupled = decoupled
        self.label_smoothing = label_smoothing

    def forward(self, z1: Tensor, z2: Tensor) -> Tensor:
        return self.call(z1, z2)


class SupConLoss(FunctionLoss):
    """Each embedding is to find the others of its class, the Module of :func:`fastloss.supcon_loss`."""

    function = staticmethod(functional.supcon_loss)
    __constants__ = ["reduction", "temperature", "normalize", "decoupled"]

    def __init__(
        self,
        *,
        temperature: float = 0.1,
        normalize: bool = True,
        decoupled: bool = False,
        reduction: str = "mean",
    ) -> None:
        super().__init__(reduction=reduction)
        self.temperature = temperature
        self.normalize = normalize
        self.decoupled = decoupled

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        return self.call(embeddings, labels)


class BatchHardTripletLoss(FunctionLoss):
    """The hardest triplet of each anchor, the Module of :func:`fastloss.batch_hard_triplet_loss`."""

    function = staticmethod(functional.batch_hard_triplet_loss)
    __constants__ = ["reduction", "margin", "soft_margin", "normalize", "squared"]

    def __init__(
        self,
        *,
        margin: float | None = None,
        soft_margin: bool = False,
        normalize: bool = False,
        squared: bool = False,
        reduction: str = "mean",
    ) -> None:
        super().__init__(reduction=reduction)
        self.margin = margin
        self.soft_margin = soft_margin
        self.normalize = normalize
        self.squared = squared

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        return self.call(embeddings, labels)


class SemiHardTripletLoss(FunctionLoss):
    """Triplets that are a little too easy, the Module of :func:`fastloss.semi_hard_triplet_loss`."""

    function = staticmethod(functional.semi_hard_triplet_loss)
    __constants__ = ["reduction", "margin", "normalize", "squared"]

    def __init__(
        self,
        *,
        margin: float = 1.0,
        normalize: bool = True,
        squared: bool = True,
        reduction: str = "mean",
    ) -> None:
        super().__init__(reduction=reduction)
        self.margin = margin
        self.normalize = normalize
        self.squared = squared

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        return self.call(embeddings, labels)
