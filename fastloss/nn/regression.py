"""Modules of :mod:`fastloss.losses.regression`."""

import torch

from fastloss.losses import regression as losses
from fastloss.nn.base import FunctionLoss

__all__ = ["ExpectileLoss", "HuberLoss", "L1Loss", "LogCoshLoss", "MSELoss", "QuantileLoss", "SmoothL1Loss"]


class MSELoss(FunctionLoss, torch.nn.MSELoss, of=losses.mse_loss):
    """Squared error."""


class L1Loss(FunctionLoss, torch.nn.L1Loss, of=losses.l1_loss):
    """Absolute error."""


class HuberLoss(FunctionLoss, torch.nn.HuberLoss, of=losses.huber_loss):
    """Huber's loss."""


class SmoothL1Loss(FunctionLoss, torch.nn.SmoothL1Loss, of=losses.smooth_l1_loss):
    """Absolute error with a quadratic bottom."""


class QuantileLoss(FunctionLoss, of=losses.quantile_loss, buffers=("tau",)):
    """Quantile (pinball) loss. Levels in a tensor become a buffer."""


class ExpectileLoss(FunctionLoss, of=losses.expectile_loss, buffers=("tau",)):
    """Expectile loss. Levels in a tensor become a buffer."""


class LogCoshLoss(FunctionLoss, of=losses.log_cosh_loss):
    """Logarithm of the hyperbolic cosine of the error."""
