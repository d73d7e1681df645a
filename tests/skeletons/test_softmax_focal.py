"""softmax_focal_loss where its formula has poles and limits; the laws of the case table are in laws/."""

from __future__ import annotations

import pytest
import torch
from support import BACKENDS, generator, value_and_grad

import fastloss

INF, NAN = float("inf"), float("nan")
backends = pytest.mark.parametrize(("backend", "device"), [("reference", "cpu"), *BACKENDS])


@backends
@pytest.mark.parametrize("gamma", [0.3, 1.0, 2.0])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_a_certain_row_has_no_loss_and_no_gradient(dtype, gamma, backend, device):
    """(1 - p)^gamma has an infinite derivative at p = 1 for gamma < 1; the loss has not."""
    x = torch.tensor([[60000.0, -60000.0, 0.0], [1000.0, 0.0, 0.0]], device=device).to(dtype)
    y = torch.zeros(2, dtype=torch.int64, device=device)
    with fastloss.backend(backend):
        value, grad = value_and_grad(fastloss.softmax_focal_loss, (x, y), {"gamma": gamma, "reduction": "sum"})
    assert value == 0
    assert (grad == 0).all()


@backends
@pytest.mark.parametrize("gamma", [0.5, 2.0])
def test_an_impossible_target_and_classes_taken_out(gamma, backend, device):
    x = torch.tensor([[-INF, 1.0, 1.0], [1.0, 1.0, -INF]], device=device)
    y = torch.zeros(2, dtype=torch.int64, device=device)
    with fastloss.backend(backend):
        rows, grad = value_and_grad(fastloss.softmax_focal_loss, (x, y), {"gamma": gamma, "reduction": "none"})
    half = 0.5**gamma
    slope = half + gamma * 0.5 ** (gamma - 1) * 0.5 * torch.tensor(2.0).log().item()
    assert rows[0] == INF
    assert rows[1].item() == pytest.approx(half * 0.6931472)
    expected = torch.tensor([[-1.0, 0.5, 0.5], [-slope / 2, slope / 2, 0.0]])
    torch.testing.assert_close(grad.cpu(), expected)


@backends
@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0])
def test_alpha_0_of_an_impossible_target(gamma, backend, device):
    """0 * inf, which torch's cross-entropy has too."""
    x, y = torch.tensor([[-INF, 1.0, 1.0]], device=device), torch.zeros(1, dtype=torch.int64, device=device)
    options = {"alpha": torch.tensor([0.0, 1.0, 1.0], device=device), "gamma": gamma, "reduction": "sum"}
    with fastloss.backend(backend):
        value, grad = value_and_grad(fastloss.softmax_focal_loss, (x, y), options)
    assert value.isnan()
    assert (grad == 0).all()


@pytest.mark.parametrize(("backend", "device"), BACKENDS)
def test_ignored_and_undefined_rows(backend, device):
    x = torch.tensor([[NAN, 1.0], [NAN, 1.0], [1.0, 2.0]], device=device)
    y = torch.tensor([-100, 0, 1], device=device)
    with fastloss.backend(backend):
        rows, grad = value_and_grad(fastloss.softmax_focal_loss, (x, y), {"reduction": "none"})
    assert rows[0] == 0
    assert (grad[0] == 0).all()
    assert rows[1].isnan()
    assert grad[1].isnan().all()
    assert rows[2].isfinite()


@backends
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_gamma_0_is_cross_entropy(reduction, backend, device):
    random = generator("gamma 0")
    x, w = (torch.randn(s, generator=random, dtype=torch.float64).to(device) for s in [(6, 9), (9,)])
    y = torch.tensor([0, 8, -100, 3, 3, 1], device=device)
    with fastloss.backend(backend):
        focal = value_and_grad(
            fastloss.softmax_focal_loss, (x, y), {"alpha": w.abs(), "gamma": 0, "reduction": reduction}
        )
        plain = value_and_grad(fastloss.cross_entropy, (x, y), {"weight": w.abs(), "reduction": reduction})
    torch.testing.assert_close(focal, plain, rtol=1e-13, atol=1e-13)


def test_errors_and_module():
    x, y = torch.randn(200, 40), torch.randint(40, (200,))
    with pytest.raises(ValueError, match="gamma must not be negative"):
        fastloss.softmax_focal_loss(x, y, gamma=-1.0)
    with pytest.raises(ValueError, match="alpha is the weight of each class"):
        fastloss.softmax_focal_loss(x, y, 0.25)
    alpha = torch.rand(40)
    module = fastloss.nn.SoftmaxFocalLoss(alpha, 1.5, reduction="sum", label_smoothing=0.1)
    assert torch.equal(module.state_dict()["alpha"], alpha)
    expected = fastloss.softmax_focal_loss(x, y, alpha, 1.5, reduction="sum", label_smoothing=0.1)
    assert torch.equal(module(x, y), expected)
    assert "label smoothing" in fastloss.explain(module, x, y).reason


@pytest.mark.parametrize(("backend", "device"), BACKENDS)
@pytest.mark.parametrize("most", [-88.72, -443.6, -1000.0])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_a_row_that_begins_with_nothing(most, dtype, backend, device):
    """2048 times -inf: a chunk of the CPU's kernels that has no maximum."""
    logits = torch.full((2, 2049), -float("inf"), dtype=dtype, device=device)
    logits[:, -1] = most
    logits.requires_grad_()
    with fastloss.backend(backend):
        loss = fastloss.softmax_focal_loss(logits, torch.full((2,), 2048, device=device), reduction="sum")
    (gradient,) = torch.autograd.grad(loss, logits)
    assert loss == 0
    assert (gradient == 0).all()
