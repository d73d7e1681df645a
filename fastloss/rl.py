"""Losses of reinforcement learning, as functions; :mod:`fastloss.nn.rl` has them as Modules."""

from fastloss.losses.rl import ppo_clip_loss, ppo_loss, value_clip_loss

__all__ = ["ppo_clip_loss", "ppo_loss", "value_clip_loss"]
