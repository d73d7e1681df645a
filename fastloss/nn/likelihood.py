"""Modules of :mod:`fastloss.losses.likelihood`; the functions have the formulas and describe every argument."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from fastloss import functional
from fastloss.nn.base import FunctionLoss

__all__ = ["GaussianNLLLoss", "KLDivLoss", "LaplaceNLLLoss", "PoissonNLLLoss"]


class GaussianNLLLoss(FunctionLoss):
    """Negative log-likelihood of normal distributions, the Module of :func:`fastloss.gaussian_nll_loss`.

    A drop-in for :class:`torch.nn.GaussianNLLLoss`.
    """

    function = staticmethod(functional.gaussian_nll_loss)
    __constants__: ClassVar[list[str]] = ["full", "eps", "reduction"]

    def __init__(self, *, full: bool = False, eps: float = 1e-6, reduction: str = "mean") -> None:
        super().__init__(reduction=reduction)
        self.full = full
        self.eps = eps

    def forward(self, input: Tensor, target: Tensor, var: Tensor | float) -> Tensor:
        return self.call(input, target, var)


class LaplaceNLLLoss(FunctionLoss):
    """Negative log-likelihood of Laplace distributions, the Module of :func:`fastloss.laplace_nll_loss`."""

    function = staticmethod(functional.laplace_nll_loss)
    __constants__: ClassVar[list[str]] = ["full", "eps", "reduction"]

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


class PoissonNLLLoss(FunctionLoss):
    """Negative log-likelihood of counts, the Module of :func:`fastloss.poisson_nll_loss`.

    A drop-in for :class:`torch.nn.PoissonNLLLoss`.
    """

    function = staticmethod(functional.poisson_nll_loss)
    __constants__: ClassVar[list[str]] = ["log_input", "full", "eps", "reduction"]

    def __init__(
        self,
        log_input: bool = True,
        full: bool = False,
        size_average: bool | None = None,
        eps: float = 1e-8,
        reduce: bool | None = None,
        reduction: str = "mean",
    ) -> None:
        super().__init__(size_average, reduce, reduction)
        self.log_input = log_input
        self.full = full
        self.eps = eps

    def forward(self, log_input: Tensor, target: Tensor) -> Tensor:
        return self.call(log_input, target)


class KLDivLoss(FunctionLoss):
    """Kullback-Leibler divergence, the Module of :func:`fastloss.kl_div`. A drop-in for :class:`torch.nn.KLDivLoss`."""

    function = staticmethod(functional.kl_div)
    __constants__: ClassVar[list[str]] = ["reduction", "log_target"]

    def __init__(
        self,
        size_average: bool | None = None,
        reduce: bool | None = None,
        reduction: str = "mean",
        log_target: bool = False,
    ) -> None:
        super().__init__(size_average, reduce, reduction)
        self.log_target = log_target

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return self.call(input, target)
