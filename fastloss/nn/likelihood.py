"""Modules of :mod:`fastloss.losses.likelihood`; the functions have the formulas and describe every argument."""

from __future__ import annotations

import torch
from torch import Tensor

from fastloss import functional
from fastloss.nn.base import FunctionLoss

__all__ = ["GaussianNLLLoss", "KLDivLoss", "LaplaceNLLLoss", "PoissonNLLLoss"]


class GaussianNLLLoss(FunctionLoss, torch.nn.GaussianNLLLoss):
    """Negative log-likelihood of normal distributions, the Module of :func:`fastloss.gaussian_nll_loss`.

    A drop-in for :class:`torch.nn.GaussianNLLLoss`.
    """

    function = staticmethod(functional.gaussian_nll_loss)
    __constants__ = ["full", "eps", "reduction"]

    def forward(self, input: Tensor, target: Tensor, var: Tensor | float) -> Tensor:
        return self.call(input, target, var)


class LaplaceNLLLoss(FunctionLoss):
    """Negative log-likelihood of Laplace distributions, the Module of :func:`fastloss.laplace_nll_loss`."""

    function = staticmethod(functional.laplace_nll_loss)
    __constants__ = ["full", "eps", "reduction"]

    def __init__(self, *, full: bool = False, eps: float = 1e-6, reduction: str = "mean") -> None:
        super().__init__(reduction=reduction)
        self.full = full
        self.eps = eps

    def forward(
        self,
        input: Tensor,
        target: Tensor,
        scale: Tensor | float,
        *,
        mask: Tensor | None = None,
        normalizer: float | Tensor | None = None,
    ) -> Tensor:
        return self.call(input, target, scale, mask=mask, normalizer=normalizer)


class PoissonNLLLoss(FunctionLoss, torch.nn.PoissonNLLLoss):
    """Negative log-likelihood of counts, the Module of :func:`fastloss.poisson_nll_loss`.

    A drop-in for :class:`torch.nn.PoissonNLLLoss`.
    """

    function = staticmethod(functional.poisson_nll_loss)
    __constants__ = ["log_input", "full", "eps", "reduction"]

    def forward(self, log_input: Tensor, target: Tensor) -> Tensor:
        return self.call(log_input, target)


class KLDivLoss(FunctionLoss, torch.nn.KLDivLoss):
    """Kullback-Leibler divergence, the Module of :func:`fastloss.kl_div`. A drop-in for :class:`torch.nn.KLDivLoss`."""

    function = staticmethod(functional.kl_div)
    __constants__ = ["reduction", "log_target"]

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return self.call(input, target)
