"""Policy losses of language models from logits, and from hidden states."""

from __future__ import annotations

from typing import Any

from fastloss.losses.alignment.grpo import grpo_loss, is_of_sequences, is_of_the_batch
from fastloss.losses.linear_losses import SEQUENCES, TOKENS
from fastloss.losses.token_losses import is_used, token_losses

__all__ = ["grpo_loss_from_logits", "linear_grpo_loss"]


def _uses_entropy(given: dict[str, Any]) -> bool:
    return is_used(given["entropy_coefficient"]) or given["top_entropy_quantile"] != 1 or given["return_terms"]


def _together(given: dict[str, Any]) -> str | None:
    if is_of_the_batch(given):
        return None
    return SEQUENCES if is_of_sequences(given) else TOKENS


grpo_loss_from_logits, linear_grpo_loss = token_losses(
    grpo_loss, __name__, "alignment", _uses_entropy, ", torch.zeros(1, 1), 1.0", _together
)
