"""The losses as Modules, with torch.nn's names and constructor arguments; extras are keyword-only."""

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
from fastloss.nn.classification import CrossEntropyLoss
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
    "BCELoss",
    "BCEWithLogitsLoss",
    "BatchHardTripletLoss",
    "CLIPLoss",
    "CURLLoss",
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
    "LogCoshLoss",
    "MSELoss",
    "MarginRankingLoss",
    "MoCoLoss",
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
    "SupConLoss",
    "TemporalContrastiveLoss",
    "VICRegLoss",
    "ValueClipLoss",
]
