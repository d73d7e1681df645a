"""Modules of :mod:`fastloss.losses.regression`; the functions have the formulas and describe every argument."""

from __future__ import annotations

import torch
from torch import Tensor

from fastloss import functional
from fastloss.nn.base import FunctionLoss

__all__ = ["ExpectileLoss", "HuberLoss", "L1Loss", "LogCoshLoss", "MSELoss", "QuantileLoss", "SmoothL1Loss"]


class MSELoss(FunctionLoss, torch.nn.MSELoss):
    """Squared error, the Module of :func:`fastloss.mse_loss`. A drop-in for :class:`torch.nn.MSELoss`."""

    function = staticmethod(functional.mse_loss)

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return self.call(input, target)


class L1Loss(FunctionLoss, torch.nn.L1Loss):
    """Absolute error, the Module of :func:`fastloss.l1_loss`. A drop-in for :class:`torch.nn.L1Loss`."""

    function = staticmethod(functional.l1_loss)

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return self.call(input, target)


class HuberLoss(FunctionLoss, torch.nn.HuberLoss):
    """Huber's loss, the Module of :func:`fastloss.huber_loss`. A drop-in for :class:`torch.nn.HuberLoss`."""

    function = staticmethod(functional.huber_loss)
    __constants__ = ["reduction", "delta"]

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return self.call(input, target)


class SmoothL1Loss(FunctionLoss, torch.nn.SmoothL1Loss):
    """Absolute error with a quadratic bottom, the Module of :func:`fastloss.smooth_l1_loss`.

    A drop-in for :class:`torch.nn.SmoothL1Loss`.
    """

    function = staticmethod(functional.smooth_l1_loss)
    __constants__ = ["reduction", "beta"]

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return self.call(input, target)


class _LevelLoss(FunctionLoss):
    tau: float | Tensor

    def __init__(self, tau: float | Tensor, *, reduction: str = "mean") -> None:
        super().__init__(reduction=reduction)
        if isinstance(tau, Tensor):
            self.register_buffer("tau", tau)
        else:
            self.tau = tau

    def forward(
        self,
        input: Tensor,
        target: Tensor,
        *,
        mask: Tensor | None = None,
        normalizer: float | Tensor | None = None,
    ) -> Tensor:
        return self.call(input, target, mask=mask, normalizer=normalizer)


class QuantileLoss(_LevelLoss):
    """Quantile (pinball) loss, the Module of :func:`fastloss.quantile_loss`. Levels in a tensor become a buffer."""

    function = staticmethod(functional.quantile_loss)
    __constants__ = ["tau", "reduction", "crossing_penalty"]

    def __init__(self, tau: float | Tensor, *, crossing_penalty: float = 0.0, reduction: str = "mean") -> None:
        super().__init__(tau, reduction=reduction)
        self.crossing_penalty = crossing_penalty


class ExpectileLoss(_LevelLoss):
    """Expectile loss, the Module of :func:`fastloss.expectile_loss`. Levels in a tensor become a buffer."""

    function = staticmethod(functional.expectile_loss)
    __constants__ = ["tau", "reduction"]


class LogCoshLoss(FunctionLoss):
    """Logarithm of the hyperbolic cosine of the error, the Module of :func:`fastloss.log_cosh_loss`."""

    function = staticmethod(functional.log_cosh_loss)

    def __init__(self, *, reduction: str = "mean") -> None:
        super().__init__(reduction=reduction)

    def forward(
        self,
        input: Tensor,
        target: Tensor,
        *,
        mask: Tensor | None = None,
        normalizer: float | Tensor | None = None,
    ) -> Tensor:
        return self.call(input, target, mask=mask, normalizer=normalizer)
