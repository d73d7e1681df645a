"""Losses that align a language model with preferences or rewards."""

from fastloss.losses.alignment.preference import cpo_loss, dpo_loss, kto_loss, orpo_loss, simpo_loss
from fastloss.losses.alignment.reward import kl_penalty, reward_model_loss

__all__ = ["cpo_loss", "dpo_loss", "kl_penalty", "kto_loss", "orpo_loss", "reward_model_loss", "simpo_loss"]
