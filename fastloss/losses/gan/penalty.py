"""Penalties on the derivative of a discriminator by its samples, or of a generator by its latents."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from fastloss.core.composite import composite, elements
from fastloss.core.dtypes import widened
from fastloss.core.input_gradients import input_gradient, norms
from fastloss.core.metrics import Metrics

__all__ = ["gradient_penalty", "path_length_penalty", "r1_penalty", "r2_penalty"]


def _gradients(critic: Callable[[Tensor], Tensor], samples: Tensor) -> Tensor:
    """(N, ...), of each sample's score by the sample, in float32 at least."""
    if not samples.dim() or not samples.is_floating_point():
        raise ValueError(f"samples must be floating-point, a batch of them, got {samples.dtype} {tuple(samples.shape)}")
    return input_gradient(critic, samples.detach())


@composite(calls_model=True)
def gradient_penalty(
    critic: Callable[[Tensor], Tensor],
    real: Tensor,
    fake: Tensor,
    *,
    target: float = 1.0,
    one_sided: bool = False,
    share: Tensor | None = None,
    reduction: str = "mean",
    return_terms: bool = False,
) -> Tensor | tuple[Tensor, Metrics]:
    r"""Penalty on the norm of a critic's gradient between real and fake samples, which keeps it near Lipschitz.

    At the points :math:`\hat x = u x + (1 - u)\tilde x` between real samples x and fakes,

    .. math::
        \ell = \bigl(\|\nabla_{\hat x} D(\hat x)\|_2 - \mathrm{target}\bigr)^2,
        \quad\text{one-sided: } \max\bigl(0, \|\nabla_{\hat x} D(\hat x)\|_2 - \mathrm{target}\bigr)^2.

    The samples are constants: gradients flow into the critic's parameters, by a second derivative. Usually times 10,
    beside the Wasserstein loss. A critic must not mix the samples of a batch: no batch normalisation.

    Args:
        critic: from samples to scores, one a sample or many.
        real: real samples.
        fake: generated samples.
        target: the norm that is wanted.
        one_sided: smaller norms cost nothing.
        share: u, of each sample. None: uniform in [0, 1), drawn here.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``, over the samples.
        return_terms: also return what is usually logged.

    Shape:
        - real, fake: (N, ...); share: (N,)
        - output: (N,) for ``"none"``, else ()

    Returns:
        The penalty, in the dtype of the samples; with ``return_terms``, (penalty, terms): ``gradient_norm``. Where a
        gradient is 0 the norm has no derivative, and its gradient is 0.

    Raises:
        ValueError: samples whose shapes differ, or a ``share`` that is not one of each.

    Source:
        Gulrajani et al. 2017 (WGAN-GP), arXiv:1704.00028. One-sided: Petzka et al. 2018, arXiv:1709.08894.

    Example:
        >>> weight = torch.tensor([3.0, 4.0])
        >>> gradient_penalty(lambda x: x @ weight, torch.rand(8, 2), torch.rand(8, 2)).item()  # (5 - 1)^2
        16.0
    """
    if real.shape != fake.shape or not real.dim():
        raise ValueError(f"real {tuple(real.shape)} and fake {tuple(fake.shape)} must be batches of one shape")
    if share is None:
        share = torch.rand(real.shape[0], dtype=widened(real)[0].dtype, device=real.device)
    elif share.shape != real.shape[:1]:
        raise ValueError(f"share must have the shape ({real.shape[0]},), got {tuple(share.shape)}")
    share = share.detach().reshape(-1, *[1] * (real.dim() - 1))
    first, last = (x.detach().to(share.dtype) for x in (fake, real))
    between = torch.lerp(first, last, share).to(real.dtype)
    norm = norms(_gradients(critic, between))
    excess = norm - target
    if one_sided:
        excess = excess.clamp(min=0)
    return elements(excess.square(), {"gradient_norm": norm})


@composite(calls_model=True)
def r1_penalty(critic: Callable[[Tensor], Tensor], real: Tensor, *, reduction: str = "mean") -> Tensor:
    r"""Zero-centred penalty on a discriminator's gradient at real samples.

    .. math:: \ell = \tfrac12 \|\nabla_x D(x)\|_2^2

    Times gamma (10 is usual), beside any loss of the discriminator. The samples are constants.

    Args:
        critic: from samples to scores, one a sample or many.
        real: real samples.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``, over the samples.

    Shape:
        - real: (N, ...)
        - output: (N,) for ``"none"``, else ()

    Returns:
        The penalty, in the dtype of the samples.

    Raises:
        ValueError: samples that are not floating-point.

    Source:
        Mescheder et al. 2018, arXiv:1801.04406.

    Example:
        >>> weight = torch.tensor([3.0, 4.0])
        >>> r1_penalty(lambda x: x @ weight, torch.rand(8, 2)).item()
        12.5
    """
    return elements(_gradients(critic, real).flatten(1).square().sum(1) / 2)


@composite(calls_model=True)
def r2_penalty(critic: Callable[[Tensor], Tensor], fake: Tensor, *, reduction: str = "mean") -> Tensor:
    r"""Zero-centred penalty on a discriminator's gradient at fake samples.

    .. math:: \ell = \tfrac12 \|\nabla_{\tilde x} D(\tilde x)\|_2^2

    Args:
        critic: from samples to scores, one a sample or many.
        fake: generated samples, constants.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``, over the samples.

    Shape:
        - fake: (N, ...)
        - output: (N,) for ``"none"``, else ()

    Returns:
        The penalty, in the dtype of the samples.

    Raises:
        ValueError: samples that are not floating-point.

    Source:
        Mescheder et al. 2018, arXiv:1801.04406. Beside R1 and a relativistic loss: Huang et al. 2025 (R3GAN),
        arXiv:2501.05441.

    Example:
        >>> weight = torch.tensor([3.0, 4.0])
        >>> r2_penalty(lambda x: x @ weight, torch.rand(8, 2)).item()
        12.5
    """
    return elements(_gradients(critic, fake).flatten(1).square().sum(1) / 2)


@composite(calls_model=True)
def path_length_penalty(
    generator: Callable[[Tensor], Tensor],
    latents: Tensor,
    *,
    mean_length: float | Tensor = 0.0,
    decay: float = 0.01,
    noise: Tensor | None = None,
    return_terms: bool = False,
) -> Tensor | tuple[Tensor, Metrics]:
    r"""Penalty on how much the length of a generator's Jacobian differs from its running mean.

    With y, standard normal noise of the shape of an image, divided by the root of its number of pixels,

    .. math::
        \ell = E\,\bigl(\|J_w^\top y\|_2 - a\bigr)^2, \qquad
        a = (1 - \mathrm{decay})\,\mathrm{mean\_length} + \mathrm{decay}\, E\,\|J_w^\top y\|_2.

    a is the running mean of the lengths: keep ``terms["mean_length"]`` and give it to the next call. Gradients flow
    into the generator's parameters; as in the authors' code, also through the last length's share of a.

    Args:
        generator: from latents to images.
        latents: w; of several layers, their lengths are the root of the mean over the layers.
        mean_length: the running mean of the calls before.
        decay: in [0, 1], the share of this call in it.
        noise: standard normal, of the images' shape. None: drawn here.
        return_terms: also return what is usually logged.

    Shape:
        - latents: (N, D) or (N, layers, D); noise: (N, ..., H, W), or any that the generator makes
        - output: ()

    Returns:
        The penalty, in the dtype of the latents; with ``return_terms``, (penalty, terms): ``length``, the mean of this
        call, and ``mean_length``, the running mean.

    Raises:
        ValueError: latents of another shape, noise of another shape than the images', ``decay`` out of range.

    Source:
        Karras et al. 2020 (StyleGAN2), arXiv:1912.04958.

    Example:
        >>> weight = torch.eye(2) * 3
        >>> noise = torch.tensor([[1.0, 0.0]])
        >>> value = path_length_penalty(lambda w: w @ weight, torch.rand(1, 2), decay=0.0, noise=noise)
        >>> round(value.item(), 4)  # 3^2 / 2
        4.5
    """
    if latents.dim() not in (2, 3):
        raise ValueError(f"latents must be (N, D) or (N, layers, D), got {tuple(latents.shape)}")
    if not 0 <= decay <= 1:
        raise ValueError(f"decay must be between 0 and 1, got {decay}")

    def along(latents: Tensor) -> Tensor:
        images = generator(latents)
        if noise is not None and noise.shape != images.shape:
            raise ValueError(f"noise {tuple(noise.shape)} and images {tuple(images.shape)} differ in shape")
        y = torch.randn_like(images) if noise is None else noise.detach().to(images.dtype)
        return images * y / math.sqrt(max(1, math.prod(images.shape[-2:] if images.dim() > 2 else images.shape[1:])))

    gradients = input_gradient(along, latents.detach())
    layers = latents.shape[1] if latents.dim() == 3 else 1
    lengths = norms(gradients) / math.sqrt(max(1, layers))
    count = max(1, latents.shape[0])
    length = lengths.sum() / count
    known = mean_length.detach().to(length) if isinstance(mean_length, Tensor) else mean_length
    mean = (1 - decay) * known + decay * length
    return (lengths - mean).square().sum() / count, {"length": length, "mean_length": mean}
