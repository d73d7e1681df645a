"""Reinforcement learning besides its losses: noise on target actions, squashed scales, counts."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["count_bonus", "smoothed_actions", "symexp", "symlog"]


def smoothed_actions(
    actions: Tensor,
    *,
    deviation: float = 0.2,
    bound: float = 0.5,
    low: float | Tensor = -1.0,
    high: float | Tensor = 1.0,
    generator: torch.Generator | None = None,
) -> Tensor:
    """The target policy's actions with clipped normal noise, so that a critic is smooth where actions are alike (TD3,
    Fujimoto et al. 2018, arXiv:1802.09477).

    Args:
        actions: of the target policy.
        deviation: standard deviation of the noise.
        bound: the noise is clipped at -bound and bound.
        low, high: bounds of the actions; numbers, or one of each dimension.
        generator: of the noise.

    Returns:
        The actions, without a gradient.

    Example:
        >>> smoothed_actions(torch.tensor([2.0, -3.0]), deviation=0.0)
        tensor([ 1., -1.])
    """
    actions = actions.detach()
    noise = torch.empty_like(actions).normal_(generator=generator)
    smoothed = actions + (deviation * noise).clamp(-bound, bound)
    ends = (torch.as_tensor(x, dtype=actions.dtype, device=actions.device) for x in (low, high))
    return smoothed.clamp(*ends)


def symlog(x: Tensor) -> Tensor:
    """sign(x) log(1 + |x|): rewards and observations of any size in one scale (Hafner et al. 2023, arXiv:2301.04104).

    Example:
        >>> symlog(torch.tensor([-1.0, 0.0, 100.0]))
        tensor([-0.6931,  0.0000,  4.6151])
    """
    return x.sign() * x.abs().log1p()


def symexp(x: Tensor) -> Tensor:
    """sign(x) (exp(|x|) - 1), the inverse of :func:`symlog`.

    Example:
        >>> symexp(symlog(torch.tensor([-3.0, 0.0, 5.0])))
        tensor([-3.,  0.,  5.])
    """
    return x.sign() * x.abs().expm1()


def count_bonus(counts: Tensor, *, scale: float = 1.0, offset: float = 0.0) -> Tensor:
    """Intrinsic reward of a state that was seen N times: scale / sqrt(N + offset) (Strehl and Littman 2008; with an
    offset of 0.01 Bellemare et al. 2016, arXiv:1606.01868, of pseudo-counts).

    Args:
        counts: N, integers or pseudo-counts, the visit itself among them; 0 without an offset is worth infinitely much.

    Example:
        >>> count_bonus(torch.tensor([1, 4, 100]))
        tensor([1.0000, 0.5000, 0.1000])
    """
    return scale * (counts + offset).rsqrt()
