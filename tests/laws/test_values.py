"""Values and gradients: of the bodies by independent code, of the kernels by the bodies."""

from __future__ import annotations

import inspect

import pytest
import torch
from cases import CASES, COMPOSED, FUSED, Case
from support import (
    DTYPES,
    assert_as_reference,
    assert_close,
    compute,
    each_backend,
    expected,
    generator,
    magnitudes,
    to,
)
from torch import Tensor

import fastloss

pytestmark = [
    pytest.mark.usefixtures("small_tiles"),
    pytest.mark.filterwarnings("ignore:Using a target size", "ignore:reduction. 'mean' divides"),
]


def reduced(losses: Tensor, how: str) -> Tensor:
    """The plain reductions, for oracles that have none."""
    how = how.removeprefix("token-")
    if how == "none":
        return losses
    if how in ("mean", "sum"):
        return getattr(losses, how)()
    sequences = losses.mean(-1) if how == "seq-mean-token-mean" else losses.sum(-1)
    return sequences.mean() / (losses.shape[-1] if how.endswith("norm") else 1)


def by_oracle(case: Case, how: str, **arguments: object) -> Tensor:
    assert case.oracle is not None
    if "reduction" in inspect.signature(case.oracle).parameters or case.skeleton == "linear":
        return case.oracle(**arguments, **case.options, reduction=how)
    losses = case.oracle(**arguments, **case.options)
    return losses if losses.dim() == 0 and "reduction" not in case.parameters else reduced(losses, how)


def counted(case: Case, losses: Tensor) -> Tensor | None:
    """How many losses the mean is of, where anchors without a positive do not count; None for triplets (oracles/)."""
    return None if "triplet" in case.name else (losses != 0).sum()


@pytest.mark.parametrize("case", [case for case in CASES if case.oracle], ids=str)
def test_reference_agrees_with_the_oracle(case):
    made = case.make(generator(str(case)))
    for how in case.reductions:
        leaves = {name: made[name].clone().requires_grad_() for name in case.differentiable}
        if how == "mean" and case.skeleton == "similarity" and case.indices:
            losses = by_oracle(case, "none", **{**made, **leaves})
            count = counted(case, losses)
            if count is None:
                continue
            exact = losses.sum() / count
        else:
            exact = by_oracle(case, how, **{**made, **leaves})
        with fastloss.backend("reference"):
            value, gradients = compute(case, made, how)
        values, terms = magnitudes(case, made, how, torch.ones_like(exact), torch.float64)
        if case.skeleton is None:  # a composition, whose terms are its own
            values, terms = case.magnitude, dict.fromkeys(gradients, case.magnitude)
        assert_close(value, exact, torch.float64, how, values)
        if not exact.requires_grad or not case.derivative:  # an oracle in numpy
            continue
        wanted = torch.autograd.grad(exact, list(leaves.values()), torch.ones_like(exact), allow_unused=True)
        for (name, gradient), right in zip(gradients.items(), wanted, strict=True):
            if right is not None and case.twice:  # else it may have a kink, where two are right
                assert_close(gradient, right, torch.float64, f"{how}: gradient of {name}", terms[name])


@each_backend
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", FUSED + COMPOSED, ids=str)
def test_kernels_agree_with_the_reference(case, dtype, backend, device):
    if dtype not in case.dtypes:
        pytest.skip("not of this dtype")
    if case.skeleton == "similarity" and dtype.itemsize == 2 and (backend, device) == ("triton", "cpu"):
        pytest.skip("takes seconds in the interpreter; halves are widened before the kernels")
    arguments = case.make(generator(str(case)), dtype=dtype, device=device)
    for reduction in case.reductions:
        assert_as_reference(case, arguments, backend, reduction, dtype)


@each_backend
@pytest.mark.parametrize("case", [c for c in CASES if c.skeleton and not c.fuses], ids=str)
def test_what_the_kernels_lack_is_said_and_answered(case, backend, device):
    arguments = case.make(generator(str(case)), dtype=torch.float32, device=device)
    refused = pytest.raises(fastloss.BackendError, match=r"class probabilities and label smoothing|alpha is a tensor")
    with fastloss.backend(backend), refused:
        case.call(arguments, "mean")
    assert fastloss.explain(case.loss, **arguments, **case.options).backend == "reference"
    wanted, _ = expected(case, arguments, "mean")
    assert_close(case.call(arguments, "mean"), to(wanted, device), torch.float32)
