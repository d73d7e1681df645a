"""The laws that every loss over pairs obeys, over the table of pairs_cases.py, on every backend of this machine."""

from __future__ import annotations

import math
import subprocess
import sys
from typing import Any

import pairs_cases
import pytest
import torch
from pairs_cases import Case
from support import BACKENDS, DTYPES, assert_close, generator, to
from torch import Tensor

import fastloss
from fastloss import rl

backends = pytest.mark.parametrize(("backend", "device"), BACKENDS, ids=[name for name, _ in BACKENDS])
if not BACKENDS:
    backends = pytest.mark.skip(reason="no kernels on this machine")
all_cases = pytest.mark.parametrize("case", pairs_cases.ALL, ids=str)
one_of_each = pytest.mark.parametrize("case", pairs_cases.ONE_OF_EACH, ids=str)
REDUCTIONS = ("none", "mean", "sum")
Arguments = dict[str, Any]


def compute(case: Case, tensors: Arguments, upstream: Tensor | None = None, **options: Any) -> tuple[Tensor, Tensor]:
    """The loss and its gradient by the quantiles."""
    leaf = tensors["quantiles"].detach().requires_grad_()
    value = case.loss(**{**tensors, "quantiles": leaf}, **{**case.options, **options})
    (gradient,) = torch.autograd.grad(value, leaf, torch.ones_like(value) if upstream is None else upstream.to(value))
    return value.detach(), gradient


def expected(case: Case, tensors: Arguments, upstream: Tensor | None = None, **options: Any) -> tuple[Tensor, Tensor]:
    """The reference body in float64."""
    with fastloss.backend("reference"):
        return compute(case, to(tensors, "cpu", torch.float64), upstream, **to(dict(options), "cpu", torch.float64))


def pulled(tensors: Arguments, kappa: float, loss: Any, rows: int) -> float:
    """The magnitude of the terms that a gradient is the mean of: at most kappa each, and they may cancel."""
    size = float(tensors["target_quantiles"].abs().max() + tensors["quantiles"].abs().max())
    limit = 1.0 if kappa == 0 else min(kappa, size)
    return limit / (kappa if loss is rl.iqn_loss and kappa > 0 else 1.0) / rows


def check(case: Case, made: Arguments, backend: str, device: str, dtype: torch.dtype, reduction: str, **how: Any):
    tensors = to(made, device, dtype)
    value64, _ = expected(case, tensors, reduction=reduction, **how)
    upstream = 0.5 + torch.rand(value64.shape, generator=generator(str(case)), dtype=torch.float64).to(dtype).double()
    value64, gradient64 = expected(case, tensors, upstream, reduction=reduction, **how)
    on_device = to(dict(how), device)
    with fastloss.backend(backend):
        value, gradient = compute(case, tensors, upstream.to(device), reduction=reduction, **on_device)
        with torch.no_grad():
            forward_only = case.loss(**tensors, **case.options, reduction=reduction, **on_device)
    what = f"{dtype} {reduction}"
    assert value.dtype == gradient.dtype == dtype, what
    assert_close(value, value64, dtype, f"{what} value")
    assert_close(forward_only, value64, dtype, f"{what} value without gradients")
    rows = max(1, math.prod(case.rows)) if reduction == "mean" else 1
    terms = pulled(tensors, case.kappa, case.loss, rows)
    assert_close(gradient, gradient64, dtype, f"{what} gradient", max(terms, 4 * torch.finfo(dtype).tiny))


@backends
@all_cases
def test_kernels_agree_with_the_reference(case, backend, device):
    made = case.make(generator(case.name))
    for dtype in DTYPES:
        for reduction in REDUCTIONS:
            check(case, made, backend, device, dtype, reduction)


@all_cases
def test_reference_agrees_with_the_oracle(case):
    made = case.make(generator(case.name))
    with fastloss.backend("reference"):
        losses = case.loss(**made, **case.options, reduction="none")
    assert_close(losses, case.oracle(**made), torch.float64)
    for reduction in ("mean", "sum"):
        with fastloss.backend("reference"):
            value = case.loss(**made, **case.options, reduction=reduction)
        assert_close(value, getattr(losses, reduction)(), torch.float64)


@pytest.mark.parametrize("backend", ["reference", *(name for name, device in BACKENDS if device == "cpu")])
def test_published_vectors(backend):
    """Of rlax's QuantileRegressionLossTest: dist_src, tau_src, dist_target."""
    source, target = torch.tensor([[-1.0, 3.0]] * 2), torch.tensor([[-3.0, 4.0, 2.0]] * 2)
    tau = torch.tensor([[0.2, 0.7], [0.0, 0.4]])
    with fastloss.backend(backend):
        plain = rl.quantile_huber_loss(source, target, tau, kappa=0.0, reduction="none")
        huber = rl.quantile_huber_loss(source, target, tau, kappa=2.0, reduction="none")
        relative = rl.iqn_loss(source, target, tau, kappa=2.0, reduction="none")
    torch.testing.assert_close(plain, torch.tensor([2.0, 2.2]))
    torch.testing.assert_close(huber, torch.tensor([2.5, 8.5 / 3]))
    torch.testing.assert_close(relative, huber / 2)  # dopamine's division by kappa


# the kernels' tiles have 1024 sources and targets, chunks of 128 targets, vectors of 1, 4, 8 or 16 sources
@backends
@pytest.mark.parametrize(
    ("rows", "sources", "targets"),
    [
        (1, 1, 1),
        (3, 16, 129),
        (2, 17, 128),
        (3, 33, 127),
        (1, 1030, 3),
        (2, 5, 1025),
        (1, 1025, 1025),
        (70, 2, 2),
        (2, 61, 5),
    ],
)
def test_sizes(backend, device, rows, sources, targets):
    case = Case(f"{rows} {sources} {targets}", rl.quantile_huber_loss, (rows,), sources, targets)
    made = case.make(generator(case.name))
    for reduction in ("mean", "none"):
        check(case, made, backend, device, torch.float32, reduction)


@backends
def test_sizes_with_one_level(backend, device):
    """A level for all sources has the stride 0, and fills the last tile of the CPU's kernels to its end: one too many
    is behind them all, for AddressSanitizer to see."""
    case = Case("one level", rl.quantile_huber_loss, (2,), 1024, 3)
    made = case.make(generator(case.name))
    level = made["tau"].flatten()[0].to(device, torch.float32).expand(1024)
    assert level.stride() == (0,)
    source, target = (made[name].to(device, torch.float32) for name in ("quantiles", "target_quantiles"))
    with fastloss.backend(backend):
        loss = rl.quantile_huber_loss(source, target, level)
    with fastloss.backend("reference"):
        expected = rl.quantile_huber_loss(source.double(), target.double(), level.double())
    assert_close(loss, expected, torch.float32)


@backends
@one_of_each
@pytest.mark.parametrize("reduction", ["none", "mean"])
def test_gradcheck_and_gradgradcheck(case, backend, device, reduction):
    made = to(case.make(generator(case.name)), device)
    rest = {name: x for name, x in made.items() if name != "quantiles"}
    weights = torch.rand(case.rows, dtype=torch.float64, device=device)

    def f(x):
        return case.loss(x, **rest, **case.options, weights=weights, reduction=reduction)

    leaf = made["quantiles"].requires_grad_()
    with fastloss.backend(backend):
        assert torch.autograd.gradcheck(f, leaf, fast_mode=True)
        assert torch.autograd.gradgradcheck(f, leaf, fast_mode=True)


@backends
def test_the_same_input_gives_the_same_bits(backend, device):
    case = Case("bits", rl.quantile_huber_loss, (150,), 70, 30, "midpoints")
    tensors = to(case.make(generator(case.name)), device, torch.float32)
    threads, seen = torch.get_num_threads(), []
    with fastloss.backend(backend):
        try:
            for count in (threads, 1, threads):
                torch.set_num_threads(count)
                seen.append(compute(case, tensors))
        finally:
            torch.set_num_threads(threads)
    for value, gradient in seen[1:]:
        assert torch.equal(value, seen[0][0])
        assert torch.equal(gradient, seen[0][1])


def spread_out(x: Tensor) -> Tensor:
    """The same numbers at every third place, transposed."""
    if x.dim() < 2:
        return torch.zeros(3 * len(x), dtype=x.dtype, device=x.device)[::3].copy_(x)
    storage = torch.zeros((*x.shape[:-2], 3 * x.shape[-1], x.shape[-2]), dtype=x.dtype, device=x.device)
    return storage[..., ::3, :].transpose(-1, -2).copy_(x)


@backends
@all_cases
def test_layouts(case, backend, device):
    for dtype in (torch.float32, torch.bfloat16, torch.float64):
        tensors = to(case.make(generator(case.name)), device, dtype)
        with fastloss.backend(backend):
            plain = compute(case, tensors)
            for names in (tuple(tensors), ("quantiles",), ("target_quantiles",)):
                spread = {name: spread_out(x) if name in names else x for name, x in tensors.items()}
                for actual, wanted in zip(compute(case, spread), plain, strict=True):
                    assert torch.equal(actual, wanted), names
            if case.rows:
                shared = {
                    **tensors,
                    "target_quantiles": tensors["target_quantiles"][:1].expand(tensors["target_quantiles"].shape),
                }
                copied = {name: x.contiguous() for name, x in shared.items()}
                for actual, wanted in zip(compute(case, shared), compute(case, copied), strict=True):
                    assert torch.equal(actual, wanted)


@backends
def test_mixed_dtypes(backend, device):
    case = pairs_cases.ALL[1]
    made = case.make(generator(case.name))
    for dtype, other, result in (
        (torch.bfloat16, torch.float32, torch.float32),
        (torch.float32, torch.float16, torch.float32),
        (torch.float16, torch.float64, torch.float64),
    ):
        tensors = to(made, device, torch.float32)
        tensors |= {
            "quantiles": made["quantiles"].to(device, dtype),
            "target_quantiles": made["target_quantiles"].to(device, other),
        }
        value64, gradient64 = expected(case, tensors)
        for name in (backend, "reference"):
            with fastloss.backend(name):
                value, gradient = compute(case, tensors)
            assert value.dtype == result
            assert gradient.dtype == dtype
            assert_close(value, value64, result)
            assert_close(gradient, gradient64, dtype)


@backends
@all_cases
def test_rows_that_are_not_there(case, backend, device):
    """Masks and weights; NaN in rows that do not count; the explicit denominator; nothing left at all."""
    made = case.make(generator(case.name))
    random = generator("mask " + case.name)
    mask, weights = torch.rand(case.rows, generator=random) < 0.6, torch.rand(case.rows, generator=random).double()
    if case.rows:
        mask.view(-1)[0], mask.view(-1)[1] = True, False
    hidden = {name: torch.where(mask[..., None], x, math.nan) if name != "tau" else x for name, x in made.items()}
    for reduction in REDUCTIONS:
        for how in (
            {"mask": mask},
            {"mask": mask.double() * 0.5},
            {"weights": weights},
            {"weights": weights, "mask": mask},
            {"weights": weights * mask},
        ):
            check(case, made, backend, device, torch.float32, reduction, **how)
            if "mask" in how or how["weights"] is not weights:
                with fastloss.backend(backend):
                    arguments = to(dict(how), device)
                    plain = compute(case, to(made, device), reduction=reduction, **arguments)
                    nan = compute(case, to(hidden, device), reduction=reduction, **arguments)
                for actual, wanted in zip(nan, plain, strict=True):
                    assert torch.equal(actual, wanted)
    nothing = torch.zeros(case.rows, dtype=torch.bool, device=device)
    for name in (backend, "reference"):
        with fastloss.backend(name):
            value, gradient = compute(case, to(hidden, device), mask=nothing)
        assert value == 0
        assert (gradient == 0).all()
    tensors = to(made, device, torch.float32)
    with fastloss.backend(backend):
        total = case.loss(**tensors, **case.options, reduction="sum")
        for normalizer in (7.0, torch.tensor(7.0, device=device)):
            part = case.loss(**tensors, **case.options, normalizer=normalizer)
            assert_close(part, total.double() / 7, torch.float32)


@backends
@one_of_each
def test_backward_again_and_with_create_graph(case, backend, device):
    tensors = to(case.make(generator(case.name)), device, torch.float32)
    for reduction in ("none", "mean"):
        leaf = tensors["quantiles"].clone().requires_grad_()
        with fastloss.backend(backend):
            value = case.loss(**{**tensors, "quantiles": leaf}, **case.options, reduction=reduction)
            ones = torch.ones_like(value)
            (first,) = torch.autograd.grad(value, leaf, ones * 2, retain_graph=True)
            kept = first.clone()
            (second,) = torch.autograd.grad(value, leaf, ones, retain_graph=True)
            (third,) = torch.autograd.grad(value, leaf, ones, create_graph=True)
        assert torch.equal(first, kept)
        assert first.data_ptr() != second.data_ptr()
        assert_close(first, 2 * second.double(), torch.float32)
        assert_close(third, second.double(), torch.float32)


@backends
@one_of_each
def test_targets_and_levels_are_constants(case, backend, device):
    tensors = to(case.make(generator(case.name)), device, torch.float32)
    for name in (backend, "reference"):
        leaves = {key: x.clone().requires_grad_() for key, x in tensors.items()}
        with fastloss.backend(name):
            case.loss(**leaves, **case.options).backward()
            assert not case.loss(**{**leaves, "quantiles": tensors["quantiles"]}, **case.options).requires_grad
        assert leaves["quantiles"].grad is not None
        assert all(leaf.grad is None for key, leaf in leaves.items() if key != "quantiles")


@backends
@all_cases
def test_func_transforms(case, backend, device):
    tensors = to(case.make(generator(case.name)), device)
    weights = torch.rand(case.rows, dtype=torch.float64, device=device)
    batch = {name: torch.stack([x, 0.5 * x], -1) for name, x in tensors.items()}
    for reduction in ("mean", "none"):

        def f(quantiles, target_quantiles, weights, tau=None, reduction=reduction):
            more = {} if tau is None else {"tau": tau}
            loss = case.loss(quantiles, target_quantiles, **more, **case.options, weights=weights, reduction=reduction)
            return loss.sum()

        arguments = [tensors["quantiles"], tensors["target_quantiles"], weights, *list(tensors.values())[2:]]
        batches = [batch["quantiles"], batch["target_quantiles"], torch.stack([weights] * 2), *list(batch.values())[2:]]
        both = torch.func.grad_and_value(f)
        with fastloss.backend("reference"):
            gradient64, value64 = both(*arguments)
            entries = [both(*(x.movedim(0 if k == 2 else -1, 0)[i] for k, x in enumerate(batches))) for i in range(2)]
            shared = [both(x, *arguments[1:]) for x in batches[0].movedim(-1, 0)]
        with fastloss.backend(backend):
            gradient, value = both(*arguments)
            dims = (-1, -1, 0, *[-1] * (len(batches) - 3))
            gradients, values = torch.func.vmap(both, dims)(*batches)
            by_source, _ = torch.func.vmap(both, (-1, *[None] * (len(batches) - 1)))(batches[0], *arguments[1:])
        assert_close(value, value64, torch.float64)
        assert_close(gradient, gradient64, torch.float64)
        for k, (of_entry, entry) in enumerate(entries):
            assert_close(values[k], entry, torch.float64, "vmap")
            assert_close(gradients[k], of_entry, torch.float64, "vmap(grad)")
            assert_close(by_source[k], shared[k][0], torch.float64, "vmap(grad) by the source")


@backends
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_compile(backend, device, reduction):
    """Dynamo and AOTAutograd see one graph; what Inductor makes of it would be seconds more."""
    case = pairs_cases.ALL[0]
    tensors = to(case.make(generator(case.name)), device, torch.float32)
    leaf, target = tensors["quantiles"].requires_grad_(), tensors["target_quantiles"]
    weights = torch.rand(case.rows, device=device)

    def f(quantiles):
        return case.loss(quantiles, target, weights=weights, reduction=reduction).sum()

    with fastloss.backend(backend):
        value, plain = torch.compile(f, fullgraph=True, backend="aot_eager")(leaf), f(leaf)
    assert_close(value, plain.double(), torch.float32)
    for actual, wanted in zip(torch.autograd.grad(value, leaf), torch.autograd.grad(plain, leaf), strict=True):
        assert_close(actual, wanted.double(), torch.float32)


@backends
@one_of_each
def test_autocast(case, backend, device):
    tensors = to(case.make(generator(case.name)), device, torch.bfloat16)
    value64, gradient64 = expected(case, tensors)
    for name in (backend, "reference"):
        with torch.autocast(device, torch.bfloat16), fastloss.backend(name):
            value, gradient = compute(case, tensors)
        assert value.dtype == torch.float32
        assert gradient.dtype == torch.bfloat16
        assert_close(value, value64, torch.float32)
        assert_close(gradient, gradient64, torch.bfloat16, terms=pulled(tensors, case.kappa, case.loss, 1))


@backends
@one_of_each
def test_operator_passes_opcheck(case, backend, device):
    tensors = to(case.make(generator(case.name)), device, torch.float32)
    weights = torch.rand(case.rows, device=device)
    with fastloss.backend(backend):
        _, call = case.loss.resolve((), {**tensors, **case.options, "weights": weights})
    assert not isinstance(call, str), call
    operator = getattr(torch.ops, "fastloss_triton" if backend == "triton" else "fastloss").outer
    for reduce in (True, False):
        for wanted in (True, False):
            arguments = (call.source, *call.operands._replace(reduce=reduce), wanted)
            torch.library.opcheck(operator, arguments, test_utils=("test_schema", "test_faketensor"))


@backends
@one_of_each
def test_special_values(case, backend, device):
    """Infinities and NaN are where torch has them, and stay in their rows."""
    tensors = to(case.make(generator(case.name)), device, torch.float32)
    for name in ("quantiles", "target_quantiles"):
        for k, special in enumerate((math.nan, math.inf, -math.inf)):
            x = tensors[name].clone()
            x[k, 3] = special
            arguments = {**tensors, name: x}
            for reduction in ("none", "mean"):
                value64, gradient64 = expected(case, arguments, reduction=reduction)
                with fastloss.backend(backend):
                    value, gradient = compute(case, arguments, reduction=reduction)
                assert_close(value, value64, torch.float32, f"{name} {special}")
                terms = pulled(tensors, case.kappa, case.loss, 1)
                assert_close(gradient, gradient64, torch.float32, f"gradient, {name} {special}", terms)


@pytest.mark.parametrize("backend", ["auto", "reference", *(name for name, device in BACKENDS if device == "cpu")])
def test_errors(backend):
    q, t, tau = torch.zeros(4, 3), torch.zeros(4, 5), torch.rand(4, 3)
    with fastloss.backend(backend):
        for arguments, options in (
            ((q, t[:1], tau), {}),  # nothing broadcasts: (4, 3) and (4, 1, 5) would be a silent mistake
            ((q, t[:, None], tau), {}),
            ((q, t, tau[:, :2]), {}),
            ((q, t, tau[:1]), {}),
            ((q, t, tau), {"kappa": -1.0}),
            ((q, t, tau), {"kappa": math.inf}),
            ((q, t, tau), {"kappa": math.nan}),
            ((q, t, tau), {"reduction": "average"}),
            ((q, t, tau), {"reduction": "sum", "normalizer": 3.0}),
        ):
            with pytest.raises(ValueError):  # noqa: PT011
                rl.quantile_huber_loss(*arguments, **options)
            with pytest.raises(ValueError):  # noqa: PT011
                rl.iqn_loss(*arguments, **options)
        if backend in ("auto", "reference"):
            assert rl.quantile_huber_loss(q[:0], t[:0], reduction="none").shape == (0,)


@backends
def test_what_is_left_to_the_reference(backend, device):
    q, t = torch.randn(4, 3, device=device), torch.randn(4, 5, device=device)
    weights = torch.rand(4, device=device, requires_grad=True)
    loss = rl.quantile_huber_loss(q, t, weights=weights)
    assert_close(
        *torch.autograd.grad(loss, weights), rl.quantile_huber_loss(q, t, reduction="none").double() / 4, torch.float32
    )
    assert "require a gradient" in str(fastloss.explain(rl.quantile_huber_loss, q, t, weights=weights))
    with fastloss.backend(backend), pytest.raises(fastloss.BackendError, match="require a gradient"):
        rl.quantile_huber_loss(q, t, weights=weights)


def test_modules():
    q, t, tau = torch.randn(4, 3), torch.randn(4, 5), torch.rand(4, 3)
    weights = torch.rand(4)
    assert fastloss.QuantileHuberLoss(kappa=0.5)(q, t, weights=weights) == rl.quantile_huber_loss(
        q, t, kappa=0.5, weights=weights
    )
    assert fastloss.IQNLoss(kappa=0.5)(q, t, tau) == rl.iqn_loss(q, t, tau, kappa=0.5)


@pytest.mark.skipif(("cpu", "cpu") not in BACKENDS, reason="no CPU kernels")
def test_the_operator_refuses_what_does_not_fit():
    source, target, tau, factors = torch.randn(4, 3), torch.randn(4, 5), torch.rand(3), torch.rand(4)
    how = (source, target, [tau], factors, "quantile_huber_loss", [1.0], 1.0, True, True)
    assert torch.ops.fastloss.outer(*how)[0].isfinite()
    for change, message in (
        ({1: target[:3]}, "do not fit"),
        ({2: [tau[:2]]}, "do not fit"),
        ({2: []}, "wrong number of operands"),
        ({3: factors.double()}, "row_factor"),
        ({3: factors[1:]}, "row_factor"),
        ({4: "unheard_of"}, "no such loss"),
        ({5: []}, "wrong number of parameters"),
    ):
        with pytest.raises(RuntimeError, match=message):
            torch.ops.fastloss.outer(*(change.get(k, x) for k, x in enumerate(how)))


MEMORY = """
import sys, torch, fastloss
def field(name):
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) << 10 for line in file if line.startswith(name))
rows, count = 256, 200
target, x = torch.randn(rows, count), torch.randn(rows, count, requires_grad=True)
def step(rows): torch.autograd.grad(fastloss.rl.quantile_huber_loss(x[:rows], target[:rows]), x)
for backend in ("cpu", "reference"):
    with fastloss.backend(backend):
        step(2)
        with open("/proc/self/clear_refs", "w") as file: file.write("5")
        before = field("VmRSS")
        step(rows)
        print((field("VmHWM") - before) / (rows * count * count * 4))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.skipif(("cpu", "cpu") not in BACKENDS, reason="no CPU kernels")
def test_the_pairs_are_never_stored():
    result = subprocess.run([sys.executable, "-c", MEMORY], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    ours, reference = map(float, result.stdout.split())
    assert ours < 0.1  # of the memory of the pairs, 41 MB
    assert reference > 1.5, "the measurement does not see torch's own buffers"
