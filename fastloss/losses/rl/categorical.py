"""Values as categorical distributions over a grid: C51, two-hot and histogram losses."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fastloss.core.arguments import accumulator_dtype
from fastloss.core.composite import composite, elements, present
from fastloss.losses.classification import cross_entropy

__all__ = ["c51_loss", "categorical_projection", "hl_gauss_loss", "two_hot", "two_hot_loss"]


def categorical_projection(atoms: Tensor, probs: Tensor, support: Tensor) -> Tensor:
    r"""A distribution over some atoms, as one over the atoms of a grid that has the same mean.

    .. math:: q_j = \sum_i p_i \Bigl[1 - \frac{|\mathrm{clip}(z_i) - s_j|}{\Delta_j}\Bigr]_0^1

    with the distance :math:`\Delta_j` to the grid's next atom on the side of z_i: the mass of an atom goes to its two
    neighbours by their distances, all of it to an atom of the grid that it lies on, and to the ends if it is beyond.

    Args:
        atoms: where the mass is.
        probs: how much is there.
        support: the grid, ascending.

    Shape:
        - atoms, probs: (..., N), broadcast together
        - support: (M,) with M at least 2
        - output: (..., M)

    Returns:
        The probabilities; float32 (float64 of float64). They are constants: no gradient flows through them.

    Raises:
        ValueError: for a support that is not (M,).

    Source:
        Bellemare et al. 2017, arXiv:1707.06887; for any grid Dabney et al. in rlax.

    Example:
        >>> support = torch.tensor([0.0, 1.0, 2.0])
        >>> categorical_projection(torch.tensor([0.25, 5.0]), torch.tensor([0.5, 0.5]), support)
        tensor([0.3750, 0.1250, 0.5000])
    """
    if support.dim() != 1 or len(support) < 2:
        raise ValueError(f"support must be (M,) with M at least 2, got {tuple(support.shape)}")
    dtype = accumulator_dtype(torch.promote_types(atoms.dtype, probs.dtype))
    atoms, probs = torch.broadcast_tensors(atoms.detach().to(dtype), probs.detach().to(dtype))
    grid = support.detach().to(dtype)
    place = atoms.clamp(grid[0], grid[-1])
    upper = torch.searchsorted(grid, place.contiguous()).clamp(1, len(grid) - 1)  # the right neighbour
    left, right = grid[upper - 1], grid[upper]
    share = (place - left) / (right - left)  # of the right one
    rows, each, count = math.prod(atoms.shape[:-1]), atoms.shape[-1], len(grid)
    # index_put, because a GPU's scatter_add adds in no order
    first = torch.arange(rows, device=atoms.device)[:, None] * count + upper.reshape(rows, each)
    left_and_right = torch.cat([first - 1, first], 1).flatten()
    mass = torch.cat([(probs * (1 - share)).reshape(rows, each), (probs * share).reshape(rows, each)], 1).flatten()
    result = torch.zeros(rows * count, dtype=dtype, device=atoms.device)
    return result.index_put((left_and_right,), mass, accumulate=True).view(*atoms.shape[:-1], count)


@composite()
def c51_loss(
    logits: Tensor,
    target_probs: Tensor,
    rewards: Tensor,
    support: Tensor,
    terminated: Tensor | None = None,
    *,
    gamma: float = 0.99,
    reduction: str = "mean",
    mask: Tensor | None = None,
    normalizer: float | Tensor | None = None,
) -> Tensor:
    r"""Categorical distributional TD loss: cross-entropy to the projected distribution of the target.

    .. math:: \ell = -\sum_j q_j \log\mathrm{softmax}(x)_j, \qquad
              q = \Pi\bigl(r + \gamma\,(1 - \mathrm{terminated})\,s,\; p'\bigr)

    with the support s, the target network's probabilities p' of the action that is taken there, and the projection
    :math:`\Pi` of :func:`categorical_projection`. For n-step targets give the sum of rewards and gamma^n. The target is
    a constant.

    Args:
        logits: of the action that was taken.
        target_probs: probabilities of the target.
        rewards: of the step, or of n.
        support: the atoms, ascending.
        terminated: 1 where the episode ended by itself; not where it was truncated.
        gamma: discount.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.
        mask: broadcasts to the losses; 0 takes one out, whatever it holds. Other values weight it.
        normalizer: the denominator of a mean instead of what counts: a number or a 0-d tensor.

    Shape:
        - logits, target_probs: (..., M)
        - rewards, terminated, mask: (...)
        - support: (M,)
        - output: (...) for ``"none"``, else ()

    Returns:
        The loss, in the dtype that torch promotes the operands to.

    Raises:
        ValueError: for shapes that do not fit.

    Source:
        Bellemare et al. 2017, arXiv:1707.06887.

    Example:
        >>> support = torch.tensor([-1.0, 0.0, 1.0])
        >>> c51_loss(torch.zeros(1, 3), torch.ones(1, 3) / 3, torch.zeros(1), support).item()
        1.0986...
    """
    if logits.shape != target_probs.shape or logits.shape[:-1] != rewards.shape or logits.shape[-1:] != support.shape:
        raise ValueError(
            f"logits {tuple(logits.shape)}, target_probs {tuple(target_probs.shape)}, rewards {tuple(rewards.shape)} "
            f"and support {tuple(support.shape)} do not fit"
        )
    logits, target_probs, rewards = present(rewards.shape, mask, normalizer, logits, target_probs, rewards)
    going = torch.ones_like(rewards) if terminated is None else 1 - terminated.to(rewards.dtype)
    atoms = rewards[..., None] + gamma * going[..., None] * support.to(rewards.dtype)
    return elements(_cross_entropy(logits, categorical_projection(atoms, target_probs, support)))


def _cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Of distributions (..., M): (...)"""
    classes = logits.shape[-1]
    flat = cross_entropy(logits.reshape(-1, classes), target.reshape(-1, classes).to(logits.dtype), reduction="none")
    return flat.reshape(logits.shape[:-1])


def two_hot(values: Tensor, support: Tensor) -> Tensor:
    r"""A number as a distribution over the two atoms of a grid beside it, whose mean it is.

    .. math:: q_j = 1 - \frac{|\mathrm{clip}(v) - s_j|}{\Delta_j} \text{ for the two neighbours, else } 0

    Args:
        values: any numbers; beyond the ends of the grid all mass is at the end.
        support: the grid, ascending.

    Shape:
        - values: (...)
        - support: (M,) with M at least 2
        - output: (..., M)

    Returns:
        The probabilities; float32 (float64 of float64). They are constants: no gradient flows through them.

    Raises:
        ValueError: for a support that is not (M,).

    Source:
        Schrittwieser et al. 2019 (MuZero), arXiv:1911.08265, appendix F.

    Example:
        >>> two_hot(torch.tensor(0.25), torch.tensor([0.0, 1.0, 2.0]))
        tensor([0.7500, 0.2500, 0.0000])
    """
    return categorical_projection(values[..., None], torch.ones_like(values[..., None]), support)


@composite()
def two_hot_loss(
    logits: Tensor,
    values: Tensor,
    support: Tensor,
    *,
    reduction: str = "mean",
    mask: Tensor | None = None,
    normalizer: float | Tensor | None = None,
) -> Tensor:
    r"""Cross-entropy to the two-hot distribution of a number: regression as classification.

    .. math:: \ell = -\sum_j q_j \log\mathrm{softmax}(x)_j, \qquad q = \mathrm{two\_hot}(v)

    The prediction is :math:`\sum_j s_j\,\mathrm{softmax}(x)_j`. ``values`` are constants.

    Args:
        logits: of the atoms.
        values: what is to be predicted, transformed (symlog, say) as the grid is.
        support: the atoms, ascending.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.
        mask: broadcasts to the losses; 0 takes one out, whatever it holds. Other values weight it.
        normalizer: the denominator of a mean instead of what counts: a number or a 0-d tensor.

    Shape:
        - logits: (..., M)
        - values, mask: (...)
        - support: (M,)
        - output: (...) for ``"none"``, else ()

    Returns:
        The loss, in the dtype that torch promotes the operands to.

    Raises:
        ValueError: for shapes that do not fit.

    Source:
        Hafner et al. 2023 (DreamerV3), arXiv:2301.04104.

    Example:
        >>> two_hot_loss(torch.zeros(1, 3), torch.zeros(1), torch.tensor([-1.0, 0.0, 1.0])).item()
        1.0986...
    """
    _check_values(logits, values, support)
    logits, values = present(values.shape, mask, normalizer, logits, values)
    return elements(_cross_entropy(logits, two_hot(values, support)))


def _check_values(logits: Tensor, values: Tensor, support: Tensor) -> None:
    if logits.shape[:-1] != values.shape or logits.shape[-1:] != support.shape:
        raise ValueError(
            f"logits {tuple(logits.shape)}, values {tuple(values.shape)} and support {tuple(support.shape)} do not fit"
        )


@composite()
def hl_gauss_loss(
    logits: Tensor,
    values: Tensor,
    support: Tensor,
    *,
    sigma: float | None = None,
    reduction: str = "mean",
    mask: Tensor | None = None,
    normalizer: float | Tensor | None = None,
) -> Tensor:
    r"""Cross-entropy to a histogram of a Gaussian around a number: regression as classification, smoothed.

    With the bins' edges half-way between the atoms (and as far beyond the ends),

    .. math:: \ell = -\sum_j q_j \log\mathrm{softmax}(x)_j, \qquad
              q_j \propto \Phi\Bigl(\frac{e_{j+1} - v}{\sigma}\Bigr) - \Phi\Bigl(\frac{e_j - v}{\sigma}\Bigr).

    ``values`` are constants, and are clipped to the ends of the support.

    Args:
        logits: of the atoms.
        values: what is to be predicted.
        support: the atoms, ascending: the centres of the bins.
        sigma: positive; None: 0.75 of the mean distance of the atoms, as in the paper.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.
        mask: broadcasts to the losses; 0 takes one out, whatever it holds. Other values weight it.
        normalizer: the denominator of a mean instead of what counts: a number or a 0-d tensor.

    Shape:
        - logits: (..., M)
        - values, mask: (...)
        - support: (M,) with M at least 2
        - output: (...) for ``"none"``, else ()

    Returns:
        The loss, in the dtype that torch promotes the operands to.

    Raises:
        ValueError: for shapes that do not fit, a ``sigma`` that is not positive.

    Source:
        Imani, White 2018, arXiv:1806.04613; Farebrother et al. 2024, arXiv:2403.03950.

    Example:
        >>> hl_gauss_loss(torch.zeros(1, 3), torch.zeros(1), torch.tensor([-1.0, 0.0, 1.0])).item()
        1.0986...
    """
    _check_values(logits, values, support)
    if sigma is not None and not sigma > 0:
        raise ValueError(f"sigma must be positive, got {sigma}")
    logits, values = present(values.shape, mask, normalizer, logits, values)
    grid = support.detach().to(values.dtype)
    middle = (grid[1:] + grid[:-1]) / 2
    edges = torch.cat([(2 * grid[:1] - middle[:1]), middle, (2 * grid[-1:] - middle[-1:])])
    width = (grid[-1] - grid[0]) / (len(grid) - 1) * 0.75 if sigma is None else sigma
    centre = values.detach().clamp(grid[0], grid[-1])[..., None]
    # the upper tail where an edge is above the centre, so that the differences keep their digits
    lower, upper = ((edges - centre) / (width * math.sqrt(2.0))).split([len(grid), 1], -1)
    lower, upper = lower, torch.cat([lower[..., 1:], upper], -1)
    above = lower > 0
    first, last = torch.where(above, -upper, lower), torch.where(above, -lower, upper)
    mass = torch.erf(last) - torch.erf(first)
    tail = torch.erfc(-last) - torch.erfc(-first)
    mass = torch.where(last < 0, tail, mass)
    return elements(_cross_entropy(logits, mass / mass.sum(-1, keepdim=True)))
