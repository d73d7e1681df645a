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
    boxes,
    classification,
    contrastive,
    diffusion,
    distillation,
    embedding,
    games,
    gan,
    language,
    likelihood,
    margin,
    metric,
    multilabel,
    probabilistic,
    quality_diversity,
    regression,
    regularization,
    rl,
    robust,
    segmentation,
    self_supervised,
    transducer,
)
from fastloss.nn.alignment import *
from fastloss.nn.binary import *
from fastloss.nn.boxes import *
from fastloss.nn.classification import *
from fastloss.nn.contrastive import *
from fastloss.nn.diffusion import *
from fastloss.nn.distillation import *
from fastloss.nn.embedding import *
from fastloss.nn.games import *
from fastloss.nn.gan import *
from fastloss.nn.language import *
from fastloss.nn.likelihood import *
from fastloss.nn.margin import *
from fastloss.nn.metric import *
from fastloss.nn.multilabel import *
from fastloss.nn.probabilistic import *
from fastloss.nn.quality_diversity import *
from fastloss.nn.regression import *
from fastloss.nn.regularization import *
from fastloss.nn.rl import *
from fastloss.nn.robust import *
from fastloss.nn.segmentation import *
from fastloss.nn.self_supervised import *
from fastloss.nn.transducer import *

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
__all__ += boxes.__all__
__all__ += classification.__all__
__all__ += contrastive.__all__
__all__ += diffusion.__all__
__all__ += distillation.__all__
__all__ += embedding.__all__
__all__ += games.__all__
__all__ += gan.__all__
__all__ += language.__all__
__all__ += likelihood.__all__
__all__ += margin.__all__
__all__ += metric.__all__
__all__ += multilabel.__all__
__all__ += probabilistic.__all__
__all__ += quality_diversity.__all__
__all__ += regression.__all__
__all__ += regularization.__all__
__all__ += rl.__all__
__all__ += robust.__all__
__all__ += segmentation.__all__
__all__ += self_supervised.__all__
__all__ += transducer.__all__
