"""Losses of diffusion."""

from fastloss.losses.diffusion import denoising, flow, score
from fastloss.losses.diffusion.denoising import *
from fastloss.losses.diffusion.flow import *
from fastloss.losses.diffusion.score import *

__all__: list[str] = []
__all__ += denoising.__all__
__all__ += flow.__all__
__all__ += score.__all__
