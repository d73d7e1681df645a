"""Losses of values against returns."""

from __future__ import annotations

import torch
from torch import Tensor

from fastloss.core.arguments import Hyper
from fastloss.core.dispatch import fused
from fastloss.core.dtypes import result_dtype
from fastloss.core.metrics import Batch, Metrics, counted, detached
from fastloss.skeletons.pointwise import Pointwise

__all__ = ["value_clip_loss"]


def value_error(
    values: Tensor, old_values: Tensor | float, returns: Tensor | float, clip: float
) -> tuple[Tensor, Tensor]:
    """(losses, is the clamped value the worse one?)"""
    if not clip >= 0:
        raise ValueError(f"the clip of values must not be negative, got {clip}")
    free = (values - returns).square()
    old_values = torch.as_tensor(old_values, dtype=values.dtype, device=values.device)
    bound = (values.clamp(old_values - clip, old_values + clip) - returns).square()
    return 0.5 * torch.where(bound <= free, free, bound), bound > free


@fused(
    Pointwise(
        operands=("values", "old_values", "returns"),
        parameters={"clip": Hyper()},
        differentiable=("values",),
        metrics={"clip_fraction": "mean"},
    )
)
def value_clip_loss(
    values: Tensor,
    old_values: Tensor,
    returns: Tensor | float,
    *,
    clip: float = 0.2,
    mask: Tensor | None = None,
    normalizer: float | Tensor | None = None,
    aggregation: str = "token-mean",
    return_terms: bool = False,
) -> Tensor | tuple[Tensor, Metrics]:
    r"""Squared error of values against returns, where values gain nothing by moving far from what they were.

    .. math::
        \ell = \tfrac12 \max\bigl((v - R)^2,\; (\mathrm{clamp}(v, v_{old} - c, v_{old} + c) - R)^2\bigr),
        \qquad c = \mathrm{clip}.

    The gradient is v - R, and 0 where the clamped value is the worse one. ``old_values`` and ``returns`` are constants.

    Args:
        values: values of the critic that is trained.
        old_values: values of the critic when it acted.
        returns: what the values are to predict; tensor or number.
        clip: at least 0.
        mask, normalizer, aggregation, return_terms: as in :func:`ppo_clip_loss`.

    Shape:
        - values, old_values, returns, mask: any, broadcast together
        - output: the broadcast shape for ``"none"``, else ()

    Returns:
        The loss, or (loss, terms) with ``return_terms``; ``clip_fraction`` is the share of the elements where the
        clamped value is the worse one.

    Raises:
        ValueError: a negative ``clip``, an unknown ``aggregation``.

    Source:
        The implementation of Schulman et al. 2017, arXiv:1707.06347; studied by Engstrom et al. 2020, arXiv:2005.12729.

    Example:
        >>> value_clip_loss(torch.tensor([1.0, 2.0]), torch.tensor([1.0, 1.0]), torch.tensor([0.0, 3.0])).item()
        1.059999942779541
    """
    dtype = result_dtype(values, old_values, returns)
    values, old_values, returns = counted(mask, values, detached(old_values), detached(returns))
    losses, clipped = value_error(values, old_values, returns, clip)
    batch = Batch(losses, aggregation, mask, normalizer, dtype)
    return (batch.loss(), {"clip_fraction": batch.mean(clipped)}) if return_terms else batch.loss()
