"""Small plain calls (fastloss/core/small.py, csrc/small_calls.cpp): what the long way computes, to the last bit, in a
few frames of Python; and whatever is not plain goes the long way."""

from __future__ import annotations

import gc
import sys
import threading
import weakref
from contextlib import nullcontext

import pytest
import torch
import torch._dynamo.compiled_autograd
from cases import FUSED
from support import BACKENDS, compute, generator
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

import fastloss
from fastloss.core import small

pytestmark = [
    pytest.mark.skipif(("cpu", "cpu") not in BACKENDS, reason="no CPU kernels"),
    pytest.mark.skipif(small.MAKE is None, reason=f"no small calls: {small.UNAVAILABLE}"),
]


def rows(grad: bool = True, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    random = generator("small")
    logits = torch.randn(16, 7, generator=random, dtype=torch.float64).to(dtype).requires_grad_(grad)
    return logits, torch.randint(7, (16,), generator=random)


def numbers(count: int = 40, grad: bool = True) -> tuple[Tensor, Tensor]:
    random = generator("small numbers")
    return torch.randn(count, generator=random).requires_grad_(grad), torch.randn(count, generator=random)


@pytest.fixture
def lowered(monkeypatch):
    """The names of the losses whose calls went the long way, in order."""
    names = []
    for skeleton in (fastloss.skeletons.pointwise.Pointwise, fastloss.skeletons.row.Row):

        def counting(self, *args, _lower=skeleton.lower, **kwargs):
            names.append(self.signature.name)
            return _lower(self, *args, **kwargs)

        monkeypatch.setattr(skeleton, "lower", counting)
    return names


@pytest.mark.parametrize("case", [case for case in FUSED if case.skeleton in ("pointwise", "row")], ids=str)
def test_the_bits_of_the_long_way(case):
    def long_way(**kwargs):
        _, call = case.loss.resolve((), kwargs)
        return call.run("fastloss")

    for dtype in case.dtypes:
        arguments = case.make(generator(str(case)), dtype=dtype)
        value, gradients = compute(case, arguments, case.reduced, loss=long_way)
        for _ in range(3):
            again, found = compute(case, arguments, case.reduced)
            assert torch.equal(again, value)
            assert again.dtype == value.dtype
            assert all(torch.equal(found[name], gradient) for name, gradient in gradients.items())


def test_plain_losses_take_the_short_way(lowered):
    logits, target = rows()
    x, y = numbers()
    calls = [
        lambda: fastloss.cross_entropy(logits, target),
        lambda: fastloss.cross_entropy(logits, target, torch.ones(7), label_smoothing=0.1),
        lambda: fastloss.cross_entropy(logits.detach(), target, reduction="none"),
        lambda: fastloss.cross_entropy(target=target, input=logits, reduction="sum"),
        lambda: fastloss.softmax_focal_loss(logits, target, reduction="mean"),
        lambda: fastloss.huber_loss(x, y),
        lambda: fastloss.huber_loss(y, x),
        lambda: fastloss.quantile_loss(x, y, 0.3),
        lambda: fastloss.binary_cross_entropy_with_logits(x.detach(), y, reduction="none"),
    ]
    for call in calls:
        first = call()
        lowered.clear()
        assert torch.equal(call(), first)
        assert lowered == []


def test_frames():
    """What a small call runs of Python: the loss, and two questions that the compiled code cannot answer."""
    logits, target = rows()
    x, y = numbers()
    for loss, args in ((fastloss.cross_entropy, (logits, target)), (fastloss.huber_loss, (x, y))):
        for _ in range(2):
            loss(*args).backward()
        seen = []
        sys.setprofile(lambda frame, event, _, seen=seen: event == "call" and seen.append(frame.f_code.co_name))
        value = loss(*args)
        sys.setprofile(None)
        assert seen == ["loss", "_requested", "is_compiling", "is_scripting"]
        sys.setprofile(lambda frame, event, _, seen=seen: event == "call" and seen.append(frame.f_code.co_filename))
        value.backward()
        sys.setprofile(None)
        assert not [name for name in seen[4:] if "fastloss" in name]


def test_backward_again_and_upstreams():
    x, y = numbers()
    fastloss.log_cosh_loss(x, y)
    loss = fastloss.log_cosh_loss(x, y)
    first = torch.autograd.grad(loss, x, retain_graph=True)[0].clone()
    tripled = torch.autograd.grad(loss, x, torch.tensor(3.0), retain_graph=True)[0]
    assert torch.equal(torch.autograd.grad(loss, x)[0], first)
    torch.testing.assert_close(tripled, 3 * first)
    with pytest.raises(RuntimeError, match="second time"):
        torch.autograd.grad(loss, x)


@pytest.mark.parametrize("batched", [False, True])
def test_second_derivatives_are_the_references(batched):
    logits, target = rows(dtype=torch.float64)
    for _ in range(2):
        (gradient,) = torch.autograd.grad(fastloss.cross_entropy(logits, target), logits, create_graph=True)
    vectors = torch.randn(3, 16, 7, dtype=torch.float64, generator=generator("vectors"))
    found = [torch.autograd.grad(gradient, logits, v, retain_graph=True)[0] for v in vectors]
    with fastloss.backend("reference"):
        (right,) = torch.autograd.grad(fastloss.cross_entropy(logits, target), logits, create_graph=True)
    expected = [torch.autograd.grad(right, logits, v, retain_graph=True)[0] for v in vectors]
    torch.testing.assert_close(found, expected)
    if batched:
        loss = fastloss.cross_entropy(logits, target)
        many = torch.autograd.grad(loss, logits, torch.arange(3.0, dtype=torch.float64), is_grads_batched=True)[0]
        torch.testing.assert_close(many, torch.stack([k * right for k in range(3)]).detach())


def test_overwritten_tensors_are_noticed():
    for change in (0, 1):
        logits, target = rows()
        made = (logits * 1, target)
        fastloss.cross_entropy(*made)
        loss = fastloss.cross_entropy(*made)
        with torch.no_grad():
            made[change].zero_()
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            loss.backward()


def test_errors_are_those_of_the_long_way():
    logits, target = rows()
    fastloss.cross_entropy(logits, target)
    with pytest.raises(IndexError, match="Target 7 is out of bounds"):
        fastloss.cross_entropy(logits, target.new_full((16,), 7))
    p, t = torch.rand(9), torch.rand(9)
    fastloss.binary_cross_entropy(p, t)
    with pytest.raises(RuntimeError, match="between 0 and 1"):
        fastloss.binary_cross_entropy(p + 2, t)


def test_a_target_that_turned_wrong_raises_in_a_second_backward():
    logits, target = rows()
    for _ in range(2):
        loss = fastloss.cross_entropy(logits, target)
    loss.backward(retain_graph=True)
    target.data.fill_(9)  # which no version counts
    with pytest.raises(RuntimeError, match="has changed since"):
        loss.backward()


def test_compiled_autograd_takes_the_node():
    x, y = numbers()
    expected = torch.autograd.grad(fastloss.huber_loss(x, y), x)[0]
    for _ in range(3):
        x.grad = None
        loss = fastloss.huber_loss(x, y)
        with torch._dynamo.compiled_autograd._enable(lambda graph: graph):
            (3 * loss).backward()
        torch.testing.assert_close(x.grad, 3 * expected)


class Recording(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.seen.append(func.namespace)
        return func(*args, **(kwargs or {}))


def test_whoever_watches_sees_the_operators():
    x, y = numbers()
    fastloss.huber_loss(x, y)
    with Recording() as mode:
        fastloss.huber_loss(x, y)
    assert "fastloss" in mode.seen
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        fastloss.huber_loss(x, y)
    assert any(event.key == "fastloss::pointwise" for event in profile.key_averages())


def test_transforms_and_hooks_go_the_long_way():
    x, y = numbers()
    expected = torch.autograd.grad(fastloss.huber_loss(x, y), x)[0]
    again = checkpoint(fastloss.huber_loss, x, y, use_reentrant=False)
    assert torch.equal(torch.autograd.grad(again, x)[0], expected)
    torch.testing.assert_close(torch.func.grad(fastloss.huber_loss)(x.detach(), y), expected)
    each = torch.func.vmap(fastloss.huber_loss)(x.detach().view(4, 10), y.view(4, 10))
    torch.testing.assert_close(each.mean(), fastloss.huber_loss(x, y).detach())
    value, tangent = torch.func.jvp(lambda z: fastloss.huber_loss(z, y), (x.detach(),), (torch.ones(40),))
    torch.testing.assert_close(tangent, expected.sum())
    with torch.inference_mode():
        torch.testing.assert_close(fastloss.huber_loss(x, y), value)


@pytest.mark.parametrize("circumstance", ["autocast", "no_grad", "reference", "cpu", "half", "wider", "strided"])
def test_what_differs_is_not_confused(circumstance):
    logits, target = rows()
    for _ in range(2):
        fastloss.cross_entropy(logits, target)
    around = {
        "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
        "no_grad": torch.no_grad,
        "reference": lambda: fastloss.backend("reference"),
        "cpu": lambda: fastloss.backend("cpu"),
    }.get(circumstance, nullcontext)
    made = {
        "half": lambda: logits.to(torch.bfloat16),
        "wider": lambda: torch.cat([logits, logits], 1),
        "strided": lambda: torch.cat([logits, logits], 1)[:, ::2],
    }.get(circumstance, lambda: logits)()
    for _ in range(2):
        with around():
            value = fastloss.cross_entropy(made, target)
        expected = torch.nn.functional.cross_entropy(made.double(), target)
        bound = 1e-2 if made.dtype == torch.bfloat16 else 1e-5
        torch.testing.assert_close(value.double(), expected, rtol=bound, atol=bound)
        assert value.requires_grad == (circumstance != "no_grad")
        assert value.dtype == made.dtype


def test_values_of_arguments_are_told_apart():
    logits, target = rows()
    x, y = (z.abs() + 0.1 for z in numbers(grad=False))
    poisson = [{"log_input": True}, {"log_input": False}, {"log_input": False, "full": True}]
    huber = [{}, {"delta": 0.3}, {"delta": 2}, {"reduction": "sum"}, {"reduction": "none"}]
    classes = [{"ignore_index": 1}, {"ignore_index": 2}, {"label_smoothing": 0.2}]
    calls = [
        (fastloss.poisson_nll_loss, (x, y), poisson),
        (fastloss.huber_loss, (x, y), huber),
        (fastloss.cross_entropy, (logits, target), classes),
    ]
    for loss, args, options in calls:
        with fastloss.backend("reference"):
            expected = [loss(*args, **some) for some in options]
        for _ in range(3):
            torch.testing.assert_close([loss(*args, **some) for some in options], expected)


def test_tensors_and_plans_are_not_kept():
    leaf, y = numbers()
    x = leaf * 1
    gone = [weakref.ref(x), weakref.ref(y)]
    for _ in range(2):
        loss = fastloss.huber_loss(x, y)
    loss.backward()
    del x, y
    gc.collect()
    assert [ref() for ref in gone] == [None, None]
    for count in range(1, 300):  # more than are remembered, while a graph still has a plan
        fastloss.huber_loss(*numbers(count))
    x, y = numbers()
    waiting = fastloss.huber_loss(x, y), fastloss.huber_loss(x, y)
    for count in range(300, 600):
        fastloss.huber_loss(*numbers(count))
    assert torch.equal(*(torch.autograd.grad(loss, x)[0] for loss in waiting))


def test_threads():
    logits, target = rows()
    expected = torch.autograd.grad(fastloss.cross_entropy(logits, target), logits)[0]
    wrong = []

    def train():
        mine = logits.detach().clone().requires_grad_()
        for _ in range(200):
            if not torch.equal(torch.autograd.grad(fastloss.cross_entropy(mine, target), mine)[0], expected):
                wrong.append(1)

    threads = [threading.Thread(target=train) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
