"""What `recommend` answers: every name is there, every line runs, and the table of problems is the known one."""

from __future__ import annotations

import functools
import json

import pytest
import torch
from support import generator

import fastloss
from fastloss.cli.commands import main
from fastloss.functions.problems import PROBLEMS, Advice, Pitfall

ENTRIES = {
    f"{problem.name}: {entry.function} {k}": entry
    for problem in PROBLEMS
    for k, entry in enumerate((problem.default, *problem.upgrades, *problem.pitfalls))
}

KNOWN = {
    "regression": {
        "": "mse_loss", "outliers": "huber_loss", "need uncertainty": "quantile_loss", "sparse targets": "l1_loss",
    },
    "binary classification": {
        "": "binary_cross_entropy_with_logits", "imbalanced": "sigmoid_focal_loss",
        "noisy labels": "binary_cross_entropy_with_logits",
    },
    "multi-class": {"": "cross_entropy", "imbalanced": "softmax_focal_loss", "calibration": "cross_entropy"},
    "embedding / retrieval": {"": "batch_hard_triplet_loss", "scale": "info_nce", "labels": "supcon_loss"},
    "generation (images)": {
        "": "diffusion.diffusion_loss", "speed": "diffusion.flow_matching_loss",
        "specific control": "diffusion.classifier_free_guidance",
    },
    "generation (text)": {"": "lm_loss", "alignment": "alignment.dpo_loss"},
    "rl (discrete)": {"": "rl.q_learning", "distributional": "rl.quantile_huber_loss", "multi-agent": "games.psro"},
    "rl (continuous)": {"": "rl.sac_critic_loss", "on-policy": "rl.ppo_loss", "simple": "rl.sac_critic_loss"},
    "rl (alignment)": {
        "": "rl.ppo_clip_loss", "simplify": "alignment.dpo_loss", "no critic": "alignment.grpo_loss",
        "unpaired": "alignment.kto_loss",
    },
    "continual learning": {"": "cross_entropy", "regularize": "regularization.ewc_loss", "plasticity": "cross_entropy"},
    "open-endedness": {
        "": "quality_diversity.qd_score", "learned descriptors": "quality_diversity.aurora_loss",
        "curriculum": "games.paired_regret",
    },
}  # fmt: skip
"""By problem and symptom."""

PITFALLS = {
    ("binary", "mse"): "cross_entropy",
    ("multi-class", "unweighted"): "cross_entropy",
    ("embedding", "zero gradient"): "semi_hard_triplet_loss",
    ("rlhf", "reward hacking"): "alignment.kl_penalty",
    ("rl, discrete", "premature convergence"): "regularization.entropy",
    ("dqn", "non-stationary targets"): "rl.value_clip_loss",
    ("vae", "posterior collapse"): "elbo_loss",
}


@pytest.mark.parametrize("entry", ENTRIES.values(), ids=list(ENTRIES))
def test_every_line_runs(entry: Advice | Pitfall) -> None:
    public = functools.reduce(getattr, entry.function.split("."), fastloss)
    assert callable(public) and f"fastloss.{entry.function}(" in entry.example
    torch.manual_seed(generator("guidance").initial_seed() % 2**31)
    value = eval(entry.example, {"torch": torch, "fastloss": fastloss})
    assert value is None or value.isfinite().all()


@pytest.mark.parametrize("problem", KNOWN)
def test_the_table_of_problems(problem: str) -> None:
    for symptom, function in KNOWN[problem].items():
        assert fastloss.recommend(problem, symptoms=symptom or ()).function == function
        assert fastloss.recommend(f"{problem}, {symptom}").function == function


def test_pitfalls_are_answered() -> None:
    for (problem, symptom), function in PITFALLS.items():
        found = fastloss.recommend(problem, symptoms=[symptom])
        assert found.function == function and found.answers[0] in found.pitfalls


@pytest.mark.parametrize("problem", PROBLEMS, ids=lambda problem: problem.name)
def test_a_name_and_its_symptoms_are_understood(problem) -> None:
    for advice in problem.upgrades:
        found = fastloss.recommend(problem.name, symptoms=(advice.when,))
        assert found.problem == problem.name and advice in found.answers
    assert fastloss.recommend(problem.name).answers == ()


def test_what_is_not_understood() -> None:
    with pytest.raises(ValueError, match="no problem that is known; choose from: regression; binary"):
        fastloss.recommend("cooking")
    with pytest.raises(ValueError, match="several problems; choose from: regression; binary"):
        fastloss.recommend("binary regression")
    with pytest.raises(ValueError, match="no answer to 'rain' in regression; there are: outliers"):
        fastloss.recommend("regression, rain")


def test_the_command(capsys) -> None:
    assert main(["recommend", "binary classification, imbalanced"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[2] == "for your symptoms (imbalanced): imbalanced classes: fastloss.sigmoid_focal_loss"
    assert main(["recommend", "regression, outliers", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["answers"][0]["function"] == "huber_loss" and found["default"]["function"] == "mse_loss"
    assert main(["recommend", "cooking"]) == 2
    assert "regression" in capsys.readouterr().err
