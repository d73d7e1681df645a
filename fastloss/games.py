"""Games: values of policies, learning by self-play, losses of populations; :mod:`fastloss.nn.games`: Modules."""

from fastloss.functions import games as _functions
from fastloss.functions.games import *
from fastloss.losses import games as _losses
from fastloss.losses.games import *

__all__: list[str] = []
__all__ += _functions.__all__
__all__ += _losses.__all__
