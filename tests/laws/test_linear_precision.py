"""Laws of linear_cross_entropy: ignored rows count for nothing; halves are as near to float64 as torch's.

Nearness is the norm of the difference to float64, of tensors given in the half type, with the slack of a float32 result
that is rounded to the half type a second time (`slack`).
"""

from __future__ import annotations

import contextlib

import pytest
import torch
import torch.nn.functional as F
from support import BACKENDS, SEED, generator

import fastloss
from fastloss.tiles import linear as chunked

_NO_KERNELS = pytest.param("none", "cpu", marks=pytest.mark.skip("no kernels here"))
_ALL = [*BACKENDS, ("reference", "cpu")] if BACKENDS else [_NO_KERNELS]
backends = pytest.mark.parametrize(("backend", "device"), _ALL)
kernels = pytest.mark.parametrize(("backend", "device"), BACKENDS or [_NO_KERNELS])
halves = pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
reductions = pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
EXTRAS = {
    "plain": {},
    "z_loss": {"z_loss": 1e-2},
    "softcap": {"softcap": 5.0},
    "temperature": {"temperature": 0.5},
    "smoothing": {"label_smoothing": 0.1},
}
JUNK = (float("nan"), float("inf"), -float("inf"))


def torchs(input, linear_weight, target, *, linear_bias=None, **kwargs):
    return F.cross_entropy(F.linear(input, linear_weight, linear_bias), target, **kwargs)


def result(loss, tensors, target, upstream, autocast=None, **kwargs):
    """(value, gradients of input, weight and bias) in float64; the value times `upstream` is differentiated."""
    leaves = [t.detach().clone().requires_grad_() for t in tensors]
    with torch.autocast(leaves[0].device.type, autocast) if autocast else contextlib.nullcontext():
        value = loss(leaves[0], leaves[1], target, linear_bias=leaves[2], **kwargs)
    gradients = torch.autograd.grad(value, leaves, torch.as_tensor(upstream).to(value).expand(value.shape))
    return [x.detach().double() for x in (value, *gradients)]


def problem(name, rows, features, classes, dtype, device="cpu", spread=1.0):
    random = generator(name)
    shapes = [(rows, features), (classes, features), (classes,)]
    tensors = [torch.randn(s, generator=random).mul(spread).to(device, dtype) for s in shapes]
    return tensors, torch.randint(classes, (rows,), generator=random).to(device)


# ------------------------------------------------------------------------------------------ ignored rows


@backends
@reductions
@pytest.mark.parametrize("extra", EXTRAS)
@pytest.mark.parametrize("compiled", [False, pytest.param(True, marks=pytest.mark.slow(10))], ids=["eager", "compiled"])
def test_ignored_rows_count_for_nothing(extra, reduction, compiled, backend, device, monkeypatch):
    if compiled and (extra != "plain" or backend == "reference"):
        pytest.skip("one option tells whether the compiled walk knows the rows")
    monkeypatch.setattr(chunked, "CHUNK_BYTES", {"cpu": 7 * 37 * 8})
    monkeypatch.setattr(chunked, "CHUNK_BYTES_ELSEWHERE", 7 * 37 * 8)
    (x, w, b), y = problem(f"ignored {extra}", 25, 12, 37, torch.float64, device)
    ignored = torch.rand(25, generator=generator("which")).to(device) < 0.3
    ignored[0], ignored[1] = True, False
    upstream = torch.rand(25, generator=generator("upstream"), dtype=torch.float64).to(device)
    upstream = upstream if reduction == "none" else upstream[0]
    loss = fastloss.linear_cross_entropy
    if compiled:
        torch._dynamo.reset()
        loss = torch.compile(loss, fullgraph=True, backend="aot_eager")
    kwargs = {"reduction": reduction, **EXTRAS[extra]}
    with fastloss.backend(backend):
        kept = ~ignored
        expected = result(fastloss.linear_cross_entropy, (x[kept], w, b), y[kept],
                          upstream[kept] if reduction == "none" else upstream, **kwargs)  # fmt: skip
        for junk in JUNK:
            dirty = x.masked_fill(ignored[:, None], junk)
            up = upstream.masked_fill(ignored, junk) if reduction == "none" and backend != "reference" else upstream
            got = result(loss, (dirty, w, b), y.masked_fill(ignored, -100), up, **kwargs)
            for i in [0, 1] if reduction == "none" else [1]:  # losses of rows, gradient of input
                assert (got[i][ignored] == 0).all()
                got[i] = got[i][kept]
            for mine, exact in zip(got, expected, strict=True):
                torch.testing.assert_close(mine, exact, rtol=1e-12, atol=1e-13, msg=lambda m: f"seed {SEED}: {m}")


@kernels
@pytest.mark.parametrize("reduction", ["none", "sum"])
def test_a_row_counts_if_one_of_its_positions_does(reduction, backend, device):
    random = generator("positions")
    x, w = torch.randn(6, 5, generator=random), torch.randn(9, 3, 5, generator=random)
    y = torch.randint(9, (6, 3), generator=random)
    y[0] = -100  # all of them
    y[1, 0] = -100  # one
    dirty = x.clone()
    dirty[0] = float("nan")
    grads = []
    with fastloss.backend(backend):
        for rows in (dirty, x):
            leaf, head = rows.to(device).requires_grad_(), w.to(device).requires_grad_()
            loss = fastloss.linear_cross_entropy(leaf, head, y.to(device), reduction=reduction)
            grads.append(torch.autograd.grad(loss.sum(), (leaf, head)))
    for mine, exact in zip(*grads, strict=True):
        torch.testing.assert_close(mine, exact)


@kernels
@reductions
@pytest.mark.parametrize("name", ["cross_entropy", "softmax_focal_loss"])
@pytest.mark.parametrize("case", ["ignored", "weightless"])
def test_nan_logits_are_treated_as_torch_does(case, name, reduction, backend, device):
    """They count in rows of a class of weight 0, not in ignored ones, whose gradient is 0 (in torch NaN)."""
    random = generator(name)
    x, y = torch.randn(20, 30, generator=random), torch.randint(1, 30, (20,), generator=random)
    x[3], y[3], weight = float("nan"), -100 if case == "ignored" else 0, torch.ones(30)
    weight[0] = 0.0
    leaves = [x.clone().to(device).requires_grad_() for _ in range(2)]
    loss = getattr(fastloss, name)
    options = {"gamma": 0.0} if name == "softmax_focal_loss" else {}  # then it is the cross-entropy, torch's
    with fastloss.backend(backend):
        got = loss(leaves[0], y.to(device), weight.to(device), reduction=reduction, **options)
    expected = F.cross_entropy(leaves[1], y.to(device), weight.to(device), reduction=reduction)
    torch.testing.assert_close(got, expected, equal_nan=True)
    mine, theirs = (torch.autograd.grad(v.sum(), leaf)[0] for v, leaf in zip((got, expected), leaves, strict=True))
    if case == "ignored":
        assert (mine[3] == 0).all()
        theirs[3] = 0
    torch.testing.assert_close(mine, theirs, equal_nan=True)


# ------------------------------------------------------------------------------------------ halves


def slack(exact, dtype):
    """A float32 result near the middle of two halves may be rounded to the farther one."""
    return 64 * torch.finfo(torch.float32).eps * exact.norm().item() + torch.finfo(dtype).tiny


def assert_not_farther(got, torchs_own, exact, dtype):
    for mine, theirs, right, what in zip(got, torchs_own, exact, ("loss", "input", "weight", "bias"), strict=True):
        far, allowed = (mine - right).norm().item(), (theirs - right).norm().item()
        assert far <= allowed + slack(right, dtype), f"{what}: {far:.4g} from float64, torch {allowed:.4g}, seed {SEED}"


def test_not_farther_than_torch_in_chunks_on_torchs_samples():
    """Of torch's own OpInfo: the variants that are computed chunk by chunk."""
    if not hasattr(torch.nn, "LinearCrossEntropyOptions"):
        pytest.skip("torch has them from 2.13 on")
    if ("cpu", "cpu") not in BACKENDS:
        pytest.skip("no CPU kernels")
    from torch.testing._internal import common_methods_invocations as invocations

    tried = 0
    for dtype in (torch.float16, torch.bfloat16):
        for chunked_none in (False, True):
            samples = invocations.sample_inputs_linear_cross_entropy(
                None, "cpu", dtype, True, chunked=True, chunked_none=chunked_none
            )
            for sample in samples:
                tensors = [sample.input, sample.args[0], sample.kwargs.get("linear_bias")]
                if sample.args[1].is_floating_point() or sample.args[0].dim() > 2:
                    continue  # torch does not compute these in chunks
                tried += 1
                assert_not_farther(*_three_ways(tensors, sample.args[1], sample.kwargs), dtype)
    assert tried > 50


def _three_ways(tensors, target, kwargs):
    """(ours, torch's, in float64) for the same tensors of halves and upstream 1."""
    kwargs = {name: x for name, x in kwargs.items() if name != "linear_bias"}
    plain = {name: x for name, x in kwargs.items() if name != "options"}
    wide = {name: x.double() if isinstance(x, torch.Tensor) else x for name, x in plain.items()}
    answers = []
    for loss, options, convert in (
        (fastloss.linear_cross_entropy, kwargs, lambda t: t),
        (F.linear_cross_entropy, kwargs, lambda t: t),
        (F.linear_cross_entropy, wide, lambda t: t.double()),
    ):
        leaves = [None if t is None else convert(t.detach()).requires_grad_() for t in tensors]
        with fastloss.backend("cpu"):
            value = loss(leaves[0], leaves[1], target, linear_bias=leaves[2], **options)
        gradients = torch.autograd.grad(value.sum(), [t for t in leaves if t is not None])
        gradients = [*gradients, torch.zeros(())][:3]
        answers.append([x.detach().double() for x in (value, *gradients)])
    return answers


@halves
@reductions
def test_not_farther_than_torch_in_chunks_on_random_shapes(reduction, dtype):
    if not hasattr(torch.nn, "LinearCrossEntropyOptions"):
        pytest.skip("torch has them from 2.13 on")
    if ("cpu", "cpu") not in BACKENDS:
        pytest.skip("no CPU kernels")
    random = generator(f"shapes {reduction} {dtype}")
    for chunk in (1, 5, 16, None):
        rows, features, classes = (int(torch.randint(2, 90, (), generator=random)) for _ in range(3))
        tensors, y = problem(f"{chunk} {dtype}", rows, features, classes + 60, dtype)
        options = torch.nn.LinearCrossEntropyOptions(batch_chunk_size=chunk and min(chunk, rows))
        ours, theirs, exact = _three_ways(tensors, y, {"reduction": reduction, "options": options})
        assert_not_farther(ours, theirs, exact, dtype)


@halves
def test_many_chunks_lose_nothing(dtype):
    """The gradient of the head in 1 chunk and in 256 is the same but for the last rounding."""
    if ("cpu", "cpu") not in BACKENDS:
        pytest.skip("no CPU kernels")
    tensors, y = problem("many", 512, 16, 64, dtype)
    with fastloss.backend("cpu"):
        few = result(fastloss.linear_cross_entropy, tensors, y, 1.0)
        options = torch.nn.LinearCrossEntropyOptions(batch_chunk_size=2)
        many = result(fastloss.linear_cross_entropy, tensors, y, 1.0, options=options)
    for a, b in zip(few, many, strict=True):
        assert (a - b).norm() <= torch.finfo(dtype).eps * b.norm()


@kernels
@reductions
@pytest.mark.parametrize("extra", EXTRAS)
@pytest.mark.parametrize("mode", ["eager", "autocast", pytest.param("compiled", marks=pytest.mark.slow(10))])
@pytest.mark.parametrize("products", ["default", "float16"])
def test_float16_with_a_loss_scale_is_as_near_as_torchs(products, mode, extra, reduction, backend, device, monkeypatch):
    """Whatever factor arrives in backward, nothing was rounded to float16 before. `products`: as on other devices."""
    if mode == "compiled" and extra != "plain":
        pytest.skip("one option tells")
    if products == "float16":
        if extra != "plain":
            pytest.skip("one option tells")
        monkeypatch.setattr(chunked, "product_dtype", lambda input: input.dtype)
    rows, classes = 64, 2000
    tensors, y = problem(f"scale {extra}", rows, 16, classes, torch.float16, device, spread=0.5)
    autocast = torch.float16 if mode == "autocast" else None
    given = [t.float() for t in tensors] if autocast else tensors
    options = {"reduction": reduction, **EXTRAS[extra]}
    ours = fastloss.linear_cross_entropy
    if mode == "compiled":
        torch._dynamo.reset()
        ours = torch.compile(ours, fullgraph=True, backend="aot_eager")

    def chained(input, linear_weight, target, *, linear_bias, **kwargs):
        logits = F.linear(input, linear_weight, linear_bias)
        with fastloss.backend("reference"):
            return fastloss.cross_entropy(logits, target, **kwargs)

    random = torch.rand(rows, generator=generator("rows")).to(device) + 0.5
    for scale in (2.0**-10, 1.0, 2.0**8, 2.0**13 if mode != "autocast" else 2.0**16):
        upstream = scale * random / rows if reduction == "none" else scale / (rows if reduction == "sum" else 1)
        for factor in (upstream, torch.full((rows,), scale / rows)) if reduction == "none" else (upstream,):
            if mode != "autocast":
                factor = torch.as_tensor(factor).half().double()
            exact = result(chained, [t.double() for t in tensors], y, factor, **options)
            theirs = result(chained, given, y, factor, autocast, **options)
            with fastloss.backend(backend):
                mine = result(ours, given, y, factor, autocast, **options)
            for a, b, right, what in zip(mine, theirs, exact, ("loss", "input", "weight", "bias"), strict=True):
                if not right.abs().max() < 6e4:
                    continue
                far, allowed = ((t - right).norm().item() for t in (a, b))
                # as near: with products in float16 by another order of the same roundings
                limit = allowed * (1.5 if products == "float16" else 1) + slack(right, torch.float16)
                assert far <= limit, f"{what}, scale {scale}: {far:.4g} from float64, torch {allowed:.4g}, seed {SEED}"
                lost, torch_lost = (int(((t == 0) & (right.abs() > 1e-7)).sum()) for t in (a, b))
                assert lost <= torch_lost + right.numel() // 100, f"{what}: {lost} are 0, in torch {torch_lost}"


@kernels
@pytest.mark.parametrize("upstream", ["common", "random"])
def test_float16_sums_of_rows_do_not_overflow(upstream, backend, device):
    """The gradient of a mean taken by the caller fits into a float16, the sum over the rows does not."""
    rows = 4096
    x = (32 + torch.randn(rows, 16, generator=generator("x"))).to(device, torch.float16)
    w = (torch.randn(300, 16, generator=generator("w")) * 0.0025).to(device, torch.float16)
    b, y = torch.zeros(300, device=device, dtype=torch.float16), torch.zeros(rows, dtype=torch.long, device=device)
    up = torch.full((rows,), 1 / rows, device=device)
    if upstream == "random":
        up = up * (torch.rand(rows, generator=generator("up")).to(device) + 0.5)
    up = up.half()
    exact = result(torchs, [t.double() for t in (x, w, b)], y, up, reduction="none")
    with fastloss.backend(backend):
        got = result(fastloss.linear_cross_entropy, (x, w, b), y, up, reduction="none")
    for mine, right in zip(got, exact, strict=True):
        torch.testing.assert_close(mine, right, rtol=2e-2, atol=1e-4)
