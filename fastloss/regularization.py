"""Penalties on parameters and predictions: as functions (:mod:`fastloss.nn.regularization` has them as Modules), and
what keeps their state."""

from fastloss.functions import regularization as _functions
from fastloss.functions.regularization import *
from fastloss.losses import regularization as _losses
from fastloss.losses.regularization import *

__all__: list[str] = []
__all__ += _functions.__all__
__all__ += _losses.__all__
