"""Modules of :mod:`fastloss.losses.games`."""

from fastloss.losses import games as losses
from fastloss.nn.base import FunctionLoss

__all__ = ["DPPLoss", "NeuPLLoss", "PairedRegret", "PairwiseDiversityLoss"]


class DPPLoss(FunctionLoss, of=losses.dpp_loss):
    """Minus the log-volume that the policies of a population span."""


class NeuPLLoss(FunctionLoss, of=losses.neupl_loss):
    """Loss of a population of policies in one network."""


class PairedRegret(FunctionLoss, of=losses.paired_regret):
    """Regret of the protagonist, which the designer of environments maximises."""


class PairwiseDiversityLoss(FunctionLoss, of=losses.pairwise_diversity_loss):
    """Minus the distances between the behaviours of a population."""
