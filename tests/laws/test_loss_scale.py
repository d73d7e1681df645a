"""The law of loss scaling: a float16 gradient is rounded after it has met the upstream gradient, as torch's is.

A GradScaler multiplies the loss by up to 2**16, so that small gradients survive in float16. A gradient that is rounded
before that factor arrives is lost: zeros and subnormals, times 65536.
"""

from __future__ import annotations

import pytest
import torch
from cases import CASES, COMPOSED, ONE_OF_EACH, Case, one_of_each
from outcomes import shapes
from support import each_backend, generator
from torch import Tensor

import fastloss

SMALLEST = 2.0**-24  # of float16: what is less may be 0
ONE_OF_EACH_COMPOSED = one_of_each(COMPOSED)
LARGEST = 2.0**16
SCALES = (2.0**-4, 1.0, LARGEST)
CALLED = [
    case
    for case in CASES
    if case.fuses
    and (case.skeleton or case in ONE_OF_EACH_COMPOSED)
    and torch.float16 in case.dtypes
    and {"mean", "token-mean"} & set(case.reductions)
]


def scaled(case: Case, arguments: dict, reduction: str, scale: float, rows: Tensor | None, autocast: bool = True):
    """The gradients after a factor on the loss, in float64."""
    leaves = {name: arguments[name].detach().clone().requires_grad_() for name in case.differentiable}
    with torch.autocast("cpu", dtype=torch.float16, enabled=autocast):
        value = case.call({**arguments, **leaves}, reduction)
    value = value[0] if isinstance(value, tuple) else value
    total = value.double().mul(rows).sum() if rows is not None else value.double()
    return [g.double() for g in torch.autograd.grad(total * scale, list(leaves.values()), materialize_grads=True)]


@pytest.mark.parametrize("scalar", [True, False], ids=["scalar", "none"])
@pytest.mark.parametrize(
    ("case", "scale"),
    # the variants of a loss go one way, which the largest factor shows
    [(case, scale) for case in CALLED for scale in SCALES if scale == LARGEST or case in ONE_OF_EACH],
    ids=str,
)
@each_backend
def test_float16_gradients_wait_for_the_loss_scale(case, scalar, scale, backend, device):
    reduction = next(how for how in case.reductions if "mean" in how) if scalar else "none"
    if reduction not in case.reductions:
        pytest.skip("the loss is always reduced")
    if device != "cpu":
        pytest.skip("autocast of the CPU")
    arguments = case.make(generator(str(case)), shapes(case)[-1], dtype=torch.float16)
    wide = {name: x.double() if isinstance(x, Tensor) and x.is_floating_point() else x for name, x in arguments.items()}
    rows = None
    if not scalar:
        with fastloss.backend("reference"), torch.no_grad():
            losses = case.call(wide, "none")
        rows = torch.rand(losses.shape, generator=generator("rows"), dtype=torch.float64) / max(1, losses.numel())
    with fastloss.backend("reference"):
        right = scaled(case, wide, reduction, scale, rows, autocast=False)
        torchs = scaled(case, arguments, reduction, scale, rows)
    with fastloss.backend(backend):
        found = scaled(case, arguments, reduction, scale, rows)
    slack = 4 * torch.finfo(torch.float16).eps
    for name, ours, theirs, g in zip(case.differentiable, found, torchs, right, strict=True):
        if not theirs.isfinite().all() or not g.isfinite().all():
            continue  # torch's own overflows there
        error, expected = (ours - g).norm(), (theirs - g).norm()
        assert error <= 2 * expected + slack * g.norm(), f"{name}: error {error}, torch's {expected} of {g.norm()}"
        lost, theirs_lost = (((x == 0) & (g.abs() > SMALLEST)).double().mean().item() for x in (ours, theirs))
        assert lost <= theirs_lost + 0.01, f"{name}: {lost:.1%} of the elements are lost, torch loses {theirs_lost:.1%}"
