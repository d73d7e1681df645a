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

from fastloss.nn.alignment import CPOLoss, DPOLoss, KLPenalty, KTOLoss, ORPOLoss, RewardModelLoss, SimPOLoss
from fastloss.nn.binary import (
    BCELoss,
    BCEWithLogitsLoss,
    HingeEmbeddingLoss,
    HingeLoss,
    MarginRankingLoss,
    SigmoidFocalLoss,
    SoftMarginLoss,
)
from fastloss.nn.classification import CrossEntropyLoss, LinearCrossEntropyLoss, SoftmaxFocalLoss
from fastloss.nn.likelihood import (
    GaussianNLLLoss,
    KLDivLoss,
    LaplaceNLLLoss,
    PoissonNLLLoss,
)
from fastloss.nn.metric import BatchHardTripletLoss, InfoNCELoss, NTXentLoss, SemiHardTripletLoss, SupConLoss
from fastloss.nn.regression import (
    ExpectileLoss,
    HuberLoss,
    L1Loss,
    LogCoshLoss,
    MSELoss,
    QuantileLoss,
    SmoothL1Loss,
)
from fastloss.nn.rl import (
    CURLLoss,
    IQNLoss,
    PPOClipLoss,
    PPOLoss,
    QuantileHuberLoss,
    TemporalContrastiveLoss,
    ValueClipLoss,
)
from fastloss.nn.self_supervised import CLIPLoss, MoCoLoss, SigLIPLoss, VICRegLoss

__all__ = [
    "AdaptiveLogSoftmaxWithLoss",
    "BCELoss",
    "BCEWithLogitsLoss",
    "BatchHardTripletLoss",
    "CLIPLoss",
    "CPOLoss",
    "CTCLoss",
    "CURLLoss",
    "CosineEmbeddingLoss",
    "CrossEntropyLoss",
    "DPOLoss",
    "ExpectileLoss",
    "GaussianNLLLoss",
    "HingeEmbeddingLoss",
    "HingeLoss",
    "HuberLoss",
    "IQNLoss",
    "InfoNCELoss",
    "KLDivLoss",
    "KLPenalty",
    "KTOLoss",
    "L1Loss",
    "LaplaceNLLLoss",
    "LinearCrossEntropyLoss",
    "LogCoshLoss",
    "MSELoss",
    "MarginRankingLoss",
    "MoCoLoss",
    "MultiLabelMarginLoss",
    "MultiLabelSoftMarginLoss",
    "MultiMarginLoss",
    "NLLLoss",
    "NLLLoss2d",
    "NTXentLoss",
    "ORPOLoss",
    "PPOClipLoss",
    "PPOLoss",
    "PoissonNLLLoss",
    "QuantileHuberLoss",
    "QuantileLoss",
    "RewardModelLoss",
    "SemiHardTripletLoss",
    "SigLIPLoss",
    "SigmoidFocalLoss",
    "SimPOLoss",
    "SmoothL1Loss",
    "SoftMarginLoss",
    "SoftmaxFocalLoss",
    "SupConLoss",
    "TemporalContrastiveLoss",
    "TripletMarginLoss",
    "TripletMarginWithDistanceLoss",
    "VICRegLoss",
    "ValueClipLoss",
]
