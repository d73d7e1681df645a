"""The losses as Modules, with torch.nn's names and constructor arguments; extras are keyword-only."""

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

__all__ = [
    "BCELoss",
    "BCEWithLogitsLoss",
    "CrossEntropyLoss",
    "ExpectileLoss",
    "GaussianNLLLoss",
    "HingeEmbeddingLoss",
    "HingeLoss",
    "HuberLoss",
    "KLDivLoss",
    "L1Loss",
    "LaplaceNLLLoss",
    "LogCoshLoss",
    "MSELoss",
    "MarginRankingLoss",
    "PoissonNLLLoss",
    "QuantileLoss",
    "SigmoidFocalLoss",
    "SmoothL1Loss",
    "SoftMarginLoss",
]
