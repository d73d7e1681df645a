"""Contrastive and metric learning: losses over all pairs of a batch of embeddings."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fastloss.dispatch import fused
from fastloss.losses.precision import result_dtype, widened
from fastloss.losses.similarity import (
    SoftmaxPairs,
    check_indices,
    check_matrix,
    check_reduction,
    scale_of,
    unit,
)
from fastloss.losses.triplet import HardestTriplets, SemiHardTriplets
from fastloss.skeletons.pairwise import Pairwise

__all__ = ["batch_hard_triplet_loss", "info_nce", "nt_xent", "semi_hard_triplet_loss", "supcon_loss"]


def _check_smoothing(label_smoothing: float) -> None:
    if not 0 <= label_smoothing <= 1:
        raise ValueError(f"label_smoothing must be between 0 and 1, got {label_smoothing}")


def _info_nce_pairs(
    query: Tensor,
    positive: Tensor,
    negatives: Tensor | None,
    temperature: float | Tensor,
    normalize: bool,
    target: Tensor | None,
    labels: tuple[Tensor, Tensor] | None,
    decoupled: bool,
    label_smoothing: float,
) -> SoftmaxPairs:
    check_matrix(query, "query")
    size, width = query.shape
    one_each = negatives is not None or (target is None and labels is None)
    check_matrix(positive, "positive", width, size if one_each else None)
    _check_smoothing(label_smoothing)
    if target is not None and labels is not None:
        raise ValueError("the positives are given by target or by labels, not by both")
    if negatives is not None:
        check_matrix(negatives, "negatives", width)
        if target is not None or labels is not None:
            raise ValueError("with negatives, the positive of each query is given: no target and no labels")
    query, positive = (unit(x, normalize) for x in widened(query, positive))
    scale = scale_of(temperature, query)
    if negatives is not None:
        (negatives,) = widened(negatives)
        negatives = unit(negatives, normalize)
        column = torch.full((size,), negatives.shape[0], device=query.device)
        return SoftmaxPairs(
            query, negatives, scale, positive, column, decoupled=decoupled, label_smoothing=label_smoothing
        )
    if labels is not None:
        check_indices(labels[0], "the labels of the queries", size)
        check_indices(labels[1], "the labels of the keys", positive.shape[0])
    elif target is None:
        target = torch.arange(size, device=query.device)
    else:
        check_indices(target, "target", size)
    return SoftmaxPairs(query, positive, scale, None, target, labels, False, decoupled, label_smoothing)


@fused(Pairwise(_info_nce_pairs, "query"))
def info_nce(
    query: Tensor,
    positive: Tensor,
    negatives: Tensor | None = None,
    *,
    temperature: float | Tensor = 0.1,
    normalize: bool = True,
    target: Tensor | None = None,
    labels: tuple[Tensor, Tensor] | None = None,
    decoupled: bool = False,
    label_smoothing: float = 0.0,
    reduction: str = "mean",
) -> Tensor:
    r"""Noise-contrastive estimate of mutual information: each query is to find its positive key among the others.

    With the similarities :math:`z_{ij} = \langle q_i, k_j\rangle / \tau` (cosines, if ``normalize``) and the positive
    keys :math:`P_i` of query i, usually one,

    .. math:: \ell_i = \log \sum_j \exp z_{ij} - \frac{1}{|P_i|} \sum_{j \in P_i} z_{ij}.

    The sum has the positives in it; ``decoupled`` leaves them out. The matrix of the similarities is never stored: the
    memory is O((N + M) D), for the gradients too.

    Args:
        query: the queries q.
        positive: without ``negatives`` the keys k, the positive one of query i being key i (or as ``target`` or
            ``labels`` say), all others its negatives. With ``negatives`` the positive of each query.
        negatives: keys that are negative for every query, a queue for instance.
        temperature: positive; a number, or a tensor of one number, which then has a gradient.
        normalize: divide every vector by its norm.
        target: the index of the positive key of each query; -100: the query does not count.
        labels: (labels of the queries, labels of the keys): the keys with its label are the positives of a query. One
            without any does not count.
        decoupled: leave the positives out of the sum of exponentials (DCL).
        label_smoothing: share of the target that is spread evenly over all keys, in [0, 1].
        reduction: ``"none"``, ``"mean"`` (over the queries that count) or ``"sum"``.

    Shape:
        - query: (N, D)
        - positive: (M, D); M = N with ``negatives``, or without ``target`` and ``labels``
        - negatives: (K, D); target: (N,); labels: (N,), (M,)
        - output: (N,) for ``"none"``, else ()

    Returns:
        The loss, in the dtype of ``query``; all arithmetic is in float32 at least. Queries that do not count have the
        loss 0; if none counts, the mean is 0, with zero gradients.

    Raises:
        ValueError: shapes that do not fit, a hyper-parameter out of range.

    Source:
        van den Oord et al. 2018, arXiv:1807.03748. Decoupled: Yeh et al. 2022, arXiv:2110.06848.

    Example:
        >>> query = torch.eye(3)
        >>> info_nce(query, query, temperature=0.05).item() < 1e-6
        True
    """
    pairs = _info_nce_pairs(
        query, positive, negatives, temperature, normalize, target, labels, decoupled, label_smoothing
    )
    check_reduction(reduction)
    return pairs.reference(reduction).to(result_dtype(query))


def _nt_xent_pairs(
    z1: Tensor, z2: Tensor, temperature: float | Tensor, normalize: bool, decoupled: bool, label_smoothing: float
) -> SoftmaxPairs:
    check_matrix(z1, "z1")
    check_matrix(z2, "z2", z1.shape[1], z1.shape[0])
    _check_smoothing(label_smoothing)
    views = unit(torch.cat(widened(z1, z2)), normalize)
    size = z1.shape[0]
    target = torch.arange(2 * size, device=z1.device).roll(size)
    scale = scale_of(temperature, views)
    return SoftmaxPairs(views, views, scale, None, target, None, True, decoupled, label_smoothing)


@fused(Pairwise(_nt_xent_pairs, "z1"))
def nt_xent(
    z1: Tensor,
    z2: Tensor,
    *,
    temperature: float | Tensor = 0.5,
    normalize: bool = True,
    decoupled: bool = False,
    label_smoothing: float = 0.0,
    reduction: str = "mean",
) -> Tensor:
    r"""Normalised, temperature-scaled cross-entropy of SimCLR: each of 2N views is to find the other one of its sample.

    For z, the 2N vectors of both views, and j(i) the other view of i,

    .. math:: \ell_i = \log \sum_{k \ne i} \exp(\langle z_i, z_k\rangle / \tau) - \langle z_i, z_{j(i)}\rangle / \tau.

    Args:
        z1, z2: embeddings of two views of N samples.
        temperature, normalize, decoupled, label_smoothing, reduction: as in :func:`info_nce`; smoothing spreads over
            the 2N - 1 other views.

    Shape:
        - z1, z2: (N, D)
        - output: (2N,), those of z1 first, for ``"none"``, else ()

    Returns:
        The loss, in the dtype of ``z1``; all arithmetic is in float32 at least.

    Raises:
        ValueError: shapes that do not fit, a hyper-parameter out of range.

    Source:
        Chen et al. 2020 (SimCLR), arXiv:2002.05709.

    Example:
        >>> z = torch.eye(4)
        >>> round(nt_xent(z, z, temperature=1.0).item(), 4)  # log(e + 6) - 1
        1.1654
    """
    pairs = _nt_xent_pairs(z1, z2, temperature, normalize, decoupled, label_smoothing)
    check_reduction(reduction)
    return pairs.reference(reduction).to(result_dtype(z1))


def _supcon_pairs(
    embeddings: Tensor, labels: Tensor, temperature: float | Tensor, normalize: bool, decoupled: bool
) -> SoftmaxPairs:
    if embeddings.dim() == 3:
        check_indices(labels, "labels", embeddings.shape[0])
        labels = labels.repeat_interleave(embeddings.shape[1])
        embeddings = embeddings.flatten(0, 1)
    check_matrix(embeddings, "embeddings")
    check_indices(labels, "labels", embeddings.shape[0])
    (vectors,) = widened(embeddings)
    vectors = unit(vectors, normalize)
    scale = scale_of(temperature, vectors)
    return SoftmaxPairs(vectors, vectors, scale, None, None, (labels, labels), True, decoupled)


@fused(Pairwise(_supcon_pairs, "embeddings"))
def supcon_loss(
    embeddings: Tensor,
    labels: Tensor,
    *,
    temperature: float | Tensor = 0.1,
    normalize: bool = True,
    decoupled: bool = False,
    reduction: str = "mean",
) -> Tensor:
    r"""Supervised contrastive loss: each embedding is to find all others of its class.

    With P(i), the other embeddings with the label of i,

    .. math::
        \ell_i = \log \sum_{k \ne i} \exp(\langle z_i, z_k\rangle / \tau)
                 - \frac{1}{|P(i)|} \sum_{p \in P(i)} \langle z_i, z_p\rangle / \tau.

    Args:
        embeddings: one vector a sample, or several views of each.
        labels: the class of each sample, integers.
        temperature, normalize, decoupled, reduction: as in :func:`info_nce`.

    Shape:
        - embeddings: (N, D), or (N, V, D) with V views, which are N V embeddings
        - labels: (N,)
        - output: (N,) or (N V,) for ``"none"``, else ()

    Returns:
        The loss, in the dtype of ``embeddings``. An embedding that is alone in its class does not count.

    Raises:
        ValueError: shapes that do not fit, a hyper-parameter out of range.

    Source:
        Khosla et al. 2020, arXiv:2004.11362, the form L_out, without the factor tau / tau_base of the authors' code.

    Example:
        >>> supcon_loss(torch.eye(3), torch.tensor([0, 1, 2])).item()  # no positives
        0.0
    """
    pairs = _supcon_pairs(embeddings, labels, temperature, normalize, decoupled)
    check_reduction(reduction)
    return pairs.reference(reduction).to(result_dtype(embeddings))


def _checked_vectors(embeddings: Tensor, labels: Tensor, normalize: bool) -> Tensor:
    check_matrix(embeddings, "embeddings")
    check_indices(labels, "labels", embeddings.shape[0])
    (vectors,) = widened(embeddings)
    return unit(vectors, normalize)


def _hardest_triplets(
    embeddings: Tensor, labels: Tensor, margin: float | None, soft_margin: bool, normalize: bool, squared: bool
) -> HardestTriplets:
    vectors = _checked_vectors(embeddings, labels, normalize)
    if margin is None:
        margin = 0.0 if soft_margin else 0.3
    if not abs(margin) < math.inf:
        raise ValueError(f"margin must be finite, got {margin}")
    return HardestTriplets(vectors, labels, margin, soft_margin, squared)


@fused(Pairwise(_hardest_triplets, "embeddings"))
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
    vectors = _checked_vectors(embeddings, labels, normalize)
    if not abs(margin) < math.inf:
        raise ValueError(f"margin must be finite, got {margin}")
    return SemiHardTriplets(vectors, labels, margin, squared)


@fused(Pairwise(_semi_hard_triplets, "embeddings"))
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
