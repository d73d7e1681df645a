"""Score matching: the gradient of a density's logarithm, without the density."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from fastloss.core.composite import composite, elements
from fastloss.core.dtypes import widened
from fastloss.core.input_gradients import pulled_back
from fastloss.functions.diffusion import per_sample
from fastloss.losses.regression import mse_loss

__all__ = ["denoising_score_matching_loss", "sliced_score_matching_loss"]


@composite()
def denoising_score_matching_loss(
    score: Tensor, noise: Tensor, sigma: Tensor, *, weighting: str = "sigma_squared", reduction: str = "mean"
) -> Tensor:
    r"""Squared error of a score at a noised sample, which should point back to the sample.

    For :math:`\tilde x = x + \sigma\epsilon` and the score :math:`s(\tilde x, \sigma)`,

    .. math::
        \ell = \tfrac12\, \|\sigma s + \epsilon\|^2 \quad\text{(sigma\_squared)}, \qquad
        \tfrac12\, \|s + \epsilon / \sigma\|^2 \quad\text{(uniform).}

    Args:
        score: s, of the model.
        noise: :math:`\epsilon`, standard normal, a constant.
        sigma: the noise's deviation, of each sample or one for all; a constant.
        weighting: ``"sigma_squared"``, by which all deviations weigh alike, or ``"uniform"``.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``, over the samples.

    Shape:
        - score, noise: (N, ...); sigma: (N,) or ()
        - output: (N,) for ``"none"``, else ()

    Returns:
        The loss, in the dtype that torch promotes the operands to (float32 under autocast).

    Raises:
        ValueError: shapes that differ, an unknown ``weighting``.

    Source:
        Vincent 2011, A connection between score matching and denoising autoencoders; Song and Ermon 2019,
        arXiv:1907.05600.

    Example:
        >>> denoising_score_matching_loss(torch.zeros(1, 2), torch.tensor([[3.0, 4.0]]), torch.tensor(1.0)).item()
        12.5
    """
    if weighting not in ("sigma_squared", "uniform"):
        raise ValueError(f"{weighting!r} is no weighting; choose sigma_squared or uniform")
    if score.shape != noise.shape or not score.dim():
        raise ValueError(f"score {tuple(score.shape)} and noise {tuple(noise.shape)} must be batches of one shape")
    sigma, noise = per_sample(sigma.detach(), score), noise.detach()
    pair = (score * sigma, -noise) if weighting == "sigma_squared" else (score, -noise / sigma)
    return elements(mse_loss(*pair, reduction="none").flatten(1).sum(1) / 2)


@composite(calls_model=True)
def sliced_score_matching_loss(
    score: Callable[[Tensor], Tensor],
    x: Tensor,
    *,
    projections: int = 1,
    directions: Tensor | None = None,
    variance_reduction: bool = True,
    reduction: str = "mean",
) -> Tensor:
    r"""Score matching along random directions, which needs no noise, and a derivative of the score.

    With the directions v, standard normal,

    .. math::
        \ell = E_v\Bigl[v^\top \nabla_x \bigl(v^\top s(x)\bigr)\Bigr] + \tfrac12 \|s(x)\|^2,

    or, without ``variance_reduction``, :math:`\tfrac12 (v^\top s(x))^2` in the expectation for the last term. The
    samples are constants; gradients flow into the score's parameters, by a second derivative.

    Args:
        score: s, from samples to scores of their shape.
        x: the samples.
        projections: how many directions a sample.
        directions: v. None: standard normal, drawn here.
        variance_reduction: the squared norm, which is the expectation.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``, over the samples.

    Shape:
        - x: (N, ...); directions: (projections, N, ...)
        - output: (N,) for ``"none"``, else ()

    Returns:
        The loss, in the dtype of the samples.

    Raises:
        ValueError: directions of another shape, scores of another shape than the samples.

    Source:
        Song et al. 2019, arXiv:1905.07088.

    Example:
        >>> v = torch.tensor([[[1.0, 1.0]]])
        >>> sliced_score_matching_loss(lambda x: -x, torch.tensor([[2.0, 0.0]]), directions=v).item()  # -2 + 4 / 2
        0.0
    """
    if directions is None:
        directions = torch.randn(projections, *x.shape, dtype=x.dtype, device=x.device)
    elif directions.dim() != x.dim() + 1 or directions.shape[1:] != x.shape:
        raise ValueError(f"directions must be (P, *{tuple(x.shape)}), got {tuple(directions.shape)}")
    count = directions.shape[0]
    several = x.detach().repeat(count, *[1] * (x.dim() - 1))  # (P N, ...)
    v = directions.detach().flatten(0, 1)
    value, back = pulled_back(score, several, v)
    if value.shape != several.shape:
        raise ValueError(f"the score has the shape {tuple(value.shape)}, the samples {tuple(several.shape)}")
    value, back, v = (tensor.flatten(1) for tensor in widened(value, back, v))
    square = value.square().sum(1) if variance_reduction else (v * value).sum(1).square()
    losses = (v * back).sum(1) + square / 2
    return elements(losses.reshape(count, -1).sum(0) / max(1, count))
