"""The losses, a file a family. The body of each is its reference backend.

Here are the names of the families that :mod:`fastloss.functional` has; those of ``rl`` and ``alignment`` have rooms of
their own.
"""

from fastloss.losses import binary, classification, contrastive, likelihood, metric, regression, self_supervised
from fastloss.losses.binary import *
from fastloss.losses.classification import *
from fastloss.losses.contrastive import *
from fastloss.losses.likelihood import *
from fastloss.losses.metric import *
from fastloss.losses.regression import *
from fastloss.losses.self_supervised import *

__all__: list[str] = []
__all__ += binary.__all__
__all__ += classification.__all__
__all__ += contrastive.__all__
__all__ += likelihood.__all__
__all__ += metric.__all__
__all__ += regression.__all__
__all__ += self_supervised.__all__
