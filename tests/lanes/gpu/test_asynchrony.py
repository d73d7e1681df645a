"""Nothing waits for the device, everything is on the current stream and device, and a CUDA graph replays it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from lanes.gpu.gpu_machine import (
    DEVICE,
    REHEARSAL,
    backends,
    captured,
    late_stream,
    needed,
    no_synchronisation,
    random_index,
    random_logits,
    synchronize,
)
from support import assert_close, value_and_grad
from torch import Tensor

import fastloss

pytestmark = needed

SHAPES = [(64, 100), (16, 50257), (8, 128256), (4, 50, 300)]
shapes = pytest.mark.parametrize("shape", SHAPES if not REHEARSAL else [(64, 100), (4, 50, 300)], ids=str)
reductions = pytest.mark.parametrize("reduction", ["none", "mean", "sum"])


def problem(name: str, shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    return random_logits(name, *shape), random_index(name, shape[1], shape[0], *shape[2:], ignored=0.2)


def expected_of(logits: Tensor, target: Tensor, **options: Any) -> tuple[Tensor, Tensor]:
    """For an upstream gradient of 2."""
    value, grad = value_and_grad(F.cross_entropy, (logits.double(), target), options)
    return value, grad * 2


def step(logits: Tensor, target: Tensor, **options: Any) -> tuple[Tensor, Tensor]:
    """Forward, and backward with an upstream gradient of 2, so that the scaling runs too."""
    value = fastloss.cross_entropy(logits, target, **options)
    (grad,) = torch.autograd.grad(value, logits, torch.full_like(value, 2.0))
    return value.detach(), grad


@backends
@shapes
@reductions
def test_nothing_waits_for_the_device(backend: str, shape: tuple[int, ...], reduction: str) -> None:
    logits, target = problem("no synchronisation", shape)
    leaf = logits.clone().requires_grad_()
    weight = torch.rand(shape[1], device=DEVICE)
    options: dict[str, Any] = {"reduction": reduction, "weight": weight, "label_smoothing": 0.1}
    with fastloss.backend(backend):
        step(leaf, target, **options)  # compiles, loads
        synchronize()
        with no_synchronisation():
            value, grad = step(leaf, target, **options)
            with torch.no_grad():
                fastloss.cross_entropy(logits, target, **options)
    expected, expected_grad = expected_of(logits, target, **{**options, "weight": weight.double()})
    assert_close(value, expected, torch.float32)
    assert_close(grad, expected_grad, torch.float32, "gradient")


@pytest.mark.skipif(REHEARSAL, reason="a CPU has nothing to wait for")
def test_the_check_above_notices_a_synchronisation() -> None:
    one = torch.ones((), device=DEVICE)
    with no_synchronisation(), pytest.raises(RuntimeError, match="synchroniz"):
        one.item()


@backends
@shapes
def test_on_a_stream_that_is_late(backend: str, shape: tuple[int, ...]) -> None:
    """The inputs are NaN until their stream gets to fill them: a kernel on another stream would read the NaN."""
    source, target = problem("late stream", shape)
    logits = torch.full_like(source, float("nan")).requires_grad_()
    with fastloss.backend(backend):
        step(source.clone().requires_grad_(), target)
        synchronize()
        with late_stream():
            with torch.no_grad():
                logits.copy_(source)
            value, grad = step(logits, target)
    expected, expected_grad = expected_of(source, target)
    assert_close(value, expected, torch.float32)
    assert_close(grad, expected_grad, torch.float32, "gradient")


@backends
@shapes
@reductions
def test_captured_in_a_graph_and_replayed(backend: str, shape: tuple[int, ...], reduction: str) -> None:
    logits, target = problem("graph", shape)
    leaf = logits.clone().requires_grad_()
    batch = shape[:1] + shape[2:] if reduction == "none" else ()
    value_out, grad_out = torch.zeros(batch, device=DEVICE), torch.zeros(shape, device=DEVICE)

    def work() -> None:
        value, grad = step(leaf, target, reduction=reduction)
        value_out.copy_(value)
        grad_out.copy_(grad)

    with fastloss.backend(backend):
        replay = captured(work)
    for name in ("first replay", "second replay"):
        other, other_target = problem(name, shape)
        with torch.no_grad():
            leaf.copy_(other)
            target.copy_(other_target)
        if REHEARSAL:
            with fastloss.backend(backend):
                replay()
        else:
            replay()
        expected, expected_grad = expected_of(other, other_target, reduction=reduction)
        assert_close(value_out, expected, torch.float32, name)
        assert_close(grad_out, expected_grad, torch.float32, f"{name}: gradient")


@backends
def test_in_place_in_a_graph(backend: str) -> None:
    logits, target = problem("graph in place", (32, 5000))
    source, zero = logits.clone(), torch.zeros((), device=DEVICE, requires_grad=True)
    grad_out = torch.zeros_like(source)

    def work() -> None:
        working = source + zero  # as a layer's output: no leaf
        value = fastloss.cross_entropy(working, target, inplace=True)
        (grad,) = torch.autograd.grad(value, working)
        assert grad.data_ptr() == working.data_ptr()
        grad_out.copy_(grad)

    with fastloss.backend(backend):
        replay = captured(work)
        source.copy_(random_logits("graph in place, replayed", 32, 5000))
        replay()
    _, expected = value_and_grad(F.cross_entropy, (source.double(), target), {})
    assert_close(grad_out, expected, torch.float32, "gradient")


@backends
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_on_a_device_that_is_not_the_current_one(backend: str) -> None:
    logits, target = problem("second device", (64, 5000))
    with fastloss.backend(backend):
        value, grad = step(logits.to("cuda:1").requires_grad_(), target.to("cuda:1"))
    assert grad.device == torch.device("cuda:1")
    assert torch.cuda.current_device() == 0
    expected, expected_grad = expected_of(logits, target)
    assert_close(value, expected, torch.float32)
    assert_close(grad, expected_grad, torch.float32, "gradient")


TRAP = """
import sys, torch, fastloss
backend, device = sys.argv[1:]
logits = torch.randn(300, 1000, device=device, requires_grad=True)
target = torch.zeros(300, dtype=torch.int64, device=device)
target[77] = 1000
with fastloss.backend(backend):
    fastloss.cross_entropy(logits, target).backward()
if device == "cuda":
    torch.cuda.synchronize()
print("no error")
"""


@backends
def test_a_class_index_out_of_range_traps(backend: str, tmp_path: Path) -> None:
    """In a process of its own: an error on the device ends the CUDA context."""
    command = [sys.executable, "-c", TRAP, backend, DEVICE]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=120)
    assert done.returncode != 0, done.stdout
    wanted = "Target 1000 is out of bounds" if REHEARSAL else r"CUDA error|Triton Error \[CUDA\]"
    assert re.search(wanted, done.stderr), done.stderr[-3000:]
    assert "no error" not in done.stdout
