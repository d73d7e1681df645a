"""Every pointwise loss in Triton against its C++ functor, in fp64 and in the interpreter; run by test_lanes.py.

The losses, with all the hyper-parameters of tests/cases, on random and on special operands: both have to
be the same function everywhere, at ties, infinities and NaN too.
"""

from __future__ import annotations

from lanes.triton import interpreter  # noqa: F401 (first: it repairs Triton before the kernels are imported)  # isort: skip

import math
import warnings
from typing import NamedTuple

import pytest
import support
import torch
from cases import FUSED, one_of_each
from lanes.triton.kernels import losses, pointwise
from torch import Tensor

import fastloss
from fastloss.core.registry import LOSSES
from fastloss.skeletons.pointwise import Pointwise

host = pytest.importorskip("fastloss._host", reason="the functors are not built")
pytestmark = pytest.mark.filterwarnings(
    "ignore:All-NaN slice", "ignore:invalid value", "ignore:overflow", "ignore:divide", "ignore:reduction. .mean"
)

CASES = [case for case in FUSED if case.skeleton == "pointwise"]
INF, NAN = math.inf, math.nan
SPECIAL = torch.tensor(
    [-INF, -800.0, -20.0, -1.0, 0.0, 1e-9, 0.25, 0.5, 1.0, 2.5, 30.0, 800.0, INF, NAN], dtype=torch.float64
)
SPECIAL_ROWS, RANDOM_ROWS = 500, 200


class Kernel(NamedTuple):
    """A loss with hyper-parameters; differentiable: the numbers of its operands that are."""

    name: str
    parameters: tuple[float, ...]
    differentiable: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.name}{list(self.parameters)}"


def kernels() -> list[Kernel]:
    """What the cases call, each once."""
    found = {}
    for case in CASES:
        made = case.make(torch.Generator().manual_seed(0))
        leaves = {
            name: made[name].requires_grad_() for name in case.differentiable if isinstance(made.get(name), Tensor)
        }
        with fastloss.backend("triton"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            _, call = case.loss.resolve((), {**made, **leaves, **case.options})
        how = call.plan.problem
        differentiable = tuple(k for k in range(how.wanted_operands.bit_length()) if how.wanted_operands >> k & 1)
        kernel = Kernel(how.loss, tuple(how.parameters), differentiable)
        before = found.get(kernel[:2])
        if before is None or len(before.differentiable) < len(differentiable):
            found[kernel[:2]] = kernel
    return list(found.values())


KERNELS = kernels()


def test_every_loss_is_in_the_cases():
    found = set()
    for name, declaration in LOSSES.items():
        if not isinstance(declaration, Pointwise):
            continue
        family = losses.family_of(declaration.signature.reference.__module__)
        prefix = f"{name}_" if declaration.variant else name
        found |= {x for x in vars(family) if x.startswith(prefix) and hasattr(getattr(family, x), "fn")}
    assert {kernel.name for kernel in KERNELS} == {name for name in found if not name.endswith("_domain")}


def rows_of(count: int, operands: int, special: bool) -> Tensor:
    """(operands, count)"""
    generator = torch.Generator().manual_seed(operands)
    if not special:
        rows = torch.rand(operands, count, generator=generator, dtype=torch.float64)
        rows[:, ::10] = rows[0, ::10]  # ties, which a share does not count
        return rows
    numbers = torch.randint(len(SPECIAL), (operands, count), generator=generator)
    numbers[:, : len(SPECIAL)] = torch.arange(len(SPECIAL))
    return SPECIAL[numbers]


def launch(kernel: Kernel, rows: Tensor, reduce: bool) -> tuple[Tensor, Tensor, list[Tensor]]:
    operands = len(rows)
    wanted = sum(1 << k for k in kernel.differentiable)
    return pointwise.pointwise(
        list(rows), None, None, kernel.name, [0.0] * operands, list(kernel.parameters), (1 << operands) - 1, wanted,
        False, 1.0, reduce, True, 1,
    )  # fmt: skip


@pytest.mark.parametrize("special", [False, True], ids=["random", "special"])
@pytest.mark.parametrize("kernel", KERNELS, ids=str)
def test_against_the_functor(kernel, special):
    described = pointwise.declared(kernel.name)
    rows = rows_of(SPECIAL_ROWS if special else RANDOM_ROWS, described.operands, special)
    elements = [host.evaluate_pointwise(kernel.name, row, list(kernel.parameters)) for row in rows.t().tolist()]
    inside = [element[3] for element in elements]
    assert all(inside) or described.requirement
    elements = [element for element in elements if element[3]]
    rows = rows[:, inside]

    losses, _, gradients = launch(kernel, rows, reduce=False)
    assert_same(losses, [element[0] for element in elements], rows, "loss")
    for k, gradient in zip(kernel.differentiable, gradients, strict=True):
        assert_same(gradient, [element[1][k] for element in elements], rows, f"derivative by operand {k}")
    if special:
        return
    _, metrics, _ = launch(kernel, rows, reduce=True)
    by_metric = torch.tensor([element[2] for element in elements], dtype=torch.float64).t()
    assert len(metrics) == len(by_metric) == len(described.metrics)
    reductions = {"mean": torch.mean, "part": torch.sum, "min": torch.amin, "max": torch.amax}
    for k, kind in enumerate(described.metrics):
        torch.testing.assert_close(metrics[k], reductions[kind](by_metric[k]), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("case", one_of_each(CASES), ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_through_the_public_function(case, dtype):
    """Lowering, autograd and kernel of each loss once, against its body in float64."""
    made = case.make(support.generator(str(case)), dtype=dtype)

    def compute(arguments):
        leaves = {name: arguments[name].detach().requires_grad_() for name in case.differentiable}
        value = case.call({**arguments, **leaves}, case.reduced)
        value = value[0] if isinstance(value, tuple) else value
        return value, torch.autograd.grad(value, list(leaves.values()))

    with fastloss.backend("reference"):
        expected, slopes = compute(support.to(made, "cpu", torch.float64))
    with fastloss.backend("triton"):
        value, gradients = compute(made)
    support.assert_close(value, expected, dtype)
    for name, gradient, slope in zip(case.differentiable, gradients, slopes, strict=True):
        assert gradient.dtype == dtype
        support.assert_close(gradient, slope, dtype, f"gradient of {name}")


def assert_same(actual: Tensor, expected: list[float], rows: Tensor, what: str) -> None:
    wanted = torch.tensor(expected, dtype=torch.float64)
    close = torch.isclose(actual, wanted, rtol=1e-11, atol=1e-13, equal_nan=True)
    bad = (~close).nonzero().flatten().tolist()
    assert not bad, f"{what}: {len(bad)} differ, the first at {rows[:, bad[0]].tolist()}: " + (
        f"{actual[bad[0]].item()}, the functor has {expected[bad[0]]}"
    )
