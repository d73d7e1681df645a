"""The losses of regression, binary labels and likelihoods against others' implementations and closed forms, at points
where implementations go wrong. Drop-ins for torch are in test_pointwise_drop_ins.py."""

from __future__ import annotations

import importlib
import math

import pytest
import torch
from support import BACKENDS, assert_close, generator
from torch import Tensor

import fastloss

backends = pytest.mark.parametrize(("backend", "device"), [*BACKENDS, ("reference", "cpu")])
INF, NAN = float("inf"), float("nan")


def normal(name: str, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=generator(name), dtype=torch.float64)


def other(module: str, name: str):
    """A function of a package that may be missing, or, as torchvision beside another build of torch, not load."""
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, RuntimeError) as error:
        pytest.skip(f"{module} cannot be imported: {error}")


# ------------------------------------------------------------------------------------------ others' implementations


@backends
@pytest.mark.parametrize("tau", [0.0, 0.1, 0.5, 0.9, 1.0])
def test_quantile_loss_is_that_of_scikit_learn(tau, backend, device):
    mean_pinball_loss = other("sklearn.metrics", "mean_pinball_loss")
    x, t = normal("x", 501), normal("t", 501)
    with fastloss.backend(backend):
        loss = fastloss.quantile_loss(x.to(device), t.to(device), tau)
    assert loss.item() == pytest.approx(mean_pinball_loss(t.numpy(), x.numpy(), alpha=tau), rel=1e-12)


@backends
def test_levels_are_those_of_scikit_learn(backend, device):
    mean_pinball_loss = other("sklearn.metrics", "mean_pinball_loss")
    x, t, tau = normal("x", 77, 3), normal("t", 77), torch.tensor([0.9, 0.05, 0.5], dtype=torch.float64)
    expected = sum(mean_pinball_loss(t.numpy(), x[:, q].numpy(), alpha=tau[q].item()) for q in range(3)) / 3
    with fastloss.backend(backend):
        loss = fastloss.quantile_loss(x.to(device), t.to(device), tau.to(device))
    assert loss.item() == pytest.approx(expected, rel=1e-12)


@backends
def test_hinge_loss_is_that_of_scikit_learn(backend, device):
    hinge_loss = other("sklearn.metrics", "hinge_loss")
    x, t = normal("x", 501), 2 * torch.randint(2, (501,), generator=generator("t")) - 1
    with fastloss.backend(backend):
        loss = fastloss.hinge_loss(x.to(device), t.to(device))
    assert loss.item() == pytest.approx(hinge_loss(t.numpy(), x.numpy()), rel=1e-12)


@backends
def test_log_cosh_loss_is_that_of_optax(backend, device):
    log_cosh = other("optax", "log_cosh")
    x, t = 10 * normal("x", 501).float(), normal("t", 501).float()
    with fastloss.backend(backend):
        losses = fastloss.log_cosh_loss(x.to(device), t.to(device), reduction="none")
    torch.testing.assert_close(
        losses.cpu(), torch.tensor(log_cosh(x.numpy(), t.numpy()).tolist()), rtol=1e-5, atol=2e-6
    )


@backends
@pytest.mark.parametrize("alpha", [0.25, 0.8])
@pytest.mark.parametrize("gamma", [0.0, 2.0, 1.5])
def test_focal_loss_is_that_of_optax(alpha, gamma, backend, device):
    sigmoid_focal_loss = other("optax", "sigmoid_focal_loss")
    x, t = 5 * normal("x", 501).float(), torch.randint(2, (501,), generator=generator("t")).float()
    with fastloss.backend(backend):
        losses = fastloss.sigmoid_focal_loss(x.to(device), t.to(device), alpha, gamma)
    expected = torch.tensor(sigmoid_focal_loss(x.numpy(), t.numpy(), alpha=alpha, gamma=gamma).tolist())
    torch.testing.assert_close(losses.cpu(), expected, rtol=1e-4, atol=1e-6)


def test_focal_loss_with_a_weight_of_each_class_is_that_of_each_class() -> None:
    g = generator("focal classes")
    x, t, alpha = torch.randn(6, 3, generator=g), torch.rand(6, 3, generator=g), torch.rand(3, generator=g)
    whole = fastloss.sigmoid_focal_loss(x, t, alpha)
    for k, of_class in enumerate(alpha.tolist()):
        torch.testing.assert_close(whole[:, k], fastloss.sigmoid_focal_loss(x[:, k], t[:, k], of_class))
    module = fastloss.SigmoidFocalLoss(alpha, reduction="sum")
    torch.testing.assert_close(module(x, t), whole.sum())
    for wrong, message in ((alpha + 1, "must be in"), (torch.full((3,), -1.0), "must be in"), (alpha[:2], "broadcast")):
        with pytest.raises(ValueError, match=message):
            fastloss.sigmoid_focal_loss(x, t, wrong)


def test_smoothed_binary_labels_are_a_mixture_with_coins() -> None:
    g = generator("smoothed labels")
    x, t = 3 * torch.randn(300, 300, generator=g), torch.rand(300, 300, generator=g).round()
    bce = fastloss.binary_cross_entropy_with_logits
    coins = (bce(x, torch.zeros_like(x)) + bce(x, torch.ones_like(x))) / 2
    torch.testing.assert_close(bce(x, t, label_smoothing=0.3), 0.7 * bce(x, t) + 0.3 * coins)
    assert fastloss.explain(bce, x, t, label_smoothing=0.3).backend == fastloss.explain(bce, x, t).backend
    for size in (4, 300):
        module = fastloss.BCEWithLogitsLoss(label_smoothing=0.3)
        torch.testing.assert_close(module(x[:size], t[:size]), bce(x[:size], t[:size], label_smoothing=0.3))
        with pytest.raises(ValueError, match="label_smoothing must be in"):
            bce(x[:size], t[:size], label_smoothing=1.5)


@pytest.mark.parametrize("alpha", [0.25, -1, 1])
@pytest.mark.parametrize("gamma", [0.0, 2.0, 3.0])
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_focal_loss_is_that_of_torchvision(alpha, gamma, reduction):
    sigmoid_focal_loss = other("torchvision.ops", "sigmoid_focal_loss")
    x, t = 3 * normal("x", 5000), torch.rand(5000, generator=generator("t"), dtype=torch.float64)
    ours = fastloss.sigmoid_focal_loss(x, t, alpha, gamma, reduction)
    assert_close(ours, sigmoid_focal_loss(x, t, alpha, gamma, reduction), torch.float64)


@backends
def test_focal_loss_of_known_probabilities(backend, device):
    """(1 - p)^2 * -log(p) for p = 0.9 and 0.6, and the same of a negative, worked out by hand; alpha 0.25."""
    x = torch.tensor([0.9, 0.6, 0.9], dtype=torch.float64, device=device).logit()
    t = torch.tensor([1.0, 1.0, 0.0], dtype=torch.float64, device=device)
    with fastloss.backend(backend):
        losses = fastloss.sigmoid_focal_loss(x, t)
    expected = [0.25 * 0.01 * -math.log(0.9), 0.25 * 0.16 * -math.log(0.6), 0.75 * 0.81 * -math.log(0.1)]
    assert losses.tolist() == pytest.approx(expected, rel=1e-12)


@backends
def test_likelihoods_are_those_of_torch_distributions(backend, device):
    x, t, s = normal("x", 501).to(device), normal("t", 501).to(device), normal("s", 501).exp().to(device)
    counts = torch.randint(2, 40, (501,), generator=generator("counts")).double().to(device)
    d = torch.distributions
    with fastloss.backend(backend):
        gaussian = fastloss.gaussian_nll_loss(x, t, s**2, full=True, reduction="none")
        laplace = fastloss.laplace_nll_loss(x, t, s, full=True, reduction="none")
        poisson = fastloss.poisson_nll_loss(x, counts, reduction="none")
    assert_close(gaussian, -d.Normal(x, s).log_prob(t), torch.float64)
    assert_close(laplace, -d.Laplace(x, s).log_prob(t), torch.float64)
    assert_close(poisson, -d.Poisson(x.exp()).log_prob(counts) - torch.lgamma(counts + 1), torch.float64)


@backends
@pytest.mark.filterwarnings("ignore:reduction")
def test_divergence_is_that_of_torch_distributions(backend, device):
    p, q = normal("p", 33, 10).log_softmax(-1).to(device), normal("q", 33, 10).log_softmax(-1).to(device)
    expected = torch.distributions.kl_divergence(*(torch.distributions.Categorical(logits=z) for z in (p, q))).mean()
    with fastloss.backend(backend):
        assert_close(fastloss.kl_div(q, p.exp(), reduction="batchmean"), expected, torch.float64)
        assert_close(fastloss.kl_div(q, p, reduction="batchmean", log_target=True), expected, torch.float64)


@backends
@pytest.mark.parametrize("tau", [0.2, 0.5, 0.9])
def test_minimisers(tau, backend, device):
    """The constant with the least loss is the quantile, and the root of the expectile's first-order condition."""
    t = normal("t", 1001).to(device)
    at_quantile = t.quantile(tau).expand_as(t).clone().requires_grad_()
    low, high = t.min(), t.max()
    for _ in range(100):
        middle = (low + high) / 2
        pull = abs(tau - (t < middle).double()) * (t - middle)
        low, high = (middle, high) if pull.sum() > 0 else (low, middle)
    at_expectile = middle.expand_as(t).clone().requires_grad_()
    with fastloss.backend(backend):
        (slope,) = torch.autograd.grad(fastloss.quantile_loss(at_quantile, t, tau), at_quantile)
        assert abs(slope.sum().item()) <= 1 / 1001 + 1e-12
        (slope,) = torch.autograd.grad(fastloss.expectile_loss(at_expectile, t, tau), at_expectile)
        assert abs(slope.sum().item()) <= 1e-12


# ------------------------------------------------------------------------------------------ identities


@backends
def test_relatives(backend, device):
    x, t = normal("x", 501).to(device), normal("t", 501).to(device)
    labels = (t > 0).double()
    with fastloss.backend(backend):
        f = fastloss
        assert_close(2 * f.quantile_loss(x, t, 0.5), f.l1_loss(x, t), torch.float64)
        assert_close(2 * f.expectile_loss(x, t, 0.5), f.mse_loss(x, t), torch.float64)
        assert_close(f.huber_loss(x, t, delta=0.3), 0.3 * f.smooth_l1_loss(x, t, beta=0.3), torch.float64)
        assert_close(f.smooth_l1_loss(x, t, beta=0.0), f.l1_loss(x, t), torch.float64)
        entropy = f.binary_cross_entropy_with_logits(x, labels)
        assert_close(f.sigmoid_focal_loss(x, labels, -1, 0.0, "mean"), entropy, torch.float64)
        assert_close(f.soft_margin_loss(x, 2 * labels - 1), entropy, torch.float64)
        assert_close(f.binary_cross_entropy(x.sigmoid(), labels), entropy, torch.float64)


# ------------------------------------------------------------------------------------------ extremes


@backends
@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0, 2.5])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_focal_loss_of_large_logits(gamma, dtype, backend, device):
    sizes = torch.tensor([0.0, 5.0, 12.0, 30.0, 90.0, 200.0, 1000.0, 60000.0])
    x = torch.cat([sizes, -sizes, sizes, -sizes]).to(device, dtype).requires_grad_()
    t = torch.cat([torch.zeros(16), torch.ones(16)]).to(device, dtype)
    with fastloss.backend(backend):
        losses = fastloss.sigmoid_focal_loss(x, t, 0.25, gamma)
        (slope,) = torch.autograd.grad(losses.sum(), x)
    assert losses.isfinite().all() and slope.isfinite().all()
    certain = 0.75 * x[6:8].detach().double().cpu()  # a negative with a large logit: (1 - alpha) x, slope 1 - alpha
    assert_close(losses[6:8], certain, dtype)
    assert_close(slope[6:8], torch.full((2,), 0.75, dtype=torch.float64), dtype)


@backends
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_log_cosh_of_large_errors(dtype, backend, device):
    x = torch.tensor([1e4, -1e4, 100.0, 0.0], dtype=dtype, device=device, requires_grad=True)
    with fastloss.backend(backend):
        losses = fastloss.log_cosh_loss(x, torch.zeros_like(x), reduction="none")
        (slope,) = torch.autograd.grad(losses.sum(), x)
    sizes = x.detach().double().abs().cpu()
    assert_close(losses, (sizes - math.log(2)).clamp(min=0), dtype)
    assert slope.tolist() == [1.0, -1.0, 1.0, 0.0]


@backends
@pytest.mark.parametrize("error", [1e-6, 1e-4, 1e-3, 1e-2, 0.1, 0.99, 1.01, 5.0])
def test_log_cosh_is_accurate(error, backend, device):
    x = torch.tensor([error, -error], device=device)
    with fastloss.backend(backend):
        losses = fastloss.log_cosh_loss(x, torch.zeros_like(x), reduction="none")
    r = x.double()[0].item()
    expected = -0.5 * math.log1p(-(math.tanh(r) ** 2))
    assert losses.tolist() == pytest.approx([expected] * 2, rel=2e-6)


@backends
def test_gradients_at_ties_are_zero(backend, device):
    x = torch.zeros(5, device=device, requires_grad=True)
    t = torch.zeros(5, device=device)
    losses = {
        "l1": lambda: fastloss.l1_loss(x, t),
        "smooth l1": lambda: fastloss.smooth_l1_loss(x, t, beta=0.0),
        "quantile": lambda: fastloss.quantile_loss(x, t, 0.9),
        "expectile": lambda: fastloss.expectile_loss(x, t, 0.9),
        "log-cosh": lambda: fastloss.log_cosh_loss(x, t),
        "laplace": lambda: fastloss.laplace_nll_loss(x, t, 0.5),
        "hinge": lambda: fastloss.hinge_loss(x, t + 1, margin=0.0),
    }
    with fastloss.backend(backend):
        for name, loss in losses.items():
            (slope,) = torch.autograd.grad(loss(), x)
            assert slope.tolist() == [0.0] * 5, name


# ------------------------------------------------------------------------------------------ masks and normalizers

MASKED = {
    "quantile_loss": ({"tau": 0.3}, "input", "target"),
    "expectile_loss": ({"tau": 0.3}, "input", "target"),
    "log_cosh_loss": ({}, "input", "target"),
    "hinge_loss": ({"squared": True}, "input", "target"),
    "sigmoid_focal_loss": ({"gamma": 0.5}, "inputs", "targets"),
    "laplace_nll_loss": ({"scale": 0.7}, "input", "target"),
}


@backends
@pytest.mark.parametrize("name", MASKED)
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_everything_masked_out(name, reduction, backend, device):
    options, input, target = MASKED[name]
    x = torch.full((4, 9), NAN, device=device, requires_grad=True)
    mask = torch.zeros(4, 9, dtype=torch.bool, device=device)
    with fastloss.backend(backend):
        loss = getattr(fastloss, name)(
            **{input: x, target: torch.ones(4, 9, device=device)}, **options, reduction=reduction, mask=mask
        )
        (slope,) = torch.autograd.grad(loss.sum(), x)
    assert torch.equal(loss, torch.zeros_like(loss))
    assert torch.equal(slope, torch.zeros_like(slope))


@backends
@pytest.mark.parametrize("name", MASKED)
def test_mask_is_selection(name, backend, device):
    options, input, target = MASKED[name]
    x, t = normal("x", 30, 9).to(device), normal("t", 30, 9).sign().clamp(min=0).to(device)
    keep = torch.rand(30, 1, generator=generator("keep")).to(device) < 0.6
    keep[0] = True
    x[~keep[:, 0]] = NAN
    x.requires_grad_()
    function = getattr(fastloss, name)
    with fastloss.backend(backend):
        for reduction in ("mean", "sum"):
            loss = function(**{input: x, target: t}, **options, reduction=reduction, mask=keep)
            (slope,) = torch.autograd.grad(loss, x)
            kept = x.detach()[keep[:, 0]].requires_grad_()
            expected = function(**{input: kept, target: t[keep[:, 0]]}, **options, reduction=reduction)
            (expected_slope,) = torch.autograd.grad(expected, kept)
            assert_close(loss, expected, torch.float64)
            assert_close(slope[keep[:, 0]], expected_slope, torch.float64)
            assert not slope[~keep[:, 0]].any()


@backends
def test_normalizers(backend, device):
    x, t = normal("x", 30, 9).to(device), (normal("t", 30, 9) > 1).double().to(device)
    mask = (torch.rand(30, 9, generator=generator("mask")) < 0.5).to(device)
    with fastloss.backend(backend):

        def mean(normalizer, targets=t, mask=None):
            return fastloss.sigmoid_focal_loss(x, targets, reduction="mean", mask=mask, normalizer=normalizer)

        total = fastloss.sigmoid_focal_loss(x, t, reduction="sum")
        assert_close(mean(7.0), total / 7, torch.float64)
        assert_close(mean(torch.tensor(7, device=device)), total / 7, torch.float64)
        assert_close(mean("positives"), total / t.sum(), torch.float64)
        some = fastloss.sigmoid_focal_loss(x, t, reduction="sum", mask=mask)
        assert_close(mean("positives", mask=mask), some / (t * mask).sum(), torch.float64)
        nothing = torch.zeros_like(t)  # no positive: the sum, not a division by 0
        assert_close(
            mean("positives", nothing), fastloss.sigmoid_focal_loss(x, nothing, reduction="sum"), torch.float64
        )


# ------------------------------------------------------------------------------------------ crossing quantiles


@pytest.mark.parametrize("masked", [False, True])
def test_crossing_penalty(masked):
    tau = torch.tensor([0.9, 0.1, 0.5], dtype=torch.float64)  # ascending: columns 1, 2, 0
    x, t = normal("x", 20, 3), normal("t", 20)
    mask = torch.rand(20, 1, generator=generator("mask")) < 0.5 if masked else None
    losses = fastloss.quantile_loss(x, t, tau, crossing_penalty=2.0, reduction="none", mask=mask)
    expected = torch.maximum(tau * (t[:, None] - x), (tau - 1) * (t[:, None] - x))
    expected[:, 2] += 2 * (x[:, 1] - x[:, 2]).clamp(min=0)
    expected[:, 0] += 2 * (x[:, 2] - x[:, 0]).clamp(min=0)
    assert_close(losses, expected if mask is None else expected * mask, torch.float64)


def test_crossing_penalty_is_left_to_the_reference():
    x, t, tau = normal("x", 5000, 2), normal("t", 5000), torch.tensor([0.1, 0.9], dtype=torch.float64)
    assert fastloss.explain(fastloss.quantile_loss, x, t, tau).backend != "reference" or not BACKENDS
    assert fastloss.explain(fastloss.quantile_loss, x, t, tau, crossing_penalty=1.0).backend == "reference"


# ------------------------------------------------------------------------------------------ errors


def _bad_calls():
    x, t = torch.rand(6, 3), torch.rand(6, 3)
    f = fastloss
    return {
        "level above 1": lambda: f.quantile_loss(x, t, 1.1),
        "level NaN": lambda: f.quantile_loss(x, t, NAN),
        "level below 0": lambda: f.expectile_loss(x, t, -0.1),
        "levels of two dimensions": lambda: f.quantile_loss(x, t, torch.rand(6, 3)),
        "levels that do not fit": lambda: f.quantile_loss(x, t, torch.rand(2)),
        "target that does not fit": lambda: f.quantile_loss(x, t[:5], 0.5),
        "target with other levels": lambda: f.quantile_loss(x, t[:, :2], torch.rand(3)),
        "negative crossing penalty": lambda: f.quantile_loss(x, t, 0.5, crossing_penalty=-1.0),
        "shapes, log-cosh": lambda: f.log_cosh_loss(x, t[:, :1]),
        "shapes, hinge": lambda: f.hinge_loss(x, t[:, :1]),
        "shapes, focal": lambda: f.sigmoid_focal_loss(x, t[:, :1]),
        "shapes, laplace": lambda: f.laplace_nll_loss(x, t[:, :1], 1.0),
        "scale that does not fit": lambda: f.laplace_nll_loss(x, t, torch.rand(2)),
        "negative scale": lambda: f.laplace_nll_loss(x, t, -1.0),
        "negative eps": lambda: f.laplace_nll_loss(x, t, 1.0, eps=-1.0),
        "alpha": lambda: f.sigmoid_focal_loss(x, t, 1.5),
        "alpha below 0": lambda: f.sigmoid_focal_loss(x, t, -0.5),
        "gamma": lambda: f.sigmoid_focal_loss(x, t, gamma=-1.0),
        "unknown normalizer": lambda: f.sigmoid_focal_loss(x, t, reduction="mean", normalizer="negatives"),
        "normalizer without a mean": lambda: f.sigmoid_focal_loss(x, t, normalizer="positives"),
        "unknown reduction": lambda: f.log_cosh_loss(x, t, reduction="average"),
        "normalizer of a sum": lambda: f.log_cosh_loss(x, t, reduction="sum", normalizer=3.0),
    }


@pytest.mark.parametrize("backend", ["auto", "reference", *(name for name, device in BACKENDS if device == "cpu")])
@pytest.mark.parametrize("what", _bad_calls())
def test_value_errors(what, backend):
    with fastloss.backend(backend), pytest.raises(ValueError):  # noqa: PT011
        _bad_calls()[what]()


@pytest.mark.parametrize("backend", ["reference", *(name for name, device in BACKENDS if name == "cpu")])
def test_domains_in_tensors(backend):
    x, t = torch.rand(600, 3), torch.rand(600, 3)
    wrong = torch.rand(600, 3).masked_fill(torch.arange(1800).view(600, 3) == 1234, -0.5)
    calls = {
        "tau must be between 0 and 1": lambda: fastloss.quantile_loss(x, t, torch.tensor([0.1, 0.5, 1.5])),
        "var has negative": lambda: fastloss.gaussian_nll_loss(x, t, wrong),
        "scale has negative": lambda: fastloss.laplace_nll_loss(x, t, wrong),
        "between 0 and 1": lambda: fastloss.binary_cross_entropy(wrong, t),
        "should be between 0 and 1": lambda: fastloss.binary_cross_entropy(t, wrong),
    }
    with fastloss.backend(backend):
        for message, call in calls.items():
            with pytest.raises(
                RuntimeError if "0 and 1" in message and "tau" not in message else ValueError, match=message
            ):
                call()
