"""Metric learning: losses over triplets within a batch of embeddings."""

from __future__ import annotations

import math

from torch import Tensor

from fastloss.core.dispatch import fused
from fastloss.core.dtypes import result_dtype, widened
from fastloss.skeletons.comparisons import (
    check_matrix,
    check_reduction,
    checked_indices,
    unit,
)
from fastloss.skeletons.similarity import Similarity
from fastloss.skeletons.triplets import HardestTriplets, SemiHardTriplets

__all__ = ["batch_hard_triplet_loss", "semi_hard_triplet_loss"]


def _checked(embeddings: Tensor, labels: Tensor, normalize: bool) -> tuple[Tensor, Tensor]:
    """(vectors, labels) as the triplets take them."""
    check_matrix(embeddings, "embeddings")
    labels = checked_indices(labels, "labels", embeddings.shape[0])
    (vectors,) = widened(embeddings)
    return unit(vectors, normalize), labels


def _hardest_triplets(
    embeddings: Tensor, labels: Tensor, margin: float | None, soft_margin: bool, normalize: bool, squared: bool
) -> HardestTriplets:
    vectors, labels = _checked(embeddings, labels, normalize)
    if margin is None:
        margin = 0.0 if soft_margin else 0.3
    if not abs(margin) < math.inf:
        raise ValueError(f"margin must be finite, got {margin}")
    return HardestTriplets(vectors, labels, margin, soft_margin, squared)


@fused(Similarity(_hardest_triplets, "embeddings"))
def batch_hard_triplet_loss(
    embeddings: Tensor,
    labels: Tensor,
    *,
    margin: float | None = None,
    soft_margin: bool = False,
    normalize: bool = False,
    squared: bool = False,
    reduction: str = "mean",
) -> Tensor:
    r"""Triplet loss on the hardest positive and the hardest negative of each anchor in the batch.

    .. math::
        \ell_a = \max\Bigl(0,\; \max_{p:\, y_p = y_a} d(a, p) - \min_{n:\, y_n \ne y_a} d(a, n) + \mathrm{margin}\Bigr)

    with the Euclidean distance d; ``soft_margin`` has softplus in place of max(0, .). The distances of all pairs are
    searched block by block, never stored as a whole.

    Args:
        embeddings: the vectors.
        labels: the class of each, integers.
        margin: default 0.3, or 0 with ``soft_margin``.
        soft_margin: log(1 + exp(.)) instead of max(0, .).
        normalize: divide every vector by its norm.
        squared: the squared distance for d.
        reduction: ``"none"``, ``"mean"`` (over the anchors that have a positive and a negative) or ``"sum"``.

    Shape:
        - embeddings: (N, D); labels: (N,)
        - output: (N,) for ``"none"``, else ()

    Returns:
        The loss, in the dtype of ``embeddings``. An anchor without a positive or a negative does not count; if there is
        no triplet at all the loss is 0, with zero gradients. At distance 0 the gradient is 0.

    Raises:
        ValueError: shapes that do not fit, a margin that is not finite.

    Source:
        Hermans et al. 2017, arXiv:1703.07737.

    Example:
        >>> x = torch.tensor([[0.0], [1.0], [5.0]])
        >>> batch_hard_triplet_loss(x, torch.tensor([0, 0, 1]), margin=4.0).item()  # 1 - 5 + 4 and 1 - 4 + 4
        0.5
    """
    triplets = _hardest_triplets(embeddings, labels, margin, soft_margin, normalize, squared)
    check_reduction(reduction)
    return triplets.reference(reduction).to(result_dtype(embeddings))


def _semi_hard_triplets(
    embeddings: Tensor, labels: Tensor, margin: float, normalize: bool, squared: bool
) -> SemiHardTriplets:
    vectors, labels = _checked(embeddings, labels, normalize)
    if not abs(margin) < math.inf:
        raise ValueError(f"margin must be finite, got {margin}")
    return SemiHardTriplets(vectors, labels, margin, squared)


@fused(Similarity(_semi_hard_triplets, "embeddings"))
def semi_hard_triplet_loss(
    embeddings: Tensor,
    labels: Tensor,
    *,
    margin: float = 1.0,
    normalize: bool = True,
    squared: bool = True,
    reduction: str = "mean",
) -> Tensor:
    r"""Triplet loss on all positive pairs, each with a negative that is farther than the positive, but not by much.

    For each anchor a and each positive p of it, the negative n(a, p) is the nearest one with d(a, n) > d(a, p); if
    there is none, the farthest negative.

    .. math:: \ell_a = \sum_{p} \max\bigl(0,\; d(a, p) - d(a, n(a, p)) + \mathrm{margin}\bigr)

    Args:
        embeddings: the vectors.
        labels: the class of each, integers.
        margin: how much farther than the positive the negative should be.
        normalize: divide every vector by its norm.
        squared: the squared Euclidean distance for d (as in FaceNet), else the distance.
        reduction: ``"none"``, ``"mean"`` (over the pairs of an anchor and a positive) or ``"sum"``.

    Shape:
        - embeddings: (N, D); labels: (N,)
        - output: (N,), the sums over the positives of each anchor, for ``"none"``, else ()

    Returns:
        The loss, in the dtype of ``embeddings``. Anchors without a negative do not count; if there is no triplet at all
        the loss is 0, with zero gradients. At distance 0 the gradient is 0.

    Raises:
        ValueError: shapes that do not fit, a margin that is not finite.

    Source:
        Schroff et al. 2015 (FaceNet), arXiv:1503.03832.

    Example:
        >>> x = torch.tensor([[0.0], [1.0], [3.0]])
        >>> labels = torch.tensor([0, 0, 1])
        >>> semi_hard_triplet_loss(x, labels, margin=2.5, normalize=False, squared=False).item()  # 0.5 and 1.5
        1.0
    """
    triplets = _semi_hard_triplets(embeddings, labels, margin, normalize, squared)
    check_reduction(reduction)
    return triplets.reference(reduction).to(result_dtype(embeddings))
