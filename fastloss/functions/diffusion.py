"""Diffusion and flows besides their losses: noising, conversions between predictions, guidance, times, pairs."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

__all__ = [
    "add_noise",
    "classifier_free_guidance",
    "convert_prediction",
    "flow_times",
    "optimal_pairs",
]

PREDICTIONS = ("eps", "x0", "v")


def per_sample(values: Tensor, like: Tensor) -> Tensor:
    """Numbers (N,) or one number, as they broadcast to samples (N, ...).

    Raises:
        ValueError: if there is not one for each sample.
    """
    if values.dim() > 1 or (values.dim() and values.shape[0] not in (1, like.shape[0])):
        raise ValueError(f"one number a sample is ({like.shape[0]},) or (), got {tuple(values.shape)}")
    return values.reshape(-1, *[1] * (like.dim() - 1)) if values.dim() else values


def check_prediction(kind: str) -> None:
    if kind not in PREDICTIONS:
        raise ValueError(f"{kind!r} is no prediction; choose one of {', '.join(PREDICTIONS)}")


def add_noise(x0: Tensor, noise: Tensor, alphas_cumprod_t: Tensor) -> Tensor:
    r"""The noised sample :math:`x_t = \sqrt{\bar\alpha_t}\, x_0 + \sqrt{1 - \bar\alpha_t}\, \epsilon`.

    Args:
        x0: samples (N, ...).
        noise: standard normal, of their shape.
        alphas_cumprod_t: the share of the signal's variance, (N,) or (), in [0, 1].

    Returns:
        (N, ...)

    Example:
        >>> add_noise(torch.ones(1, 2), torch.zeros(1, 2), torch.tensor([0.25]))
        tensor([[0.5000, 0.5000]])
    """
    a = per_sample(alphas_cumprod_t, x0)
    return a.sqrt() * x0 + (1 - a).sqrt() * noise


def convert_prediction(pred: Tensor, x_t: Tensor, alphas_cumprod_t: Tensor, *, source: str, to: str) -> Tensor:
    r"""From what a model predicts to something else that it could have predicted.

    With a, the share of the signal's variance, and :math:`x_t = \sqrt a\, x_0 + \sqrt{1 - a}\, \epsilon`, the velocity
    is :math:`v = \sqrt a\, \epsilon - \sqrt{1 - a}\, x_0`. Where a is 0 or 1, one of ``"eps"`` and ``"x0"`` says
    nothing of the other (infinite or NaN); ``"v"`` always says both.

    Args:
        pred: the prediction (N, ...).
        x_t: the noised samples (N, ...).
        alphas_cumprod_t: a, (N,) or (), in [0, 1].
        source: what ``pred`` is: ``"eps"``, ``"x0"`` or ``"v"``.
        to: what is wanted.

    Returns:
        (N, ...)

    Raises:
        ValueError: another word, or not one a for each sample.

    Source:
        Salimans and Ho 2022, arXiv:2202.00512.

    Example:
        >>> convert_prediction(torch.zeros(1, 1), torch.ones(1, 1), torch.tensor(0.25), source="eps", to="x0")
        tensor([[2.]])
    """
    check_prediction(source)
    check_prediction(to)
    if source == to:
        return pred
    a = per_sample(alphas_cumprod_t, x_t)
    signal, noise = a.sqrt(), (1 - a).sqrt()
    if source == "v":
        return signal * x_t - noise * pred if to == "x0" else noise * x_t + signal * pred
    if source == "eps":
        return (x_t - noise * pred) / signal if to == "x0" else (pred - noise * x_t) / signal
    return (x_t - signal * pred) / noise if to == "eps" else (signal * x_t - pred) / noise


def classifier_free_guidance(
    unconditional: Tensor, conditional: Tensor, scale: float, *, rescale: float = 0.0
) -> Tensor:
    r"""The guided prediction :math:`u + w\,(c - u)`.

    Args:
        unconditional: u, the prediction without the condition (N, ...).
        conditional: c, with it (N, ...).
        scale: w; 1 is the conditional prediction, 0 the other.
        rescale: in [0, 1], how far the deviation of each guided sample is brought back to the conditional's.

    Returns:
        (N, ...)

    Source:
        Ho and Salimans 2022, arXiv:2207.12598. Rescaling: Lin et al. 2023, arXiv:2305.08891.

    Example:
        >>> classifier_free_guidance(torch.tensor([[0.0]]), torch.tensor([[1.0]]), 7.5)
        tensor([[7.5000]])
    """
    if not 0 <= rescale <= 1:
        raise ValueError(f"rescale must be between 0 and 1, got {rescale}")
    guided = unconditional + scale * (conditional - unconditional)
    if not rescale:
        return guided
    wanted, found = (x.flatten(1).std(1).reshape(-1, *[1] * (x.dim() - 1)) for x in (conditional, guided))
    ratio = torch.where(found > 0, wanted / torch.where(found > 0, found, 1), 1)
    return guided * torch.lerp(torch.ones_like(ratio), ratio, rescale)


def flow_times(
    size: int,
    *,
    distribution: str = "logit_normal",
    mean: float = 0.0,
    std: float = 1.0,
    like: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    r"""Times in [0, 1] at which a flow is trained.

    Args:
        size: how many.
        distribution: ``"uniform"``, or ``"logit_normal"``: the sigmoid of a normal number, most of them in the middle.
        mean, std: of that normal number.
        like: a floating-point tensor, whose dtype and device the times get. None: torch's defaults.
        generator: of the random numbers.

    Returns:
        (size,)

    Source:
        Esser et al. 2024, arXiv:2403.03206.

    Example:
        >>> flow_times(3, std=0.0)
        tensor([0.5000, 0.5000, 0.5000])
    """
    options: Any = {} if like is None else {"dtype": like.dtype, "device": like.device}
    if distribution == "uniform":
        return torch.rand(size, generator=generator, **options)
    if distribution == "logit_normal":
        return torch.sigmoid(mean + std * torch.randn(size, generator=generator, **options))
    raise ValueError(f"{distribution!r} is no distribution of times; choose uniform or logit_normal")


def optimal_pairs(x0: Tensor, x1: Tensor) -> Tensor:
    r"""For each sample of the second batch the one of the first that optimal transport pairs it with.

    The permutation :math:`\pi` with the least :math:`\sum_i \|x_0^{\pi(i)} - x_1^i\|^2`, by scipy's assignment on the
    CPU: O(N^3), for batches of up to some thousands.

    Args:
        x0, x1: two batches (N, ...).

    Returns:
        (N,), indices: train on ``x0[optimal_pairs(x0, x1)]`` and ``x1``.

    Source:
        Tong et al. 2023, arXiv:2302.00482; Pooladian et al. 2023, arXiv:2304.14772.

    Example:
        >>> optimal_pairs(torch.tensor([[0.0], [5.0]]), torch.tensor([[4.0], [1.0]]))
        tensor([1, 0])
    """
    from scipy.optimize import linear_sum_assignment  # no dependency of fastloss

    if x0.shape != x1.shape:
        raise ValueError(f"x0 {tuple(x0.shape)} and x1 {tuple(x1.shape)} differ in shape")
    a, b = (x.detach().flatten(1).double().cpu() for x in (x0, x1))
    # |a - b|^2 without what is the same for every permutation
    _, columns = linear_sum_assignment((-(b @ a.T)).numpy())
    return torch.from_numpy(columns).to(x0.device)


def logit_normal_density(t: Tensor, mean: float, std: float) -> Tensor:
    """Of the sigmoid of a normal number; 0 at the ends, which no logit reaches."""
    inside = (t > 0) & (t < 1)
    t = torch.where(inside, t, 0.5)
    z = (torch.logit(t) - mean) / std
    density = torch.exp(-z * z / 2) / (std * math.sqrt(2 * math.pi) * t * (1 - t))
    return torch.where(inside, density, 0)
