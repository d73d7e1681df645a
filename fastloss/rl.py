"""Losses of reinforcement learning, as functions; :mod:`fastloss.nn.rl` has them as Modules."""

from fastloss.losses.rl import (
    curl_loss,
    iqn_loss,
    ppo_clip_loss,
    ppo_loss,
    quantile_huber_loss,
    temporal_contrastive_loss,
    value_clip_loss,
)

__all__ = [
    "curl_loss",
    "iqn_loss",
    "ppo_clip_loss",
    "ppo_loss",
    "quantile_huber_loss",
    "temporal_contrastive_loss",
    "value_clip_loss",
]
