"""Policy losses from logits, and from hidden states."""

from __future__ import annotations

from fastloss.losses.rl.policy import ppo_clip_loss, ppo_loss
from fastloss.losses.token_losses import is_used, token_losses

__all__ = ["linear_ppo_clip_loss", "linear_ppo_loss", "ppo_clip_loss_from_logits", "ppo_loss_from_logits"]

ppo_clip_loss_from_logits, linear_ppo_clip_loss = token_losses(
    ppo_clip_loss, __name__, "rl", lambda given: False, ", torch.zeros(1, 1), 1.0"
)
ppo_loss_from_logits, linear_ppo_loss = token_losses(
    ppo_loss, __name__, "rl", lambda given: is_used(given["entropy_coefficient"]) or given["return_terms"],
    ", torch.zeros(1, 1), 1.0, torch.zeros(1, 1), 0.0",
)  # fmt: skip
