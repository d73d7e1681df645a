"""Modules of :mod:`fastloss.losses.metric`."""

from fastloss.losses import metric as losses
from fastloss.nn.base import FunctionLoss

__all__ = ["BatchHardTripletLoss", "SemiHardTripletLoss"]


class BatchHardTripletLoss(FunctionLoss, of=losses.batch_hard_triplet_loss):
    """The hardest triplet of each anchor."""


class SemiHardTripletLoss(FunctionLoss, of=losses.semi_hard_triplet_loss):
    """Triplets that are a little too easy."""
