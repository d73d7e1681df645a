"""Modules of :mod:`fastloss.losses.boxes`."""

from fastloss.losses import boxes as losses
from fastloss.nn.base import FunctionLoss

__all__ = ["CIoULoss", "DIoULoss", "GIoULoss", "IoULoss"]


class CIoULoss(FunctionLoss, of=losses.ciou_loss):
    """Intersection over union, distance of the centres and aspect ratio of boxes."""


class DIoULoss(FunctionLoss, of=losses.diou_loss):
    """Intersection over union and distance of the centres of boxes."""


class GIoULoss(FunctionLoss, of=losses.giou_loss):
    """Generalised intersection over union of boxes."""


class IoULoss(FunctionLoss, of=losses.iou_loss):
    """One minus the intersection over union of boxes."""
