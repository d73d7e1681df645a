"""Modules of the losses of self-supervised learning; the functions have the formulas and describe every argument."""

from __future__ import annotations

from torch import Tensor

from fastloss import functional
from fastloss.nn.base import FunctionLoss

__all__ = ["VICRegLoss"]


class VICRegLoss(FunctionLoss):
    """Variance, invariance and covariance of embeddings, the Module of :func:`fastloss.vicreg_loss`."""

    function = staticmethod(functional.vicreg_loss)
    __constants__ = ["invariance", "variance", "covariance"]

    def __init__(self, *, invariance: float = 25.0, variance: float = 25.0, covariance: float = 1.0) -> None:
        super().__init__()
        self.invariance = invariance
        self.variance = variance
        self.covariance = covariance

    def forward(self, z_a: Tensor, z_b: Tensor) -> Tensor:
        return self.call(z_a, z_b)
