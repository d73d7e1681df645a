"""Run by test_launch.py in a process of its own: registers the schemas, loads a library, tries its operators.

* `launch_check.py CUDA libraries...`: the operators are registered for CUDA;
* `launch_check.py CPU libraries...`: and they work, on CPU tensors and emulated kernels.
"""

from __future__ import annotations

import ctypes
import sys
from typing import Any

import pytest
import torch
import torch.nn.functional as F

LOSS = "str loss, float[] parameters, int ignore_index"
OPERANDS = f"Tensor target, Tensor? weight, {{}}{LOSS}"
SLICE = f"Tensor? target, Tensor? weight, {LOSS}"
FORWARD = OPERANDS.format("") + ", int reduction"
POINTWISE = (
    "Tensor[] operands, Tensor? weight, Tensor? scale, str loss, float[] constants, float[] parameters, "
    "int present, int wanted, bool masked, float factor"
)
SCHEMAS = [
    f"row_forward(Tensor logits, {FORWARD}) -> (Tensor, Tensor)",
    f"row_backward(Tensor grad_loss, Tensor logits, {OPERANDS.format('Tensor state, ')}) -> Tensor",
    f"row_forward_backward(Tensor logits, {FORWARD}) -> (Tensor, Tensor)",
    f"row_forward_backward_(Tensor(a!) logits, {FORWARD}) -> Tensor",
    f"row_statistics(Tensor logits, Tensor? second, {SLICE}, int first_class, int classes) -> Tensor",
    "row_merge(Tensor statistics, str loss, float[] parameters) -> Tensor",
    f"row_outputs(Tensor statistics, Tensor? target, {LOSS}, int classes) -> Tensor",
    "row_gradient(Tensor upstream, Tensor statistics, Tensor logits, Tensor? second, "
    f"{SLICE}, int first_class, int classes) -> Tensor",
    "scale_(Tensor(a!) tensor, Tensor factor) -> ()",
    f"pointwise({POINTWISE}, bool reduce, bool measure, int dtype) -> (Tensor, Tensor, Tensor[])",
    f"pointwise_backward(Tensor upstream, {POINTWISE}) -> Tensor[]",
    "outer(Tensor source, Tensor target, Tensor[] operands, Tensor? row_factor, str loss, float[] parameters, "
    "float factor, bool reduce, bool wanted) -> (Tensor, Tensor)",
    "scan(Tensor[] operands, float[] constants, int present, Tensor? terminated, Tensor? truncated, Tensor? there, "
    "Tensor? starts, str loss, float[] parameters, int time_dim, bool reverse, int outputs, int output) -> Tensor[]",
]
PLAIN = [0.0, 0.0, 0.0, 1.0]


def check_shape(shape: tuple[int, ...], dtype: torch.dtype, soft: bool) -> None:
    ops = torch.ops.fastloss
    logits = torch.randn(shape).to(dtype)
    index_shape = shape[:1] + shape[2:]
    target = torch.randn(shape).softmax(1).to(dtype) if soft else torch.randint(0, shape[1], index_shape)
    weight = torch.rand(shape[1], dtype=torch.float64 if dtype == torch.float64 else torch.float32)
    x = logits.double().requires_grad_()
    wide = target.double() if soft else target
    by_element = F.cross_entropy(x, wide, weight.double(), reduction="none").flatten()
    mean = F.cross_entropy(x, wide, weight.double())
    (expected,) = torch.autograd.grad(mean, x, retain_graph=True)
    call = (target if soft else target.flatten(), weight, "cross_entropy", PLAIN, -100)
    tolerance: dict[str, Any] = {"rtol": 4 * torch.finfo(dtype).eps, "atol": 64 * torch.finfo(weight.dtype).eps}

    loss, state = ops.row_forward(logits, call[0], *call[1:], 0)
    assert loss.shape == by_element.shape
    assert loss.dtype == weight.dtype
    torch.testing.assert_close(loss.double(), by_element, **tolerance)
    torch.testing.assert_close(ops.row_forward(logits, *call, 1)[0].double(), mean, **tolerance)
    upstream = torch.rand(loss.shape, dtype=loss.dtype)
    (per_row,) = torch.autograd.grad(by_element, x, upstream.double())
    gradient = ops.row_backward(upstream, logits, call[0], weight, state, *call[2:])
    torch.testing.assert_close(gradient.double(), per_row, **tolerance)
    reduced, gradient = ops.row_forward_backward(logits, *call, 1)
    assert reduced.shape == ()
    assert gradient.is_contiguous()
    assert gradient.dtype == dtype
    torch.testing.assert_close(gradient.double(), expected, **tolerance)
    copy = logits.clone()
    assert torch.equal(ops.row_forward_backward_(copy, *call, 1), reduced)
    assert torch.equal(copy, gradient)
    loss_by = call[2:]
    statistics = ops.row_statistics(logits, None, *call, 0, shape[1])
    torch.testing.assert_close(
        ops.row_outputs(statistics, call[0], *loss_by, shape[1])[0].double(), by_element, **tolerance
    )
    merged = ops.row_merge(statistics[None], *loss_by[:2])
    assert torch.equal(merged, statistics)
    gradient = ops.row_gradient(upstream[None], merged, logits, None, *call, 0, shape[1])
    torch.testing.assert_close(gradient.double(), per_row, **tolerance)
    for factor in (torch.tensor(2.0, dtype=weight.dtype), torch.tensor(0.5, dtype=torch.float64)):
        before = copy.clone()
        ops.scale_(copy, factor)
        assert torch.equal(copy, before * factor.item())


def check_pointwise(x: torch.Tensor, y: torch.Tensor) -> None:
    """Huber loss of operands that broadcast, against torch; the gradients have the layout of their operands."""
    ops, delta, shape = torch.ops.fastloss, 0.3, torch.broadcast_shapes(x.shape, y.shape)
    wide = torch.float64 if torch.float64 in (x.dtype, y.dtype) else torch.float32
    a, b = (t.to(wide).expand(shape).clone().requires_grad_() for t in (x, y))
    mask = torch.rand(shape) < 0.7
    expected = F.huber_loss(a, b, reduction="none", delta=delta)
    call = ([x, y], mask, torch.tensor(0.5), "huber_loss", [0.0, 0.0], [delta], 3, 3, True, 0.25)

    def check_gradients(gradients: list[torch.Tensor], upstream: torch.Tensor) -> None:
        expected_gradients = torch.autograd.grad(expected, (a, b), upstream, retain_graph=True)
        for operand, gradient, g in zip((x, y), gradients, expected_gradients, strict=True):
            assert gradient.shape == shape
            assert gradient.dtype == operand.dtype
            dense = operand.shape == shape and torch._prims_common.is_non_overlapping_and_dense_or_false(operand)
            assert gradient.stride() == (operand.stride() if dense else torch.empty(shape).stride())
            rounding = 4 * torch.finfo(operand.dtype).eps
            torch.testing.assert_close(gradient.to(wide), g, rtol=rounding, atol=1e-6)

    losses, metrics, gradients = ops.pointwise(*call, False, True, 1)
    assert metrics.shape == (0,)
    assert losses.dtype == torch.float64
    torch.testing.assert_close(losses.to(wide), expected.detach() * mask * 0.125, rtol=1e-6, atol=1e-6)
    check_gradients(gradients, mask.to(wide) * 0.125)
    total, _, gradients = ops.pointwise(*call, True, False, 0)
    assert total.shape == ()
    assert total.dtype == wide
    torch.testing.assert_close(total, (expected.detach() * mask).sum() * 0.125, rtol=1e-5, atol=1e-6)
    check_gradients(gradients, mask.to(wide) * 0.125)
    upstream = torch.rand(shape)
    check_gradients(ops.pointwise_backward(upstream, *call), mask * upstream.to(wide) * 0.125)


def check_all_pointwise() -> int:
    x = torch.randn(4, 6, 10)
    cases = [
        (x, x.flip(0)),
        (x.bfloat16(), x.flip(0)),
        (x.double(), x.flip(0).half()),
        (x, torch.randn(6, 1)),
        (x.permute(2, 0, 1), torch.randn(10, 4, 6)),
        (x[:, ::2], torch.randn(10)),
        (torch.randn(5000), torch.randn(())),
        (torch.randn(4, 1), torch.randn(7)),
    ]
    for case in cases:
        check_pointwise(*case)
    ops, one = torch.ops.fastloss, torch.rand(300)
    value = [one, one / 2, one * 2]
    how = (value, None, None, "value_clip_loss", [0.0] * 3, [0.2], 7, 1, False, 1 / 300, True, True, 0)
    loss, metrics, gradients = ops.pointwise(*how)
    assert (metrics.shape, len(gradients)) == ((1,), 1)
    assert 0 < metrics.item() < 1
    assert loss.isfinite()
    for change, message in [
        ({3: "unheard_of"}, "no such loss"),
        ({5: [0.2, 0.2]}, "wrong number of parameters"),
        ({4: [0.0] * 4, 6: 15}, "fewer operands than announced"),
        ({6: 3}, "more operands than announced"),
        ({4: [0.0] * 4}, "wrong number of operands"),
        ({1: torch.rand(2, 300)}, "does not broadcast"),
        ({0: [one, one[:7], one]}, "do not broadcast"),
    ]:
        with pytest.raises(RuntimeError, match=message):
            ops.pointwise(*(change.get(i, argument) for i, argument in enumerate(how)))
    return len(cases)


def check_pairs() -> None:
    """Quantile Huber loss against torch, and the calls that are refused."""
    for source, target in (
        (torch.randn(5, 40), torch.randn(5, 7)),
        (torch.randn(8, 3).T.bfloat16(), torch.randn(3, 9)),
    ):
        tau, factors = torch.rand(source.shape[1]), torch.rand(len(source))
        leaf = source.double().requires_grad_()
        error = target.double().unsqueeze(1) - leaf.unsqueeze(2)
        huber = F.huber_loss(error, torch.zeros_like(error), reduction="none")
        expected = factors * ((tau.double()[:, None] - (error.detach() < 0).double()).abs() * huber).mean(2).sum(1)
        how = (source, target, [tau], factors, "quantile_huber_loss", [1.0], 1.0)
        losses, gradient = torch.ops.fastloss.outer(*how, False, True)
        torch.testing.assert_close(losses, expected.float())
        (wanted,) = torch.autograd.grad(expected.sum(), leaf)
        assert gradient.dtype == source.dtype
        assert gradient.is_contiguous()
        torch.testing.assert_close(gradient, wanted.to(source.dtype), rtol=2 * torch.finfo(source.dtype).eps, atol=1e-6)
        total, nothing = torch.ops.fastloss.outer(*how, True, False)
        torch.testing.assert_close(total, expected.sum().float())
        assert nothing.shape == (0,)
        for change, message in [
            ({4: "unheard_of"}, "no such loss"),
            ({5: [1.0, 2.0]}, "wrong number of parameters"),
            ({2: [tau, tau]}, "wrong number of operands"),
            ({2: [tau[:2]]}, "do not fit"),
            ({1: target[:2]}, "do not fit"),
            ({1: target.long()}, "floating-point"),
            ({3: factors.double()}, "row_factor"),
            ({3: factors[1:]}, "row_factor"),
        ]:
            with pytest.raises(RuntimeError, match=message):
                torch.ops.fastloss.outer(*(change.get(i, argument) for i, argument in enumerate(how)), True, True)


def check_scans() -> None:
    """A linear recurrence by its loop, and the calls that are refused."""
    x, a = torch.randn(6, 5), torch.rand(6, 5)
    how = ([x, a], [0.0, 0.0], 3, None, None, None, None, "linear_scan", [], 0, True, 1, 0)
    (found,) = torch.ops.fastloss.scan(*how)
    y = torch.zeros(5)
    for t in reversed(range(6)):
        y = x[t] + a[t] * y
        torch.testing.assert_close(found[t], y)
    for change, message in [
        ({7: "unheard_of"}, "no such loss"),
        ({8: [1.0]}, "wrong number of parameters"),
        ({1: [0.0]}, "wrong number of operands"),
        ({0: [x, a[:2]]}, "one shape"),
        ({0: [x.long(), a]}, "floating-point"),
        ({3: x}, "boolean"),
        ({6: torch.zeros(3)}, "int64"),
        ({9: 2}, "outer, steps, inner"),
    ]:
        with pytest.raises(RuntimeError, match=message):
            torch.ops.fastloss.scan(*(change.get(i, argument) for i, argument in enumerate(how)))


def check_steps_of_other_losses() -> None:
    """Several outputs, and a second row of logits."""
    ops, x, other, target = torch.ops.fastloss, torch.randn(4, 30), torch.randn(4, 30), torch.arange(4)
    how = ([1.0], -100, 0, 30)
    numbers = ([1.0, 0.0, 1.0], *how[1:])
    statistics = ops.row_statistics(x, None, target, None, "log_softmax_and_entropy", *numbers)
    outputs = ops.row_outputs(statistics, target, "log_softmax_and_entropy", numbers[0], -100, 30)
    assert outputs.shape == (9, 4)
    torch.testing.assert_close(outputs[0], -F.cross_entropy(x, target, reduction="none"))
    torch.testing.assert_close(outputs[2], x.logsumexp(1))
    statistics = ops.row_statistics(x, other, None, None, "forward_kl", *how)
    leaf = x.clone().requires_grad_()
    expected = F.kl_div(leaf.log_softmax(1), other.softmax(1), reduction="none").sum(1)
    outputs = ops.row_outputs(statistics, None, "forward_kl", [1.0], -100, 30)
    torch.testing.assert_close(outputs[0], expected.detach())
    gradient = ops.row_gradient(torch.ones(1, 4), statistics, x, other, None, None, "forward_kl", *how)
    torch.testing.assert_close(gradient, torch.autograd.grad(expected.sum(), leaf)[0])
    for arguments, message in [
        ((x, None, target, None, "forward_kl", *how), "has a second row"),
        ((x, other, target, None, "log_softmax_and_entropy", *numbers), "has no second row"),
        ((x, other[:, :7], None, None, "forward_kl", *how), "the shape and the dtype of the logits"),
    ]:
        with pytest.raises(RuntimeError, match=message):
            ops.row_statistics(*arguments)


def main(key: str, *libraries: str) -> None:
    definitions = torch.library.Library("fastloss", "DEF")
    for schema in SCHEMAS:
        definitions.define(schema)
    for path in libraries:
        ctypes.CDLL(path, mode=ctypes.RTLD_GLOBAL)
    for schema in SCHEMAS:
        name = "fastloss::" + schema.partition("(")[0]
        assert torch._C._dispatch_has_kernel_for_dispatch_key(name, key), f"{name} is not registered for {key}"
    print(f"{len(SCHEMAS)} operators registered for {key}")
    if key == "CPU":
        torch.manual_seed(0)
        cases = [((5, 40), False), ((3, 1500), False), ((2, 30, 7), False), ((3, 50), True), ((2, 30, 7), True)]
        for shape, soft in cases:
            for dtype in (torch.float32, torch.float64, torch.float16, torch.bfloat16):
                check_shape(shape, dtype, soft)
        strided = torch.randn(6, 50)[:, 3:40]
        copy = strided.contiguous()
        call = (torch.randint(0, 37, (6,)), None, "cross_entropy", PLAIN, -100, 2)
        torch.testing.assert_close(torch.ops.fastloss.row_forward_backward(strided, *call)[1],
                                   torch.ops.fastloss.row_forward_backward(copy, *call)[1])  # fmt: skip
        for loss, parameters, message in [
            ("unheard_of", PLAIN, "no such loss"),
            ("cross_entropy", PLAIN[:2], "wrong number of parameters"),
        ]:
            with pytest.raises(RuntimeError, match=message):
                torch.ops.fastloss.row_forward(copy, call[0], None, loss, parameters, -100, 0)
        check_pairs()
        check_scans()
        check_steps_of_other_losses()
        print(f"{len(cases) * 4 + check_all_pointwise()} problems right")


if __name__ == "__main__":
    main(*sys.argv[1:])
