"""Losses of self-supervised learning that look at the statistics of a batch of embeddings."""

from __future__ import annotations

import torch
from torch import Tensor

from fastloss.losses.precision import result_dtype, widened
from fastloss.lowering import autocast_applies

__all__ = ["vicreg_loss"]

_EPSILON = 1e-4  # of the authors: keeps the derivative of the standard deviation finite at 0


def _spread_and_covariance(z: Tensor) -> tuple[Tensor, Tensor]:
    """(hinge on the standard deviations, squared covariances off the diagonal) of embeddings (N, D)."""
    count, dimensions = z.shape
    centered = z - z.mean(0)
    variance = centered.square().sum(0) / (count - 1)
    hinge = torch.relu(1 - (variance + _EPSILON).sqrt()).mean()
    # |Z'Z|^2 = |ZZ'|^2 (Frobenius), so the smaller product does: D x D, or N x N. 2 N D min(N, D) operations.
    product = centered.T @ centered if dimensions <= count else centered @ centered.T
    all_squares = (product / (count - 1)).square().sum()
    return hinge, (all_squares - variance.square().sum()) / dimensions


def vicreg_loss(
    z_a: Tensor, z_b: Tensor, *, invariance: float = 25.0, variance: float = 25.0, covariance: float = 1.0
) -> Tensor:
    r"""Variance-invariance-covariance regularisation of the embeddings of two views.

    .. math::
        \ell = \lambda\, \frac{\lVert Z_a - Z_b\rVert^2}{N D} + \mu\, \tfrac12 \sum_{z \in \{a, b\}} \frac1D \sum_d
        \max\Bigl(0,\, 1 - \sqrt{C(Z_z)_{dd} + 10^{-4}}\Bigr)
        + \nu \sum_{z \in \{a, b\}} \frac1D \sum_{d \ne e} C(Z_z)_{de}^2,

    with the covariance :math:`C(Z) = (Z - \bar Z)^\top (Z - \bar Z) / (N - 1)`. The covariances are taken from the
    smaller of the products D x D and N x N, whose squares have the same sum.

    Args:
        z_a, z_b: embeddings of two views of the same samples; both have gradients.
        invariance: :math:`\lambda`.
        variance: :math:`\mu`.
        covariance: :math:`\nu`.

    Shape:
        - z_a, z_b: (N, D), N at least 2
        - output: ()

    Returns:
        The loss. float16, bfloat16 and autocast compute in float32.

    Raises:
        ValueError: other shapes.

    Source:
        Bardes et al. 2022, arXiv:2105.04906. Equal to lightly's ``VICRegLoss`` and to the authors' code
        (facebookresearch/vicreg), which halves the variance term; the paper's equation does not.

    Example:
        >>> z = torch.tensor([[2.0, 0.0], [-2.0, 0.0]])
        >>> round(vicreg_loss(z, z).item(), 3)  # the second dimension has collapsed
        12.375
    """
    if z_a.dim() != 2 or z_a.shape != z_b.shape or z_a.shape[0] < 2:
        raise ValueError(
            f"z_a and z_b must have one shape (N, D) with N > 1, got {tuple(z_a.shape)} and {tuple(z_b.shape)}"
        )
    under_autocast = autocast_applies(z_a)
    dtype = torch.float32 if under_autocast else result_dtype(z_a, z_b)
    with torch.autocast(z_a.device.type, enabled=False):  # half products would cancel in the covariances
        z_a, z_b = widened(z_a, z_b)
        (hinge_a, covariance_a), (hinge_b, covariance_b) = _spread_and_covariance(z_a), _spread_and_covariance(z_b)
        loss = (
            invariance * (z_a - z_b).square().mean()
            + variance * 0.5 * (hinge_a + hinge_b)
            + covariance * (covariance_a + covariance_b)
        )
    return loss.to(dtype)
