"""Modules of :mod:`fastloss.losses.segmentation`."""

from fastloss.losses import segmentation as losses
from fastloss.nn.base import FunctionLoss

__all__ = ["DiceLoss", "FocalTverskyLoss", "LovaszHingeLoss", "LovaszSoftmaxLoss", "TverskyLoss"]


class DiceLoss(FunctionLoss, of=losses.dice_loss):
    """One minus the Dice coefficient of predicted and true regions."""


class FocalTverskyLoss(FunctionLoss, of=losses.focal_tversky_loss):
    """A power of one minus the Tversky index."""


class LovaszHingeLoss(FunctionLoss, of=losses.lovasz_hinge_loss):
    """Lovasz extension of the Jaccard index of one region."""


class LovaszSoftmaxLoss(FunctionLoss, of=losses.lovasz_softmax_loss):
    """Lovasz extension of the mean Jaccard index of the classes."""


class TverskyLoss(FunctionLoss, of=losses.tversky_loss):
    """One minus the Tversky index of predicted and true regions."""
