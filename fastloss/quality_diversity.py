"""Quality and diversity: archives, scores, and losses as functions; :mod:`fastloss.nn.quality_diversity`: Modules."""

from fastloss.functions import quality_diversity as _functions
from fastloss.functions.quality_diversity import *
from fastloss.losses import quality_diversity as _losses
from fastloss.losses.quality_diversity import *

__all__: list[str] = []
__all__ += _functions.__all__
__all__ += _losses.__all__
