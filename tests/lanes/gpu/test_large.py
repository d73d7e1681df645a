"""More than 2^31 elements: offsets that 32 bits cannot hold. Rows far behind the border are compared with torch."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest
import torch
from lanes.gpu.gpu_machine import DEVICE, REHEARSAL, backends, free_bytes, needed
from support import SEED, assert_close, value_and_grad
from torch import Tensor

import fastloss

pytestmark = needed

BORDER = 2**31 if not REHEARSAL else 2**20
DTYPE = torch.bfloat16


@pytest.fixture(autouse=True)
def memory_is_given_back() -> Iterator[None]:
    yield
    gc.collect()
    free_bytes()


def filled(*shape: int) -> Tensor:
    """Random numbers, made in pieces along the first axis: no temporary as large as the tensor."""
    elements = torch.Size(shape).numel()
    if free_bytes() < 3 * elements * DTYPE.itemsize:
        pytest.skip(f"needs {3 * elements * DTYPE.itemsize / 1e9:.0f} GB of free GPU memory")
    tensor = torch.empty(shape, dtype=DTYPE, device=DEVICE)
    random = torch.Generator(DEVICE).manual_seed(SEED)
    for piece in tensor.chunk(min(64, shape[0])):
        piece.normal_(generator=random)
    return tensor


def check(backend: str, logits: Tensor, rows: list[int]) -> None:
    """Both ways to the gradient, and in place, on logits (rows, C) or (N, C, D); `rows`: which of them are compared."""
    classes = logits.shape[1]
    batch = logits.shape[:1] + logits.shape[2:]
    target = (torch.arange(batch.numel(), device=DEVICE) * 7919 % classes).view(batch)
    for options in ({"reduction": "sum"}, {"reduction": "none"}):
        with fastloss.backend(backend):
            value, grad = value_and_grad(fastloss.cross_entropy, (logits, target), options)
        for row in rows:
            part = logits[row : row + 1].double(), target[row : row + 1]
            expected, expected_grad = value_and_grad(torch.nn.functional.cross_entropy, part, options)
            assert_close(grad[row : row + 1], expected_grad, DTYPE, f"gradient of row {row}")
            if options["reduction"] == "none":
                assert_close(value[row : row + 1], expected, DTYPE, f"loss of row {row}")
        del grad
    zero = torch.zeros((), dtype=DTYPE, device=DEVICE, requires_grad=True)
    expected_last = value_and_grad(
        torch.nn.functional.cross_entropy, (logits[-1:].double(), target[-1:]), {"reduction": "sum"}
    )[1]
    working = logits + zero
    del logits
    with fastloss.backend(backend):
        value = fastloss.cross_entropy(working, target, reduction="sum", inplace=True)
        (grad,) = torch.autograd.grad(value, working, torch.full_like(value, 2.0))
    assert_close(grad[-1:], expected_last * 2, DTYPE, "gradient in place, scaled, of the last row")


@backends
@pytest.mark.parametrize("classes", [1000, 32768] if not REHEARSAL else [1000])
def test_rows(backend: str, classes: int) -> None:
    rows = BORDER // classes + 5
    border = BORDER // classes
    check(backend, filled(rows, classes), [0, border // 2, border - 1, border, border + 1, rows - 1])


@backends
def test_positions(backend: str) -> None:
    batches, classes, positions = 9, 512, BORDER // 8 // 512
    check(backend, filled(batches, classes, positions), [0, 3, 4, 7, 8])


@backends
def test_a_row_stride_beyond_the_border(backend: str) -> None:
    """Three rows of 1000 classes, BORDER + 1 elements from each other."""
    if free_bytes() < 3 * (BORDER + 2000) * DTYPE.itemsize:
        pytest.skip(f"needs {3 * BORDER * DTYPE.itemsize / 1e9:.0f} GB of free GPU memory")
    storage = torch.full((2 * (BORDER + 1) + 1000,), float("nan"), dtype=DTYPE, device=DEVICE)
    logits = storage.as_strided((3, 1000), (BORDER + 1, 1))
    logits.normal_(generator=torch.Generator(DEVICE).manual_seed(SEED))
    target = torch.tensor([0, 500, 999], device=DEVICE)
    expected, expected_grad = value_and_grad(torch.nn.functional.cross_entropy, (logits.double(), target), {})
    with fastloss.backend(backend):
        value, grad = value_and_grad(fastloss.cross_entropy, (logits, target), {})
    assert_close(value, expected, DTYPE)
    assert_close(grad, expected_grad, DTYPE, "gradient")
