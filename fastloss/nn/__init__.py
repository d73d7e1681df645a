"""The losses as Modules, with torch.nn's names and constructor arguments; extras are keyword-only.

A Module that torch has is a subclass of torch's. Modules of losses without fused kernels are torch's own classes.
"""

from torch.nn import (
    AdaptiveLogSoftmaxWithLoss,
    CosineEmbeddingLoss,
    CTCLoss,
    MultiLabelMarginLoss,
    MultiLabelSoftMarginLoss,
    MultiMarginLoss,
    NLLLoss,
    TripletMarginLoss,
    TripletMarginWithDistanceLoss,
)
from torch.nn.modules.loss import NLLLoss2d

from fastloss.nn import (
    alignment,
    binary,
    classification,
    contrastive,
    likelihood,
    metric,
    regression,
    rl,
    self_supervised,
)
from fastloss.nn.alignment import *
from fastloss.nn.binary import *
from fastloss.nn.classification import *
from fastloss.nn.contrastive import *
from fastloss.nn.likelihood import *
from fastloss.nn.metric import *
from fastloss.nn.regression import *
from fastloss.nn.rl import *
from fastloss.nn.self_supervised import *

__all__ = [
    "AdaptiveLogSoftmaxWithLoss",
    "CTCLoss",
    "CosineEmbeddingLoss",
    "MultiLabelMarginLoss",
    "MultiLabelSoftMarginLoss",
    "MultiMarginLoss",
    "NLLLoss",
    "NLLLoss2d",
    "TripletMarginLoss",
    "TripletMarginWithDistanceLoss",
]
__all__ += alignment.__all__
__all__ += binary.__all__
__all__ += classification.__all__
__all__ += contrastive.__all__
__all__ += likelihood.__all__
__all__ += metric.__all__
__all__ += regression.__all__
__all__ += rl.__all__
__all__ += self_supervised.__all__
