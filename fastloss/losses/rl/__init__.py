"""Losses of reinforcement learning."""

from fastloss.losses.rl.policy import ppo_clip_loss, ppo_loss, value_clip_loss

__all__ = ["ppo_clip_loss", "ppo_loss", "value_clip_loss"]
