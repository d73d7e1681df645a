"""Modules of :mod:`fastloss.losses.self_supervised`."""

from fastloss.losses import self_supervised as losses
from fastloss.nn.base import FunctionLoss

__all__ = [
    "BYOLLoss",
    "BarlowTwinsLoss",
    "DCLLoss",
    "DINOLoss",
    "IBOTLoss",
    "KoLeoLoss",
    "MAELoss",
    "SimSiamLoss",
    "SwAVLoss",
    "VICRegLoss",
]


class VICRegLoss(FunctionLoss, of=losses.vicreg_loss):
    """Variance, invariance and covariance."""


class BarlowTwinsLoss(FunctionLoss, of=losses.barlow_twins_loss):
    """Views agree in every dimension, and no dimension repeats another."""


class BYOLLoss(FunctionLoss, of=losses.byol_loss):
    """A prediction should point where the averaged network puts the other view."""


class SimSiamLoss(FunctionLoss, of=losses.simsiam_loss):
    """A prediction should point where the same network puts the other view."""


class DCLLoss(FunctionLoss, of=losses.dcl_loss):
    """Decoupled contrastive loss."""


class DINOLoss(FunctionLoss, of=losses.dino_loss):
    """Self-distillation between views."""


class KoLeoLoss(FunctionLoss, of=losses.koleo_loss):
    """Embeddings spread evenly over the sphere."""


class MAELoss(FunctionLoss, of=losses.mae_loss):
    """Squared error of the patches that the encoder did not see."""


class IBOTLoss(FunctionLoss, of=losses.ibot_loss):
    """Self-distillation of masked patches."""


class SwAVLoss(FunctionLoss, of=losses.swav_loss):
    """Views predict each other's assignments to prototypes."""
