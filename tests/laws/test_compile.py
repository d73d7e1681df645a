"""torch.compile: one graph, static and dynamic shapes, the same numbers."""

from __future__ import annotations

import pytest
import torch
from cases import COMPOSED, FUSED, ONE_OF_EACH, one_of_each
from support import assert_close, each_backend, expected, generator, magnitudes, to

import fastloss

pytestmark = [
    pytest.mark.usefixtures("small_tiles"),
    pytest.mark.filterwarnings("ignore:Using a target size", "ignore:reduction. 'mean' divides"),
]
COMPILED = [
    case
    for case in FUSED
    if case in ONE_OF_EACH or (case.skeleton == "row" and str(case).endswith(("everything, 7x37", "plain, 2x5x21")))
] + one_of_each(COMPOSED)
# Dynamo and AOTAutograd see every loss; what Inductor makes of the graph takes seconds, and is the same for a family's
# passes over memory.
BY_INDUCTOR = list({case.family: case for case in COMPILED if case.skeleton in ("row", "pointwise")}.values())


@pytest.mark.slow(2)
@each_backend
@pytest.mark.parametrize(
    ("case", "dynamic"),
    [
        pytest.param(case, dynamic, id=f"{case}-{'dynamic' if dynamic else 'static'}")
        for case in COMPILED
        for dynamic in (False, True)
        if dynamic or case in BY_INDUCTOR  # of others the harder half; static shapes are in test_programs.py, too
    ],
)
def test_compile_fullgraph(case, backend, device, dynamic):
    torch._dynamo.reset()
    compiler = "inductor" if case in BY_INDUCTOR else "aot_eager"
    dtype = torch.float32 if torch.float32 in case.dtypes else torch.float64
    # A reduction with each: dynamo traces for a second.
    reduction = case.reduced if dynamic else case.reductions[0]

    loss, how = case.loss, case.how(reduction)

    def f(arguments):
        return loss(**arguments, **how) * 2

    with fastloss.backend(backend):
        compiled = torch.compile(f, fullgraph=True, dynamic=dynamic, backend=compiler)
        shapes = [None, case.with_batch(2 * case.shape[0])] if dynamic and case.batched else [None, None]
        for k, shape in enumerate(shapes):
            arguments = case.make(generator(f"{case} {k}"), shape, dtype, device)
            leaves = {name: arguments[name].requires_grad_() for name in case.differentiable}
            value, plain = compiled({**arguments, **leaves}), f({**arguments, **leaves})
            ones = torch.ones_like(plain)
            with_graphs = [torch.autograd.grad(x, list(leaves.values()), ones) for x in (value, plain)]
            wanted, _ = expected(case, arguments, reduction)
            of_value, terms = magnitudes(case, to(arguments, device), reduction, torch.ones_like(wanted), dtype)
            assert_close(value, plain.double(), dtype, terms=2 * of_value)
            for name, actual, right in zip(leaves, *with_graphs, strict=True):
                assert_close(actual, right.double(), dtype, f"gradient of {name}", 2 * terms[name])


def test_func_inside_compile_is_not_taken_for_a_constant():
    x, y = torch.randn(64, 128), torch.randn(64, 128)

    def f(x):
        return torch.func.grad(fastloss.log_cosh_loss)(x, y)

    assert_close(torch.compile(f, fullgraph=True)(x), f(x).double(), torch.float32)
