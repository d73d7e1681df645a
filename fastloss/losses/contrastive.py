"""Contrastive losses: each query is to find its positives among all the others."""

from __future__ import annotations

import torch
from torch import Tensor

from fastloss.core.arguments import check_range
from fastloss.core.dispatch import fused
from fastloss.core.dtypes import result_dtype, widened
from fastloss.skeletons.comparisons import (
    IGNORED,
    SigmoidComparison,
    SoftmaxComparison,
    TwoWayComparison,
    check_matrix,
    check_reduction,
    checked_indices,
    multiplier,
    one_precision,
    scale_of,
    unit,
)
from fastloss.skeletons.similarity import Similarity

__all__ = ["clip_loss", "info_nce", "moco_loss", "nt_xent", "siglip_loss", "supcon_loss"]


def _check_smoothing(label_smoothing: float) -> None:
    if not 0 <= label_smoothing <= 1:
        raise ValueError(f"label_smoothing must be between 0 and 1, got {label_smoothing}")


def _info_nce_comparison(
    query: Tensor,
    positive: Tensor,
    negatives: Tensor | None,
    temperature: float | Tensor,
    normalize: bool,
    target: Tensor | None,
    labels: tuple[Tensor, Tensor] | None,
    decoupled: bool,
    label_smoothing: float,
) -> SoftmaxComparison:
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
    if negatives is not None:
        query, positive, negatives = one_precision(query=query, positive=positive, negatives=negatives)
    else:
        query, positive = one_precision(query=query, positive=positive)
    query, positive = unit(query, normalize), unit(positive, normalize)
    scale = scale_of(temperature, query)
    if negatives is not None:
        negatives = unit(negatives, normalize)
        column = torch.full((size,), negatives.shape[0], device=query.device)
        return SoftmaxComparison(
            query, negatives, scale, positive, column, decoupled=decoupled, label_smoothing=label_smoothing
        )
    if labels is not None:
        labels = (
            checked_indices(labels[0], "the labels of the queries", size),
            checked_indices(labels[1], "the labels of the keys", positive.shape[0]),
        )
    elif target is None:
        target = torch.arange(size, device=query.device)
    else:
        target = checked_indices(target, "target", size)
        check_range(target, positive.shape[0], IGNORED)
    return SoftmaxComparison(query, positive, scale, None, target, labels, False, decoupled, label_smoothing)


@fused(Similarity(_info_nce_comparison, "query"))
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
    comparison = _info_nce_comparison(
        query, positive, negatives, temperature, normalize, target, labels, decoupled, label_smoothing
    )
    check_reduction(reduction)
    return comparison.reference(reduction).to(result_dtype(query))


def _nt_xent_comparison(
    z1: Tensor, z2: Tensor, temperature: float | Tensor, normalize: bool, decoupled: bool, label_smoothing: float
) -> SoftmaxComparison:
    check_matrix(z1, "z1")
    check_matrix(z2, "z2", z1.shape[1], z1.shape[0])
    _check_smoothing(label_smoothing)
    views = unit(torch.cat(widened(z1, z2)), normalize)
    size = z1.shape[0]
    target = torch.arange(2 * size, device=z1.device).roll(size)
    scale = scale_of(temperature, views)
    return SoftmaxComparison(views, views, scale, None, target, None, True, decoupled, label_smoothing)


@fused(Similarity(_nt_xent_comparison, "z1"))
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
    comparison = _nt_xent_comparison(z1, z2, temperature, normalize, decoupled, label_smoothing)
    check_reduction(reduction)
    return comparison.reference(reduction).to(result_dtype(z1))


def _supcon_comparison(
    embeddings: Tensor, labels: Tensor, temperature: float | Tensor, normalize: bool, decoupled: bool
) -> SoftmaxComparison:
    if embeddings.dim() == 3:
        labels = checked_indices(labels, "labels", embeddings.shape[0])
        labels = labels.repeat_interleave(embeddings.shape[1])
        embeddings = embeddings.flatten(0, 1)
    check_matrix(embeddings, "embeddings")
    labels = checked_indices(labels, "labels", embeddings.shape[0])
    (vectors,) = widened(embeddings)
    vectors = unit(vectors, normalize)
    scale = scale_of(temperature, vectors)
    return SoftmaxComparison(vectors, vectors, scale, None, None, (labels, labels), True, decoupled)


@fused(Similarity(_supcon_comparison, "embeddings"))
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
    comparison = _supcon_comparison(embeddings, labels, temperature, normalize, decoupled)
    check_reduction(reduction)
    return comparison.reference(reduction).to(result_dtype(embeddings))


def _moco_comparison(
    query: Tensor, key: Tensor, queue: Tensor, temperature: float | Tensor, normalize: bool, label_smoothing: float
) -> SoftmaxComparison:
    check_matrix(query, "query")
    size, width = query.shape
    check_matrix(key, "key", width, size)
    check_matrix(queue, "queue", width)
    _check_smoothing(label_smoothing)
    tensors = one_precision(query=query, key=key.detach(), queue=queue.detach())
    query, key, queue = (unit(x, normalize) for x in tensors)
    column = torch.full((size,), queue.shape[0], device=query.device)
    return SoftmaxComparison(query, queue, scale_of(temperature, query), key, column, label_smoothing=label_smoothing)


@fused(Similarity(_moco_comparison, "query"))
def moco_loss(
    query: Tensor,
    key: Tensor,
    queue: Tensor,
    *,
    temperature: float | Tensor = 0.07,
    normalize: bool = True,
    label_smoothing: float = 0.0,
    reduction: str = "mean",
) -> Tensor:
    r"""Momentum contrast: each query is to find its key among the keys of earlier batches.

    .. math::
        \ell_i = -\log \frac{\exp(\langle q_i, k_i\rangle / \tau)}
                            {\exp(\langle q_i, k_i\rangle / \tau) + \sum_j \exp(\langle q_i, u_j\rangle / \tau)}

    with u the queue. ``key`` and ``queue`` come from the momentum encoder and are constants: no gradient flows into
    them.

    Args:
        query: of the encoder that is trained.
        key: the positive key of each query.
        queue: the negatives, one a row (the authors' code stores the transpose).
        temperature, normalize, label_smoothing, reduction: as in :func:`fastloss.info_nce`.

    Shape:
        - query, key: (N, D); queue: (K, D)
        - output: (N,) for ``"none"``, else ()

    Returns:
        The loss, in the dtype of ``query``; all arithmetic is in float32 at least.

    Raises:
        ValueError: shapes that do not fit, a hyper-parameter out of range.

    Source:
        He et al. 2020, arXiv:1911.05722.

    Example:
        >>> x = torch.eye(2)
        >>> round(moco_loss(x, x, x.flip(0)[:1], temperature=1.0, reduction="sum").item(), 4)
        1.0064
    """
    comparison = _moco_comparison(query, key, queue, temperature, normalize, label_smoothing)
    check_reduction(reduction)
    return comparison.reference(reduction).to(result_dtype(query))


def _clip_comparison(
    image: Tensor, text: Tensor, logit_scale: float | Tensor, normalize: bool, label_smoothing: float
) -> TwoWayComparison:
    check_matrix(image, "image")
    check_matrix(text, "text", image.shape[1], image.shape[0])
    _check_smoothing(label_smoothing)
    image, text = (unit(x, normalize) for x in one_precision(image=image, text=text))
    return TwoWayComparison(image, text, multiplier(logit_scale, image, "logit_scale"), label_smoothing)


@fused(Similarity(_clip_comparison, "image"))
def clip_loss(
    image: Tensor,
    text: Tensor,
    logit_scale: float | Tensor = 1 / 0.07,
    *,
    normalize: bool = True,
    label_smoothing: float = 0.0,
    reduction: str = "mean",
) -> Tensor:
    r"""Contrastive language-image loss: each image is to find its text, and each text its image.

    With :math:`z_{ij} = s\,\langle x_i, y_j\rangle` (s times the cosine, if ``normalize``),

    .. math:: \ell_i = \tfrac12\Bigl(\log\sum_j \exp z_{ij} + \log\sum_j \exp z_{ji}\Bigr) - z_{ii}.

    Args:
        image, text: the embeddings of N pairs.
        logit_scale: s, the multiplier itself, ``log_scale.exp()`` where its logarithm is the parameter; a number, or a
            tensor of one number, which then has a gradient.
        normalize: divide every vector by its norm; without effect on vectors of norm 1.
        label_smoothing: share of the target that is spread evenly, in [0, 1].
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.

    Shape:
        - image, text: (N, D)
        - output: (N,) for ``"none"``, else ()

    Returns:
        The loss, in the dtype of ``image``; all arithmetic is in float32 at least.

    Raises:
        ValueError: shapes that do not fit, a hyper-parameter out of range.

    Source:
        Radford et al. 2021, arXiv:2103.00020.

    Example:
        >>> x = torch.eye(2)
        >>> round(clip_loss(x, x, 1.0).item(), 4)
        0.3133
    """
    comparison = _clip_comparison(image, text, logit_scale, normalize, label_smoothing)
    check_reduction(reduction)
    return comparison.reference(reduction).to(result_dtype(image))


def _siglip_comparison(
    image: Tensor, text: Tensor, logit_scale: float | Tensor, logit_bias: float | Tensor, normalize: bool
) -> SigmoidComparison:
    check_matrix(image, "image")
    check_matrix(text, "text", image.shape[1], image.shape[0])
    image, text = (unit(x, normalize) for x in one_precision(image=image, text=text))
    scale, bias = multiplier(logit_scale, image, "logit_scale"), multiplier(logit_bias, image, "logit_bias")
    return SigmoidComparison(image, text, scale, bias)


@fused(Similarity(_siglip_comparison, "image"))
def siglip_loss(
    image: Tensor,
    text: Tensor,
    logit_scale: float | Tensor = 10.0,
    logit_bias: float | Tensor = -10.0,
    *,
    normalize: bool = True,
    reduction: str = "mean",
) -> Tensor:
    r"""Sigmoid loss of language-image pairs: each of the N x N pairs is told to be a pair or not, by itself.

    With :math:`z_{ij} = s\,\langle x_i, y_j\rangle + b`, y = 1 on the diagonal and -1 elsewhere,

    .. math:: \ell_i = -\sum_j \log \sigma(y_{ij}\, z_{ij}).

    Args:
        image, text: the embeddings of N pairs.
        logit_scale: s, the multiplier itself, as in :func:`clip_loss`.
        logit_bias: b; a number, or a tensor of one number, which then has a gradient.
        normalize: divide every vector by its norm.
        reduction: ``"none"``, ``"mean"`` (over the N images) or ``"sum"``.

    Shape:
        - image, text: (N, D)
        - output: (N,) for ``"none"``, else ()

    Returns:
        The loss, in the dtype of ``image``; all arithmetic is in float32 at least.

    Raises:
        ValueError: shapes that do not fit.

    Source:
        Zhai et al. 2023, arXiv:2303.15343.

    Example:
        >>> x = torch.eye(2)
        >>> round(siglip_loss(x, x, 10.0, -5.0).item(), 4)  # 2 log(1 + exp(-5))
        0.0134
    """
    comparison = _siglip_comparison(image, text, logit_scale, logit_bias, normalize)
    check_reduction(reduction)
    return comparison.reference(reduction).to(result_dtype(image))
