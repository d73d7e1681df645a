"""Modules of :mod:`fastloss.losses.contrastive`."""

from fastloss.losses import contrastive as losses
from fastloss.nn.base import FunctionLoss

__all__ = ["CLIPLoss", "InfoNCELoss", "MoCoLoss", "NTXentLoss", "SigLIPLoss", "SupConLoss"]


class InfoNCELoss(FunctionLoss, of=losses.info_nce):
    """Each query is to find its positive key."""


class NTXentLoss(FunctionLoss, of=losses.nt_xent):
    """Each view is to find the other one of its sample."""


class SupConLoss(FunctionLoss, of=losses.supcon_loss):
    """Each embedding is to find the others of its class."""


class CLIPLoss(FunctionLoss, of=losses.clip_loss):
    """Each image is to find its text and the reverse."""


class SigLIPLoss(FunctionLoss, of=losses.siglip_loss):
    """Each pair of image and text by itself."""


class MoCoLoss(FunctionLoss, of=losses.moco_loss):
    """Each query is to find its key beside a queue."""
