"""The C++ below the operators: vector functions against float64, functors against torch, every instruction set."""

from __future__ import annotations

import math
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from cases.classification import cross_entropy_oracle, softmax_focal_oracle
from support import BACKENDS, SEED, generator

_host = pytest.importorskip("fastloss._host", reason="fastloss was built without binaries")
SETS = _host.instruction_sets()


def floats(kind: str) -> np.ndarray:
    """Random bit patterns, thus all magnitudes, and the interesting ones."""
    random = np.random.default_rng(SEED)
    bits = random.integers(0, 2**32, 200_000, dtype=np.uint32).view(np.float32)
    special = np.array([0.0, 1.0, np.inf, np.nan, 1e-45, 1.17549435e-38, 3.4e38], np.float32)
    special = np.concatenate([special, -special])
    low = {"log": 0, "log1p": -1, "log1p_unit": -0.5}.get(kind, -110)
    high = {"exp_nonpositive": 0, "log": 3, "log1p": 3, "log1p_unit": 1}.get(kind, 95)
    near = random.uniform(low, high, 200_000)
    values = np.concatenate([bits, special, near.astype(np.float32)])
    if kind == "log1p_unit":
        return values[(values >= low) & (values <= high)]
    return -np.abs(values) if kind == "exp_nonpositive" else np.abs(values) if kind == "log" else values


# Over all floats, the largest errors on SSE2 are 2.96 (expm1), 2.25 (exp), 2.02 (log1p_unit), 1.95 (tanh), 1.44 (log1p)
# and 0.83 (log) ulp; expm1 has 2.68 on AVX2.
@pytest.mark.parametrize("instruction_set", SETS)
@pytest.mark.parametrize(
    ("name", "ulps"),
    [
        ("exp_nonpositive", 2.5),
        ("exp", 2.5),
        ("expm1", 3.0),
        ("log", 1.5),
        ("log1p", 2.5),
        ("log1p_unit", 2.1),
        ("tanh", 3.0),
    ],
)
def test_vector_functions(name, ulps, instruction_set):
    x = floats(name)
    actual = np.array(_host.vector_math(instruction_set, name, x.tolist()), np.float32)
    with np.errstate(all="ignore"):
        exact = {"exp_nonpositive": np.exp, "log1p_unit": np.log1p}.get(name) or getattr(np, name)
        expected = exact(x.astype(np.float64))
        rounded = expected.astype(np.float32)
    assert np.array_equal(np.isnan(actual), np.isnan(expected))
    assert np.array_equal(np.isposinf(actual), np.isposinf(rounded))
    assert np.array_equal(np.isneginf(actual), np.isneginf(rounded))
    finite = np.isfinite(rounded)
    error = np.abs(actual[finite].astype(np.float64) - expected[finite])
    # next to the smallest normal number, 1.2e-38, a result may be flushed to 0
    allowed = ulps * np.spacing(np.abs(rounded[finite])) + 1.7e-38
    if name.startswith("exp"):  # log2(e), rounded to float
        allowed += np.abs(expected[finite] * np.clip(x[finite], -1e3, 1e3)) * 1.4e-8
    worst = np.argmax(error / allowed)
    assert (error <= allowed).all(), (name, x[finite][worst], actual[finite][worst], expected[finite][worst])


@pytest.mark.parametrize("instruction_set", SETS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_conversions_round_as_torch(dtype, instruction_set):
    halves = torch.arange(2**16).to(torch.uint16).view(dtype).float()  # every value: exact
    between = (halves[:-1] + halves[1:]) / 2  # ties
    random = torch.from_numpy(floats("half"))
    x = torch.cat(
        [halves, between, between.nextafter(torch.tensor(1e38)), between.nextafter(torch.tensor(-1e38)), random]
    )
    name = "half" if dtype == torch.float16 else "bfloat16"
    actual = torch.tensor(_host.vector_math(instruction_set, name, x.tolist()))
    expected = x.to(dtype).float()
    torch.testing.assert_close(actual, expected, rtol=0, atol=0, equal_nan=True)
    numbers = ~expected.isnan()
    assert torch.equal(actual[numbers].signbit(), expected[numbers].signbit())


@pytest.mark.parametrize("soft", [False, True], ids=["index", "soft"])
def test_functors_by_themselves(soft):
    random = generator(f"functor {soft}")
    for parameters in ([0.0, 0.0, 0.0, 1.0], [0.1, 1e-2, 5.0, 1.7], [1.0, 0.0, 0.0, 0.5]):
        x = torch.randn(13, generator=random, dtype=torch.float64, requires_grad=True)
        weight = torch.rand(13, generator=random, dtype=torch.float64) + 0.1
        probabilities = torch.randn(13, generator=random, dtype=torch.float64).softmax(0)
        target = probabilities if soft else torch.tensor(4)
        names = ("label_smoothing", "z_loss", "softcap", "temperature")
        options = dict(zip(names, parameters, strict=True))
        expected = cross_entropy_oracle(x, target, weight, reduction="sum", **options)
        (expected_grad,) = torch.autograd.grad(expected, x)
        loss, grad = _host.evaluate_row(
            "cross_entropy", parameters, x.tolist(), -1 if soft else 4, probabilities.tolist(), weight.tolist()
        )
        assert math.isclose(loss, expected.item(), rel_tol=1e-13)
        torch.testing.assert_close(torch.tensor(grad, dtype=torch.float64), expected_grad, rtol=1e-12, atol=1e-13)
    with pytest.raises(KeyError, match="no row loss is called huber"):
        _host.evaluate_row("huber", [], [1.0], 0)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_a_modulated_functor_by_itself(gamma):
    random = generator(f"functor {gamma}")
    x = torch.randn(13, generator=random, dtype=torch.float64, requires_grad=True)
    weight = torch.rand(13, generator=random, dtype=torch.float64) + 0.1
    expected = softmax_focal_oracle(x, torch.tensor(4), weight, gamma, reduction="sum")
    (expected_grad,) = torch.autograd.grad(expected, x)
    loss, grad = _host.evaluate_row("softmax_focal_loss", [gamma], x.tolist(), 4, [], weight.tolist())
    assert math.isclose(loss, expected.item(), rel_tol=1e-13)
    torch.testing.assert_close(torch.tensor(grad, dtype=torch.float64), expected_grad, rtol=1e-12, atol=1e-13)


@pytest.mark.skipif(("cpu", "cpu") not in BACKENDS, reason="no CPU kernels")
@pytest.mark.slow(60)
@pytest.mark.parametrize("instruction_set", SETS[:-1])
def test_other_instruction_sets_pass_the_kernel_laws(
    instruction_set: str, lane_ran: Callable[[str, int], None]
) -> None:
    """The laws above ran on the processor's best set; the lesser ones run them in processes of their own."""
    laws = (
        "((kernels_agree and not (float64 and skeleton_row) or layouts) and not skeleton_similarity and "
        "not skeleton_linear) or special_values or sizes or inplace_overwrites"
    )
    files = (
        "laws/test_values.py",
        "laws/test_layouts.py",
        "skeletons/test_cross_entropy.py",
        "skeletons/test_outer.py",
        "contract/test_drop_ins.py",
    )
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *files]
    result = subprocess.run(
        [*command, "-k", laws],
        cwd=Path(__file__).resolve().parents[2],
        env={**os.environ, "FASTLOSS_CPU_CAPABILITY": instruction_set, "FASTLOSS_TEST_SEED": str(SEED)},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout[-3000:]
    passed = re.search(r"^(\d+) passed", result.stdout, re.M)
    assert passed is not None, result.stdout[-1000:]
    lane_ran(f"CPU C++, {instruction_set} instruction set", int(passed[1]))
