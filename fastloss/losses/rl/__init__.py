"""Losses of reinforcement learning."""

from fastloss.losses.rl.distributional import iqn_loss, quantile_huber_loss
from fastloss.losses.rl.model import curl_loss, temporal_contrastive_loss
from fastloss.losses.rl.policy import ppo_clip_loss, ppo_loss
from fastloss.losses.rl.value import value_clip_loss

__all__ = [
    "curl_loss",
    "iqn_loss",
    "ppo_clip_loss",
    "ppo_loss",
    "quantile_huber_loss",
    "temporal_contrastive_loss",
    "value_clip_loss",
]
