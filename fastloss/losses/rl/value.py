"""Losses of value functions: distributional ones."""

from __future__ import annotations

import torch
from torch import Tensor

from fastloss.dispatch import fused
from fastloss.losses.precision import result_dtype, widened
from fastloss.losses.similarity import QuantilePairs, check_matrix, check_reduction
from fastloss.skeletons.pairwise import Pairwise

__all__ = ["iqn_loss", "quantile_huber_loss"]


def _quantile_pairs(
    quantiles: Tensor, target: Tensor, tau: Tensor | None, kappa: float, weight: Tensor | None
) -> QuantilePairs:
    check_matrix(quantiles, "quantiles")
    size, count = quantiles.shape
    check_matrix(target, "target", rows=size)
    if not kappa >= 0:
        raise ValueError(f"kappa must not be negative, got {kappa}")
    quantiles, target = widened(quantiles, target.detach())
    if tau is None:
        tau = (torch.arange(count, dtype=quantiles.dtype, device=quantiles.device) + 0.5) / count
    elif tau.shape not in ((count,), (size, count)):
        raise ValueError(f"tau must have the shape ({count},) or ({size}, {count}), got {tuple(tau.shape)}")
    tau = tau.detach().to(quantiles.dtype).expand(size, count)
    if weight is not None:
        if weight.shape != (size,):
            raise ValueError(f"weight must have the shape ({size},), got {tuple(weight.shape)}")
        weight = weight.detach().to(quantiles.dtype)
    return QuantilePairs(quantiles, target.to(quantiles.dtype), tau, weight, float(kappa))


@fused(Pairwise(_quantile_pairs, "quantiles"))
def quantile_huber_loss(
    quantiles: Tensor,
    target: Tensor,
    tau: Tensor | None = None,
    *,
    kappa: float = 1.0,
    weight: Tensor | None = None,
    reduction: str = "mean",
) -> Tensor:
    r"""Quantile regression of a distribution of returns (QR-DQN): every quantile against every target sample.

    With the errors :math:`u_{ij} = y_j - \theta_i` and the Huber loss H of the threshold kappa,

    .. math::
        \ell = \sum_i \frac1M \sum_j \bigl|\tau_i - \mathbb{1}[u_{ij} < 0]\bigr|\,
               \frac{H_\kappa(u_{ij})}{\kappa}:

    summed over the N quantiles, averaged over the M targets. For ``kappa = 0`` it is the quantile loss of |u|. The
    N x M errors are never stored. ``target``, ``tau`` and ``weight`` are constants: no gradient flows into them.

    Args:
        quantiles: theta, the predicted quantiles of each sample of the batch.
        target: y, samples or quantiles of the target distribution, r + gamma theta'.
        tau: the level of each quantile, in (0, 1); default: the midpoints (i + 1/2) / N of QR-DQN.
        kappa: at least 0.
        weight: of each sample of the batch: importance weights of prioritised replay.
        reduction: ``"none"``, ``"mean"`` (over the batch, whatever the weights) or ``"sum"``.

    Shape:
        - quantiles: (B, N); target: (B, M); tau: (N,) or (B, N); weight: (B,)
        - output: (B,) for ``"none"``, else ()

    Returns:
        The loss, in the dtype of ``quantiles``; all arithmetic is in float32 at least.

    Raises:
        ValueError: shapes that do not fit, a negative ``kappa``.

    Source:
        Dabney et al. 2018 (QR-DQN), arXiv:1710.10044, which does not divide by kappa; with the division, as in Dabney
        et al. 2018 (IQN), arXiv:1806.06923, the slope of the tails does not depend on it.

    Example:
        >>> fastloss.rl.quantile_huber_loss(torch.tensor([[0.0]]), torch.tensor([[2.0]])).item()  # 1/2 (2 - 1/2)
        0.75
    """
    pairs = _quantile_pairs(quantiles, target, tau, kappa, weight)
    check_reduction(reduction)
    return pairs.reference(reduction).to(result_dtype(quantiles))


@fused(Pairwise(_quantile_pairs, "quantiles"))
def iqn_loss(
    quantiles: Tensor,
    target: Tensor,
    tau: Tensor,
    *,
    kappa: float = 1.0,
    weight: Tensor | None = None,
    reduction: str = "mean",
) -> Tensor:
    r"""Quantile regression at sampled levels (implicit quantile networks): :func:`quantile_huber_loss` with ``tau``.

    .. math::
        \ell = \sum_i \frac1{N'} \sum_j \bigl|\tau_i - \mathbb{1}[u_{ij} < 0]\bigr|\,
               \frac{H_\kappa(u_{ij})}{\kappa}, \qquad u_{ij} = y_j - \theta(\tau_i)

    Args:
        quantiles: theta, what the network answers for the levels ``tau``.
        target: r + gamma theta'(tau') for N' other levels; a constant.
        tau: the levels at which the quantiles were asked for, a constant.
        kappa, weight, reduction: as in :func:`quantile_huber_loss`.

    Shape:
        - quantiles, tau: (B, N); target: (B, N'); weight: (B,)
        - output: (B,) for ``"none"``, else ()

    Raises:
        ValueError: shapes that do not fit, a negative ``kappa``.

    Source:
        Dabney et al. 2018, arXiv:1806.06923, equation 3.

    Example:
        >>> one = torch.ones(1, 1)
        >>> fastloss.rl.iqn_loss(one, 3 * one, 0.25 * one).item()  # 1/4 (2 - 1/2)
        0.375
    """
    pairs = _quantile_pairs(quantiles, target, tau, kappa, weight)
    check_reduction(reduction)
    return pairs.reference(reduction).to(result_dtype(quantiles))
