"""Losses that align a language model with preferences or rewards."""

from fastloss.losses.alignment import preference, reward
from fastloss.losses.alignment.preference import *
from fastloss.losses.alignment.reward import *

__all__: list[str] = []
__all__ += preference.__all__
__all__ += reward.__all__
