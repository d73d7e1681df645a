"""Properties over generated shapes, strides and ignore patterns."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support import BACKENDS, SEED, assert_close, gradient_terms, value_and_grad

import fastloss

relaxed = settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    derandomize=False,
)
backends = pytest.mark.parametrize(("backend", "device"), BACKENDS)


@st.composite
def problems(draw):
    """Logits as a strided window of a larger tensor, targets with ignored rows, a dtype."""
    spatial = draw(st.lists(st.integers(1, 5), max_size=2))
    shape = [draw(st.integers(1, 6)), draw(st.integers(1, 70)), *spatial]
    steps = [draw(st.integers(1, 3)) for _ in shape]
    offsets = [draw(st.integers(0, 2)) for _ in shape]
    order = draw(st.permutations(range(len(shape))))
    dtype = draw(st.sampled_from([torch.float32, torch.bfloat16, torch.float16, torch.float64]))
    random = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    storage = [(offsets[i] + shape[i] * steps[i]) for i in order]
    base = torch.randn(storage, generator=random).to(dtype) * 4
    base = base.permute([list(order).index(i) for i in range(len(shape))])
    logits = base[tuple(slice(o, o + n * s, s) for o, n, s in zip(offsets, shape, steps, strict=True))]
    assert list(logits.shape) == shape
    batch = shape[:1] + shape[2:]
    ignore_index = draw(st.sampled_from([-100, 0, shape[1] - 1]))
    target = torch.randint(shape[1], batch, generator=random)
    pattern = torch.rand(batch, generator=random) < draw(st.sampled_from([0.0, 0.3, 0.9, 1.0]))
    return logits, target.masked_fill(pattern, ignore_index), ignore_index


@backends
@relaxed
@given(problem=problems(), smoothing=st.sampled_from([0.0, 0.1]), reduction=st.sampled_from(["none", "mean", "sum"]))
def test_any_shape_stride_and_ignore_pattern(backend, device, problem, smoothing, reduction):
    logits, target, ignore_index = problem
    logits, target = logits.to(device), target.to(device)
    options = {"ignore_index": ignore_index, "label_smoothing": smoothing, "reduction": reduction}
    expected, expected_grad = value_and_grad(F.cross_entropy, (logits.double(), target), options)
    with fastloss.backend(backend):
        value, grad = value_and_grad(fastloss.cross_entropy, (logits, target), options)
    if reduction == "mean" and expected.isnan():  # all rows ignored: torch's gradient is NaN or 0 as it happens
        assert value.isnan()
        assert not grad.count_nonzero() or grad.isnan().any()
        return
    assert_close(value, expected, logits.dtype, terms=gradient_terms(logits, reduction))
    assert_close(grad, expected_grad, logits.dtype, "gradient", gradient_terms(logits, reduction))


@backends
@relaxed
@given(seed=st.integers(0, 2**31), shift=st.floats(-50, 50), classes=st.integers(2, 300))
def test_invariances(backend, device, seed, shift, classes):
    """A common offset changes nothing; each row of the gradient sums to 0; the loss is at least 0."""
    random = torch.Generator().manual_seed(seed ^ SEED)
    x = torch.randn(5, classes, generator=random, dtype=torch.float64).to(device)
    y = torch.randint(classes, (5,), generator=random).to(device)
    with fastloss.backend(backend):
        value, grad = value_and_grad(fastloss.cross_entropy, (x, y), {"label_smoothing": 0.05})
        shifted, shifted_grad = value_and_grad(fastloss.cross_entropy, (x + shift, y), {"label_smoothing": 0.05})
    assert value >= 0
    assert_close(shifted, value, torch.float64)
    assert_close(shifted_grad, grad, torch.float64)
    assert grad.sum(1).abs().max() < 1e-15
