"""Values on a GPU at every row length at which a kernel's plan changes; the case table of tests/ has the short rows."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from cases.classification import cross_entropy_oracle
from lanes.gpu.gpu_machine import DEVICE, REHEARSAL, backends, needed, poison, random_index, random_logits
from support import DTYPES, assert_close, value_and_grad
from torch import Tensor

import fastloss
from fastloss.core import dispatch

pytestmark = needed

EVERYTHING: dict[str, Any] = {"label_smoothing": 0.2, "z_loss": 1e-3, "softcap": 8.0, "temperature": 0.7}
# One lane to a warp, a block, clusters of 2, 4 and 8 blocks, rows that fit no cluster; odd ones for heads and tails.
LENGTHS = (1, 31, 100, 1000, 1024, 1025, 4096, 8192, 8193, 16411, 32000, 50257, 65536, 128256, 200003, 262144, 1000003)


def lengths(*wanted: int) -> list[int]:
    return [length for length in wanted if length < 20000 or not REHEARSAL]


def rows_for(classes: int) -> int:
    return 37 if classes < 8192 else 5


def check(backend: str, logits: Tensor, target: Tensor, options: dict[str, Any], what: str) -> None:
    """Value and gradient of logits (rows, C) against float64 torch: in one pass (mean) and in two (none)."""
    wide = target.double() if target.is_floating_point() else target
    for reduction in ("mean", "none"):
        keywords = {**options, "reduction": reduction}
        upstream = None
        if reduction == "none":
            upstream = random_logits(f"{what} upstream", logits.shape[0], dtype=logits.dtype)
        expected, expected_grad = value_and_grad(cross_entropy_oracle, (logits.double(), wide), keywords, upstream)
        poison(logits.nbytes)
        with fastloss.backend(backend):
            value, grad = value_and_grad(fastloss.cross_entropy, (logits, target), keywords, upstream)
        assert_close(value, expected, logits.dtype, f"{what} {reduction} value")
        assert_close(grad, expected_grad, logits.dtype, f"{what} {reduction} gradient")


@pytest.mark.skipif(REHEARSAL, reason="a CPU has neither")
@pytest.mark.parametrize("backend", ["cuda", "triton"])
def test_the_backend_runs_here(backend: str) -> None:
    """Without this, a backend that does not load would only have fewer tests."""
    assert dispatch.unavailable(backend, DEVICE) is None


@backends
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("classes", lengths(*LENGTHS))
def test_row_lengths(backend: str, dtype: torch.dtype, classes: int) -> None:
    name = f"{classes} {dtype}"
    rows = rows_for(classes)
    logits = random_logits(name, rows, classes, dtype=dtype)
    check(backend, logits, random_index(name, classes, rows, ignored=0.2), {}, f"index {name}")


@backends
@pytest.mark.parametrize("target", ["index", "soft"])
@pytest.mark.parametrize("classes", lengths(100, 1025, 8193, 32000, 50257, 200003))
def test_every_option(backend: str, classes: int, target: str) -> None:
    name = f"everything {target} {classes}"
    rows = rows_for(classes)
    logits = random_logits(name, rows, classes, dtype=torch.bfloat16)
    index = random_index(name, classes, rows, ignored=0.2)
    soft = random_logits(f"{name} soft", rows, classes).softmax(1).bfloat16()
    check(backend, logits, index if target == "index" else soft, EVERYTHING, name)


@backends
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("classes", lengths(100, 1025, 8193, 50257, 128256))
@pytest.mark.parametrize("offset", [1, 3])
def test_misaligned_rows_of_a_wider_tensor(backend: str, dtype: torch.dtype, classes: int, offset: int) -> None:
    name = f"misaligned {classes} {offset} {dtype}"
    rows = rows_for(classes)
    logits = random_logits(name, rows, classes + 7, dtype=dtype)[:, offset : offset + classes]
    assert not logits.is_contiguous()
    check(backend, logits, random_index(name, classes, rows), {"label_smoothing": 0.1}, name)


@backends
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shape", [(3, 1000, 77), (2, 21, 4096), (1, 5000, 33), (2, 300, 64, 3)], ids=str)
def test_classes_that_do_not_lie_side_by_side(backend: str, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    name = f"spatial {shape} {dtype}"
    logits = random_logits(name, *shape, dtype=dtype)
    target = random_index(name, shape[1], shape[0], *shape[2:], ignored=0.2)
    with fastloss.backend(backend):
        value, grad = value_and_grad(fastloss.cross_entropy, (logits, target), EVERYTHING)
    expected, expected_grad = value_and_grad(cross_entropy_oracle, (logits.double(), target), EVERYTHING)
    assert_close(value, expected, dtype)
    assert_close(grad, expected_grad, dtype, "gradient")


@backends
@pytest.mark.parametrize("classes", lengths(100, 8193, 32000, 128256, 200003))
def test_a_row_has_the_same_bits_in_every_batch_and_every_run(backend: str, classes: int) -> None:
    name = f"bits {classes}"
    logits = random_logits(name, 300, classes, dtype=torch.bfloat16)
    target = random_index(name, classes, 300)
    with fastloss.backend(backend):
        whole = value_and_grad(fastloss.cross_entropy, (logits, target), {"reduction": "none"})
        again = value_and_grad(fastloss.cross_entropy, (logits, target), {"reduction": "none"})
        part = value_and_grad(fastloss.cross_entropy, (logits[7:9], target[7:9]), {"reduction": "none"})
        means = [value_and_grad(fastloss.cross_entropy, (logits, target), {}) for _ in range(5)]
    for first, second in zip(whole, again, strict=True):
        assert torch.equal(first, second)
    for first, second in zip(whole, part, strict=True):
        assert torch.equal(first[7:9], second)
    for value, grad in means[1:]:
        assert torch.equal(value, means[0][0])
        assert torch.equal(grad, means[0][1])
