"""Modules of :mod:`fastloss.losses.margin`."""

from fastloss.losses import margin as losses
from fastloss.nn.base import FunctionLoss

__all__ = ["ArcFaceLoss", "CosFaceLoss", "CrammerSingerLoss", "MarginSoftmaxLoss", "SphereFaceLoss"]


class ArcFaceLoss(FunctionLoss, of=losses.arcface_loss):
    """Additive angular margin."""


class CosFaceLoss(FunctionLoss, of=losses.cosface_loss):
    """Additive cosine margin."""


class CrammerSingerLoss(FunctionLoss, of=losses.crammer_singer_loss):
    """The target's logit exceeds the largest of the others by a margin."""


class MarginSoftmaxLoss(FunctionLoss, of=losses.margin_softmax_loss):
    """Softmax of cosines with combined margins."""


class SphereFaceLoss(FunctionLoss, of=losses.sphereface_loss):
    """Multiplicative angular margin."""
