"""What only linear_cross_entropy has: chunks, accumulators, torch's errors and options, memory."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from cases import FUSED
from cases.case import REDUCTIONS
from cases.classification import linear_cross_entropy_oracle as oracle
from cases.classification import softmax_focal_oracle
from support import BACKENDS, assert_as_reference, assert_close, each_backend, generator, to

import fastloss
from fastloss.core.registry import LOSSES
from fastloss.skeletons.linear import LinearRow
from fastloss.tiles import linear as chunked

pytestmark = pytest.mark.usefixtures("small_tiles")
CASES = {case.variant: case for case in FUSED if case.skeleton == "linear"}


def make(name: str, target: str, rows: int = 25):
    """(input, linear_weight, linear_bias), target, keywords in float64; the logits are (rows, 37)."""
    made = CASES[f"{target}, plain, 25x12x37"].make(generator(name), (rows, 12, 37))
    tensors = [made.pop(key) for key in ("input", "linear_weight", "linear_bias")]
    return tensors, made.pop("target"), made


def value_and_grads(tensors, y, kwargs, upstream=None, loss=fastloss.linear_cross_entropy, wanted=(True, True, True)):
    tensors = [None if t is None else t.detach().requires_grad_(w) for t, w in zip(tensors, wanted, strict=True)]
    value = loss(tensors[0], tensors[1], y, linear_bias=tensors[2], **kwargs)
    leaves = [t for t in tensors if t is not None and t.requires_grad]
    grads = torch.autograd.grad(value, leaves, torch.ones_like(value) if upstream is None else upstream.to(value))
    return value.detach(), grads


@each_backend
@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("wide", [False, True], ids=["compact", "accumulate_float32"])
def test_accumulators(dtype, wide, backend, device):
    case = CASES["index-weighted, plain, 25x12x37"]
    arguments = case.make(generator("accumulators"), dtype=dtype, device=device)
    for reduction in REDUCTIONS:
        assert_as_reference(case, arguments, backend, reduction, dtype, accumulate_float32=wide)


@pytest.mark.parametrize("rows", [1, 6, 7, 8, 14, 15])
def test_a_chunk_has_seven_rows_here(rows):
    """So the cases of these numbers of rows are at the boundaries of chunks."""
    assert f"index, plain, {rows}x12x37" in CASES
    assert chunked.chunk_rows(rows, 37 * 8, "cpu") <= 7
    assert chunked.chunk_rows(rows, 10**9, "cpu") == 1


@each_backend
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize(
    "wanted", [(True, False, False), (False, True, False), (False, False, True), (True, True, False)]
)
def test_only_some_gradients_of_the_head(wanted, reduction, backend, device):
    tensors, y, kwargs = make("some", "index")
    upstream = torch.randn(25 if reduction == "none" else (), generator=generator("some"), dtype=torch.float64)
    kwargs = {**kwargs, "reduction": reduction}
    with fastloss.backend(backend):
        value, grads = value_and_grads(to(tuple(tensors), device), y.to(device), kwargs, upstream, wanted=wanted)
    expected, expected_grads = value_and_grads(tensors, y, kwargs, upstream, oracle, wanted=wanted)
    assert_close(value, expected, torch.float64)
    for actual, exact in zip(grads, expected_grads, strict=True):
        assert_close(actual, exact, torch.float64, "gradient")


@each_backend
def test_no_bias_and_no_gradients(backend, device):
    (x, w, _), y, _ = make("no bias", "index")
    with fastloss.backend(backend):
        value, grads = value_and_grads([x.to(device), w.to(device), None], y.to(device), {}, wanted=(True, True, False))
        with torch.no_grad():
            assert torch.equal(value, fastloss.linear_cross_entropy(x.to(device), w.to(device), y.to(device)))
    expected, expected_grads = value_and_grads([x, w, None], y, {}, None, oracle, wanted=(True, True, False))
    assert_close(value, expected, torch.float64)
    for actual, exact in zip(grads, expected_grads, strict=True):
        assert_close(actual, exact, torch.float64, "gradient")


@each_backend
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("uniform", [False, True], ids=["random", "uniform"])
def test_backward_again_after_uniform_and_random_upstreams(reduction, uniform, backend, device):
    tensors, y, _ = make("again", "index")
    leaves = [t.to(device).requires_grad_() for t in tensors]
    y = y.to(device)
    with fastloss.backend(backend):
        value = fastloss.linear_cross_entropy(leaves[0], leaves[1], y, linear_bias=leaves[2], reduction=reduction)
        upstream = torch.full_like(value, 2.0) if uniform else torch.rand_like(value)
        first = torch.autograd.grad(value, leaves, upstream, retain_graph=True)
        kept = [g.clone() for g in first]
        second = torch.autograd.grad(value, leaves, 3 * upstream, retain_graph=True)
        third = torch.autograd.grad(value, leaves, upstream, create_graph=True)
    for i in range(3):
        assert torch.equal(first[i], kept[i])
        assert_close(second[i], 3 * kept[i], torch.float64)
        assert_close(third[i], kept[i], torch.float64)
        assert third[i].requires_grad


@each_backend
@pytest.mark.parametrize("reduction", ["none", "mean"])
def test_derivatives_with_a_z_loss(reduction, backend, device):
    tensors, y, _ = make("gradgrad", "index", rows=5)
    leaves = [t.to(device).requires_grad_() for t in tensors]

    def f(x, w, b):
        return fastloss.linear_cross_entropy(x, w, y.to(device), linear_bias=b, z_loss=1e-2, reduction=reduction)

    with fastloss.backend(backend):
        assert torch.autograd.gradcheck(f, leaves, fast_mode=True)
        assert torch.autograd.gradgradcheck(f, leaves, fast_mode=True)


@each_backend
def test_all_rows_ignored_have_no_mean(backend, device):
    tensors, y, _ = make("ignored", "index")
    with fastloss.backend(backend):
        value, grads = value_and_grads(to(tuple(tensors), device), torch.full_like(y, -100, device=device), {})
    assert value.isnan()
    assert all((g == 0).all() for g in grads)


@each_backend
@pytest.mark.parametrize(("rows", "features"), [(0, 3), (4, 0)])
def test_nothing_to_multiply(rows, features, backend, device):
    x, w = torch.randn(rows, features, device=device), torch.randn(5, features, device=device)
    y = torch.zeros(rows, dtype=torch.int64, device=device)
    with fastloss.backend(backend):
        value, grads = value_and_grads([x, w, None], y, {"reduction": "sum"}, wanted=(True, True, False))
    expected, expected_grads = value_and_grads([x, w, None], y, {"reduction": "sum"}, None, oracle, (True, True, False))
    torch.testing.assert_close((value, *grads), (expected, *expected_grads))


@each_backend
def test_float16_sums_beyond_its_range(backend, device):
    """Every row is of one class, with large features: the sum over the rows overflows, the mean is what torch says."""
    x = torch.full((4096, 1), 50.0, dtype=torch.float16, device=device)
    w = torch.zeros(3, 1, dtype=torch.float16, device=device, requires_grad=True)
    with fastloss.backend(backend):
        fastloss.linear_cross_entropy(x, w, x.new_zeros(4096, dtype=torch.int64)).backward()
    torch.testing.assert_close(
        w.grad.float(), w.new_tensor([[-100 / 3], [50 / 3], [50 / 3]]).float(), rtol=2e-3, atol=0
    )


@each_backend
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_autocast_multiplies_in_the_half_type(dtype, backend, device):
    """Products in the half type, a float32 loss, gradients in the dtype of the parameters."""
    (x, w, b), y, _ = make("autocast", "index")
    tensors, y = to((x, w, b), device, torch.float32), y.to(device)
    with torch.autocast(device, dtype):
        expected, expected_grads = value_and_grads(tensors, y, {}, None, torchs)
        with fastloss.backend(backend):
            value, grads = value_and_grads(tensors, y, {})
    assert value.dtype == expected.dtype == torch.float32
    torch.testing.assert_close(value, expected, rtol=4 * torch.finfo(dtype).eps, atol=0)
    for actual, exact in zip(grads, expected_grads, strict=True):
        assert actual.dtype == exact.dtype == torch.float32
        assert_close(actual, exact.double(), dtype, "gradient", 4 * exact.abs().max().item())


def torchs(input, linear_weight, target, linear_bias=None, **kwargs):
    return F.cross_entropy(F.linear(input, linear_weight, linear_bias), target, **kwargs)


@pytest.mark.skipif(("cpu", "cpu") not in BACKENDS, reason="no CPU kernels")
def test_any_row_loss_can_be_of_linear_logits():
    (x, w, b), y, _ = make("focal", "index")
    spec = LinearRow(LOSSES["softmax_focal_loss"])

    def focal(input, linear_weight, target, *, linear_bias=None, alpha=None, gamma=2.0, reduction="mean"):
        raise AssertionError("the reference")

    spec.attach(focal)
    leaves = [t.requires_grad_() for t in (x, w, b)]
    for reduction in REDUCTIONS:
        call = spec.lower((x, w, y), {"linear_bias": b, "reduction": reduction}, automatic=False)
        value = call.run("fastloss")
        expected = softmax_focal_oracle(F.linear(x, w, b), y, reduction=reduction)
        assert_close(value, expected, torch.float64)
        upstream = torch.rand_like(value)
        grads = [torch.autograd.grad(v, leaves, upstream) for v in (value, expected)]
        for actual, exact in zip(*grads, strict=True):
            assert_close(actual, exact, torch.float64, "gradient")


def test_transforms_are_the_references():
    (x, w, b), y, _ = make("transforms", "index", rows=150)
    loss, expected = (lambda x, w, f=f: f(x, w, y, linear_bias=b) for f in (fastloss.linear_cross_entropy, oracle))
    for transformed in (torch.func.grad, lambda f: torch.func.grad(f, argnums=1)):
        assert_close(transformed(loss)(x, w), transformed(expected)(x, w), torch.float64)
    tangent = torch.func.jvp(loss, (x, w), (x, w))[1]
    assert_close(tangent, torch.func.jvp(expected, (x, w), (x, w))[1], torch.float64)

    def explained(x):
        answer = fastloss.explain(fastloss.linear_cross_entropy, x, w, y)
        assert answer.backend == "reference"
        assert "torch.func" in answer.reason
        return loss(x, w)

    batch = torch.stack([x, 2 * x])
    assert_close(torch.func.vmap(explained)(batch), torch.stack([expected(x, w) for x in batch]), torch.float64)


@pytest.mark.skipif(not hasattr(F, "linear_cross_entropy"), reason="torch has it from 2.13 on")
def test_linear_errors_and_modules_as_torch():
    x, w, y = torch.randn(4, 3), torch.randn(5, 3), torch.randint(5, (4,))
    wrong = [
        ((x[None], w, y), {}),
        ((x, w[0], y), {}),
        ((x, w[:, :2], y), {}),
        ((x, w, torch.rand(4, 5)), {"ignore_index": 0}),
        ((x[0], w[:, None], y), {}),
        ((x, w, y), {"linear_bias": torch.rand(4)}),
        ((x, w, y + 5), {}),
        ((x, w, y), {"reduction": "some"}),
    ]
    for args, kwargs in wrong:
        with pytest.raises(Exception) as theirs:  # noqa: PT011
            F.linear_cross_entropy(*args, **kwargs)
        with pytest.raises(theirs.type) as ours:
            fastloss.linear_cross_entropy(*args, **kwargs)
        assert str(ours.value) == str(theirs.value)
    for kwargs in ({}, {"bias": True, "weight": torch.rand(5)}, {"out_features": (2, 3), "bias": True}):
        theirs, ours = (
            torch.nn.LinearCrossEntropyLoss(3, 5, **kwargs),
            fastloss.nn.LinearCrossEntropyLoss(3, 5, **kwargs),
        )
        ours.load_state_dict(theirs.state_dict())
        assert repr(ours) == repr(theirs)
        target = torch.randint(5, (4, *kwargs.get("out_features", ())))
        torch.testing.assert_close(ours(x, target), theirs(x, target))
        assert fastloss.explain(ours, x, target).backend == "reference"  # small


@pytest.mark.skipif(not hasattr(torch.nn, "LinearCrossEntropyOptions"), reason="torch has them from 2.13 on")
def test_options_choose_the_chunk():
    (x, w, _), y, _ = make("options", "index", rows=120)
    options = torch.nn.LinearCrossEntropyOptions(batch_chunk_size=11, acc_dtype=torch.float32)
    call = fastloss.linear_cross_entropy.resolve((x.bfloat16(), w.bfloat16(), y), {"options": options})[1]
    assert (call.operands.chunk, call.operands.wide) == (11, True)


MEMORY = """
import torch, fastloss
def field(name):
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) << 10 for line in file if line.startswith(name))
rows, features, classes = 4096, 64, 16000
x, w = torch.randn(rows, features, requires_grad=True), torch.randn(classes, features, requires_grad=True)
y = torch.randint(classes, (rows,))
def step(n):
    loss = fastloss.linear_cross_entropy(x[:n], w, y[:n], reduction=reduction)
    torch.autograd.grad((loss * torch.rand_like(loss)).sum(), (x, w))
for reduction, backend in (("mean", "cpu"), ("none", "cpu"), ("mean", "reference")):
    with fastloss.backend(backend):
        step(8)
        with open("/proc/self/clear_refs", "w") as file: file.write("5")
        before = field("VmRSS")
        step(rows)
    print((field("VmHWM") - before) / (rows * classes * 4))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.skipif(("cpu", "cpu") not in BACKENDS, reason="no CPU kernels")
def test_peak_of_the_linear_head_in_units_of_the_logits():
    result = subprocess.run([sys.executable, "-c", MEMORY], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    mean, none, reference = map(float, result.stdout.split())
    assert mean < 0.4  # a chunk is a quarter of these logits
    assert none < 0.4
    assert reference > 1.8, "the measurement does not see torch's own two buffers"
