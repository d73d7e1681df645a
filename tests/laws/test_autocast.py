"""Autocast: a float32 loss of half operands, and gradients in the dtype of the operands."""

from __future__ import annotations

import warnings

import pytest
import torch
from cases import COMPOSED, FUSED, ONE_OF_EACH
from support import assert_close, compute, each_backend, expected, generator, magnitudes, to

import fastloss

pytestmark = pytest.mark.usefixtures("small_tiles")
SOME = [
    case
    for case in FUSED
    if (case in ONE_OF_EACH and case.skeleton != "linear")
    or (case.skeleton == "row" and any(size in case.variant for size in ("7x37", "2x3x4x5")))
] + [
    case for case in COMPOSED if "linear_" not in case.name and "hidden" not in case.variant
]  # autocast rounds their products


@each_backend
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("case", SOME, ids=str)
def test_autocast(case, backend, device, dtype):
    if case.loss is fastloss.gaussian_nll_loss and device == "cpu":
        pytest.skip("torch's autocast of the CPU leaves it in its dtype; contract/test_transforms.py compares")
    arguments = case.make(generator(str(case)), dtype=dtype, device=device)
    value64, gradients64 = exact = expected(case, arguments, case.reduced)
    of_value, terms = magnitudes(case, arguments, case.reduced, torch.ones_like(value64), dtype, exact)
    for name in (backend, "reference"):
        if torch.float32 not in case.dtypes:  # which triplets are chosen is rounding's choice, too
            with fastloss.backend(name):
                value64, gradients64 = compute(case, to(arguments, device, torch.float32), case.reduced)
        with torch.autocast(device, dtype), fastloss.backend(name), warnings.catch_warnings():
            value, gradients = compute(case, arguments, case.reduced)
        assert value.dtype == torch.float32
        assert_close(value, value64, torch.float32, f"{name} value", of_value)
        for argument, gradient in gradients.items():
            assert gradient.dtype == dtype
            assert_close(gradient, gradients64[argument], dtype, f"{name} gradient of {argument}", terms[argument])
