"""torch.func: grad, vmap, both, forward mode."""

from __future__ import annotations

import pytest
import torch
from cases import COMPOSED, FUSED, ONE_OF_EACH
from support import assert_close, each_backend, expected, generator, magnitudes
from torch import Tensor

import fastloss

pytestmark = pytest.mark.usefixtures("small_tiles")
FUSED_ONCE = [case for case in ONE_OF_EACH if case.skeleton and case.fuses]
ALL_OF = [case for case in FUSED if case.skeleton != "linear"] + COMPOSED


def sizes(case, arguments):
    """Of the value, and of the gradient by the first argument."""
    ones = torch.ones_like(expected(case, arguments, case.reduced)[0])
    of_value, terms = magnitudes(case, arguments, case.reduced, ones, torch.float64)
    return of_value, terms[case.differentiable[0]]


@each_backend
@pytest.mark.parametrize("case", ALL_OF, ids=str)
def test_func_transforms(case, backend, device):
    arguments = case.make(generator(str(case)), device=device)
    name = case.differentiable[0]
    of_value, of_gradient = sizes(case, arguments)
    # the other tensors with an entry of their own for each entry of the batch, or one for all; class weights with one
    # for all only (the kernels say so)
    shared = ("weight", "alpha") if case.skeleton == "row" else ()
    others = [key for key, x in arguments.items() if key not in (name, *shared) and isinstance(x, Tensor)]

    def f(x, *rest):
        return case.call({**arguments, name: x, **dict(zip(others, rest, strict=True))}, case.reduced)

    both = torch.func.grad_and_value(f)
    x, rest = arguments[name], [arguments[key] for key in others]
    batch = torch.stack([x, 0.5 * x])
    # in another order, but what has to rise
    flipped = [r.flip(0) if r.dim() and key != "cu_seqlens" else r for key, r in zip(others, rest, strict=True)]
    rests = [torch.stack(pair) for pair in zip(rest, flipped, strict=True)]
    for axes, operands in (((0, *[None] * len(rest)), rest), ((0, *[0] * len(rest)), rests)):
        entries = [[r[i] for r in operands] if operands is rests else operands for i in range(2)]
        with fastloss.backend("reference"):
            loop = [both(batch[i], *entries[i]) for i in range(2)]
        gradients64, values64 = (torch.stack(parts) for parts in zip(*loop, strict=True))
        with fastloss.backend(backend):
            assert_close(torch.func.grad(f)(x, *rest), gradients64[0] if operands is rest else loop[0][0],
                         torch.float64, "grad", of_gradient)  # fmt: skip
            mapped = torch.func.vmap(f, axes)(batch, *operands)
            assert_close(mapped, values64, torch.float64, f"vmap {axes}", of_value)
            mapped = torch.func.vmap(torch.func.grad(f), axes)(batch, *operands)
            assert_close(mapped, gradients64, torch.float64, f"vmap of grad {axes}", of_gradient)


@pytest.mark.parametrize(
    "case", [case for case in FUSED if case.skeleton == "row" or case in FUSED_ONCE] + COMPOSED, ids=str
)
def test_forward_mode_is_right(case):
    """Along each operand: no tensor knows that it has a tangent, as one knows that it requires a gradient."""
    arguments = case.make(generator(str(case)))
    value64, gradients64 = expected(case, arguments, case.reduced)
    of_value, of_gradient = sizes(case, arguments)
    for name, gradient in gradients64.items():
        tangent = torch.randn(gradient.shape, generator=generator(f"tangent {name}"), dtype=torch.float64)
        value, along = torch.func.jvp(
            lambda x, name=name: case.call({**arguments, name: x}, case.reduced), (arguments[name],), (tangent,)
        )
        assert_close(value, value64, torch.float64, "value", of_value)
        size = max(gradient.abs().sum().item(), of_gradient * tangent.abs().sum().item())
        assert_close(along, (gradient * tangent).sum(), torch.float64, f"tangent of {name}", size)


@each_backend
@pytest.mark.parametrize("case", [c for c in ONE_OF_EACH if c.skeleton], ids=str)
def test_explicit_backends_refuse_forward_mode(case, backend, device):
    arguments = case.make(generator(str(case)), device=device)
    name = case.differentiable[0]
    with fastloss.backend(backend), pytest.raises(fastloss.BackendError, match=r"forward-mode|torch\.func"):
        torch.func.jvp(lambda x: case.call({**arguments, name: x}, case.reduced), (arguments[name],) * 1,
                       (torch.ones_like(arguments[name]),))  # fmt: skip
