"""Losses that train the representation of an agent beside its policy: contrastive ones."""

from __future__ import annotations

import torch
from torch import Tensor

from fastloss.core.dispatch import fused
from fastloss.core.dtypes import result_dtype
from fastloss.skeletons.comparisons import (
    IGNORED,
    SoftmaxComparison,
    check_matrix,
    check_reduction,
    one_precision,
    scale_of,
    unit,
)
from fastloss.skeletons.similarity import Similarity

__all__ = ["curl_loss", "temporal_contrastive_loss"]


def _curl_comparison(query: Tensor, key: Tensor, weight: Tensor, temperature: float | Tensor) -> SoftmaxComparison:
    check_matrix(query, "query")
    check_matrix(key, "key", rows=query.shape[0])
    check_matrix(weight, "weight", key.shape[1], query.shape[1])
    query, key, weight = one_precision(query=query, key=key.detach(), weight=weight)
    projected = query @ weight
    target = torch.arange(query.shape[0], device=query.device)
    return SoftmaxComparison(projected, key, scale_of(temperature, projected), None, target)


@fused(Similarity(_curl_comparison, "query"))
def curl_loss(
    query: Tensor,
    key: Tensor,
    weight: Tensor,
    *,
    temperature: float | Tensor = 1.0,
    reduction: str = "mean",
) -> Tensor:
    r"""Contrastive loss of CURL, with a bilinear similarity: each query is to find its key in the batch.

    With :math:`z_{ij} = q_i^\top W k_j / \tau`,

    .. math:: \ell_i = \log \sum_j \exp z_{ij} - z_{ii}.

    ``key`` comes from the momentum encoder and is a constant: no gradient flows into it.

    Args:
        query: encodings of one augmentation of N observations.
        key: momentum encodings of another augmentation of the same observations.
        weight: W, trained.
        temperature: positive; a number, or a tensor of one number, which then has a gradient.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.

    Shape:
        - query: (N, D); key: (N, E); weight: (D, E)
        - output: (N,) for ``"none"``, else ()

    Returns:
        The loss, in the dtype of ``query``; all arithmetic is in float32 at least.

    Raises:
        ValueError: shapes that do not fit, a temperature that is not positive.

    Source:
        Laskin et al. 2020, arXiv:2004.04136.

    Example:
        >>> x = torch.eye(2)
        >>> round(fastloss.rl.curl_loss(x, x, torch.eye(2)).item(), 4)
        0.3133
    """
    comparison = _curl_comparison(query, key, weight, temperature)
    check_reduction(reduction)
    return comparison.reference(reduction).to(result_dtype(query))


def _temporal_comparison(
    states: Tensor,
    predictions: Tensor | None,
    offset: int,
    episodes: Tensor | None,
    temperature: float | Tensor,
    normalize: bool,
    time_dim: int,
) -> SoftmaxComparison:
    if states.dim() != 3 or not states.is_floating_point():
        raise ValueError(f"states must be a floating-point (T, B, D) or (B, T, D), got {tuple(states.shape)}")
    if time_dim not in (0, 1):
        raise ValueError(f"time_dim must be 0 or 1, got {time_dim}")
    length = states.shape[time_dim]
    if not 1 <= offset < length:
        raise ValueError(f"offset must be between 1 and {length - 1}, got {offset}")
    if predictions is not None and predictions.shape != states.shape:
        raise ValueError(f"predictions must have the shape of states, got {tuple(predictions.shape)}")
    if episodes is not None and episodes.shape != states.shape[:2]:
        raise ValueError(f"episodes must have the shape {tuple(states.shape[:2])}, got {tuple(episodes.shape)}")
    states, anchors = one_precision(states=states, predictions=states if predictions is None else predictions)
    query = unit(anchors.narrow(time_dim, 0, length - offset).flatten(0, 1), normalize)
    key = unit(states.narrow(time_dim, offset, length - offset).flatten(0, 1), normalize)
    target = torch.arange(query.shape[0], device=query.device)
    if episodes is not None:
        now, later = (episodes.narrow(time_dim, start, length - offset).flatten() for start in (0, offset))
        target = target.where(now == later, IGNORED)
    return SoftmaxComparison(query, key, scale_of(temperature, query), None, target)


@fused(Similarity(_temporal_comparison, "states"))
def temporal_contrastive_loss(
    states: Tensor,
    predictions: Tensor | None = None,
    *,
    offset: int = 1,
    episodes: Tensor | None = None,
    temperature: float | Tensor = 0.1,
    normalize: bool = True,
    time_dim: int = 0,
    reduction: str = "mean",
) -> Tensor:
    r"""States that are close in time are to be close in representation: each is to find the one ``offset`` steps later.

    For the state (or prediction) x of step t of trajectory b, and s running over all states of all trajectories from
    step ``offset`` on,

    .. math::
        \ell_{tb} = \log \sum_{t' b'} \exp(\langle x_{tb}, s_{t'b'}\rangle / \tau)
                  - \langle x_{tb}, s_{t+\mathrm{offset}, b}\rangle / \tau.

    Args:
        states: representations of the states of B trajectories of T steps.
        predictions: what stands for the states as anchors: the states of step t + ``offset`` predicted at step t, say.
        offset: how many steps later the positive is.
        episodes: the number of the episode of each state, integers. A pair across two episodes does not count.
        temperature: positive; a number, or a tensor of one number, which then has a gradient.
        normalize: divide every vector by its norm.
        time_dim: 0 for (T, B, D), 1 for (B, T, D).
        reduction: ``"none"``, ``"mean"`` (over the pairs that count) or ``"sum"``.

    Shape:
        - states, predictions: (T, B, D), or (B, T, D) for ``time_dim=1``; episodes: without D
        - output: ((T - offset) B,) in the order of the states for ``"none"``, else ()

    Returns:
        The loss, in the dtype of ``states``; all arithmetic is in float32 at least. Pairs that do not count have the
        loss 0; if none counts, the mean is 0, with zero gradients.

    Raises:
        ValueError: shapes that do not fit, a hyper-parameter out of range.

    Source:
        van den Oord et al. 2018 (CPC), arXiv:1807.03748; Sermanet et al. 2018, arXiv:1704.06888; Anand et al. 2019,
        arXiv:1906.08226.

    Example:
        >>> states = torch.eye(3)[:, None]  # three steps of one trajectory
        >>> round(fastloss.rl.temporal_contrastive_loss(states, states.roll(-1, 0), temperature=1.0).item(), 4)
        0.3133
    """
    comparison = _temporal_comparison(states, predictions, offset, episodes, temperature, normalize, time_dim)
    check_reduction(reduction)
    return comparison.reference(reduction).to(result_dtype(states))
