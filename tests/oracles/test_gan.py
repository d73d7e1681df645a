"""Penalties on derivatives, by the parameters of the model, against closed forms; and what a model may be."""

from __future__ import annotations

import math

import pytest
import torch
from support import assert_close, generator
from torch import Tensor

import fastloss
from fastloss import gan

PENALTIES = ("gradient_penalty", "r1_penalty", "r2_penalty")


def penalty(name: str, critic, samples: Tensor, **options) -> Tensor:
    more = (samples,) if name == "gradient_penalty" else ()
    return getattr(gan, name)(critic, samples, *more, **options)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_penalties_of_a_linear_critic(dtype: torch.dtype) -> None:
    """(|w| - 1)^2 and |w|^2 / 2, with the gradients 2 (|w| - 1) w / |w| and w, and the second derivatives."""
    random = generator("linear critic")
    w = torch.randn(6, generator=random, dtype=torch.float64).to(dtype).requires_grad_()
    x, y = (torch.randn(5, 6, generator=random, dtype=torch.float64).to(dtype) for _ in range(2))
    norm = w.detach().double().norm()
    unit = w.detach().double() / norm
    for one_sided in (False, True):
        value = gan.gradient_penalty(lambda x: x @ w, x, y, one_sided=one_sided)
        excess = (norm - 1).clamp(min=0) if one_sided else norm - 1
        (gradient,) = torch.autograd.grad(value, w, create_graph=True)
        assert_close(value, excess**2, dtype)
        assert_close(gradient, 2 * excess * unit, dtype, terms=2 * norm.item())
        if not one_sided:
            (third,) = torch.autograd.grad(gradient[0], w)
            outer = unit[0] * unit
            eye = torch.eye(6, dtype=torch.float64)[0]
            assert_close(third, 2 * outer + 2 * (norm - 1) / norm * (eye - outer), dtype, terms=2.0)
    for value in (gan.r1_penalty(lambda x: x @ w, x), gan.r2_penalty(lambda x: x @ w, y)):
        assert_close(value, norm**2 / 2, dtype)
        assert_close(torch.autograd.grad(value, w)[0], w.double(), dtype)


def test_r1_of_a_quadratic_critic_by_its_matrix() -> None:
    """D = x'Ax/2 with a symmetric A: R1 = E |Ax|^2 / 2, whose gradient by A's entries is A E xx', symmetrised."""
    random = generator("quadratic critic")
    a = torch.randn(4, 4, generator=random, dtype=torch.float64).requires_grad_()
    x = torch.randn(9, 4, generator=random, dtype=torch.float64)
    value = gan.r1_penalty(lambda x: torch.einsum("ni,ij,nj->n", x, a, x) / 2, x)
    (gradient,) = torch.autograd.grad(value, a)
    symmetric = (a + a.T).detach() / 2
    plain = symmetric @ (x.T @ x) / len(x)
    assert_close(value, (x @ symmetric).square().sum(1).mean() / 2, torch.float64)
    assert_close(gradient, (plain + plain.T) / 2, torch.float64)


def test_path_lengths_of_a_linear_generator() -> None:
    """|W y| / sqrt(pixels) by W, through the mean's share, too; and layers of latents."""
    random = generator("linear generator")
    w = torch.randn(5, 6, generator=random, dtype=torch.float64).requires_grad_()
    latents = torch.randn(7, 5, generator=random, dtype=torch.float64)
    noise = torch.randn(7, 6, generator=random, dtype=torch.float64)
    value, terms = gan.path_length_penalty(
        lambda x: x @ w, latents, mean_length=0.5, decay=0.1, noise=noise, return_terms=True
    )
    lengths = (noise @ w.T / math.sqrt(6)).norm(dim=1)
    mean = 0.45 + 0.1 * lengths.mean()
    exact = ((lengths - mean) ** 2).mean()
    assert_close(value, exact, torch.float64)
    assert_close(terms["mean_length"], mean, torch.float64)
    for a, b in zip(torch.autograd.grad(value, w), torch.autograd.grad(exact, w), strict=True):
        assert_close(a, b, torch.float64)
    layered = torch.randn(7, 3, 5, generator=random, dtype=torch.float64)
    value = gan.path_length_penalty(lambda x: x.sum(1) @ w, layered, decay=0.0, noise=noise)
    assert_close(value, (lengths**2).mean(), torch.float64)  # each layer has the same gradient


@pytest.mark.parametrize("name", PENALTIES)
def test_penalties_at_a_critic_that_sees_nothing(name: str) -> None:
    """Where the derivative is 0, or nothing depends on the samples, nothing is NaN."""
    w = torch.zeros(3, requires_grad=True)
    value = penalty(name, lambda x: x @ w, torch.ones(4, 3))
    value.backward()
    assert value == (1 if name == "gradient_penalty" else 0) and (w.grad == 0).all()
    value = penalty(name, lambda x: w.sum() + torch.zeros(len(x)), torch.ones(4, 3))
    assert value == (1 if name == "gradient_penalty" else 0)
    assert penalty(name, lambda x: x @ w, torch.ones(0, 3)) == 0


@pytest.mark.parametrize("name", PENALTIES)
def test_penalties_of_samples_with_a_graph(name: str) -> None:
    """The samples are constants, even a generator's; without gradients there is a value."""
    w = torch.randn(3, generator=generator(name)).requires_grad_()
    x = torch.randn(4, 3, generator=generator(name + "x")).requires_grad_()
    penalty(name, lambda x: x.square() @ w, 2 * x).backward()
    assert x.grad is None and w.grad.abs().sum() > 0
    with torch.no_grad():
        value = penalty(name, lambda x: x @ w, x)
    assert not value.requires_grad and value > 0


@pytest.mark.parametrize("name", PENALTIES)
def test_penalties_of_models_with_state_in_transforms_and_graphs(name: str) -> None:
    layer = torch.nn.utils.parametrizations.spectral_norm(torch.nn.Linear(3, 1))
    model = torch.nn.Sequential(torch.nn.BatchNorm1d(3), layer)
    x = torch.randn(6, 3, generator=generator(name))
    penalty(name, model, x).backward()
    assert layer.parametrizations.weight.original.grad.isfinite().all()
    critic = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 1))
    parameters = dict(critic.named_parameters())

    def of(parameters, x):
        return penalty(name, lambda x: torch.func.functional_call(critic, parameters, x), x)

    value = of(parameters, x)
    right = dict(zip(parameters, torch.autograd.grad(value, list(parameters.values()), allow_unused=True), strict=True))
    found = torch.func.grad(of)({key: p.detach() for key, p in parameters.items()}, x)
    for key, g in right.items():
        assert_close(found[key], torch.zeros_like(found[key]) if g is None else g, torch.float32, key, 1.0)
    torch._dynamo.reset()
    compiled = torch.compile(lambda x: penalty(name, critic, x, reduction="none"), fullgraph=True, backend="aot_eager")
    assert_close(compiled(x), penalty(name, critic, x, reduction="none"), torch.float32)


@pytest.mark.parametrize("name", PENALTIES)
def test_penalties_in_mixed_precision(name: str) -> None:
    """The critic runs as its caller lets it, in its own dtype; the norm is taken in float32."""
    critic = torch.nn.Linear(512, 1)
    x = torch.randn(4, 512, generator=generator(name))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = penalty(name, critic, x)
    assert value.dtype == torch.float32
    half = critic.bfloat16()
    value = penalty(name, half, x.bfloat16())
    norm = half.weight.double().norm()
    assert value.dtype == torch.bfloat16
    assert_close(value, (norm - 1) ** 2 if name == "gradient_penalty" else norm**2 / 2, torch.bfloat16)


@pytest.mark.parametrize("kind", ["minimax", "non_saturating", "hinge", "relativistic", "relativistic_average"])
def test_losses_of_certain_discriminators_are_finite(kind: str) -> None:
    """Logits beyond what an exponential holds: the losses are linear there, with gradients of 1 / N."""
    real = torch.tensor([1e4, -1e4], requires_grad=True)
    fake = torch.tensor([-1e4, 1e4], requires_grad=True)
    for loss in (gan.gan_d_loss(real, fake, kind=kind), gan.gan_g_loss(fake, real, kind=kind)):
        gradients = torch.autograd.grad(loss, [real, fake], allow_unused=True)
        assert loss.isfinite() and all(g is None or g.isfinite().all() for g in gradients)


def test_what_no_adversarial_loss_takes() -> None:
    x = torch.zeros(3)
    for call in (gan.gan_d_loss, gan.gan_g_loss):
        with pytest.raises(ValueError, match="no kind"):
            call(x, x, kind="other")
        with pytest.raises(ValueError, match="pairs"):
            call(x, torch.zeros(2), kind="relativistic")
    with pytest.raises(ValueError, match="give real"):
        gan.gan_g_loss(x, kind="relativistic_average")
    with pytest.raises(ValueError, match="one shape"):
        gan.gradient_penalty(lambda x: x, torch.zeros(3, 2), torch.zeros(2, 2))
    assert "binary_cross_entropy_with_logits by" in fastloss.explain(gan.gan_d_loss, x, x).reason
