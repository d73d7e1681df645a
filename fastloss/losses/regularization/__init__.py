"""Losses of regularization."""

from fastloss.losses.regularization import continual, parameters, predictions
from fastloss.losses.regularization.continual import *
from fastloss.losses.regularization.parameters import *
from fastloss.losses.regularization.predictions import *

__all__: list[str] = []
__all__ += parameters.__all__
__all__ += predictions.__all__
__all__ += continual.__all__
