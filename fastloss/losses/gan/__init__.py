"""Losses of adversarial training."""

from fastloss.losses.gan import adversarial, penalty
from fastloss.losses.gan.adversarial import *
from fastloss.losses.gan.penalty import *

__all__: list[str] = []
__all__ += adversarial.__all__
__all__ += penalty.__all__
