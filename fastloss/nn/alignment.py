"""Modules of :mod:`fastloss.losses.alignment`."""

from fastloss.losses import alignment as losses
from fastloss.nn.base import FunctionLoss

__all__ = [
    "CPOLoss",
    "CPOLossFromLogits",
    "DPOLoss",
    "DPOLossFromLogits",
    "GRPOLoss",
    "GRPOLossFromLogits",
    "KLPenalty",
    "KTOLoss",
    "KTOLossFromLogits",
    "LinearCPOLoss",
    "LinearDPOLoss",
    "LinearGRPOLoss",
    "LinearKTOLoss",
    "LinearORPOLoss",
    "LinearRewardModelLoss",
    "LinearSimPOLoss",
    "ORPOLoss",
    "ORPOLossFromLogits",
    "RLHFLoss",
    "RewardModelLoss",
    "SimPOLoss",
    "SimPOLossFromLogits",
]


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


class GRPOLoss(FunctionLoss, of=losses.grpo_loss):
    """Group-relative policy optimisation and its relatives."""


class DPOLossFromLogits(FunctionLoss, of=losses.dpo_loss_from_logits):
    """Direct preference optimisation, from logits."""


class LinearDPOLoss(FunctionLoss, of=losses.linear_dpo_loss):
    """Direct preference optimisation, from hidden states."""


class SimPOLossFromLogits(FunctionLoss, of=losses.simpo_loss_from_logits):
    """Simple preference optimisation, from logits."""


class LinearSimPOLoss(FunctionLoss, of=losses.linear_simpo_loss):
    """Simple preference optimisation, from hidden states."""


class CPOLossFromLogits(FunctionLoss, of=losses.cpo_loss_from_logits):
    """Contrastive preference optimisation, from logits."""


class LinearCPOLoss(FunctionLoss, of=losses.linear_cpo_loss):
    """Contrastive preference optimisation, from hidden states."""


class ORPOLossFromLogits(FunctionLoss, of=losses.orpo_loss_from_logits):
    """Odds-ratio preference optimisation, from logits."""


class LinearORPOLoss(FunctionLoss, of=losses.linear_orpo_loss):
    """Odds-ratio preference optimisation, from hidden states."""


class KTOLossFromLogits(FunctionLoss, of=losses.kto_loss_from_logits):
    """Kahneman-Tversky optimisation, from logits."""


class LinearKTOLoss(FunctionLoss, of=losses.linear_kto_loss):
    """Kahneman-Tversky optimisation, from hidden states."""


class LinearRewardModelLoss(FunctionLoss, of=losses.linear_reward_model_loss):
    """Bradley-Terry loss of a reward model with a linear head."""


class GRPOLossFromLogits(FunctionLoss, of=losses.grpo_loss_from_logits):
    """Group-relative policy optimisation, from logits."""


class LinearGRPOLoss(FunctionLoss, of=losses.linear_grpo_loss):
    """Group-relative policy optimisation, from hidden states."""


class RLHFLoss(FunctionLoss, of=losses.rlhf_loss):
    """Reward of sampled answers, less the distance to a reference policy."""
