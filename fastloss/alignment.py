"""Losses that align a model with preferences or rewards, as functions; :mod:`fastloss.nn.alignment`: as Modules."""

from fastloss.losses.alignment import cpo_loss, dpo_loss, kl_penalty, kto_loss, orpo_loss, reward_model_loss, simpo_loss

__all__ = ["cpo_loss", "dpo_loss", "kl_penalty", "kto_loss", "orpo_loss", "reward_model_loss", "simpo_loss"]
