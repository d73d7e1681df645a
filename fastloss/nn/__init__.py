"""The losses as Modules, with torch.nn's names and constructor arguments; extras are keyword-only."""

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
from fastloss.nn.classification import CrossEntropyLoss
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
from fastloss.nn.rl import PPOClipLoss, PPOLoss, ValueClipLoss

__all__ = [
    "BCELoss",
    "BCEWithLogitsLoss",
    "CPOLoss",
    "CrossEntropyLoss",
    "DPOLoss",
    "ExpectileLoss",
    "GaussianNLLLoss",
    "HingeEmbeddingLoss",
    "HingeLoss",
    "HuberLoss",
    "KLDivLoss",
    "KLPenalty",
    "KTOLoss",
    "L1Loss",
    "LaplaceNLLLoss",
    "LogCoshLoss",
    "MSELoss",
    "MarginRankingLoss",
    "ORPOLoss",
    "PPOClipLoss",
    "PPOLoss",
    "PoissonNLLLoss",
    "QuantileLoss",
    "RewardModelLoss",
    "SigmoidFocalLoss",
    "SimPOLoss",
    "SmoothL1Loss",
    "SoftMarginLoss",
    "ValueClipLoss",
]
