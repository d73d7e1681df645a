"""Modules of :mod:`fastloss.losses.self_supervised`; the functions have the formulas and describe every argument.

Hyper-parameters go to the constructor, tensors to the call. A temperature or scale that is trained is a tensor: use the
function.
"""

from __future__ import annotations

from torch import Tensor

from fastloss import functional
from fastloss.core.metrics import Terms
from fastloss.nn.base import FunctionLoss

__all__ = ["CLIPLoss", "MoCoLoss", "SigLIPLoss", "VICRegLoss"]


class CLIPLoss(FunctionLoss):
    """Each image is to find its text and the reverse, the Module of :func:`fastloss.clip_loss`."""

    function = staticmethod(functional.clip_loss)
    __constants__ = ["reduction", "normalize", "label_smoothing"]

    def __init__(
        self,
        *,
        normalize: bool = True,
        label_smoothing: float = 0.0,
        reduction: str = "mean",
    ) -> None:
        super().__init__(reduction=reduction)
        self.normalize = normalize
        self.label_smoothing = label_smoothing

    def forward(self, image: Tensor, text: Tensor, logit_scale: float | Tensor = 1 / 0.07) -> Tensor:
        return self.call(image, text, logit_scale)


class SigLIPLoss(FunctionLoss):
    """Each pair of image and text by itself, the Module of :func:`fastloss.siglip_loss`."""

    function = staticmethod(functional.siglip_loss)
    __constants__ = ["reduction", "normalize"]

    def __init__(
        self,
        *,
        normalize: bool = True,
        reduction: str = "mean",
    ) -> None:
        super().__init__(reduction=reduction)
        self.normalize = normalize

    def forward(
        self, image: Tensor, text: Tensor, logit_scale: float | Tensor = 10.0, logit_bias: float | Tensor = -10.0
    ) -> Tensor:
        return self.call(image, text, logit_scale, logit_bias)


class MoCoLoss(FunctionLoss):
    """Each query is to find its key beside a queue, the Module of :func:`fastloss.moco_loss`."""

    function = staticmethod(functional.moco_loss)
    __constants__ = ["reduction", "temperature", "normalize", "label_smoothing"]

    def __init__(
        self,
        *,
        temperature: float = 0.07,
        normalize: bool = True,
        label_smoothing: float = 0.0,
        reduction: str = "mean",
    ) -> None:
        super().__init__(reduction=reduction)
        self.temperature = temperature
        self.normalize = normalize
        self.label_smoothing = label_smoothing

    def forward(self, query: Tensor, key: Tensor, queue: Tensor) -> Tensor:
        return self.call(query, key, queue)


class VICRegLoss(FunctionLoss):
    """Variance, invariance and covariance, the Module of :func:`fastloss.vicreg_loss`."""

    function = staticmethod(functional.vicreg_loss)
    __constants__ = ["invariance", "variance", "covariance", "gamma", "eps", "return_terms"]

    def __init__(
        self,
        *,
        invariance: float = 25.0,
        variance: float = 25.0,
        covariance: float = 1.0,
        gamma: float = 1.0,
        eps: float = 1e-4,
        return_terms: bool = False,
    ) -> None:
        super().__init__()
        self.invariance = invariance
        self.variance = variance
        self.covariance = covariance
        self.gamma = gamma
        self.eps = eps
        self.return_terms = return_terms

    def forward(self, z_a: Tensor, z_b: Tensor) -> Tensor | tuple[Tensor, Terms]:
        return self.call(z_a, z_b)
