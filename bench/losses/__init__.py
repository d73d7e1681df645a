"""The losses that are measured, by family as in fastloss/losses."""

from __future__ import annotations

from . import binary, classification, contrastive, metric, regression
from .alignment import preference
from .rl import distributional, policy

LOSSES = (
    *classification.LOSSES,
    *regression.LOSSES,
    *binary.LOSSES,
    *policy.LOSSES,
    *preference.LOSSES,
    *distributional.LOSSES,
    *contrastive.LOSSES,
    *metric.LOSSES,
)
