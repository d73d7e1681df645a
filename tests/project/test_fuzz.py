"""`make fuzz` in short: its calls agree, what it prints repeats a call, and a fault is found and made small.

The trials are the same in every run; `make fuzz` draws others each time.
"""

from __future__ import annotations

import pytest
from support import BACKENDS

from tools.fuzz import check
from tools.fuzz.__main__ import fuzz
from tools.fuzz.calls import Result
from tools.fuzz.draw import Draw
from tools.fuzz.shrink import shrink
from tools.fuzz.trial import Trial

pytestmark = pytest.mark.skipif(("cpu", "cpu") not in BACKENDS, reason="no CPU kernels")


def test_random_calls_agree_with_the_reference() -> None:
    report = fuzz(Draw(seed=2026), trials=150, seconds=120)
    assert not report.failures, report.failures
    assert report.outcomes["agrees"] > 90, report.outcomes


def test_a_printed_trial_is_the_trial() -> None:
    draw = Draw(seed=7)
    for _ in range(50):
        try:
            trial = draw.trial()
        except check.NotBuilt:
            continue
        # as text: an option may be NaN, which is not equal to itself
        assert repr(Trial.parse(str(trial)).changed()) == repr(trial.changed())


@pytest.mark.parametrize("what", ["value", "gradient"])
def test_a_planted_fault_is_found_and_made_small(monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    right = check.result

    def wrong(trial: Trial, arguments: dict, way: str, *more: object) -> Result:
        """One percent off, where there are several elements."""
        found = right(trial, arguments, way, *more)
        several = arguments["input"].numel() > 1
        if way == "reference" or not several:
            return found
        return {name: x * 1.01 if name.startswith(what) else x for name, x in found.items()}

    monkeypatch.setattr(check, "result", wrong)
    trial = Trial(
        "mse_loss", 5, (7, 13), dtype="float64", layouts={"input": "transposed"}, upstream="random", reduction="mean"
    )
    failure = check.check(trial).failure
    assert failure is not None and failure.kind == what
    smaller, again = shrink(trial, failure)
    assert again.kind == what
    assert smaller.changed().keys() <= {"case", "seed", "shape", "rounded", "reduction"}
    assert smaller.shape is not None and sum(smaller.shape) <= 3
