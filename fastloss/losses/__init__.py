"""The losses, a file a family. The body of each is its reference backend.

Here are the names of the families that :mod:`fastloss.functional` has; those of ``rl`` and ``alignment`` have rooms of
their own.
"""

from fastloss.losses import (
    binary,
    boxes,
    classification,
    contrastive,
    distillation,
    embedding,
    language,
    likelihood,
    log_prob,
    margin,
    metric,
    multilabel,
    probabilistic,
    regression,
    robust,
    segmentation,
    self_supervised,
    transducer,
)
from fastloss.losses.binary import *
from fastloss.losses.boxes import *
from fastloss.losses.classification import *
from fastloss.losses.contrastive import *
from fastloss.losses.distillation import *
from fastloss.losses.embedding import *
from fastloss.losses.language import *
from fastloss.losses.likelihood import *
from fastloss.losses.log_prob import *
from fastloss.losses.margin import *
from fastloss.losses.metric import *
from fastloss.losses.multilabel import *
from fastloss.losses.probabilistic import *
from fastloss.losses.regression import *
from fastloss.losses.robust import *
from fastloss.losses.segmentation import *
from fastloss.losses.self_supervised import *
from fastloss.losses.transducer import *

__all__: list[str] = []
__all__ += binary.__all__
__all__ += boxes.__all__
__all__ += classification.__all__
__all__ += contrastive.__all__
__all__ += distillation.__all__
__all__ += embedding.__all__
__all__ += language.__all__
__all__ += likelihood.__all__
__all__ += log_prob.__all__
__all__ += margin.__all__
__all__ += metric.__all__
__all__ += multilabel.__all__
__all__ += probabilistic.__all__
__all__ += regression.__all__
__all__ += robust.__all__
__all__ += segmentation.__all__
__all__ += self_supervised.__all__
__all__ += transducer.__all__
