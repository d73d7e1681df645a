"""The functors of csrc/losses/rl and alignment, one element at a time and in double, against autograd of the
reference bodies: on a grid of special operands (ties, active clips, margins where exp overflows) and on random ones."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from support import generator
from torch import Tensor

from fastloss import alignment, rl
from fastloss.core.arguments import Refused
from fastloss.core.registry import LOSSES

host = pytest.importorskip("fastloss._host", reason="the C++ part is not built")

LOGPS = (-60.0, -1.0, -0.8, 0.0)
FAR_LOGPS = (-2e4, -30.0, -1.0, -0.5, 0.0)
SIGNED = (-2.0, -0.3, 0.0, 0.1, 1.0)
POLICY = {"logp": LOGPS, "old_logp": LOGPS, "advantages": SIGNED}
VALUES = {"values": SIGNED, "old_values": SIGNED, "returns": SIGNED}
KL = {"logp": FAR_LOGPS, "ref_logp": FAR_LOGPS}
PAIRS = {
    "policy_chosen_logps": FAR_LOGPS,
    "policy_rejected_logps": FAR_LOGPS,
    "reference_chosen_logps": (-30.0, -1.0),
    "reference_rejected_logps": (-1.0,),
}
AVERAGES = {"chosen_avg_logps": (-700.0, *LOGPS, -1e-9), "rejected_avg_logps": (-700.0, *LOGPS, -1e-9)}
SEQUENCES = {"chosen_logps": AVERAGES["chosen_avg_logps"], "rejected_logps": AVERAGES["rejected_avg_logps"]}
REWARDS = {"chosen_rewards": (-800.0, *SIGNED, 800.0), "rejected_rewards": SIGNED, "margin": (0.0, 1.0)}
UNPAIRED = {"policy_logps": FAR_LOGPS, "reference_logps": (-30.0, -1.0), "desirable": (0.0, 1.0), "kl": (-1.0, 0.5)}
TOKENS = {"logp": (-30.0, -1.0, -0.8, -1e-3), "old_logp": (-30.0, -1.0, -1e-3), "advantages": (-2.0, 0.0, 1.0)}
REFERRED = {**TOKENS, "ref_logp": (-31.0, -1.0), "entropy": (0.5,), "sampling_weights": (0.0, 1.3)}
OF_SEQUENCE = {**TOKENS, "ref_logp": (-1.0,), "sequence_log_ratio": (-30.0, -0.3, 0.0, 0.25, 30.0)}
SELECTED = {**TOKENS, "selected": (1.0, 0.0)}
SMOOTHED = ("sigmoid", "robust", "exo_pair")

CASES: list[tuple[Any, dict[str, tuple[float, ...]], dict[str, Any]]] = [
    (rl.ppo_clip_loss, POLICY, {}),
    (rl.ppo_clip_loss, POLICY, {"clip": 0.1, "clip_high": 0.0}),
    (rl.ppo_clip_loss, POLICY, {"dual_clip": 1.5}),
    (rl.ppo_clip_loss, POLICY, {"dual_clip": 1.0}),  # a tie where the policy has not moved
    (rl.ppo_clip_loss, POLICY, {"log_ratio_clamp": 0.15}),
    (rl.ppo_clip_loss, POLICY, {"log_ratio_clamp": math.inf}),
    (rl.value_clip_loss, VALUES, {"clip": 0.4}),
    (rl.value_clip_loss, VALUES, {"clip": 0.0}),
    (
        rl.ppo_loss,
        {**{name: values[1:4] for name, values in {**POLICY, **VALUES}.items()}, "entropy": (0.5,)},
        {"entropy_coefficient": 0.1, "value_coefficient": 0.3, "dual_clip": 2.0, "value_clip": 0.3},
    ),
    *[(alignment.kl_penalty, KL, {"kind": kind}) for kind in ("k1", "k2", "k3", "abs")],
    (alignment.kl_penalty, KL, {"kind": "k3", "log_ratio_clamp": 0.5}),
    *[
        (alignment.grpo_loss, REFERRED, {"beta": 0.3, "entropy_coefficient": 0.1, "kl_kind": kind, **options})
        for kind in ("k1", "k2", "k3", "abs", "k1+", "k2+", "k3+", "abs+")
        for options in ({"delta": 1.3}, {"kl_bias_correction": True, "log_ratio_clamp": 0.15})
    ],
    *[
        (alignment.grpo_loss, OF_SEQUENCE, {"loss_type": name, "beta": 0.3, "kl_bias_correction": True, "clip": 0.25})
        for name in ("gspo", "gmpo", "vespo")
    ],
    *[
        (alignment.grpo_loss, TOKENS, {"loss_type": name, "clip": 0.1, "clip_high": high})
        for name in ("cispo", "cispo_absolute", "sapo", "dppo_tv", "dppo_kl", "gpg", "dro")
        for high in (0.05, 1.5)
    ],
    *[(alignment.grpo_loss, SELECTED, {"loss_type": name}) for name in ("clip_cov", "kl_cov")],
    *[
        (alignment.dpo_loss, PAIRS, {"loss_type": loss_type, "beta": beta, "label_smoothing": smoothing})
        for loss_type in (
            *SMOOTHED, "hinge", "ipo", "nca_pair", "apo_zero", "apo_down", "sppo_hard", "bco_pair", "discopop", "sft",
        )
        for beta in (0.1, 1.0)
        for smoothing in ((0.0, 0.2) if loss_type in SMOOTHED else (0.0,))
    ],
    (alignment.simpo_loss, AVERAGES, {}),
    (alignment.simpo_loss, AVERAGES, {"gamma": -0.5, "label_smoothing": 0.3, "beta": 3.0}),
    (alignment.simpo_loss, AVERAGES, {"loss_type": "hinge", "gamma": 1.0, "beta": 5.0}),
    *[(alignment.cpo_loss, SEQUENCES, {"loss_type": kind, "beta": 0.7}) for kind in ("sigmoid", "hinge", "ipo")],
    (alignment.cpo_loss, SEQUENCES, {"label_smoothing": 0.3, "alpha": 0.0}),
    (alignment.orpo_loss, AVERAGES, {}),
    (alignment.orpo_loss, AVERAGES, {"beta": 0.5, "sft_coefficient": 0.7}),
    (alignment.reward_model_loss, REWARDS, {}),
    (alignment.reward_model_loss, REWARDS, {"center_coefficient": 0.05}),
    (alignment.kto_loss, UNPAIRED, {"beta": 0.5}),
    (alignment.kto_loss, UNPAIRED, {"desirable_weight": 2.0, "undesirable_weight": 0.5}),
    (alignment.kto_loss, UNPAIRED, {"loss_type": "apo_zero_unpaired"}),
]  # fmt: skip


def name_of(value: Any) -> str:
    if callable(value):
        return value.__name__
    return ",".join(f"{key}={item}" for key, item in value.items() if not isinstance(item, tuple))


def autograd(loss: Any, operands: dict[str, Tensor], options: dict[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
    """Losses of the elements and their derivatives, by the reference body."""
    fused = LOSSES[loss.__name__]
    leaves = {name: x.clone().requires_grad_() for name, x in operands.items() if name in fused.differentiable}
    how = "aggregation" if "aggregation" in fused.signature.arguments else "reduction"
    value = fused.signature.reference(**{**operands, **leaves}, **options, **{how: "none"})
    gradients = torch.autograd.grad(value.sum(), list(leaves.values()), materialize_grads=True)
    return value.detach(), dict(zip(leaves, gradients, strict=True))


def functor(loss: Any, operands: dict[str, Tensor], options: dict[str, Any]) -> tuple[Tensor, Tensor, Tensor]:
    """(losses, derivatives, metrics) by the C++ functor, a row for each element."""
    fused = LOSSES[loss.__name__]
    arguments = {**operands, **options}
    if fused.prepare is not None:
        arguments = fused.prepare(arguments)
    parameters = fused.signature.parameter_values(arguments)
    assert not isinstance(parameters, Refused), parameters
    missing = {name: torch.full_like(next(iter(operands.values())), number) for name, number in fused.fill.items()}
    rows = zip(*({**missing, **operands}[name].tolist() for name in fused.operands), strict=True)
    results = [host.evaluate_pointwise(fused.kernel_name(arguments), list(row), parameters) for row in rows]
    return tuple(torch.tensor([result[k] for result in results], dtype=torch.float64) for k in range(3))


def check(loss: Any, operands: dict[str, Tensor], options: dict[str, Any]) -> None:
    value, gradients = autograd(loss, operands, options)
    actual, derivatives, _ = functor(loss, operands, options)
    torch.testing.assert_close(actual, value, rtol=1e-12, atol=1e-12)
    assert not value.isnan().any()
    names = LOSSES[loss.__name__].operands
    for name, gradient in gradients.items():
        torch.testing.assert_close(derivatives[:, names.index(name)], gradient, rtol=1e-12, atol=1e-12, msg=name)


@pytest.mark.parametrize(("loss", "values", "options"), CASES, ids=name_of)
def test_special_operands(loss, values, options):
    grid = torch.tensor(list(itertools.product(*values.values())), dtype=torch.float64)
    check(loss, dict(zip(values, grid.unbind(1), strict=True)), options)


@pytest.mark.parametrize(("loss", "values", "options"), CASES, ids=name_of)
def test_random_operands(loss, values, options):
    random = generator(f"{loss.__name__} {options}")
    operands = {name: torch.randn(200, generator=random, dtype=torch.float64) for name in values}
    for name, x in operands.items():
        if "logp" in name:
            operands[name] = -x.abs()
        elif name in CONDITIONS:
            operands[name] = (x > 0).double()
    check(loss, operands, options)


# What a formula does not look at, by its type; and what is a condition in all.
UNSEEN = {
    "apo_zero_unpaired": ("kl",),
    "sft": ("policy_rejected_logps", "reference_chosen_logps", "reference_rejected_logps"),
    **dict.fromkeys(("gspo", "gmpo", "vespo", "gpg"), ("old_logp",)),
}
CONDITIONS = ("desirable", "selected")


@pytest.mark.parametrize(("loss", "values", "options"), CASES, ids=name_of)
def test_nan_is_not_swallowed(loss, values, options):
    middle = {name: torch.tensor([v[len(v) // 2]], dtype=torch.float64) for name, v in values.items()}
    for name in values:
        if name in (*CONDITIONS, *UNSEEN.get(options.get("loss_type"), ())):
            continue
        value, _, _ = functor(loss, {**middle, name: torch.full((1,), math.nan, dtype=torch.float64)}, options)
        assert value.isnan().all(), name


def test_undecided_pairs_are_no_successes():
    operands = {name: torch.full((1,), -1.0, dtype=torch.float64) for name in PAIRS}
    _, _, metrics = functor(alignment.dpo_loss, operands, {})
    assert metrics[0, 2:].tolist() == [0.0, 0.0]


def test_metrics_of_the_surrogate():
    """logp, old_logp, advantage -> clipped, dual clipped, k3, k1, ratio three times."""
    rise = math.log(1.5)
    cases = {
        (rise, 0.0, 1.0): (1, 0),  # more of a good action: clipped
        (rise, 0.0, -1.0): (0, 0),
        (-rise, 0.0, -1.0): (1, 0),  # less of a bad one: clipped
        (-rise, 0.0, 1.0): (0, 0),
        (4 * rise, 0.0, -1.0): (0, 1),  # far more of a bad one: the dual clip at 3
        (0.1, 0.0, 1.0): (0, 0),
    }
    operands = torch.tensor(list(cases), dtype=torch.float64)
    names = ("logp", "old_logp", "advantages")
    _, _, metrics = functor(rl.ppo_clip_loss, dict(zip(names, operands.unbind(1), strict=True)), {"dual_clip": 3.0})
    log_ratio = operands[:, 0] - operands[:, 1]
    expected = torch.tensor(list(cases.values()), dtype=torch.float64)
    ratio = log_ratio.exp()
    columns = [*expected.unbind(1), ratio - 1 - log_ratio, -log_ratio, ratio, ratio, ratio]
    torch.testing.assert_close(metrics, torch.stack(columns, 1))
