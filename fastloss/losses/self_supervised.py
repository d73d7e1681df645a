"""Self-supervised learning: losses between two encodings of the same samples."""

from __future__ import annotations

import torch
from torch import Tensor

from fastloss.core.arguments import autocast_applies
from fastloss.core.dtypes import result_dtype, widened, without_autocast
from fastloss.core.metrics import Metrics

__all__ = ["vicreg_loss"]


def _off_diagonal_square(x: Tensor) -> Tensor:
    """sum of the squares of the covariances of different columns of x (N, D), whose columns have the mean 0.

    |X'X|^2 = |XX'|^2 in the Frobenius norm: the smaller of the two matrices is built.
    """
    size, width = x.shape
    gram = x.t() @ x if width <= size else x @ x.t()
    variances = x.square().sum(0)
    return (gram.square().sum() - variances.square().sum()) / (size - 1) ** 2


def vicreg_loss(
    z_a: Tensor,
    z_b: Tensor,
    *,
    invariance: float = 25.0,
    variance: float = 25.0,
    covariance: float = 1.0,
    gamma: float = 1.0,
    eps: float = 1e-4,
    return_terms: bool = False,
) -> Tensor | tuple[Tensor, Metrics]:
    r"""Variance-invariance-covariance regularisation: two views agree, no dimension collapses, none repeats another.

    .. math::
        \ell = \lambda \frac{\|Z - Z'\|^2}{N D}
             + \mu \sum_{X\in\{Z,Z'\}} \frac1{2D} \sum_d \max(0, \gamma - \sqrt{\mathrm{Var}(X_d) + \epsilon})
             + \nu \sum_{X\in\{Z,Z'\}} \frac1D \sum_{d\ne e} \mathrm{Cov}(X_d, X_e)^2

    with N - 1 in variances and covariances, as in the authors' code. The covariance term takes the smaller of a D x D
    and an N x N matrix: O(N D min(N, D)) operations.

    Args:
        z_a, z_b: embeddings of two views of N samples.
        invariance, variance, covariance: the coefficients, lambda, mu, nu.
        gamma: the standard deviation that is wanted.
        eps: added to the variance.
        return_terms: also return the three terms.

    Shape:
        - z_a, z_b: (N, D) with N at least 2
        - output: ()

    Returns:
        The loss (float32 under autocast; halves compute in float32), or (loss, terms) with ``return_terms``:
        ``invariance``, ``variance``, ``covariance``, detached and before their coefficients.

    Raises:
        ValueError: shapes that do not fit.

    Source:
        Bardes et al. 2022, arXiv:2105.04906. Equal to the authors' code (facebookresearch/vicreg) and to lightly's
        ``VICRegLoss``, which halve the variance term; the paper's equation does not.

    Example:
        >>> z = torch.tensor([[1.0, -1.0], [-1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]])
        >>> vicreg_loss(z, z).item()
        0.0
    """
    if z_a.dim() != 2 or z_a.shape != z_b.shape or z_a.shape[0] < 2:
        raise ValueError(
            f"z_a and z_b must have one shape (N, D) with N > 1, got {tuple(z_a.shape)} and {tuple(z_b.shape)}"
        )
    size, width = z_a.shape
    dtype = torch.float32 if autocast_applies(z_a) else result_dtype(z_a, z_b)
    with without_autocast(z_a):  # half products would cancel in the covariances
        a, b = widened(z_a, z_b)
        similarity = (a - b).square().mean()
        centered = [x - x.mean(0) for x in (a, b)]
        deviations = [(x.square().sum(0) / (size - 1) + eps).sqrt() for x in centered]
        spread = (gamma - torch.cat(deviations)).clamp(min=0).sum() / (2 * width)
        redundancy = (_off_diagonal_square(centered[0]) + _off_diagonal_square(centered[1])) / width
        loss = (invariance * similarity + variance * spread + covariance * redundancy).to(dtype)
    if not return_terms:
        return loss
    terms = {"invariance": similarity, "variance": spread, "covariance": redundancy}
    return loss, {name: term.detach().to(dtype) for name, term in terms.items()}
