"""What only the losses over all pairs of two sets of numbers have: published vectors, sizes, special values."""

from __future__ import annotations

import dataclasses
import math
import subprocess
import sys

import pytest
import torch
from cases import FUSED, one_of_each
from support import (
    BACKENDS,
    assert_as_reference,
    assert_close,
    compute,
    each_backend,
    expected,
    generator,
    magnitudes,
    to,
)

import fastloss
from fastloss import rl
from fastloss.core.arguments import Refused

CASES = [case for case in FUSED if case.skeleton == "outer"]
every_case = pytest.mark.parametrize("case", CASES, ids=str)
one_of_each_loss = pytest.mark.parametrize("case", one_of_each(CASES), ids=str)
# levels of each row, kappa 1; for other sizes
OF_ROWS = dataclasses.replace(
    next(case for case in CASES if "rows of two dimensions" in case.variant), variant="of any size", options={}
)


@pytest.mark.parametrize("backend", ["reference", *(name for name, device in BACKENDS if device == "cpu")])
def test_published_vectors_of_rlax(backend):
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
@each_backend
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
def test_sizes_of_tiles(backend, device, rows, sources, targets):
    made = OF_ROWS.make(generator(f"{rows} {sources} {targets}"), (rows, sources, targets), torch.float32, device)
    for reduction in ("mean", "none"):
        assert_as_reference(OF_ROWS, made, backend, reduction, torch.float32)


@each_backend
def test_sizes_with_one_level(backend, device):
    """A level for all sources has the stride 0, and fills the last tile of the CPU's kernels to its end: one too many
    is behind them all, for AddressSanitizer to see."""
    made = OF_ROWS.make(generator("one level"), (2, 1024, 3))
    level = made["tau"].flatten()[0].to(device, torch.float32).expand(1024)
    assert level.stride() == (0,)
    source, target = (made[name].to(device, torch.float32) for name in ("quantiles", "target_quantiles"))
    with fastloss.backend(backend):
        loss = rl.quantile_huber_loss(source, target, level)
    with fastloss.backend("reference"):
        expected = rl.quantile_huber_loss(source.double(), target.double(), level.double())
    assert_close(loss, expected, torch.float32)


@each_backend
@one_of_each_loss
@pytest.mark.parametrize("reduction", ["none", "mean"])
def test_derivatives_of_weighted_rows(case, backend, device, reduction):
    made = case.make(generator(str(case)), device=device)
    rest = {name: x for name, x in made.items() if name != "quantiles"}
    weights = torch.rand(made["quantiles"].shape[:-1], dtype=torch.float64, device=device)

    def f(x):
        return case.loss(x, **rest, **case.options, weights=weights, reduction=reduction)

    leaf = made["quantiles"].requires_grad_()
    with fastloss.backend(backend):
        assert torch.autograd.gradcheck(f, leaf, fast_mode=True)
        assert torch.autograd.gradgradcheck(f, leaf, fast_mode=True)


@each_backend
@pytest.mark.parametrize("case", [case for case in CASES if case.batched], ids=str)
def test_targets_that_all_rows_share(case, backend, device):
    for dtype in (torch.float32, torch.bfloat16, torch.float64):
        tensors = case.make(generator(str(case)), dtype=dtype, device=device)
        target = tensors["target_quantiles"]
        shared = {**tensors, "target_quantiles": target[:1].expand(target.shape)}
        copied = {name: x.contiguous() for name, x in shared.items()}
        with fastloss.backend(backend):
            (value, gradients), (wanted, by_copy) = (compute(case, x, "mean") for x in (shared, copied))
        assert torch.equal(value, wanted)
        assert torch.equal(gradients["quantiles"], by_copy["quantiles"])


@each_backend
def test_mixed_dtypes_of_quantiles(backend, device):
    case = CASES[1]
    made = case.make(generator(str(case)))
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
        value64, gradients64 = expected(case, tensors, "mean")
        for name in (backend, "reference"):
            with fastloss.backend(name):
                value, gradients = compute(case, tensors, "mean")
            assert value.dtype == result
            assert gradients["quantiles"].dtype == dtype
            assert_close(value, value64, result)
            assert_close(gradients["quantiles"], gradients64["quantiles"], dtype)


@each_backend
@every_case
def test_vmap_over_any_dimension(case, backend, device):
    tensors = case.make(generator(str(case)), device=device)
    weights = torch.rand(tensors["quantiles"].shape[:-1], dtype=torch.float64, device=device)
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


@each_backend
@one_of_each_loss
def test_outer_operator_passes_opcheck(case, backend, device):
    tensors = case.make(generator(str(case)), dtype=torch.float32, device=device)
    weights = torch.rand(tensors["quantiles"].shape[:-1], device=device)
    with fastloss.backend(backend):
        _, call = case.loss.resolve((), {**tensors, **case.options, "weights": weights})
    assert not isinstance(call, Refused), call
    operator = getattr(torch.ops, "fastloss_triton" if backend == "triton" else "fastloss").outer
    for reduce in (True, False):
        for wanted in (True, False):
            arguments = (call.source, *call.operands._replace(reduce=reduce), wanted)
            torch.library.opcheck(operator, arguments, test_utils=("test_schema", "test_faketensor"))


@each_backend
@one_of_each_loss
def test_special_values_stay_in_their_rows(case, backend, device):
    """Infinities and NaN are where torch has them, and stay in their rows."""
    tensors = case.make(generator(str(case)), dtype=torch.float32, device=device)
    for name in ("quantiles", "target_quantiles"):
        for k, special in enumerate((math.nan, math.inf, -math.inf)):
            x = tensors[name].clone()
            x[k, 3] = special
            arguments = {**tensors, name: x}
            rows = x.shape[:-1]
            for reduction in ("none", "mean"):
                value64, gradients64 = expected(case, arguments, reduction)
                with fastloss.backend(backend):
                    value, gradients = compute(case, arguments, reduction)
                assert_close(value, value64, torch.float32, f"{name} {special}")
                _, terms = magnitudes(case, tensors, "none", torch.ones(rows), torch.float32)
                for of, gradient in gradients.items():
                    what = f"gradient of {of}, {name} {special}"
                    assert_close(gradient, gradients64[of], torch.float32, what, terms[of])


@pytest.mark.parametrize("backend", ["auto", "reference", *(name for name, device in BACKENDS if device == "cpu")])
def test_errors_of_quantile_losses(backend):
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


@each_backend
def test_weights_that_need_a_gradient_are_left_to_the_reference(backend, device):
    q, t = torch.randn(4, 3, device=device), torch.randn(4, 5, device=device)
    weights = torch.rand(4, device=device, requires_grad=True)
    loss = rl.quantile_huber_loss(q, t, weights=weights)
    assert_close(
        *torch.autograd.grad(loss, weights), rl.quantile_huber_loss(q, t, reduction="none").double() / 4, torch.float32
    )
    assert "require a gradient" in str(fastloss.explain(rl.quantile_huber_loss, q, t, weights=weights))
    with fastloss.backend(backend), pytest.raises(fastloss.BackendError, match="require a gradient"):
        rl.quantile_huber_loss(q, t, weights=weights)


def test_modules_of_quantile_losses():
    q, t, tau = torch.randn(4, 3), torch.randn(4, 5), torch.rand(4, 3)
    weights = torch.rand(4)
    assert fastloss.QuantileHuberLoss(kappa=0.5)(q, t, weights=weights) == rl.quantile_huber_loss(
        q, t, kappa=0.5, weights=weights
    )
    assert fastloss.IQNLoss(kappa=0.5)(q, t, tau) == rl.iqn_loss(q, t, tau, kappa=0.5)


@pytest.mark.skipif(("cpu", "cpu") not in BACKENDS, reason="no CPU kernels")
def test_the_outer_operator_refuses_what_does_not_fit():
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
