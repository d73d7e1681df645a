"""Modules of :mod:`fastloss.losses.self_supervised`."""

from fastloss.losses import self_supervised as losses
from fastloss.nn.base import FunctionLoss

__all__ = ["VICRegLoss"]


class VICRegLoss(FunctionLoss, of=losses.vicreg_loss):
    """Variance, invariance and covariance."""
