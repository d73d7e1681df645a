"""Losses of reinforcement learning."""

from fastloss.losses.rl import distributional, model, policy, value
from fastloss.losses.rl.distributional import *
from fastloss.losses.rl.model import *
from fastloss.losses.rl.policy import *
from fastloss.losses.rl.value import *

__all__: list[str] = []
__all__ += distributional.__all__
__all__ += model.__all__
__all__ += policy.__all__
__all__ += value.__all__
