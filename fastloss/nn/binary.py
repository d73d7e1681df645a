"""Modules of :mod:`fastloss.losses.binary`."""

import torch

from fastloss.losses import binary as losses
from fastloss.nn.base import FunctionLoss

__all__ = [
    "BCELoss",
    "BCEWithLogitsLoss",
    "HingeEmbeddingLoss",
    "HingeLoss",
    "MarginRankingLoss",
    "SigmoidFocalLoss",
    "SoftMarginLoss",
]


class BCELoss(FunctionLoss, torch.nn.BCELoss, of=losses.binary_cross_entropy):
    """Binary cross-entropy of probabilities."""


class BCEWithLogitsLoss(FunctionLoss, torch.nn.BCEWithLogitsLoss, of=losses.binary_cross_entropy_with_logits):
    """Binary cross-entropy of logits."""


class SigmoidFocalLoss(FunctionLoss, of=losses.sigmoid_focal_loss, buffers=("alpha",)):
    """Focal loss of binary labels."""


class SoftMarginLoss(FunctionLoss, torch.nn.SoftMarginLoss, of=losses.soft_margin_loss):
    """Logistic loss of labels -1 and 1."""


class HingeEmbeddingLoss(FunctionLoss, torch.nn.HingeEmbeddingLoss, of=losses.hinge_embedding_loss):
    """Loss of distances."""


class MarginRankingLoss(FunctionLoss, torch.nn.MarginRankingLoss, of=losses.margin_ranking_loss):
    """Ranking loss."""


class HingeLoss(FunctionLoss, of=losses.hinge_loss):
    """Hinge loss of labels -1 and 1."""
