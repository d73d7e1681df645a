"""Policies of a population that should differ."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fastloss.core.composite import composite, elements, present

__all__ = ["dpp_loss", "pairwise_diversity_loss"]


@composite()
def pairwise_diversity_loss(
    behaviours: Tensor,
    *,
    squared: bool = False,
    reduction: str = "mean",
    mask: Tensor | None = None,
    normalizer: float | Tensor | None = None,
) -> Tensor:
    r"""Minus the distances between the behaviours of a population.

    .. math:: \ell_{ij} = -\|b_i - b_j\|, \qquad i < j

    Each pair counts once. The loss has no lower bound where behaviours have none.

    Args:
        behaviours: a vector of each policy, such as its embedding or the probabilities of its actions.
        squared: the squared distance.
        reduction: ``"none"``, ``"mean"`` (over the pairs) or ``"sum"``.
        mask: 0 takes a pair out.
        normalizer: the denominator of the mean, instead of the number of pairs.

    Shape:
        - behaviours: (\*, K, D); mask: one that broadcasts to the pairs
        - output: (\*, K (K - 1) / 2), the pairs (0, 1), (0, 2) ... (1, 2) ..., for ``"none"``, else ()

    Returns:
        The loss, in the dtype of ``behaviours`` (float32 under autocast). At distance 0 the gradient is 0; of fewer
        than two policies the loss is 0.

    Raises:
        ValueError: behaviours that are no vectors of several policies.

    Source:
        Parker-Holder et al. 2020, arXiv:2002.00632, which it is the simple baseline of.

    Example:
        >>> pairwise_diversity_loss(torch.tensor([[0.0], [1.0], [3.0]]), reduction="none").tolist()
        [-1.0, -3.0, -2.0]
    """
    if behaviours.dim() < 2:
        raise ValueError(f"behaviours must be (*, K, D), got {tuple(behaviours.shape)}")
    count = behaviours.shape[-2]
    first, second = torch.triu_indices(count, count, 1, device=behaviours.device).unbind(0)
    difference = behaviours.index_select(-2, first) - behaviours.index_select(-2, second)  # (*, pairs, D)
    (difference,) = present(difference.shape[:-1], mask, normalizer, difference)
    square = (difference * difference).sum(-1)
    if squared:
        return elements(-square)
    apart = square > 0
    return elements(-torch.where(apart, torch.where(apart, square, 1).sqrt(), 0))


@composite()
def dpp_loss(
    kernel: Tensor,
    *,
    normalize: bool = False,
    eps: float = 1e-6,
    reduction: str = "mean",
    mask: Tensor | None = None,
    normalizer: float | Tensor | None = None,
) -> Tensor:
    r"""Minus the log-volume that the policies of a population span: a determinantal point process.

    .. math:: \ell = -\log\det(K + \epsilon I) \quad \bigl[{} + \log\det(I + K)\bigr]

    Args:
        kernel: K, the similarities of the policies.
        normalize: with the second term: minus the log-probability that the process with the L-ensemble K draws all of
            the policies, which a larger kernel does not make arbitrarily small.
        eps: keeps the logarithm finite where policies are alike; at least 0.
        reduction: ``"none"``, ``"mean"`` (over the populations) or ``"sum"``.
        mask: 0 takes a population out.
        normalizer: the denominator of the mean, instead of the number of populations.

    Shape:
        - kernel: (\*, K, K); mask: one that broadcasts to the output
        - output: (\*) for ``"none"``, else ()

    Domain: kernels are symmetric and positive semidefinite. A negative determinant has the loss NaN.

    Returns:
        The loss, in the dtype of ``kernel`` (float32 under autocast). A population of none has the loss 0; policies
        that are alike, with ``eps`` 0, inf.

    Raises:
        ValueError: kernels that are not square, eps below 0.

    Source:
        Kulesza and Taskar 2012, arXiv:1207.6083; of policies: Parker-Holder et al. 2020, arXiv:2002.00632.

    Example:
        >>> dpp_loss(torch.tensor([[1.0, 0.5], [0.5, 1.0]]), eps=0.0).item()  # -log(0.75)
        0.28768211603164673
    """
    if kernel.dim() < 2 or kernel.shape[-1] != kernel.shape[-2]:
        raise ValueError(f"kernel must be (*, K, K), got {tuple(kernel.shape)}")
    if not 0 <= eps < math.inf:
        raise ValueError(f"eps must be finite and at least 0, got {eps}")
    (kernel,) = present(kernel.shape[:-2], mask, normalizer, kernel)
    one = torch.eye(kernel.shape[-1], dtype=kernel.dtype, device=kernel.device)
    # a kernel that was taken out is 0, and 1 is added to it: eps 0 would leave NaN in its gradient
    jitter = eps if mask is None else torch.where(mask != 0, eps, 1.0).to(kernel.dtype)[..., None, None]
    losses = -_log_determinant(kernel + jitter * one)
    return elements(losses + _log_determinant(kernel + one) if normalize else losses)


def _log_determinant(matrix: Tensor) -> Tensor:
    """(*, K, K) -> (*): NaN of a negative one."""
    sign, logarithm = torch.linalg.slogdet(matrix)
    return torch.where(sign < 0, math.nan, logarithm)
