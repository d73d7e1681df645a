"""The examples, in a short mode."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "examples"


def test_simclr_learns_the_same_with_either_loss():
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    spec = importlib.util.spec_from_file_location("simclr_digits", FOLDER / "simclr_digits.py")
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    results = example.run(epochs=3)
    ours, theirs = results["fastloss"], results["torch"]
    assert abs(ours["first"] - theirs["first"]) < 1e-5  # the same inputs, so the same loss
    assert ours["last"] < ours["first"] - 1
    assert abs(ours["last"] - theirs["last"]) < 0.2  # rounding has grown over the steps
    assert ours["accuracy"] > results["untrained"]["accuracy"]
