"""Derivatives: against differences, twice, again, and of what the graph keeps."""

from __future__ import annotations

import weakref
from typing import Any

import pytest
import torch
from cases import COMPOSED, FUSED, ONE_OF_EACH, Case, one_of_each
from support import assert_close, compute, each_backend, generator, gradient_terms
from torch import Tensor

import fastloss

pytestmark = [
    pytest.mark.usefixtures("small_tiles"),
    pytest.mark.filterwarnings("ignore:Using a target size", "ignore:reduction. 'mean' divides"),
]
FUSED_ONCE = [case for case in ONE_OF_EACH if case.skeleton and case.fuses]


def differentiated_twice(case: Case) -> bool:
    """Rows and embeddings of a size at which differences take no minutes."""
    if case.skeleton == "row":
        return any(size in case.variant for size in ("7x37", "2x3x4x5"))
    return case.skeleton in ("pointwise", "outer") or case in FUSED_ONCE


def few(case: Case) -> dict[str, Any]:
    """The case's arguments, of pointwise losses a dozen elements."""
    shape = {"pointwise": (3, 4) if "levels" not in case.variant else (4, 3), "linear": (5, 12, 37)}
    return case.make(generator(str(case)), shape.get(case.skeleton or ""))


@each_backend
@pytest.mark.parametrize("reduction", ["none", "reduced"])
@pytest.mark.parametrize(
    "case", [c for c in FUSED + COMPOSED if c.derivative and (c in COMPOSED or differentiated_twice(c))], ids=str
)
def test_gradcheck_and_gradgradcheck(case, backend, device, reduction):
    made = {name: x.to(device) if isinstance(x, Tensor) else x for name, x in few(case).items()}
    if case.skeleton in ("row", "similarity", "linear") and not case.twice:
        pytest.skip("a choice of triplets, which differences may change")
    leaves = tuple(made[name].requires_grad_() for name in case.differentiable)
    how = "none" if reduction == "none" else case.reduced

    def f(*leaves):
        return case.call({**made, **dict(zip(case.differentiable, leaves, strict=True))}, how)

    with fastloss.backend(backend):
        assert torch.autograd.gradcheck(f, leaves, fast_mode=True)
        if case.twice:
            assert torch.autograd.gradgradcheck(f, leaves, fast_mode=True)


@each_backend
@pytest.mark.parametrize("case", FUSED, ids=str)
def test_backward_again_and_with_create_graph(case, backend, device):
    """retain_graph: the second gradient equals the first, and the first is not touched by the second."""
    dtype = torch.float32 if torch.float32 in case.dtypes else torch.float64
    arguments = case.make(generator(str(case)), dtype=dtype, device=device)
    for reduction in case.reductions:
        leaves = {name: arguments[name].clone().requires_grad_() for name in case.differentiable}
        inputs = list(leaves.values())
        with fastloss.backend(backend):
            value = case.call({**arguments, **leaves}, reduction)
            ones = torch.ones_like(value)
            first = torch.autograd.grad(value, inputs, ones * 2, retain_graph=True)
            kept = [g.clone() for g in first]
            second = torch.autograd.grad(value, inputs, ones, retain_graph=True)
            third = torch.autograd.grad(value, inputs, ones, create_graph=True)
        terms = gradient_terms(inputs[0], reduction) if case.skeleton == "row" else 0.0
        if case.skeleton == "similarity":
            terms = case.magnitude / (len(inputs[0]) if reduction == "mean" else 1)
        for f, k, s, t in zip(first, kept, second, third, strict=True):
            assert torch.equal(f, k)
            assert f.data_ptr() != s.data_ptr()
            assert_close(f, 2 * s.double(), dtype)
            assert_close(t, s.double(), dtype, terms=terms)
            assert not case.twice or t.requires_grad


@each_backend
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("case", FUSED_ONCE, ids=str)
def test_gradients_of_halves_with_a_graph_are_rounded_once(case, backend, device, dtype):
    """As those without: who penalises a gradient does not lose digits of it."""
    if dtype not in case.dtypes:
        pytest.skip(f"takes no {dtype}")
    arguments = case.make(generator(str(case)), dtype=dtype, device=device)
    leaves = {name: arguments[name].clone().requires_grad_() for name in case.differentiable}
    inputs = list(leaves.values())
    with fastloss.backend(backend):
        value = case.call({**arguments, **leaves}, case.reduced)
        plain = torch.autograd.grad(value, inputs, retain_graph=True)
        with_graph = torch.autograd.grad(value, inputs, create_graph=True)
    for x, y in zip(with_graph, plain, strict=True):
        assert_close(x, y.double(), dtype)


@each_backend
@pytest.mark.parametrize("case", FUSED_ONCE + one_of_each(COMPOSED), ids=str)
def test_constants_have_no_gradient(case, backend, device):
    """Of arguments that the table does not call differentiable, kernels and body alike return none."""
    arguments = case.make(generator(str(case)), dtype=torch.float64, device=device)
    constants = [n for n, x in arguments.items() if isinstance(x, Tensor) and x.is_floating_point()]
    constants = [name for name in constants if name not in case.differentiable]
    of_body: set[str] = set()
    for name in ("reference", backend):
        leaves = {key: arguments[key].clone().requires_grad_() for key in constants}
        first = {case.differentiable[0]: arguments[case.differentiable[0]].clone().requires_grad_()}
        with fastloss.backend(name):
            try:
                case.call({**arguments, **leaves, **first}, case.reduced).backward()
                only = case.call({**arguments, **leaves}, case.reduced).requires_grad
            except (fastloss.BackendError, RuntimeError):  # torch, or the kernels, refuse the gradient by a target
                continue
        found = {key for key, leaf in leaves.items() if leaf.grad is not None}
        assert only == bool(found), "a graph without a leaf"
        if name == "reference":
            of_body = found
        assert found == of_body


@each_backend
@pytest.mark.parametrize(
    "case", [c for c in FUSED if len(c.differentiable) > 1 and (c in FUSED_ONCE or "queue" in c.variant)], ids=str
)
@pytest.mark.parametrize("reduction", ["none", "reduced"])
def test_only_some_gradients(case, backend, device, reduction):
    """Asked for some of the gradients, kernels give these, the same as when asked for all."""
    how = case.reductions[0] if reduction == "none" else case.reduced
    arguments = case.make(generator(str(case)), dtype=torch.float64, device=device)
    names = case.differentiable
    with fastloss.backend(backend):
        _, whole = compute(case, arguments, how)
        for k in range(1, 2 ** min(len(names), 3) - 1):
            wanted = {name: arguments[name].clone().requires_grad_() for i, name in enumerate(names) if k >> i & 1}
            value = case.call({**arguments, **wanted}, how)
            gradients = torch.autograd.grad(value, list(wanted.values()), torch.ones_like(value))
            for name, gradient in zip(wanted, gradients, strict=True):
                terms = case.magnitude if case.skeleton == "similarity" else 0.0
                assert_close(gradient, whole[name], torch.float64, f"gradient of {name} of {list(wanted)}", terms)


@each_backend
@pytest.mark.parametrize("case", [c for c in FUSED_ONCE if c.skeleton == "pointwise"], ids=str)
def test_operands_are_kept_by_torch_alone(case, backend, device):
    """Who offloads or recomputes what backward needs (saved_tensors_hooks, checkpoints) frees the operands for good."""
    arguments = case.make(generator(str(case)), dtype=torch.float32, device=device)
    leaves = {name: arguments[name].requires_grad_() for name in case.differentiable}
    copies = {name: leaf * 1 for name, leaf in leaves.items()}  # as a model's outputs: nobody else keeps them
    hooks = torch.autograd.graph.saved_tensors_hooks(lambda x: x.detach().cpu().numpy(), lambda x: torch.tensor(x))
    with fastloss.backend(backend):
        expected = torch.autograd.grad(case.call({**arguments, **copies}, case.reduced), list(leaves.values()))
        copies = {name: leaf * 1 for name, leaf in leaves.items()}
        kept = [weakref.ref(copy) for copy in copies.values()]
        with hooks:
            value = case.call({**arguments, **copies}, case.reduced)
        copies.clear()
        assert [reference() for reference in kept] == [None] * len(kept)
        gradients = torch.autograd.grad(value, list(leaves.values()))
    for gradient, wanted in zip(gradients, expected, strict=True):
        assert torch.equal(gradient, wanted)
