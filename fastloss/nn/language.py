"""Modules of :mod:`fastloss.losses.language`."""

from fastloss.losses import language as losses
from fastloss.nn.base import FunctionLoss

__all__ = ["LMLoss", "MLMLoss"]


class LMLoss(FunctionLoss, of=losses.lm_loss):
    """Cross-entropy of the next token."""


class MLMLoss(FunctionLoss, of=losses.mlm_loss):
    """Cross-entropy of the masked tokens."""
