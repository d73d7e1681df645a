"""VICReg: against the authors' formulas, written out; both products of the covariance; derivatives."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from support import assert_close, generator
from torch import Tensor

import fastloss


def _authors(x: Tensor, y: Tensor) -> Tensor:
    """main_vicreg.py of facebookresearch/vicreg, as lightly has it."""

    def spread(z: Tensor) -> Tensor:
        return F.relu(1 - torch.sqrt(z.var(0) + 0.0001)).mean()

    def off_diagonal(z: Tensor) -> Tensor:
        covariance = torch.cov(z.T).reshape(z.shape[1], z.shape[1])
        return covariance[~torch.eye(len(covariance), dtype=torch.bool)].pow(2).sum() / len(covariance)

    invariance = F.mse_loss(x, y)
    return 25 * invariance + 25 * (spread(x) + spread(y)) / 2 + off_diagonal(x) + off_diagonal(y)


@pytest.mark.parametrize("shape", [(2, 3), (7, 40), (40, 7), (20, 20), (9, 1)], ids=str)
def test_agrees_with_the_authors(shape):
    random = generator(f"vicreg {shape}")
    a, b = (torch.randn(shape, generator=random, dtype=torch.float64, requires_grad=True) for _ in range(2))
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        x, y = (z.detach().to(dtype).requires_grad_() for z in (a, b))
        wide = [z.detach().double().requires_grad_() for z in (x, y)]
        wanted = _authors(*wide)
        value = fastloss.vicreg_loss(x, y)
        assert value.dtype == dtype
        # the squares on the diagonal are subtracted again
        terms = sum(float(z.detach().var(0).square().sum()) / shape[1] for z in wide)
        assert_close(value, wanted, dtype, terms=terms)
        for gradient, expected in zip(
            torch.autograd.grad(value, (x, y)), torch.autograd.grad(wanted, wide), strict=True
        ):
            assert_close(gradient, expected, dtype, "gradient", terms=terms)


def test_weights_of_the_terms_and_module():
    random = generator("vicreg weights")
    a, b = (torch.randn(6, 5, generator=random, dtype=torch.float64) for _ in range(2))
    parts = [
        fastloss.vicreg_loss(a, b, **{"invariance": 0.0, "variance": 0.0, "covariance": 0.0, name: 1.0})
        for name in ("invariance", "variance", "covariance")
    ]
    assert_close(parts[0], F.mse_loss(a, b), torch.float64)
    module = fastloss.VICRegLoss(invariance=2.0, variance=3.0, covariance=4.0)
    assert_close(module(a, b), 2 * parts[0] + 3 * parts[1] + 4 * parts[2], torch.float64)


def test_derivatives_and_collapse():
    random = generator("vicreg derivatives")
    for shape in ((4, 6), (6, 4)):
        a, b = (torch.randn(shape, generator=random, dtype=torch.float64, requires_grad=True) for _ in range(2))
        assert torch.autograd.gradcheck(fastloss.vicreg_loss, (a, b), fast_mode=True)
        assert torch.autograd.gradgradcheck(fastloss.vicreg_loss, (a, b), fast_mode=True)
    z = torch.ones(5, 3, requires_grad=True)
    loss = fastloss.vicreg_loss(z, z)
    loss.backward()
    assert_close(loss.detach(), torch.tensor(25 * 0.99).double(), torch.float32)
    assert z.grad.isfinite().all()


def test_autocast_computes_in_float32():
    a, b = (torch.randn(32, 16, generator=generator(name)) for name in "ab")
    with torch.autocast("cpu", torch.bfloat16):
        value = fastloss.vicreg_loss(a, b)
        assert fastloss.vicreg_loss(a.bfloat16(), b.bfloat16()).dtype == torch.float32
    assert torch.equal(value, fastloss.vicreg_loss(a, b))


@pytest.mark.parametrize("shapes", [((3, 4), (3, 5)), ((1, 4), (1, 4)), ((4,), (4,)), ((2, 3, 4), (2, 3, 4))], ids=str)
def test_errors_of_self_supervised(shapes):
    with pytest.raises(ValueError, match="z_a and z_b"):
        fastloss.vicreg_loss(*(torch.zeros(shape) for shape in shapes))


def test_sinkhorn_assigns_as_much_to_every_prototype():
    scores = torch.randn(2, 40, 5, generator=generator("sinkhorn"), dtype=torch.float64)
    q = fastloss.sinkhorn(scores, epsilon=0.5, iterations=60)
    assert_close(q.sum(-1), torch.ones(2, 40, dtype=torch.float64), torch.float64)
    assert_close(q.sum(-2), torch.full((2, 5), 8.0, dtype=torch.float64), torch.float64, terms=8.0)
    # of the form diag(u) exp(S / epsilon) diag(v): in its logarithm, less S / epsilon, all 2 x 2 minors are 0
    rest = q.log() - scores / 0.5
    assert ((rest - rest[:, :1] - rest[:, :, :1] + rest[:, :1, :1]).abs() < 1e-9).all()
    assert fastloss.sinkhorn(1e4 * scores.float()).isfinite().all()  # whose exponentials are not
    for wrong in ({"epsilon": 0.0}, {"iterations": 0}):
        with pytest.raises(ValueError, match="epsilon must be positive"):
            fastloss.sinkhorn(scores, **wrong)
