"""Diffusion and flows: losses as functions (:mod:`fastloss.nn.diffusion` has them as Modules), and what they need."""

from fastloss.functions import diffusion as _functions
from fastloss.functions.diffusion import *
from fastloss.losses import diffusion as _losses
from fastloss.losses.diffusion import *

__all__: list[str] = []
__all__ += _functions.__all__
__all__ += _losses.__all__
