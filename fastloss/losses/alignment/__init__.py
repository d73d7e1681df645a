"""Losses that align a language model with preferences or rewards, and the advantages that they take."""

from fastloss.losses.alignment import advantages, grpo, preference, reward, sequences, tokens
from fastloss.losses.alignment.advantages import *
from fastloss.losses.alignment.grpo import *
from fastloss.losses.alignment.preference import *
from fastloss.losses.alignment.reward import *
from fastloss.losses.alignment.sequences import *
from fastloss.losses.alignment.tokens import *

__all__: list[str] = []
__all__ += advantages.__all__
__all__ += grpo.__all__
__all__ += preference.__all__
__all__ += reward.__all__
__all__ += sequences.__all__
__all__ += tokens.__all__
