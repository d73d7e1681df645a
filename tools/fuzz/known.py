"""Differences that the fuzzer has found and that are there, each with its reason: they are counted, not reported.

STAYS: the kernels are right, or nobody promises anything. OPEN: to be repaired, and where; whoever does takes it out.
"""

from __future__ import annotations

from typing import NamedTuple

from .trial import Trial

_NAN = ("nan",)
_NOT_FINITE = ("nan", "inf", "-inf")
_ALL: tuple[str, ...] = ()


class Known(NamedTuple):
    names: tuple[str, ...]  # the case begins with one of these
    kinds: tuple[str, ...]  # of the failure
    special: tuple[str, ...]  # among the trial's arguments is one of these; (): whatever they are
    reason: str


STAYS = (
    Known(
        ("soft_margin_loss",), ("non-finite gradient",), _ALL,
        "torch's gradient is exp / (1 + exp): inf / inf where the loss overflows. The kernels' is 1 there",
    ),
    Known(
        ("binary_cross_entropy_with_logits",), ("non-finite value",), ("inf", "-inf"),
        "torch has inf - inf for an infinite logit, the kernels the limit",
    ),
    Known(
        ("semi_hard_triplet_loss", "batch_hard_triplet_loss"),
        ("value", "gradient", "non-finite value", "non-finite gradient"), _NOT_FINITE,
        "which negative is chosen where distances are NaN is nobody's promise: torch's comparisons with NaN are false",
    ),
    Known(
        ("quantile_loss", "expectile_loss"), ("error",), _ALL,
        "the body looks at every tau, the kernels at those of elements that the mask leaves in",
    ),
)  # fmt: skip
OPEN = (
    Known(
        ("clip_loss",), ("gradient",), _ALL,
        "both directions subtract a log-sum-exp, which is rounded at the size of the largest similarity: some "
        "hundreds, where the vectors are not of length 1. fastloss/tiles/similarity.py",
    ),
)  # fmt: skip


def known(trial: Trial, kind: str) -> Known | None:
    values = {value for _, _, value in trial.special}
    for entry in (*STAYS, *OPEN):
        named = trial.case.startswith(entry.names) and kind in entry.kinds
        if named and (not entry.special or values & {*entry.special}):
            return entry
    return None
