"""linear_cross_entropy: values and gradients of every option against float64, whatever the chunks; memory."""

from __future__ import annotations

import subprocess
import sys

import pytest
import row_cases as cases
import torch
import torch.nn.functional as F
from support import BACKENDS, assert_close, generator, to

import fastloss
from fastloss.core.registry import LOSSES
from fastloss.skeletons.linear import LinearRow
from fastloss.tiles import linear as chunked

_NO_KERNELS = pytest.param("none", "cpu", marks=pytest.mark.skip("no kernels here"))
backends = pytest.mark.parametrize(("backend", "device"), BACKENDS or [_NO_KERNELS])
FEATURES = 12


@pytest.fixture(autouse=True)
def chunks_of_a_few_rows(monkeypatch):
    """7 rows of 37 float64 classes or fewer in a chunk: several chunks, the last one shorter, in every test."""
    limit = 7 * 37 * 8
    monkeypatch.setattr(chunked, "CHUNK_BYTES", {"cpu": limit})
    monkeypatch.setattr(chunked, "CHUNK_BYTES_ELSEWHERE", limit)


def make(name: str, target: str, out: tuple[int, ...] = (), rows: int = 25):
    """(input, linear_weight, linear_bias), target, keywords in float64; the logits are (rows, 37, *out)."""
    random = generator(name)
    (_, y), kwargs = cases._inputs((rows, 37, *out), **cases._TARGETS[target])(random)
    shapes = [(rows, FEATURES), (37, *out, FEATURES), (37, *out)]
    return [torch.randn(s, generator=random, dtype=torch.float64) for s in shapes], y, kwargs


def value_and_grads(tensors, y, kwargs, upstream=None, loss=fastloss.linear_cross_entropy, wanted=(True, True, True)):
    tensors = [None if t is None else t.detach().requires_grad_(w) for t, w in zip(tensors, wanted, strict=True)]
    value = loss(tensors[0], tensors[1], y, linear_bias=tensors[2], **kwargs)
    leaves = [t for t in tensors if t is not None and t.requires_grad]
    grads = torch.autograd.grad(value, leaves, torch.ones_like(value) if upstream is None else upstream.to(value))
    return value.detach(), grads


def oracle(input, linear_weight, target, linear_bias=None, **kwargs):
    bias = None if linear_bias is None else linear_bias.flatten()
    logits = F.linear(input, linear_weight.flatten(0, -2), bias)
    return cases.cross_entropy_oracle(logits.view(*input.shape[:-1], *linear_weight.shape[:-1]), target, **kwargs)


def check(tensors, y, kwargs, dtype, backend, upstream=None, device="cpu", **more):
    with fastloss.backend(backend):
        value, grads = value_and_grads(to(tuple(tensors), device, dtype), to(y, device, dtype),
                                       {**to(kwargs, device, dtype), **more}, upstream)  # fmt: skip
    rounded = to(to(tuple(tensors), "cpu", dtype), "cpu", torch.float64)
    rounded_kwargs = to(to(kwargs, "cpu", dtype), "cpu", torch.float64)
    y64 = to(to(y, "cpu", dtype), "cpu", torch.float64)
    expected, expected_grads = value_and_grads(rounded, y64, rounded_kwargs, upstream, oracle)
    # halves: the logits are rounded, as torch's are, which is some units of their size in every value
    terms = 8 * expected.abs().max().item() if dtype.itemsize == 2 else 0.0
    assert_close(value, expected, dtype, "value", terms)
    for actual, exact, name in zip(grads, expected_grads, ("input", "weight", "bias"), strict=True):
        assert actual.dtype == dtype
        assert_close(actual, exact, dtype, f"gradient of {name}", exact.abs().max().item() * (8 if terms else 1))


@backends
@pytest.mark.parametrize("target", cases._TARGETS)
@pytest.mark.parametrize("options", cases._OPTIONS)
def test_every_option(options, target, backend, device):
    tensors, y, kwargs = make(f"{options} {target}", target)
    for reduction in cases.REDUCTIONS:
        upstream = torch.randn(25, generator=generator(options), dtype=torch.float64)
        check(tensors, y, {**kwargs, **cases._OPTIONS[options], "reduction": reduction}, torch.float32, backend,
              upstream if reduction == "none" else upstream[0], device)  # fmt: skip


@backends
@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("wide", [False, True], ids=["compact", "accumulate_float32"])
def test_other_dtypes(dtype, wide, backend, device):
    tensors, y, kwargs = make("dtypes", "index-weighted")
    upstream = torch.rand(25, generator=generator("dtypes"), dtype=torch.float64)
    for reduction in cases.REDUCTIONS:
        check(tensors, y, {**kwargs, "reduction": reduction}, dtype, backend,
              upstream if reduction == "none" else None, device, accumulate_float32=wide)  # fmt: skip


@backends
@pytest.mark.parametrize("rows", [1, 6, 7, 8, 14, 15])
def test_chunk_boundaries(rows, backend, device):
    tensors, y, kwargs = make(f"rows {rows}", "index", rows=rows)
    check(tensors, y, kwargs, torch.float64, backend, device=device)
    assert chunked.chunk_rows(rows, 37 * 8, device) <= 7
    assert chunked.chunk_rows(rows, 10**9, device) == 1


@backends
@pytest.mark.parametrize("out", [(3,), (2, 4)], ids=str)
@pytest.mark.parametrize("target", ["index-weighted", "soft"])
def test_several_positions_a_row(out, target, backend, device):
    tensors, y, kwargs = make(f"positions {out}", target, out, rows=5)
    for reduction in cases.REDUCTIONS:
        shape = (5, *out) if reduction == "none" else ()
        upstream = torch.randn(shape, generator=generator("positions"), dtype=torch.float64)
        check(tensors, y, {**kwargs, "reduction": reduction}, torch.float64, backend, upstream, device)


@backends
@pytest.mark.parametrize("target", ["index", "soft"])
def test_one_row_without_a_batch(target, backend, device):
    (x, w, b), y, _ = make("one row", target, rows=1)
    for reduction in cases.REDUCTIONS:
        check([x[0], w, b], y[0], {"reduction": reduction}, torch.float64, backend, device=device)


@backends
@pytest.mark.parametrize("reduction", cases.REDUCTIONS)
@pytest.mark.parametrize(
    "wanted", [(True, False, False), (False, True, False), (False, False, True), (True, True, False)]
)
def test_only_some_gradients(wanted, reduction, backend, device):
    tensors, y, kwargs = make("some", "index")
    upstream = torch.randn(25 if reduction == "none" else (), generator=generator("some"), dtype=torch.float64)
    kwargs = {**kwargs, "reduction": reduction}
    with fastloss.backend(backend):
        value, grads = value_and_grads(to(tuple(tensors), device), y.to(device), kwargs, upstream, wanted=wanted)
    expected, expected_grads = value_and_grads(tensors, y, kwargs, upstream, oracle, wanted=wanted)
    assert_close(value, expected, torch.float64)
    for actual, exact in zip(grads, expected_grads, strict=True):
        assert_close(actual, exact, torch.float64, "gradient")


@backends
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


@backends
@pytest.mark.parametrize("reduction", cases.REDUCTIONS)
@pytest.mark.parametrize("uniform", [False, True], ids=["random", "uniform"])
def test_backward_again_and_with_create_graph(reduction, uniform, backend, device):
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


@backends
@pytest.mark.parametrize("reduction", ["none", "mean"])
def test_gradgradcheck(reduction, backend, device):
    tensors, y, _ = make("gradgrad", "index", rows=5)
    leaves = [t.to(device).requires_grad_() for t in tensors]

    def f(x, w, b):
        return fastloss.linear_cross_entropy(x, w, y.to(device), linear_bias=b, z_loss=1e-2, reduction=reduction)

    with fastloss.backend(backend):
        assert torch.autograd.gradcheck(f, leaves, fast_mode=True)
        assert torch.autograd.gradgradcheck(f, leaves, fast_mode=True)


@backends
def test_all_rows_ignored(backend, device):
    tensors, y, _ = make("ignored", "index")
    with fastloss.backend(backend):
        value, grads = value_and_grads(to(tuple(tensors), device), torch.full_like(y, -100, device=device), {})
    assert value.isnan()
    assert all((g == 0).all() for g in grads)


@backends
@pytest.mark.parametrize(("rows", "features"), [(0, 3), (4, 0)])
def test_nothing_to_multiply(rows, features, backend, device):
    x, w = torch.randn(rows, features, device=device), torch.randn(5, features, device=device)
    y = torch.zeros(rows, dtype=torch.int64, device=device)
    with fastloss.backend(backend):
        value, grads = value_and_grads([x, w, None], y, {"reduction": "sum"}, wanted=(True, True, False))
    expected, expected_grads = value_and_grads([x, w, None], y, {"reduction": "sum"}, None, oracle, (True, True, False))
    torch.testing.assert_close((value, *grads), (expected, *expected_grads))


@backends
def test_float16_sums_beyond_its_range(backend, device):
    """Every row is of one class, with large features: the sum over the rows overflows, the mean is what torch says."""
    x = torch.full((4096, 1), 50.0, dtype=torch.float16, device=device)
    w = torch.zeros(3, 1, dtype=torch.float16, device=device, requires_grad=True)
    with fastloss.backend(backend):
        fastloss.linear_cross_entropy(x, w, x.new_zeros(4096, dtype=torch.int64)).backward()
    torch.testing.assert_close(
        w.grad.float(), w.new_tensor([[-100 / 3], [50 / 3], [50 / 3]]).float(), rtol=2e-3, atol=0
    )


@backends
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_autocast_as_torch(dtype, backend, device):
    """Products in the half type, a float32 loss, gradients in the dtype of the parameters."""
    (x, w, b), y, _ = make("autocast", "index")
    tensors, y = to((x, w, b), device, torch.float32), y.to(device)
    with torch.autocast(device, dtype):
        expected, expected_grads = value_and_grads(tensors, y, {}, None, F_linear_cross_entropy)
        with fastloss.backend(backend):
            value, grads = value_and_grads(tensors, y, {})
    assert value.dtype == expected.dtype == torch.float32
    torch.testing.assert_close(value, expected, rtol=4 * torch.finfo(dtype).eps, atol=0)
    for actual, exact in zip(grads, expected_grads, strict=True):
        assert actual.dtype == exact.dtype == torch.float32
        assert_close(actual, exact.double(), dtype, "gradient", 4 * exact.abs().max().item())


def F_linear_cross_entropy(input, linear_weight, target, linear_bias=None, **kwargs):
    return F.cross_entropy(F.linear(input, linear_weight, linear_bias), target, **kwargs)


@pytest.mark.skipif(("cpu", "cpu") not in BACKENDS, reason="no CPU kernels")
def test_any_row_loss_can_be_of_linear_logits():
    (x, w, b), y, _ = make("focal", "index")
    spec = LinearRow(LOSSES["softmax_focal_loss"])

    def focal(input, linear_weight, target, *, linear_bias=None, alpha=None, gamma=2.0, reduction="mean"):
        raise AssertionError("the reference")

    spec.attach(focal)
    leaves = [t.requires_grad_() for t in (x, w, b)]
    for reduction in cases.REDUCTIONS:
        call = spec.lower((x, w, y), {"linear_bias": b, "reduction": reduction}, automatic=False)
        value = call.run("fastloss")
        expected = cases.softmax_focal_oracle(F.linear(x, w, b), y, reduction=reduction)
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


@pytest.mark.slow(10)
@backends
@pytest.mark.parametrize("reduction", ["none", "mean"])
def test_compile_fullgraph(reduction, backend, device):
    """By operators of their own, into which Dynamo does not look."""
    torch._dynamo.reset()

    def f(x, w, y, b):
        return fastloss.linear_cross_entropy(x, w, y, linear_bias=b, reduction=reduction) * 2

    compiled = torch.compile(f, fullgraph=True, dynamic=True, backend="aot_eager")
    with fastloss.backend(backend):
        for rows in (25, 40):
            tensors, y, _ = make(f"compile {rows}", "index", rows=rows)
            leaves = [t.to(device).requires_grad_() for t in tensors]
            upstream = torch.rand(rows if reduction == "none" else (), dtype=torch.float64, device=device)
            results = []
            for g in (compiled, f):
                value = g(leaves[0], leaves[1], y.to(device), leaves[2])
                results.append((value, *torch.autograd.grad(value, leaves, upstream)))
            for actual, expected in zip(*results, strict=True):
                assert_close(actual, expected, torch.float64)


# ------------------------------------------------------------------------------------------ as torch's


@pytest.mark.skipif(not hasattr(F, "linear_cross_entropy"), reason="torch has it from 2.13 on")
def test_errors_and_modules_as_torch():
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


# ------------------------------------------------------------------------------------------ memory

CODE = """
import sys, torch, torch.nn.functional as F, fastloss
def field(name):
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) << 10 for line in file if line.startswith(name))
rows, features, classes = 4096, 64, 16000
x, w = torch.randn(rows, features, requires_grad=True), torch.randn(classes, features, requires_grad=True)
y = torch.randint(classes, (rows,))
def step(n):
    loss = fastloss.linear_cross_entropy(x[:n], w, y[:n], reduction=sys.argv[1])
    (loss * torch.rand_like(loss)).sum().backward()
with fastloss.backend(sys.argv[2]):
    step(8)
    with open("/proc/self/clear_refs", "w") as file: file.write("5")
    before = field("VmRSS")
    step(rows)
print((field("VmHWM") - before) / (rows * classes * 4))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.skipif(("cpu", "cpu") not in BACKENDS, reason="no CPU kernels")
def test_peak_in_units_of_the_logits():
    def peak(reduction, backend):
        result = subprocess.run([sys.executable, "-c", CODE, reduction, backend], capture_output=True, text=True)
        assert result.returncode == 0, result.stderr
        return float(result.stdout)

    assert peak("mean", "cpu") < 0.4  # a chunk is a quarter of these logits
    assert peak("none", "cpu") < 0.4
    assert peak("mean", "reference") > 1.8, "the measurement does not see torch's own two buffers"
