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

from fastloss.nn.alignment import DPOLoss, KLPenalty, KTOLoss, ORPOLoss, RewardModelLoss, SimPOLoss
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
from fastloss.nn.regression import (
    ExpectileLoss,
    HuberLoss,
    L1Loss,
    LogCoshLoss,
    MSELoss,
    QuantileLoss,
    SmoothL1Loss,
)
from fastloss.nn.rl import IQNLoss, PPOClipLoss, PPOLoss, QuantileHuberLoss, ValueClipLoss
from fastloss.nn.self_supervised import VICRegLoss

__all__ = [
    "AdaptiveLogSoftmaxWithLoss",
    "BCELoss",
    "BCEWithLogitsLoss",
    "CTCLoss",
    "CosineEmbeddingLoss",
    "CrossEntropyLoss",
    "DPOLoss",
    "ExpectileLoss",
    "GaussianNLLLoss",
    "HingeEmbeddingLoss",
    "HingeLoss",
    "HuberLoss",
    "IQNLoss",
    "KLDivLoss",
    "KLPenalty",
    "KTOLoss",
    "L1Loss",
    "LaplaceNLLLoss",
    "LinearCrossEntropyLoss",
    "LogCoshLoss",
    "MSELoss",
    "MarginRankingLoss",
    "MultiLabelMarginLoss",
    "MultiLabelSoftMarginLoss",
    "MultiMarginLoss",
    "NLLLoss",
    "NLLLoss2d",
    "ORPOLoss",
    "PPOClipLoss",
    "PPOLoss",
    "PoissonNLLLoss",
    "QuantileHuberLoss",
    "QuantileLoss",
    "RewardModelLoss",
    "SigmoidFocalLoss",
    "SimPOLoss",
    "SmoothL1Loss",
    "SoftMarginLoss",
    "SoftmaxFocalLoss",
    "TripletMarginLoss",
    "TripletMarginWithDistanceLoss",
    "VICRegLoss",
    "ValueClipLoss",
]
