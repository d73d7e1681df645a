"""All losses as functions, in one flat namespace that mirrors :mod:`torch.nn.functional`.

Losses of torch that have no fused kernels are here as torch's own functions, so that this module can stand for torch's.
"""

from torch.nn.functional import (
    cosine_embedding_loss,
    ctc_loss,
    multi_margin_loss,
    multilabel_margin_loss,
    multilabel_soft_margin_loss,
    nll_loss,
    triplet_margin_loss,
    triplet_margin_with_distance_loss,
)

import fastloss.losses as _losses
from fastloss.losses import *

__all__ = [
    "cosine_embedding_loss",
    "ctc_loss",
    "multi_margin_loss",
    "multilabel_margin_loss",
    "multilabel_soft_margin_loss",
    "nll_loss",
    "triplet_margin_loss",
    "triplet_margin_with_distance_loss",
]
__all__ += _losses.__all__
