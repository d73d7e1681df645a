"""Losses that align a model with preferences or rewards, as functions; :mod:`fastloss.nn.alignment`: as Modules."""

from fastloss.losses.alignment import *
from fastloss.losses.alignment import __all__ as __all__
