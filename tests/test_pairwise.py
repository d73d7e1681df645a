"""The laws that every pairwise loss obeys, over the table of pairwise_cases.py, on every backend of this machine."""

from __future__ import annotations

import math
import subprocess
import sys
from typing import Any

import pairwise_cases
import pytest
import torch
from pairwise_cases import Case, normal
from support import BACKENDS, assert_close, generator, to
from torch import Tensor

import fastloss
from fastloss.operators.similarity import DIFFERENTIABLE
from fastloss.tiles import similarity as similarity_tiles

all_cases = pytest.mark.parametrize("case", pairwise_cases.ALL, ids=str)
one_of_each = pytest.mark.parametrize("case", pairwise_cases.ONE_OF_EACH, ids=str)
backends = pytest.mark.parametrize(("backend", "device"), BACKENDS, ids=[name for name, _ in BACKENDS])
if not BACKENDS:
    backends = pytest.mark.skip(reason="no kernels on this machine")
REDUCTIONS = ("none", "mean", "sum")

Arguments = dict[str, Any]


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch):
    """Blocks of 64 queries, and a similarity matrix of which a part is kept: every path, at the size of the cases."""
    monkeypatch.setattr(similarity_tiles, "TILE_BYTES", 1)
    monkeypatch.setattr(similarity_tiles, "MIN_ROWS", 64)
    monkeypatch.setattr(similarity_tiles, "KEPT_BYTES", 64 * 70 * 8)


def compute(case: Case, tensors: Arguments, options: Arguments, upstream: Tensor | None = None):
    """The loss and its gradients by the differentiable arguments."""
    leaves = {name: tensors[name].detach().clone().requires_grad_() for name in case.differentiable}
    value = case.loss(**{**tensors, **leaves}, **options)
    upstream = torch.ones_like(value) if upstream is None else upstream.to(value)
    gradients = torch.autograd.grad(value, list(leaves.values()), upstream)
    return value.detach(), dict(zip(leaves, gradients, strict=True))


def expected(case: Case, tensors: Arguments, options: Arguments, upstream: Tensor | None = None):
    """The reference body in float64."""
    with fastloss.backend("reference"):
        return compute(case, to(tensors, "cpu", torch.float64), to(options, "cpu", torch.float64), upstream)


@backends
@all_cases
def test_kernels_agree_with_the_reference(case, backend, device):
    random = generator(case.name)
    made = case.make(random)
    interpreted = (backend, device) == ("triton", "cpu")  # takes seconds a dtype; halves are widened before the kernels
    for dtype in case.dtypes[:2] if interpreted else case.dtypes:
        tensors = to(made, device, dtype)
        for reduction in REDUCTIONS:
            options = {**case.options, "reduction": reduction}
            value64, _ = expected(case, tensors, options)
            upstream = torch.randn(value64.shape, generator=random, dtype=torch.float64).to(dtype).double()
            value64, gradients64 = expected(case, tensors, options, upstream)
            with fastloss.backend(backend):
                value, gradients = compute(case, tensors, options, upstream.to(device))
                with torch.no_grad():
                    forward_only = case.loss(**tensors, **options)
            what = f"{dtype} {reduction}"
            assert value.dtype == dtype, what
            total = case.terms * (len(case.make(generator("")).values()) if reduction == "none" else 1)
            terms = total if reduction != "sum" else total * pairwise_cases.N**0.5
            assert_close(value, value64, dtype, f"{what} value", terms)
            assert_close(forward_only, value64, dtype, f"{what} value without gradients", terms)
            for name, gradient in gradients.items():
                assert gradient.dtype == tensors[name].dtype, what
                # the gradient is the difference of a key's and of the others' pull, each of about this size
                size = upstream.abs().max().item() * case.terms / (pairwise_cases.N if reduction == "mean" else 1)
                assert_close(gradient, gradients64[name], dtype, f"{what} gradient of {name}", size)


@pytest.mark.parametrize("case", [case for case in pairwise_cases.ALL if case.oracle], ids=str)
def test_reference_agrees_with_the_oracle(case):
    made = case.make(generator(case.name))
    with fastloss.backend("reference"):
        value = case.loss(**made, **case.options, reduction="none")
        mean, total = (case.loss(**made, **case.options, reduction=how) for how in ("mean", "sum"))
    assert_close(value, case.oracle(**made, **case.options), torch.float64)
    assert_close(total, value.sum(), torch.float64)
    if not case.name.startswith("semi_hard"):
        counted = (value != 0).sum() if case not in pairwise_cases.TRIPLETS else None
        if counted is not None:
            assert_close(mean, value.sum() / counted, torch.float64)


@backends
@pytest.mark.parametrize("case", [case for case in pairwise_cases.ONE_OF_EACH if case.twice], ids=str)
@pytest.mark.parametrize("reduction", ["none", "mean"])
def test_gradcheck_and_gradgradcheck(case, backend, device, reduction):
    made = to(case.make(generator(case.name)), device)
    leaves = tuple(made[name].clone().requires_grad_() for name in case.differentiable)

    def f(*leaves):
        tensors = {**made, **dict(zip(case.differentiable, leaves, strict=True))}
        return case.loss(**tensors, **case.options, reduction=reduction)

    with fastloss.backend(backend):
        assert torch.autograd.gradcheck(f, leaves, fast_mode=True)
        assert torch.autograd.gradgradcheck(f, leaves, fast_mode=True)


@backends
@one_of_each
def test_the_same_input_gives_the_same_bits(case, backend, device):
    tensors = to(case.make(generator(case.name)), device, torch.float32)
    with fastloss.backend(backend):
        seen = [compute(case, tensors, dict(case.options)) for _ in range(3)]
    for value, gradients in seen[1:]:
        assert torch.equal(value, seen[0][0])
        assert all(torch.equal(gradient, seen[0][1][name]) for name, gradient in gradients.items())


@backends
@one_of_each
def test_layouts(case, backend, device):
    """The elements of an embedding far apart in memory."""
    tensors = to(case.make(generator(case.name)), device, torch.float64)
    columns = {
        name: x.t().contiguous().t() if isinstance(x, Tensor) and x.dim() == 2 else x for name, x in tensors.items()
    }
    with fastloss.backend(backend):
        value, gradients = compute(case, tensors, dict(case.options))
        same, same_gradients = compute(case, columns, dict(case.options))
    assert_close(same, value, torch.float64, "value", case.terms)
    for name, gradient in gradients.items():
        assert_close(same_gradients[name], gradient, torch.float64, f"gradient of {name}", case.terms)


@backends
@one_of_each
def test_backward_again_and_arguments_left_alone(case, backend, device):
    tensors = to(case.make(generator(case.name)), device, torch.float64)
    copies = {name: x.clone() for name, x in tensors.items() if isinstance(x, Tensor)}
    for reduction in ("none", "mean"):
        leaves = {name: tensors[name].clone().requires_grad_() for name in case.differentiable}
        inputs = list(leaves.values())
        with fastloss.backend(backend):
            value = case.loss(**{**tensors, **leaves}, **case.options, reduction=reduction)
            ones = torch.ones_like(value)
            first = torch.autograd.grad(value, inputs, ones * 2, retain_graph=True)
            second = torch.autograd.grad(value, inputs, ones, retain_graph=True)
            third = torch.autograd.grad(value, inputs, ones, create_graph=True)
        for f, s, t in zip(first, second, third, strict=True):
            assert_close(f, 2 * s, torch.float64)
            assert_close(t, s, torch.float64)
    assert all(torch.equal(tensors[name], copy) for name, copy in copies.items())


@backends
@one_of_each
def test_func_transforms(case, backend, device):
    tensors = to(case.make(generator(case.name)), device, torch.float64)
    name = case.differentiable[0]
    rest = {key: x for key, x in tensors.items() if key != name}

    def f(x):
        return case.loss(**{name: x}, **rest, **case.options)

    x = tensors[name]
    batch = torch.stack([x, 0.5 * x])
    with fastloss.backend("reference"):
        loop = [torch.func.grad_and_value(f)(entry) for entry in batch]
    gradients64, values64 = (torch.stack(parts) for parts in zip(*loop, strict=True))
    with fastloss.backend(backend):
        assert_close(torch.func.grad(f)(x), gradients64[0], torch.float64, "grad")
        assert_close(torch.func.vmap(f)(batch), values64, torch.float64, "vmap")
        assert_close(torch.func.vmap(torch.func.grad(f))(batch), gradients64, torch.float64, "vmap of grad")
    _, along = torch.func.jvp(f, (x,), (torch.ones_like(x),))  # forward mode is the reference's
    assert_close(along, gradients64[0].sum(), torch.float64, "tangent", gradients64[0].abs().sum().item())


@pytest.mark.slow(5)
@backends
@pytest.mark.parametrize(
    "case",
    [case for case in pairwise_cases.ONE_OF_EACH if case.name.split(",")[0] in (
        "info_nce", "supcon_loss", "clip_loss", "semi_hard_triplet_loss")],
    ids=str,
)  # fmt: skip
def test_compile_fullgraph(case, backend, device):
    torch._dynamo.reset()
    dynamic = case.loss in (fastloss.info_nce, fastloss.supcon_loss)
    tensors = to(case.make(generator(case.name)), device, torch.float64)
    leaves = {name: tensors[name].requires_grad_() for name in case.differentiable}
    with fastloss.backend(backend):
        for reduction in ("none", "mean"):

            def f(tensors, reduction=reduction):
                return case.loss(**tensors, **case.options, reduction=reduction) * 2

            value = torch.compile(f, fullgraph=True, dynamic=dynamic, backend="aot_eager")({**tensors, **leaves})
            plain = f({**tensors, **leaves})
            assert_close(value, plain, torch.float64)
            for actual, wanted in zip(
                torch.autograd.grad(value.sum(), list(leaves.values())),
                torch.autograd.grad(plain.sum(), list(leaves.values())),
                strict=True,
            ):
                assert_close(actual, wanted, torch.float64, "gradient", 1.0)


@backends
@one_of_each
def test_autocast(case, backend, device):
    tensors = to(case.make(generator(case.name)), device, torch.bfloat16)
    wanted, _ = expected(case, tensors, dict(case.options))
    for name in (backend, "reference"):
        if torch.float32 not in case.dtypes:  # which triplets are chosen is rounding's choice, too
            with fastloss.backend(name):
                wanted, _ = compute(case, to(tensors, device, torch.float32), dict(case.options))
        with torch.autocast(device, torch.bfloat16), fastloss.backend(name):
            value, gradients = compute(case, tensors, dict(case.options))
        assert value.dtype == torch.float32
        assert_close(value, wanted, torch.float32, f"{name} value", case.terms)
        assert all(gradient.dtype == torch.bfloat16 for gradient in gradients.values())


@backends
def test_operators_pass_opcheck(backend, device):
    namespace = getattr(torch.ops, "fastloss_triton" if backend == "triton" else "fastloss")
    random = generator("opcheck")
    q, k, own = (normal(random, 9, 4).float().to(device) for _ in range(3))
    scale, labels = torch.tensor(3.0, device=device), torch.arange(9, device=device) % 4
    upstream = torch.rand(9, device=device)
    for gradients in (False, True):
        for name, arguments in {
            "similarity_softmax": (q, k, own, scale, labels, None, None, None),
            "similarity_two_way": (q, k, scale),
            "similarity_sigmoid": (q, k, scale, scale),
            "similarity_semi_hard": (q, labels, 0.5, True),
        }.items():
            operator = getattr(namespace, name)
            wanted = sum(1 << k for k in DIFFERENTIABLE[name] if arguments[k] is not None)
            more = (upstream, wanted) if gradients else (None, 0)
            torch.library.opcheck(operator, (*arguments, *more), test_utils=("test_schema", "test_faketensor"))
    torch.library.opcheck(namespace.hardest_pairs, (q, labels), test_utils=("test_schema", "test_faketensor"))


# ------------------------------------------------------------------------------------------ corners


@backends
def test_large_similarities(backend, device):
    """Cosines over a temperature of 0.001, and vectors that are not normalised: no overflow, no NaN."""
    x = normal(generator("large"), 100, 8).to(device)
    for name in (backend, "reference"):
        with fastloss.backend(name):
            for loss in (fastloss.info_nce, fastloss.nt_xent):
                leaf = x.float().requires_grad_()
                value = loss(leaf, x.float(), temperature=1e-3)
                assert value.isfinite()
                assert torch.autograd.grad(value, leaf)[0].isfinite().all()
            if name != "triton":  # whose positives are not the numbers in the sums
                near = fastloss.nt_xent(x.float(), x.float() + 1e-4, temperature=0.02, reduction="none")
                with fastloss.backend("reference"):
                    exact = fastloss.nt_xent(x.float().double(), (x.float() + 1e-4).double(), temperature=0.02,
                                             reduction="none")  # fmt: skip
                assert (near >= 0).all()
                assert_close(near, exact, torch.float32, "almost perfect", 50.0)
            leaf = x.float().requires_grad_()
            value = fastloss.clip_loss(leaf, x.float() + 1, 1e4)
            assert value.isfinite()
            assert torch.autograd.grad(value, leaf)[0].isfinite().all()


@backends
def test_nothing_that_counts(backend, device):
    """No positives, no triplets, only -100: the loss 0, with a graph and zero gradients."""
    x = normal(generator("nothing"), 80, 8).float().to(device)
    alone, same = torch.arange(80, device=device), torch.zeros(80, dtype=torch.int64, device=device)
    calls = {
        "alone": lambda x: fastloss.supcon_loss(x, alone),
        "one class, decoupled": lambda x: fastloss.supcon_loss(x, same, decoupled=True),
        "ignored": lambda x: fastloss.info_nce(x, x, target=torch.full_like(same, -100)),
        "no positives": lambda x: fastloss.batch_hard_triplet_loss(x, alone),
        "no negatives": lambda x: fastloss.batch_hard_triplet_loss(x, same),
        "no positive pairs": lambda x: fastloss.semi_hard_triplet_loss(x, alone),
        "no negatives, semi-hard": lambda x: fastloss.semi_hard_triplet_loss(x, same),
    }
    for name in (backend, "reference"):
        with fastloss.backend(name):
            for what, call in calls.items():
                leaf = x.clone().requires_grad_()
                value = call(leaf)
                assert value == 0, (name, what)
                (gradient,) = torch.autograd.grad(value, leaf)
                assert (gradient == 0).all(), (name, what)


@backends
def test_triplets_at_distance_zero(backend, device):
    """Equal embeddings, of one class and of several: no NaN, the gradient is 0 where the distance has none."""
    x = normal(generator("zero"), 1, 8).float().to(device).expand(80, 8)
    labels = torch.arange(80, device=device) % 2
    for name in (backend, "reference"):
        with fastloss.backend(name):
            for squared in (False, True):
                for loss in (fastloss.batch_hard_triplet_loss, fastloss.semi_hard_triplet_loss):
                    leaf = x.clone().requires_grad_()
                    value = loss(leaf, labels, margin=0.5, normalize=False, squared=squared)
                    assert_close(value, torch.tensor(0.5, dtype=torch.float64), torch.float32)
                    (gradient,) = torch.autograd.grad(value, leaf)
                    assert gradient.isfinite().all()


def test_errors():
    x, y = torch.randn(5, 3), torch.randn(5, 4)
    labels = torch.arange(5)
    for call, words in [
        (lambda: fastloss.info_nce(x, y), "positive must have the shape"),
        (lambda: fastloss.info_nce(x, x, temperature=0.0), "temperature must be positive"),
        (lambda: fastloss.info_nce(x, x, label_smoothing=2.0), "label_smoothing"),
        (lambda: fastloss.info_nce(x, x, x, target=labels), "no target"),
        (lambda: fastloss.nt_xent(x, x[:4]), "z2 must have the shape"),
        (lambda: fastloss.supcon_loss(x, labels[:4]), "labels must be"),
        (lambda: fastloss.batch_hard_triplet_loss(x, labels.float()), "labels must be"),
        (lambda: fastloss.semi_hard_triplet_loss(x, labels, margin=math.nan), "margin must be finite"),
        (lambda: fastloss.clip_loss(x, x, torch.ones(2)), "logit_scale must be a number"),
        (lambda: fastloss.rl.temporal_contrastive_loss(x[:, None], offset=5), "offset must be between"),
        (lambda: fastloss.info_nce(x, x, reduction="no"), "reduction"),
    ]:
        with pytest.raises(ValueError, match=words):
            call()


def test_automatic_choice():
    small, large = torch.randn(50, 4), torch.randn(100, 4)
    assert "quicker" in fastloss.explain(fastloss.info_nce, small, small).reason
    if ("cpu", "cpu") in BACKENDS:
        assert fastloss.explain(fastloss.info_nce, large, large).backend == "cpu"
        assert fastloss.explain(fastloss.nn.NTXentLoss(), large, large).backend == "cpu"
    assert "meta" in fastloss.explain(fastloss.info_nce, large.to("meta"), large.to("meta")).reason


def test_every_loss_has_a_module():
    named = {name: getattr(fastloss.nn, name) for name in fastloss.nn.__all__}
    modules = {module.function: name for name, module in named.items() if hasattr(module, "function")}
    for case in pairwise_cases.ONE_OF_EACH:
        assert case.loss in modules, f"no Module of {case.loss.__name__}"
        name = modules[case.loss]
        assert getattr(fastloss, name) is getattr(fastloss.nn, name)
        made = case.make(generator(case.name))
        constructor = {key: x for key, x in case.options.items() if key in getattr(fastloss.nn, name).__constants__}
        if constructor.keys() == case.options.keys() and "temperature" not in made:
            assert torch.equal(getattr(fastloss, name)(**constructor)(**made), case.loss(**made, **constructor))
    z_a, z_b = torch.randn(9, 4), torch.randn(9, 4)
    assert fastloss.nn.VICRegLoss(covariance=2.0)(z_a, z_b) == fastloss.vicreg_loss(z_a, z_b, covariance=2.0)


MEMORY = """
import sys, torch, fastloss
def field(name):
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) << 10 for line in file if line.startswith(name))
x, y = torch.randn(4000, 16, requires_grad=True), torch.randn(4000, 16)
def step(n):
    fastloss.info_nce(x[:n], y[:n]).backward()
with fastloss.backend(sys.argv[1]):
    step(100)
    with open("/proc/self/clear_refs", "w") as file: file.write("5")
    before = field("VmRSS")
    step(4000)
print((field("VmHWM") - before) / (4000 * 4000 * 4))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.skipif(("cpu", "cpu") not in BACKENDS, reason="no CPU kernels")
def test_peak_memory_in_units_of_the_similarity_matrix():
    found = {}
    for backend in ("cpu", "reference"):
        result = subprocess.run([sys.executable, "-c", MEMORY, backend], capture_output=True, text=True)
        assert result.returncode == 0, result.stderr
        found[backend] = float(result.stdout)
    assert found["cpu"] < 0.4
    assert found["reference"] > 1.5, "the measurement does not see torch's matrices"
