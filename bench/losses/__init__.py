"""The losses that are measured, by family as in fastloss/losses."""

from __future__ import annotations

from . import binary, classification, contrastive, distillation, metric, regression
from .alignment import preference, sequences
from .rl import distributional, policy, tokens

LOSSES = (
    *classification.LOSSES,
    *distillation.LOSSES,
    *regression.LOSSES,
    *binary.LOSSES,
    *policy.LOSSES,
    *tokens.LOSSES,
    *preference.LOSSES,
    *sequences.LOSSES,
    *distributional.LOSSES,
    *contrastive.LOSSES,
    *metric.LOSSES,
)
