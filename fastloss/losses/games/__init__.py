"""Losses of games."""

from fastloss.losses.games import diversity, populations
from fastloss.losses.games.diversity import *
from fastloss.losses.games.populations import *

__all__: list[str] = []
__all__ += diversity.__all__
__all__ += populations.__all__
