"""Modules of :mod:`fastloss.losses.rl`."""

from fastloss.losses import rl as losses
from fastloss.nn.base import FunctionLoss

__all__ = [
    "CURLLoss",
    "IQNLoss",
    "PPOClipLoss",
    "PPOLoss",
    "QuantileHuberLoss",
    "TemporalContrastiveLoss",
    "ValueClipLoss",
]


class PPOClipLoss(FunctionLoss, of=losses.ppo_clip_loss):
    """Clipped surrogate of proximal policy optimisation."""


class ValueClipLoss(FunctionLoss, of=losses.value_clip_loss):
    """Squared error of values that are clipped near their old ones."""


class PPOLoss(FunctionLoss, of=losses.ppo_loss):
    """Policy, value and entropy losses of proximal policy optimisation."""


class CURLLoss(FunctionLoss, of=losses.curl_loss):
    """Each query is to find its key by a bilinear similarity."""


class TemporalContrastiveLoss(FunctionLoss, of=losses.temporal_contrastive_loss):
    """Each state is to find a later one."""


class QuantileHuberLoss(FunctionLoss, of=losses.quantile_huber_loss):
    """Quantile Huber loss of QR-DQN."""


class IQNLoss(FunctionLoss, of=losses.iqn_loss):
    """Loss of implicit quantile networks."""
