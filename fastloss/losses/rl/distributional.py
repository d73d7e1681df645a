"""Quantile regression of distributions of returns: losses over all pairs of a predicted and a target quantile."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from fastloss.core.arguments import Hyper, accumulator_dtype, autocast_applies
from fastloss.core.dispatch import fused
from fastloss.core.dtypes import result_dtype
from fastloss.core.metrics import counted
from fastloss.core.reductions import aggregate
from fastloss.skeletons.outer import Outer

__all__ = ["iqn_loss", "quantile_huber_loss"]

_KAPPA = Hyper(high=torch.finfo(torch.float32).max)


def _midpoints(quantiles: Tensor) -> Tensor:
    """(i + 1/2) / N, the levels whose N quantiles are nearest to the distribution in the 1-Wasserstein sense."""
    count = quantiles.shape[-1]
    levels = torch.arange(count, dtype=accumulator_dtype(quantiles.dtype), device=quantiles.device)
    return (levels + 0.5) / count


def _with_midpoints(arguments: dict[str, Any]) -> dict[str, Any]:
    quantiles = arguments.get("quantiles")
    if arguments.get("tau") is None and isinstance(quantiles, Tensor) and quantiles.dim():
        arguments = {**arguments, "tau": _midpoints(quantiles)}
    return arguments


def _quantile_regression(
    quantiles: Tensor,
    target_quantiles: Tensor,
    tau: Tensor,
    kappa: float,
    scale: float,
    reduction: str,
    weights: Tensor | None,
    mask: Tensor | None,
    normalizer: float | Tensor | None,
) -> Tensor:
    if quantiles.dim() == 0 or target_quantiles.dim() == 0 or quantiles.shape[:-1] != target_quantiles.shape[:-1]:
        raise ValueError(
            "quantiles and target_quantiles must agree in all dimensions but the last, "
            f"got {tuple(quantiles.shape)} and {tuple(target_quantiles.shape)}"
        )
    if tau.shape not in (quantiles.shape, quantiles.shape[-1:]):
        raise ValueError(
            f"tau must be {tuple(quantiles.shape[-1:])} or {tuple(quantiles.shape)}, got {tuple(tau.shape)}"
        )
    if not 0 <= kappa < math.inf:
        raise ValueError(f"kappa must be a number that is at least 0, got {kappa}")
    dtype = torch.float32 if autocast_applies(quantiles) else result_dtype(quantiles, target_quantiles)
    source, target, tau = quantiles, target_quantiles.detach(), tau.detach()
    for rows in (mask, weights):  # what is not counted reaches no gradient
        source, target = counted(None if rows is None else rows.unsqueeze(-1), source, target)
    error = target.unsqueeze(-2) - source.unsqueeze(-1)  # (..., N, M)
    pull = torch.where(error < 0, 1 - tau.to(error.dtype).unsqueeze(-1), tau.to(error.dtype).unsqueeze(-1)) * scale
    if kappa > 0:
        clipped = error.clamp(-kappa, kappa)
        losses = pull * clipped * (error - 0.5 * clipped)
    else:
        losses = pull * error.abs()
    losses = losses.sum(-1).div(max(1, target.shape[-1])).sum(-1)  # no targets: 0
    if weights is not None:
        losses = torch.where(weights != 0, losses * weights.to(losses.dtype), 0)
    return aggregate(losses, reduction, mask, normalizer).to(dtype)


@fused(Outer(operands=("tau",), parameters={"kappa": _KAPPA}, prepare=_with_midpoints))
def quantile_huber_loss(
    quantiles: Tensor,
    target_quantiles: Tensor,
    tau: Tensor | None = None,
    *,
    kappa: float = 1.0,
    weights: Tensor | None = None,
    mask: Tensor | None = None,
    normalizer: float | Tensor | None = None,
    reduction: str = "mean",
) -> Tensor:
    r"""Quantile Huber loss of QR-DQN, over all pairs of a predicted and a target quantile of a row.

    With the error :math:`u_{ij} = \bar\theta_j - \theta_i` of target j and prediction i, and Huber's

    .. math::
        \mathcal L_\kappa(u) = \begin{cases} u^2 / 2 & |u| \le \kappa \\ \kappa(|u| - \kappa / 2) & |u| > \kappa
        \end{cases}, \qquad
        \ell = \sum_{i=1}^N \frac1M \sum_{j=1}^M \bigl|\tau_i - [u_{ij} < 0]\bigr|\, \mathcal L_\kappa(u_{ij}),

    summed over the predictions, averaged over the targets. ``kappa=0`` is plain quantile regression, with |u| for
    :math:`\mathcal L_\kappa`. The N x M pairs are never stored. ``target_quantiles`` and ``tau`` are constants, as in
    every Bellman backup: no gradient flows into them.

    Args:
        quantiles: predicted quantiles of the returns of the actions taken.
        target_quantiles: samples, or quantiles, of the target distribution, such as reward + discount * quantiles.
        tau: levels of ``quantiles``, in [0, 1] (not checked). None: the midpoints (i + 1/2) / N.
        kappa: at least 0; where the loss turns from quadratic to linear.
        weights: multiplies the loss of each row, such as the importance weights of prioritised replay; the mean still
            divides by the number of rows. No gradient flows into it. A row of weight 0 is not there, whatever it holds.
        mask: broadcasts to the rows; 0 takes a row out, whatever it holds. Other values weight it, and count so in the
            mean's denominator.
        normalizer: the denominator of the mean, instead of the number of rows that the mask counts: a number or a 0-d
            tensor.
        reduction: ``"mean"`` or ``"sum"`` over the rows, or ``"none"``.

    Shape:
        - quantiles: (\*, N)
        - target_quantiles: (\*, M), with the same leading dimensions
        - tau: (N) or (\*, N)
        - weights, mask: (\*)
        - output: (\*) for ``"none"``, else ()

    Returns:
        The loss, in the dtype that quantiles and target_quantiles promote to. A batch that is masked out altogether has
        the loss 0 and zero gradients.

    Raises:
        ValueError: shapes that do not fit, a negative or infinite ``kappa``, an unknown ``reduction``.

    Source:
        Dabney et al. 2018, arXiv:1710.10044, equations 9 and 10 and algorithm 1. The reductions are those of rlax's
        ``quantile_regression_loss(dist_src, tau_src, dist_target, huber_param)`` and of sb3-contrib's
        ``quantile_huber_loss(current_quantiles, target_quantiles, cum_prob, sum_over_quantiles=True)``, whose kappa is
        1; with ``sum_over_quantiles=False``, as in TQC, that is this divided by N. Dopamine divides by kappa:
        :func:`iqn_loss`.

    Example:
        >>> quantiles, target = torch.tensor([[-1.0, 3.0]]), torch.tensor([[-3.0, 4.0, 2.0]])
        >>> quantile_huber_loss(quantiles, target, torch.tensor([0.2, 0.7]), kappa=2.0).item()
        2.5
    """
    tau = _midpoints(quantiles) if tau is None else tau
    return _quantile_regression(quantiles, target_quantiles, tau, kappa, 1.0, reduction, weights, mask, normalizer)


@fused(Outer(operands=("tau",), parameters={"kappa": _KAPPA}))
def iqn_loss(
    quantiles: Tensor,
    target_quantiles: Tensor,
    tau: Tensor,
    *,
    kappa: float = 1.0,
    weights: Tensor | None = None,
    mask: Tensor | None = None,
    normalizer: float | Tensor | None = None,
    reduction: str = "mean",
) -> Tensor:
    r"""Loss of implicit quantile networks: the quantile Huber loss at sampled levels, relative to kappa.

    With :math:`u_{ij}` and :math:`\mathcal L_\kappa` of :func:`quantile_huber_loss`,

    .. math::
        \ell = \sum_{i=1}^N \frac1{N'} \sum_{j=1}^{N'}
               \bigl|\tau_i - [u_{ij} < 0]\bigr|\, \frac{\mathcal L_\kappa(u_{ij})}{\kappa}.

    The limit ``kappa=0`` is plain quantile regression, with |u|. The N x N' pairs are never stored.

    Args:
        quantiles: predicted quantiles at the levels ``tau``, of the returns of the actions taken.
        target_quantiles: samples of the target distribution; a constant.
        tau: the levels that were sampled, in [0, 1] (not checked); a constant.
        kappa, weights, mask, normalizer, reduction: as in :func:`quantile_huber_loss`.

    Shape:
        - quantiles: (\*, N)
        - target_quantiles: (\*, N'), with the same leading dimensions
        - tau: (\*, N), or (N) for the same levels in all rows
        - weights, mask: (\*)
        - output: (\*) for ``"none"``, else ()

    Returns:
        As :func:`quantile_huber_loss`.

    Raises:
        ValueError: as :func:`quantile_huber_loss`.

    Source:
        Dabney et al. 2018, arXiv:1806.06923, equation 3. Equal to dopamine's implicit quantile agent: sum over the
        samples of the prediction, mean over those of the target, mean over the batch.

    Example:
        >>> quantiles, target = torch.tensor([[-1.0, 3.0]]), torch.tensor([[-3.0, 4.0, 2.0]])
        >>> iqn_loss(quantiles, target, torch.tensor([[0.2, 0.7]]), kappa=2.0).item()
        1.25
    """
    scale = 1 / kappa if kappa > 0 else 1.0
    return _quantile_regression(quantiles, target_quantiles, tau, kappa, scale, reduction, weights, mask, normalizer)
