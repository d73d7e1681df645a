"""Laws of what lives between forward and backward: torch knows of all that backward reads, and nothing else is held."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import numpy
import pytest
import torch
from cases import CASES, COMPOSED, Case
from support import each_backend, generator, to
from torch import Tensor

import fastloss

FUSED = [case for case in CASES if case.fuses and case.skeleton]
every_case = pytest.mark.parametrize("case", FUSED + COMPOSED, ids=str)
both_reductions = pytest.mark.parametrize("scalar", [True, False], ids=["scalar", "none"])


def reduction_of(case: Case, scalar: bool) -> str:
    if not scalar and "none" not in case.reductions:
        pytest.skip("the loss is always reduced")
    return case.reduced if scalar else "none"


def arguments_of(case: Case, reduction: str, device: str) -> dict[str, Any]:
    """Arguments in float32 with the optional tensors that go with the reduction, large enough for the kernels."""
    random = generator(f"{case} {reduction}")
    arguments = case.make(random, dtype=torch.float32, device=device)
    for name, kind in case.optional.items():
        if kind != "number" or reduction not in ("none", "sum", "token-sum"):
            arguments.setdefault(name, case.make_optional(name, random, arguments))
    return arguments


def call(case: Case, arguments: dict[str, Any], reduction: str) -> tuple[Tensor, list[Tensor]]:
    """(loss, its leaves)"""
    leaves = {name: arguments[name].detach().clone().requires_grad_() for name in case.differentiable}
    value = case.call({**arguments, **leaves}, reduction)
    return (value[0] if isinstance(value, tuple) else value), list(leaves.values())


def constants(case: Case, arguments: dict[str, Any]) -> list[str]:
    return [name for name, x in arguments.items() if isinstance(x, Tensor) and name not in case.differentiable]


def gradients(value: Tensor, leaves: list[Tensor], **how: Any) -> list[Tensor]:
    upstream = torch.linspace(0.5, 1.5, value.numel(), dtype=value.dtype, device=value.device).view(value.shape)
    return list(torch.autograd.grad(value, leaves, upstream, materialize_grads=True, **how))


@every_case
@both_reductions
@pytest.mark.parametrize("twice", [False, True], ids=["once", "twice"])
@each_backend
def test_what_is_overwritten_before_backward_is_noticed(case, scalar, twice, backend, device):
    """RuntimeError, as in torch, or the gradient at the time of forward; never another number."""
    reduction = reduction_of(case, scalar)
    arguments = arguments_of(case, reduction, device)
    with fastloss.backend(backend):
        value, leaves = call(case, arguments, reduction)
        right = gradients(value, leaves)
        for name in constants(case, arguments):
            mine = arguments[name].clone()
            value, leaves = call(case, {**arguments, name: mine}, reduction)
            if twice:
                gradients(value, leaves, retain_graph=True)
            mine.copy_(mine.flip(0) if mine.dim() and mine.shape[0] > 1 and not mine.equal(mine.flip(0)) else mine * 0)
            found, refusal = right, ""
            try:
                found = gradients(value, leaves)
            except RuntimeError as error:
                refusal = str(error)
            assert not refusal or "modified by an inplace operation" in refusal
            for a, b in zip(found, right, strict=True):
                torch.testing.assert_close(a, b, msg=lambda text, name=name: f"{name}: {text}")


class Tracked(numpy.ndarray):
    """Memory that lives as long as a tensor on it."""


def tracked(tensor: Tensor) -> tuple[Tensor, weakref.ref]:
    array = tensor.numpy().copy().view(Tracked)
    return torch.from_numpy(array), weakref.ref(array)


@every_case
@both_reductions
def test_a_kept_loss_keeps_nothing_of_its_call(case, scalar):
    reduction = reduction_of(case, scalar)
    arguments = arguments_of(case, reduction, "cpu")
    for name in constants(case, arguments):
        mine, alive = tracked(arguments[name])
        kept, leaves = call(case, {**arguments, name: mine}, reduction)
        gradients(kept, leaves)
        del mine
        if alive() is not None:  # the collector takes a second among the suite's objects, and is not needed as a rule
            gc.collect()
        assert alive() is None, f"{name} is held by a loss whose backward has run"


def _nodes(value: Tensor) -> list[Any]:
    found, queue = [], [value.grad_fn]
    while queue:
        node = queue.pop()
        if node is not None and node not in found:
            found.append(node)
            queue += [other for other, _ in node.next_functions]
    return found


@every_case
@both_reductions
@each_backend
def test_under_hooks_nothing_is_held_but_what_they_see(case, scalar, backend, device):
    """Checkpoints and offloading replace what is saved; a gradient that is made early would stay where it is."""
    reduction = reduction_of(case, scalar)
    arguments = arguments_of(case, reduction, device)
    with fastloss.backend(backend):
        value, leaves = call(case, arguments, reduction)
        right = gradients(value, leaves)
        packed = []

        def pack(tensor: Tensor) -> int:
            packed.append(tensor.detach().clone())
            return len(packed) - 1

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda number: packed[number]):
            value, leaves = call(case, arguments, reduction)
        assert packed or case.composed  # a mean of the operand itself needs nothing
        assert not [node for node in _nodes(value) if getattr(node, "ready", None) is not None]
        for a, b in zip(gradients(value, leaves), right, strict=True):
            torch.testing.assert_close(a, b)


@every_case
@both_reductions
@each_backend
def test_constants_made_under_inference_mode_are_constants(case, scalar, backend, device):
    reduction = reduction_of(case, scalar)
    arguments = arguments_of(case, reduction, device)
    with torch.inference_mode():
        frozen = {name: arguments[name].clone() for name in constants(case, arguments)}
    frozen = to({**arguments, **frozen}, device)

    def outcome(backend: str, given: dict[str, Any]) -> list[Tensor] | str:
        with fastloss.backend(backend):
            try:
                value, leaves = call(case, given, reduction)
                first = gradients(value, leaves, retain_graph=True)
                return [*first, *gradients(value, leaves)]
            except RuntimeError as error:
                return str(error)

    expected, found = outcome("reference", frozen), outcome(backend, frozen)
    if isinstance(found, str):
        assert isinstance(expected, str), f"the reference takes them, the kernels do not: {found}"
        return
    for a, b in zip(found, outcome(backend, arguments), strict=True):
        assert torch.equal(a, b)
