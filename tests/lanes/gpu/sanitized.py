"""The program under compute-sanitizer: every operator on a small problem of every kernel, results checked.

`python -m lanes.gpu.sanitized BACKEND DEVICE`, in tests/. Inputs are made on the CPU and copied, so that nothing runs
on the GPU but our kernels.
"""

from __future__ import annotations

import sys

import torch
import torch.nn.functional as F
from support import SEED, assert_close, value_and_grad
from torch import Tensor

import fastloss  # noqa: F401  (defines the operators)
from fastloss.core.arguments import accumulator_dtype
from fastloss.operators import row as row_operators

SHAPES = [(5, 100), (3, 1025), (2, 8193), (2, 40000), (1, 131073), (2, 30, 7), (1, 100, 300)]
DTYPES = (torch.float32, torch.bfloat16)
PARAMETERS = [0.1, 0.0, 0.0, 1.0]  # label smoothing


def misaligned(tensor: Tensor, device: str) -> Tensor:
    """A copy on the device that starts one element behind an allocation and ends with it."""
    storage = torch.cat([tensor.new_zeros(1), tensor.flatten()]).to(device)
    return storage[1:].view(tensor.shape)


def check(backend: str, device: str, shape: tuple[int, ...], dtype: torch.dtype, soft: bool) -> None:
    o = torch.ops.fastloss_triton if backend == "triton" else torch.ops.fastloss
    accumulator = accumulator_dtype(dtype)
    logits = torch.randn(shape).to(dtype)
    batch = shape[:1] + shape[2:]
    index = torch.randint(shape[1], batch)
    index.view(-1)[0] = -100
    target = torch.randn(shape).softmax(1).to(dtype) if soft else index
    weight = torch.rand(shape[1], dtype=accumulator)
    upstream = torch.rand(index.numel(), dtype=accumulator)
    options = {"weight": weight.double(), "label_smoothing": PARAMETERS[0]}
    wide = logits.double(), target.double() if soft else target
    value, grad = value_and_grad(F.cross_entropy, wide, options)
    rows, rows_grad = value_and_grad(
        F.cross_entropy, wide, {**options, "reduction": "none"}, upstream.view(batch).double()
    )

    x = misaligned(logits, device)
    t = misaligned(target, device) if soft else target.flatten().to(device)
    tail = (t, weight.to(device), "cross_entropy", PARAMETERS, -100)
    loss, state = o.row_forward(x, *tail, row_operators.NONE)
    assert_close(loss.view(batch), rows, dtype, "losses of the rows")
    assert_close(o.row_forward(x, *tail, row_operators.MEAN)[0], value, dtype, "mean")
    gradient = o.row_backward(upstream.to(device), x, *tail[:2], state, *tail[2:])
    assert_close(gradient, rows_grad, dtype, "gradient of the rows")
    loss, gradient = o.row_forward_backward(x, *tail, row_operators.MEAN)
    assert_close(loss, value, dtype, "mean in one pass")
    assert_close(gradient, grad, dtype, "gradient in one pass")
    o.row_forward_backward_(x, *tail, row_operators.MEAN)
    assert torch.equal(x.cpu(), gradient.cpu()), "in place"
    if device == "cpu":
        return  # there torch multiplies
    o.scale_(x, torch.tensor(2.0, dtype=accumulator).to(device))
    assert torch.equal(x.cpu(), gradient.cpu() * 2), "scaled"


def main(backend: str, device: str) -> None:
    torch.manual_seed(SEED)
    problems = [(shape, dtype, soft) for shape in SHAPES for dtype in DTYPES for soft in (False, True)]
    for problem in problems:
        check(backend, device, *problem)
    print(f"{len(problems)} problems right, seed {SEED}")


if __name__ == "__main__":
    main(*sys.argv[1:])
