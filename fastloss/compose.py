"""Several losses as one: sums with weights and schedules, balancing, monitoring. :mod:`fastloss.compose.schedules`."""

from fastloss.functions import compose as _functions
from fastloss.functions import schedules as schedules
from fastloss.functions.compose import *

__all__ = ["schedules"]
__all__ += _functions.__all__
