"""Modules of :mod:`fastloss.losses.transducer`."""

from fastloss.losses import transducer as losses
from fastloss.nn.base import FunctionLoss

__all__ = ["RNNTLoss"]


class RNNTLoss(FunctionLoss, of=losses.rnnt_loss):
    """Likelihood of labels under a transducer, over all alignments."""
