"""Memory layouts and broadcasting: the same numbers, however they lie."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from cases import COMPOSED, FUSED, ONE_OF_EACH
from support import assert_close, compute, each_backend, expected, generator, magnitudes
from torch import Tensor

import fastloss

pytestmark = [
    pytest.mark.usefixtures("small_tiles"),
    pytest.mark.filterwarnings("ignore:Using a target size", "ignore:reduction. 'mean' divides"),
]
FUSED_ONCE = [case for case in ONE_OF_EACH if case.skeleton and case.fuses]


def spread_out(x: Any) -> Any:
    """The same numbers at every third place, transposed."""
    if not isinstance(x, Tensor) or x.dim() == 0:
        return x
    if x.dim() == 1:
        return torch.zeros(3 * len(x), dtype=x.dtype, device=x.device)[::3].copy_(x)
    storage = torch.zeros((*x.shape[:-2], 3 * x.shape[-1], x.shape[-2]), dtype=x.dtype, device=x.device)
    return storage[..., ::3, :].transpose(-1, -2).copy_(x)


def transposed(x: Any) -> Any:
    return x.transpose(-1, -2).contiguous().transpose(-1, -2) if isinstance(x, Tensor) and x.dim() > 1 else x


LAYOUTS_OF = [c for c in FUSED if c.skeleton == "outer" or c in FUSED_ONCE] + COMPOSED


@each_backend
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("case", LAYOUTS_OF, ids=str)
def test_layouts_of_all_arguments(case, backend, device, dtype):
    if dtype not in case.dtypes:
        pytest.skip("not of this dtype")
    arguments = case.make(generator(str(case)), dtype=dtype, device=device)
    first = case.differentiable[0]
    layouts = {
        "all spread out": {name: spread_out(x) for name, x in arguments.items()},
        "one spread out": {**arguments, first: spread_out(arguments[first])},
        "transposed": {name: transposed(x) for name, x in arguments.items()},
    }
    for reduction in case.reductions[:2]:
        ones = torch.ones_like(expected(case, arguments, reduction)[0])
        of_value, terms = magnitudes(case, arguments, reduction, ones, dtype)
        with fastloss.backend(backend):
            plain, plain_gradients = compute(case, arguments, reduction)
            for what, spread in layouts.items():
                value, gradients = compute(case, spread, reduction)
                assert_close(value, plain, dtype, what, of_value)
                for name, gradient in gradients.items():
                    x = spread[name]
                    assert_close(gradient, plain_gradients[name], dtype, f"{what}: gradient of {name}", terms[name])
                    if case.skeleton == "outer":
                        assert torch.equal(gradient, plain_gradients[name]), what
                    if case.skeleton == "pointwise" and what == "transposed" and x.dim() > 1:
                        assert x.shape != gradient.shape or gradient.stride() == x.stride()


@each_backend
@pytest.mark.parametrize("case", [c for c in FUSED_ONCE if c.skeleton == "pointwise"], ids=str)
def test_broadcasting(case, backend, device):
    """Each tensor operand in turn as a row, a column and a single number; its gradient has its shape."""
    arguments = case.make(generator(str(case)), device=device)
    full = [name for name, x in arguments.items() if isinstance(x, Tensor) and x.dim() == 2]
    for name in full:
        x = arguments[name]
        for narrow in (x[0], x[:1], x[:, :1], x[0, 0]):
            narrowed = {**arguments, name: narrow}
            try:
                value64, gradients64 = expected(case, narrowed, case.reduced)
            except (RuntimeError, ValueError) as error:  # torch, or we, refuse this broadcast: so do the kernels
                with fastloss.backend(backend), pytest.raises(type(error)):
                    compute(case, narrowed, case.reduced)
                continue
            with fastloss.backend(backend):
                if fastloss.explain(case.loss, **narrowed, **case.how(case.reduced)).backend != backend:
                    continue  # torch takes shapes that the kernels' contract does not
            with fastloss.backend(backend):
                value, gradients = compute(case, narrowed, case.reduced)
            assert_close(value, value64, torch.float64, name)
            _, terms = magnitudes(case, narrowed, case.reduced, torch.ones_like(value64), torch.float64)
            for other, gradient in gradients.items():
                assert gradient.shape == narrowed[other].shape
                what = f"gradient of {other}, {name} broadcast"
                assert_close(gradient, gradients64[other], torch.float64, what, terms[other])


@each_backend
@pytest.mark.parametrize("case", [c for c in FUSED_ONCE if c.skeleton == "pointwise" and c.twice], ids=str)
def test_broadcast_operands_differentiated_twice_by_torch_func(case, backend, device):
    arguments = case.make(generator(str(case)), device=device)
    for name in case.differentiable:
        for narrow in (arguments[name][0], arguments[name][:, :1]):

            def gradient(x, name=name):
                return torch.func.grad(lambda x: case.call({**arguments, name: x}, case.reduced))(x)

            def of_squares(x, gradient=gradient):
                return torch.func.grad(lambda x: gradient(x).square().sum())(x)

            try:
                with fastloss.backend("reference"):
                    right, first = of_squares(narrow), gradient(narrow)
            except (RuntimeError, ValueError):
                continue  # torch, or we, refuse this broadcast
            with fastloss.backend(backend):
                if (
                    fastloss.explain(case.loss, **{**arguments, name: narrow}, **case.how(case.reduced)).backend
                    != backend
                ):
                    continue  # torch takes shapes that the kernels' contract does not
                found = of_squares(narrow)
            size = max(right.abs().max().item(), first.abs().max().item())
            assert_close(found, right, torch.float64, f"{name} {tuple(narrow.shape)}", size)
