"""Modules of :mod:`fastloss.losses.alignment`."""

from fastloss.losses import alignment as losses
from fastloss.nn.base import FunctionLoss

__all__ = ["CPOLoss", "DPOLoss", "KLPenalty", "KTOLoss", "ORPOLoss", "RewardModelLoss", "SimPOLoss"]


class KLPenalty(FunctionLoss, of=losses.kl_penalty):
    """Estimates of the KL divergence to a reference policy."""


class RewardModelLoss(FunctionLoss, of=losses.reward_model_loss):
    """Bradley-Terry loss of a reward model."""


class DPOLoss(FunctionLoss, of=losses.dpo_loss):
    """Direct preference optimisation and its relatives."""


class SimPOLoss(FunctionLoss, of=losses.simpo_loss):
    """Simple preference optimisation."""


class CPOLoss(FunctionLoss, of=losses.cpo_loss):
    """Contrastive preference optimisation."""


class ORPOLoss(FunctionLoss, of=losses.orpo_loss):
    """Odds-ratio preference optimisation."""


class KTOLoss(FunctionLoss, of=losses.kto_loss):
    """Kahneman-Tversky optimisation."""
