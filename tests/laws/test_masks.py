"""Masks, weights and normalizers: what is masked out is not there, NaN or not."""

from __future__ import annotations

import math

import pytest
import torch
from cases import COMPOSED, FUSED
from support import a_mask, assert_close, compute, each_backend, expected, generator, magnitudes, to
from torch import Tensor

import fastloss

pytestmark = pytest.mark.usefixtures("small_tiles")
MASKED = [case for case in FUSED + COMPOSED if case.masked]


@each_backend
@pytest.mark.parametrize("case", MASKED, ids=str)
def test_masks(case, backend, device):
    """NaN in what does not count; the explicit denominator; nothing left at all."""
    made = case.make(generator(str(case)))
    losses = case.call(made, "none").shape
    mask = a_mask(case, losses)
    weights = torch.rand(losses, generator=generator(f"weights {case}"), dtype=torch.float64)
    hows = [{"mask": mask}, {"mask": mask.double() * 0.5}]
    if "weights" in case.optional:
        hows += [{"weights": weights}, {"weights": weights, "mask": mask}, {"weights": weights * mask}]
    hidden, hidden_names = {}, []
    for name, x in made.items():
        if not (isinstance(x, Tensor) and x.is_floating_point()) or name == "tau":
            hidden[name] = x
        elif x.shape[: len(losses)] == losses:
            hidden[name] = torch.where(mask.view(*losses, *[1] * (x.dim() - len(losses))), x, math.nan)
            hidden_names.append(name)
        else:
            hidden[name] = x
    for dtype in (torch.float64, torch.float32):
        for reduction in case.reductions:
            for how in hows:
                of_dtype = to(made, "cpu", dtype)
                more = to(how, "cpu", dtype)
                value64, gradients64 = exact = expected(case, of_dtype, reduction, **more)
                ones = torch.ones_like(value64)
                _, terms = magnitudes(case, of_dtype, reduction, ones, dtype, exact, **more)
                counted = "mask" in how or how["weights"] is not weights
                with fastloss.backend(backend):
                    arguments = to(hidden if counted else made, device, dtype)
                    value, gradients = compute(case, arguments, reduction, **to(more, device))
                assert_close(value, value64, dtype, f"{reduction} value")
                for name, gradient in gradients.items():
                    assert_close(gradient, gradients64[name], dtype, f"{reduction} gradient of {name}", terms[name])
                    if counted and name in hidden_names:
                        assert (gradient[~mask.to(device)] == 0).all()
        for name in (backend, "reference"):
            nothing = torch.zeros(losses, dtype=torch.bool, device=device)
            with fastloss.backend(name):
                value, gradients = compute(case, to(hidden, device, dtype), case.reduced, mask=nothing)
            assert value == 0
            assert all((gradient == 0).all() for gradient in gradients.values())
        total, mean = ("sum", "mean") if "mean" in case.reductions else ("token-sum", "token-mean")
        arguments = to(made, device, dtype)
        with fastloss.backend(backend):
            whole, of_whole = compute(case, arguments, total)
            for normalizer in (7.0, torch.tensor(7.0, dtype=dtype, device=device)):
                part, of_part = compute(case, arguments, mean, normalizer=normalizer)
                assert_close(part, whole.double() / 7, dtype)
                for name, gradient in of_part.items():
                    assert_close(gradient, of_whole[name].double() / 7, dtype)
