"""Reinforcement learning: losses as functions (:mod:`fastloss.nn.rl` has them as Modules), and what they need."""

from fastloss.functions import rl as _functions
from fastloss.functions.rl import *
from fastloss.losses import rl as _losses
from fastloss.losses.rl import *

__all__: list[str] = []
__all__ += _functions.__all__
__all__ += _losses.__all__
