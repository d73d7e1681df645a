"""Modules of :mod:`fastloss.losses.diffusion`."""

from fastloss.losses import diffusion as losses
from fastloss.nn.base import FunctionLoss

__all__ = [
    "ConsistencyLoss",
    "DenoisingScoreMatchingLoss",
    "DiffusionLoss",
    "FlowMatchingLoss",
    "SlicedScoreMatchingLoss",
]


class DiffusionLoss(FunctionLoss, of=losses.diffusion_loss):
    """Weighted squared error of a denoiser's prediction."""


class ConsistencyLoss(FunctionLoss, of=losses.consistency_loss):
    """Distance of a consistency model's answers at two neighbouring times."""


class DenoisingScoreMatchingLoss(FunctionLoss, of=losses.denoising_score_matching_loss):
    """Squared error of a score at a noised sample."""


class SlicedScoreMatchingLoss(FunctionLoss, of=losses.sliced_score_matching_loss):
    """Score matching along random directions."""


class FlowMatchingLoss(FunctionLoss, of=losses.flow_matching_loss):
    """Squared error of a velocity on the straight line from noise to data."""
