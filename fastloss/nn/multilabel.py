"""Modules of :mod:`fastloss.losses.multilabel`."""

from fastloss.losses import multilabel as losses
from fastloss.nn.base import FunctionLoss

__all__ = ["AsymmetricLoss", "TwoWayLoss", "ZLPRLoss"]


class AsymmetricLoss(FunctionLoss, of=losses.asymmetric_loss):
    """Focal loss of many labels, most of them negative."""


class TwoWayLoss(FunctionLoss, of=losses.two_way_loss):
    """All positives above all negatives, in every sample and in every class."""


class ZLPRLoss(FunctionLoss, of=losses.zlpr_loss):
    """Zero-bounded log-sum-exp of pairs."""
