"""Losses of quality_diversity."""

from fastloss.losses.quality_diversity import descriptors
from fastloss.losses.quality_diversity.descriptors import *

__all__: list[str] = []
__all__ += descriptors.__all__
