"""Modules of :mod:`fastloss.losses.quality_diversity`."""

from fastloss.losses import quality_diversity as losses
from fastloss.nn.base import FunctionLoss

__all__ = ["AURORALoss"]


class AURORALoss(FunctionLoss, of=losses.aurora_loss):
    """Loss of the autoencoder whose code describes behaviours."""
