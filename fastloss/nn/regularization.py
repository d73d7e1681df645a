"""Modules of :mod:`fastloss.losses.regularization`."""

from fastloss.losses import regularization as losses
from fastloss.nn.base import FunctionLoss

__all__ = [
    "ConfidencePenalty",
    "EWCLoss",
    "ElasticNetPenalty",
    "Entropy",
    "GroupLasso",
    "L1Penalty",
    "L2Penalty",
    "LwFLoss",
    "OrthogonalityPenalty",
    "SpectralNormPenalty",
    "SynapticIntelligenceLoss",
]


class ConfidencePenalty(FunctionLoss, of=losses.confidence_penalty):
    """Minus the entropy of predictions."""


class EWCLoss(FunctionLoss, of=losses.ewc_loss):
    """Elastic weight consolidation."""


class ElasticNetPenalty(FunctionLoss, of=losses.elastic_net_penalty):
    """Absolute values and squares of the parameters."""


class Entropy(FunctionLoss, of=losses.entropy):
    """Entropy of the distributions that logits stand for."""


class GroupLasso(FunctionLoss, of=losses.group_lasso):
    """Sum of the norms of groups of parameters."""


class L1Penalty(FunctionLoss, of=losses.l1_penalty):
    """Sum of the absolute values of the parameters."""


class L2Penalty(FunctionLoss, of=losses.l2_penalty):
    """Sum of the squares of the parameters."""


class LwFLoss(FunctionLoss, of=losses.lwf_loss):
    """Learning without forgetting."""


class OrthogonalityPenalty(FunctionLoss, of=losses.orthogonality_penalty):
    """How far weights are from orthonormal."""


class SpectralNormPenalty(FunctionLoss, of=losses.spectral_norm_penalty):
    """Squares of the largest singular values of the weights."""


class SynapticIntelligenceLoss(FunctionLoss, of=losses.synaptic_intelligence):
    """Synaptic intelligence."""
