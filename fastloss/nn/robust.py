"""Modules of :mod:`fastloss.losses.robust`."""

from fastloss.losses import robust as losses
from fastloss.nn.base import FunctionLoss

__all__ = ["BiTemperedLoss", "Poly1CrossEntropyLoss"]


class BiTemperedLoss(FunctionLoss, of=losses.bi_tempered_loss):
    """Bounded cross-entropy of a softmax with a heavy tail."""


class Poly1CrossEntropyLoss(FunctionLoss, of=losses.poly1_cross_entropy):
    """Cross-entropy with another coefficient on 1 - p."""
