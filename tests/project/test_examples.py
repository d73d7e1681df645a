"""The examples, in a short mode."""

from __future__ import annotations

import importlib
import importlib.util
import os
import random
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

FOLDER = Path(__file__).resolve().parents[2] / "examples"


def loaded(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    return example


def test_simclr_learns_the_same_with_either_loss():
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    results = loaded("simclr_digits").run(epochs=3)
    ours, theirs = results["fastloss"], results["torch"]
    assert abs(ours["first"] - theirs["first"]) < 1e-5  # the same inputs, so the same loss
    assert ours["last"] < ours["first"] - 1
    assert abs(ours["last"] - theirs["last"]) < 0.2  # rounding has grown over the steps
    assert ours["accuracy"] > results["untrained"]["accuracy"]


def test_calibrated_intervals_have_the_share_that_was_asked_for(monkeypatch):
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    monkeypatch.syspath_prepend(str(FOLDER))
    example = importlib.import_module("quantiles_diabetes")
    runs = [example.run(epochs=40, seed=seed) for seed in range(4)]
    plain, calibrated = (sum(run[name] for run in runs) / 4 for name in ("inside, new", "inside, new, calibrated"))
    assert plain < calibrated and abs(calibrated - 0.8) < 0.06
    assert all(run["loss, new"] < 0.9 * run["loss, new, without features"] for run in runs)


def test_self_play_in_kuhns_poker_becomes_less_exploitable(tmp_path):
    example = loaded("kuhn_fictitious_play")
    results = example.run(iterations=30)
    for name, curve in results.items():
        assert abs(curve[0] - 11 / 24) < 1e-12, name
        assert curve[max(curve)] < 0.1, name
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    example.plot(results, tmp_path / "curves.png")
    assert (tmp_path / "curves.png").stat().st_size > 1000


def test_the_pole_is_balanced_by_the_same_steps_with_either_loss(tmp_path):
    pytest.importorskip("gymnasium", reason="gymnasium is not installed")
    example = loaded("ppo_cartpole")
    runs = example.run(steps=6144)
    ours, theirs = runs["fastloss"], runs["torch"]
    assert ours.losses[:40] == pytest.approx(theirs.losses[:40], rel=1e-4)  # of the first rollout
    assert not 0 <= example.parted(runs) < 2048
    for training in runs.values():
        won = [won for _, won in training.episodes]
        assert sum(won[-20:]) > 1.5 * sum(won[:20])
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    example.plot(runs, tmp_path / "curves.png")
    assert (tmp_path / "curves.png").stat().st_size > 1000


def test_distributions_of_returns_are_near_the_exact_one(tmp_path):
    example = loaded("c51_chain")
    values, probabilities = example.exact()
    mean = float((values * probabilities).sum())
    worth = torch.zeros(example.STATES, dtype=torch.float64)  # by value iteration, which need not go right
    for _ in range(300):
        arrived = example.GAMMA * worth
        arrived[0], arrived[-1] = example.SMALL, example.LARGE / 2
        left, right = arrived[:-2], arrived[2:]
        worth[1:-1] = torch.maximum(torch.lerp(right, left, example.SLIP), torch.lerp(left, right, example.SLIP))
    assert abs(float(probabilities.sum()) - 1) < 1e-9 and abs(mean - float(worth[example.START])) < 1e-9
    results = example.run(steps=700)
    for name, result in results.items():
        assert result.actions == [example.RIGHT] * 5, name
        assert abs(result.mean - mean) < 0.1 and result.distance < 0.2, name
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    example.plot(results, tmp_path / "curves.png")
    assert (tmp_path / "curves.png").stat().st_size > 1000


@pytest.mark.parametrize("name", ["dpo_tiny", "grpo_tiny", "distill_tiny"])
def test_language_models_learn_the_same_from_the_plain_formula(name, monkeypatch):
    pytest.importorskip("transformers", reason="transformers is not installed")
    monkeypatch.syspath_prepend(str(FOLDER))
    example = importlib.import_module(name)
    monkeypatch.setattr(example, "WORDS", 200)
    words = random.Random(0).choices([f"word{k}" for k in range(150)], k=3000)
    monkeypatch.setattr(sys.modules["tiny_language_models"], "standard_library_texts", lambda: [" ".join(words)])
    runs = example.run(steps=6, pretraining=2)
    ours, theirs = runs["fastloss"].losses, runs["torch"].losses
    assert ours == pytest.approx(theirs, abs=1e-4)
    assert max(ours) - min(ours) > 1e-3  # something was learned


def test_a_vocabulary_of_two_ranks_learns_the_same_as_of_one():
    def losses(*command: str) -> list[float]:
        done = subprocess.run(
            [sys.executable, *command, str(FOLDER / "vocab_parallel.py"), "--steps", "12", "--rows", "64"],
            capture_output=True, text=True, timeout=300, check=False,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        words = done.stdout.split()
        return [float(words[1]), float(words[3])]

    alone = losses()
    shared = losses("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    assert abs(alone[0] - shared[0]) < 1e-5  # the same network
    assert abs(alone[1] - shared[1]) < 1e-3  # rounding has grown over the steps
    assert alone[1] < alone[0] - 1


def test_a_rare_class_is_found_by_the_focal_loss(tmp_path):
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    results = loaded("focal_digits").run(steps=150, plot=tmp_path / "curves.png")
    assert results["focal"]["average precision"] > results["cross-entropy"]["average precision"] + 0.1
    assert (tmp_path / "curves.png").stat().st_size > 1000


def test_consolidated_weights_forget_less(tmp_path):
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    results = loaded("ewc_digits").run(steps=100, plot=tmp_path / "curves.png")
    assert results["with"][0] > results["without"][0] + 0.1
    assert min(results["before"][0], results["with"][1]) > 0.85
    assert (tmp_path / "curves.png").stat().st_size > 1000


def test_a_latent_code_collapses_where_beta_asks_for_more_than_it_is_worth(tmp_path):
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    results = loaded("beta_vae_digits").run(steps=200, betas=(1.0, 4.0), plot=tmp_path / "curves.png")
    assert results[1.0]["kl"] > 1 and results[1.0]["dimensions in use"] > 1
    assert results[4.0]["kl"] < 0.2 and results[4.0]["dimensions in use"] < 2
    assert results[1.0]["reconstruction"] < results[4.0]["reconstruction"] - 2
    assert (tmp_path / "curves.png").stat().st_size > 1000


def test_flows_of_optimal_pairs_need_fewer_steps(tmp_path):
    pytest.importorskip("scipy", reason="scipy is not installed")
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    results = loaded("flow_matching_2d").run(steps=150, plot=tmp_path / "curves.png")
    random_pairs, optimal = results["random"], results["optimal transport"]
    assert random_pairs[32] < 0.5 * random_pairs[0] and random_pairs[32] < 0.1 * random_pairs[1]
    assert optimal[1] < 0.5 * optimal[0] and optimal[2] < 0.1 * random_pairs[2]
    assert (tmp_path / "curves.png").stat().st_size > 1000


def test_map_elites_fills_more_of_the_plane_with_better_postures_than_chance(tmp_path):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    curves = loaded("map_elites_arm").run(generations=30, plot=tmp_path / "curves.png")
    for of in ("qd score", "coverage"):
        assert curves["MAP-Elites"][of][0] == curves["random"][of][0]  # the first generation is the same
        assert curves["MAP-Elites"][of][-1] > curves["random"][of][-1] + 0.2
        assert curves["MAP-Elites"][of] == sorted(curves["MAP-Elites"][of])
    assert (tmp_path / "curves.png").stat().st_size > 1000
