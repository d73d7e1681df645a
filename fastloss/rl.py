"""Losses of reinforcement learning, as functions; :mod:`fastloss.nn.rl` has them as Modules."""

from fastloss.losses.rl import iqn_loss, ppo_clip_loss, ppo_loss, quantile_huber_loss, value_clip_loss

__all__ = ["iqn_loss", "ppo_clip_loss", "ppo_loss", "quantile_huber_loss", "value_clip_loss"]
