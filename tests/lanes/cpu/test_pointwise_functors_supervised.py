"""The functors of csrc/losses, one element at a time and in double, against autograd of the reference bodies.

On special operands above all, where the value (inf, NaN, the gradient at a tie) is torch's own."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from support import generator

import fastloss

host = pytest.importorskip("fastloss._host", reason="the C++ part is not built")

INF, NAN = float("inf"), float("nan")
ERRORS = (-INF, -3.0, -1.0, -0.5, 0.0, 1e-9, 1.0, 2.5, INF, NAN)
PROBABILITIES = (0.0, 1e-300, 0.25, 1.0)
LOGITS = (-800.0, -20.0, -1e-3, 0.0, 0.5, 30.0, 800.0, NAN)
LABELS = (0.0, 0.3, 1.0)
SIGNS = (-1.0, 1.0)
LEVELS = (0.0, 0.1, 0.5, 1.0)
VARIANCES = (0.0, 1e-9, 0.5, 3.0, INF, NAN)


@dataclass(frozen=True)
class Functor:
    """A functor with hyper-parameters, the same as options of the body, and special values of each operand."""

    name: str
    parameters: tuple[float, ...]
    options: dict[str, Any]
    values: dict[str, tuple[float, ...]]
    constants: tuple[str, ...] = field(default=())  # the operands that are not differentiated

    def __str__(self) -> str:
        return f"{self.name}, {self.options}" if self.options else self.name


PAIR = {"input": ERRORS, "target": (-1.0, 0.0, 1.0, 2.5, INF, NAN)}
FOCAL = {"inputs": LOGITS, "targets": LABELS}
FUNCTORS = [
    Functor("mse_loss", (), {}, PAIR),
    Functor("l1_loss", (), {}, PAIR),
    *[Functor("huber_loss", (d,), {"delta": d}, PAIR) for d in (1.0, 0.25)],
    *[Functor("smooth_l1_loss", (b,), {"beta": b}, PAIR) for b in (1.0, 0.25, 0.0)],
    Functor("quantile_loss", (), {}, {**PAIR, "tau": LEVELS}, ("tau",)),
    Functor("expectile_loss", (), {}, {**PAIR, "tau": LEVELS}, ("tau",)),
    Functor("log_cosh_loss", (), {}, {"input": (*ERRORS, 1e-200, 20.0, 1e4), "target": (0.0,)}),
    Functor(
        "binary_cross_entropy", (), {}, {"input": PROBABILITIES, "target": LABELS, "weight": (1.0, 0.5)}, ("weight",)
    ),
    Functor(
        "binary_cross_entropy_with_logits",
        (),
        {},
        {"input": (*LOGITS, INF), "target": LABELS, "weight": (1.0, 0.5), "pos_weight": (1.0, 2.5)},
        ("weight", "pos_weight"),
    ),
    *[
        Functor("sigmoid_focal_loss", (alpha, gamma), {"alpha": alpha, "gamma": gamma}, FOCAL)
        for alpha in (0.25, 0.0, -1.0)
        for gamma in (0.0, 0.5, 1.0, 2.0, 3.5)
    ],
    Functor("soft_margin_loss", (), {}, {"input": (-700.0, -1.0, 0.0, 2.0, 700.0, NAN), "target": SIGNS}, ("target",)),
    *[
        Functor("hinge_embedding_loss", (m,), {"margin": m}, {"input": ERRORS, "target": (-1.0, 0.0, 1.0)}, ("target",))
        for m in (1.0, -0.5)
    ],
    *[
        Functor(
            "margin_ranking_loss",
            (m,),
            {"margin": m},
            {"input1": ERRORS, "input2": (0.0, 1.0, INF), "target": (-1.0, 0.0, 1.0)},
        )
        for m in (0.0, 1.0)
    ],
    *[
        Functor(
            "hinge_loss",
            (1.0, float(squared)),
            {"margin": 1.0, "squared": squared},
            {"input": ERRORS, "target": SIGNS},
            ("target",),
        )
        for squared in (False, True)
    ],
    *[
        Functor("gaussian_nll_loss", (float(full), 1e-6), {"full": full}, {**PAIR, "var": VARIANCES})
        for full in (False, True)
    ],
    *[
        Functor("laplace_nll_loss", (float(full), 1e-6), {"full": full}, {**PAIR, "scale": VARIANCES})
        for full in (False, True)
    ],
    *[
        Functor(
            "poisson_nll_loss",
            (float(log_input), float(full), 1e-8),
            {"log_input": log_input, "full": full},
            {"input": (0.0, 0.5, 3.0, INF, NAN), "target": (-1.0, 0.0, 0.5, 1.0, 4.0, NAN)},
        )
        for log_input in (True, False)
        for full in (False, True)
    ],
    Functor(
        "kl_div", (0.0,), {"log_target": False}, {"input": (-INF, -2.0, 0.0, NAN), "target": (*PROBABILITIES, NAN)}
    ),
    Functor("kl_div", (1.0,), {"log_target": True}, {"input": (-INF, -2.0, 0.0), "target": (-INF, -1.0, 0.0, NAN)}),
]


def reference(functor: Functor, rows: list[tuple[float, ...]]) -> tuple[list[float], dict[str, list[float]]]:
    """(losses, gradients by operand) of the body, in torch."""
    operands = {
        name: torch.tensor(column, dtype=torch.float64, requires_grad=name not in functor.constants)
        for name, column in zip(functor.values, zip(*rows, strict=True), strict=True)
    }
    with fastloss.backend("reference"):
        losses = getattr(fastloss, functor.name)(**operands, **functor.options, reduction="none")
    names = [name for name in operands if name not in functor.constants]
    gradients = torch.autograd.grad(losses.sum(), [operands[name] for name in names])
    return losses.tolist(), {name: gradient.tolist() for name, gradient in zip(names, gradients, strict=True)}


@pytest.mark.parametrize("functor", FUNCTORS, ids=str)
def test_functor_against_autograd_of_the_body(functor):
    special = list(itertools.product(*functor.values.values()))
    finite = {name: [v for v in values if abs(v) < 100] for name, values in functor.values.items()}
    spread = torch.rand(50, len(finite), generator=generator(str(functor)), dtype=torch.float64)
    random = [
        tuple(
            row[k].item() * (max(values) - min(values)) + min(values)
            if name not in ("target",)
            else values[i % len(values)]
            for k, (name, values) in enumerate(finite.items())
        )
        for i, row in enumerate(spread)
    ]
    rows = special + random
    losses, gradients = reference(functor, rows)
    for i, row in enumerate(rows):
        loss, derivatives, metrics, inside = host.evaluate_pointwise(functor.name, list(row), list(functor.parameters))
        assert metrics == []
        assert inside
        close(loss, losses[i], f"loss at {row}")
        for name, derivative in zip(functor.values, derivatives, strict=True):
            if name in gradients:
                close(derivative, gradients[name][i], f"derivative by {name} at {row}")


def close(actual: float, expected: float, what: str) -> None:
    assert actual == pytest.approx(expected, rel=1e-12, abs=1e-14, nan_ok=True), what


# ------------------------------------------------------------------------------------------ on purpose not as torch


def test_soft_margin_does_not_overflow():
    loss, derivatives, *_ = host.evaluate_pointwise("soft_margin_loss", [-2000.0, 1.0], [])
    assert (loss, derivatives[0]) == (2000.0, -1.0)  # torch: inf and NaN


def test_a_positive_with_a_logit_of_minus_infinity():
    loss, derivatives, *_ = host.evaluate_pointwise("binary_cross_entropy_with_logits", [-INF, 1.0, 1.0, 1.0], [])
    assert (loss, derivatives[0]) == (INF, -1.0)  # torch: NaN and -1


def test_the_slope_by_the_label_is_the_logit_itself():
    """Without pos_weight. The difference of the two logarithms would have their roundings, 1e-16 of 1e-9."""
    _, derivatives, *_ = host.evaluate_pointwise("binary_cross_entropy_with_logits", [1e-9, 0.3, 1.0, 1.0], [])
    assert derivatives[1] == -1e-9


def test_log_cosh_keeps_the_digits_of_small_errors():
    for error in (1e-8, 1e-4, 1e-2):
        loss, *_ = host.evaluate_pointwise("log_cosh_loss", [error, 0.0], [])
        assert loss == pytest.approx(error**2 / 2 - error**4 / 12 + error**6 / 45, rel=1e-13)


# ------------------------------------------------------------------------------------------ domains


@pytest.mark.parametrize(
    ("name", "operands", "parameters", "inside"),
    [
        ("quantile_loss", [0.0, 1.0, 1.5], [], False),
        ("quantile_loss", [0.0, 1.0, NAN], [], False),
        ("quantile_loss", [NAN, NAN, 1.0], [], True),
        ("expectile_loss", [0.0, 1.0, -1e-9], [], False),
        ("binary_cross_entropy", [1.0, 0.0, -3.0], [], True),
        ("binary_cross_entropy", [1.0000001, 0.0, 1.0], [], False),
        ("binary_cross_entropy", [NAN, 0.0, 1.0], [], False),
        ("binary_cross_entropy", [0.5, -0.1, 1.0], [], False),
        ("gaussian_nll_loss", [0.0, 0.0, -1e-9], [0.0, 1e-6], False),
        ("gaussian_nll_loss", [0.0, 0.0, -0.0], [0.0, 1e-6], True),
        ("gaussian_nll_loss", [0.0, 0.0, NAN], [0.0, 1e-6], True),
        ("laplace_nll_loss", [0.0, 0.0, -1.0], [0.0, 1e-6], False),
    ],
)
def test_domain(name, operands, parameters, inside):
    assert host.evaluate_pointwise(name, operands, parameters)[3] is inside
