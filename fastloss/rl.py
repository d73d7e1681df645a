"""Losses of reinforcement learning, as functions; :mod:`fastloss.nn.rl` has them as Modules."""

from fastloss.losses.rl import *
from fastloss.losses.rl import __all__ as __all__
