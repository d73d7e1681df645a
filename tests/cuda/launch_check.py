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

OPERANDS = "Tensor target, Tensor? weight, {}str loss, float[] parameters, int ignore_index"
FORWARD = OPERANDS.format("") + ", int reduction"
SCHEMAS = [
    f"row_forward(Tensor logits, {FORWARD}) -> (Tensor, Tensor)",
    f"row_backward(Tensor grad_loss, Tensor logits, {OPERANDS.format('Tensor state, ')}) -> Tensor",
    f"row_forward_backward(Tensor logits, {FORWARD}) -> (Tensor, Tensor)",
    f"row_forward_backward_(Tensor(a!) logits, {FORWARD}) -> Tensor",
    "scale_(Tensor(a!) tensor, Tensor factor) -> ()",
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
    ops.scale_(copy, torch.tensor(2.0, dtype=weight.dtype))
    assert torch.equal(copy, gradient * 2)


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
            ("unheard_of", PLAIN, "no such row loss"),
            ("cross_entropy", PLAIN[:2], "wrong number of parameters"),
        ]:
            with pytest.raises(RuntimeError, match=message):
                torch.ops.fastloss.row_forward(copy, call[0], None, loss, parameters, -100, 0)
        print(f"{len(cases) * 4} problems right")


if __name__ == "__main__":
    main(*sys.argv[1:])
