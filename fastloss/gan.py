"""Losses of adversarial training, as functions; :mod:`fastloss.nn.gan` has them as Modules."""

from fastloss.losses.gan import *
from fastloss.losses.gan import __all__ as __all__
