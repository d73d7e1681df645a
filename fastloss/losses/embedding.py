"""Metric learning: embeddings of one class are drawn together, those of others pushed away, by weights of their own."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fastloss.core.composite import composite, elements, present
from fastloss.core.elementary import log_sum, softplus
from fastloss.losses.contrastive import info_nce
from fastloss.skeletons.comparisons import check_matrix, checked_indices, unit

__all__ = [
    "circle_loss",
    "contrastive_loss",
    "lifted_structure_loss",
    "multi_similarity_loss",
    "n_pair_loss",
    "proxy_anchor_loss",
    "ranked_list_loss",
]


def _root(square: Tensor) -> Tensor:
    """At 0, where it has no derivative, the gradient is 0."""
    apart = square > 0
    return torch.where(apart, torch.where(apart, square, 1).sqrt(), 0)


@composite()
def contrastive_loss(
    a: Tensor,
    b: Tensor,
    same: Tensor,
    *,
    margin: float = 1.0,
    reduction: str = "mean",
    mask: Tensor | None = None,
    normalizer: float | Tensor | None = None,
) -> Tensor:
    r"""Pairs of embeddings: the same are drawn together, others pushed a margin apart.

    With the Euclidean distance d of a pair and y, 1 for the same and 0 for others,

    .. math:: \ell = y\, d^2 + (1 - y) \max(0, \mathrm{margin} - d)^2

    Args:
        a, b: the embeddings of N pairs.
        same: y, of each pair: 1, or True, draws it together.
        margin: not negative; farther apart others need not be.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``, over the pairs.
        mask: broadcasts to the losses; 0 takes a pair out, whatever it holds. Other values weight it.
        normalizer: the denominator of the mean, instead of the sum of the mask: a number or a 0-d tensor.

    Shape:
        - a, b: (N, D); same: (N,)
        - output: (N,) for ``"none"``, else ()

    Returns:
        The loss, in the dtype that torch promotes the embeddings to (float32 under autocast). At distance 0 the
        gradient is 0.

    Raises:
        ValueError: shapes that do not fit, a negative ``margin``.

    Source:
        Hadsell et al. 2006, Dimensionality reduction by learning an invariant mapping, without its factor 1/2.

    Example:
        >>> a, b = torch.tensor([[0.0, 0.0], [0.0, 0.0]]), torch.tensor([[0.6, 0.8], [0.3, 0.4]])
        >>> contrastive_loss(a, b, torch.tensor([1, 0]), reduction="none").tolist()
        [1.0, 0.25]
    """
    if not margin >= 0:
        raise ValueError(f"margin must not be negative, got {margin}")
    if a.dim() != 2 or a.shape != b.shape or same.shape != a.shape[:1]:
        shapes = [tuple(x.shape) for x in (a, b, same)]
        raise ValueError("a {} and b {} must be (N, D), same {} (N,)".format(*shapes))
    a, b, y = present(a.shape[:1], mask, normalizer, a, b, same.detach())
    square = (a - b).square().sum(1)
    y = y.to(square.dtype)
    return elements(y * square + (1 - y) * (margin - _root(square)).clamp(min=0).square())


@composite()
def n_pair_loss(
    anchor: Tensor, positive: Tensor, *, l2_coefficient: float = 0.0, label_smoothing: float = 0.0
) -> Tensor:
    r"""N-pair loss: each anchor is to find its positive among those of N different classes, by inner products.

    .. math::
        \ell = \frac1N \sum_i \log\Bigl(1 + \sum_{j \ne i} e^{\langle a_i, p_j\rangle - \langle a_i, p_i\rangle}\Bigr)
               + \frac{\lambda}{4N} \sum_i \bigl(\|a_i\|^2 + \|p_i\|^2\bigr)

    The matrix of the similarities is never stored: it is :func:`fastloss.info_nce` of vectors that are not normalised.

    Args:
        anchor: a, one of each class.
        positive: p, another one of the same class.
        l2_coefficient: lambda, which keeps the vectors short.
        label_smoothing: share of the target that is spread evenly over all positives, in [0, 1].

    Shape:
        - anchor, positive: (N, D)
        - output: ()

    Returns:
        The loss, in the dtype that torch promotes the operands to (float32 under autocast).

    Raises:
        ValueError: shapes that do not fit, ``label_smoothing`` out of range.

    Source:
        Sohn 2016, Improved deep metric learning with multi-class N-pair loss objective; the factor 1/4 of
        TensorFlow's ``npairs_loss``.

    Example:
        >>> x = torch.eye(2)
        >>> round(n_pair_loss(x, x).item(), 4)  # log(1 + e^-1)
        0.3133
    """
    loss = info_nce(anchor, positive, temperature=1.0, normalize=False, label_smoothing=label_smoothing)
    if not l2_coefficient:
        return loss
    size = (anchor.square().sum() + positive.square().sum()) / max(1, anchor.shape[0])
    return loss + l2_coefficient / 4 * size


def _compared(embeddings: Tensor, labels: Tensor, normalize: bool) -> tuple[Tensor, Tensor, Tensor]:
    """(vectors (N, D), which pairs are of one class (N, N), which are not)"""
    check_matrix(embeddings, "embeddings")
    labels = checked_indices(labels, "labels", embeddings.shape[0])
    same = labels[:, None] == labels
    itself = torch.eye(labels.shape[0], dtype=torch.bool, device=labels.device)
    return unit(embeddings, normalize), same & ~itself, ~same


def _over(losses: Tensor, counted: Tensor) -> Tensor:
    """The mean over those that count; 0 of none."""
    return torch.where(counted, losses, 0).sum() / counted.sum().clamp(min=1)


@composite()
def lifted_structure_loss(
    embeddings: Tensor, labels: Tensor, *, margin: float = 1.0, normalize: bool = False
) -> Tensor:
    r"""Each pair of a class against all negatives of both of them.

    With the distances d and the negatives N(i) of i,

    .. math::
        \ell = \frac{1}{2 |P|} \sum_{(i, j) \in P} \max\Bigl(0,\; d_{ij} + \log \Bigl(\sum_{k \in N(i)} e^{m - d_{ik}}
               + \sum_{k \in N(j)} e^{m - d_{jk}}\Bigr)\Bigr)^2

    over the pairs P of one class, with m = ``margin``. O(N^2 D).

    Args:
        embeddings: the vectors.
        labels: the class of each, integers.
        margin: how far negatives should be.
        normalize: divide every vector by its norm.

    Shape:
        - embeddings: (N, D); labels: (N,)
        - output: ()

    Returns:
        The loss, in the dtype of ``embeddings`` (float32 under autocast); 0 without a pair that has negatives.

    Raises:
        ValueError: shapes that do not fit.

    Source:
        Song et al. 2016, arXiv:1511.06452.

    Example:
        >>> x = torch.tensor([[0.0], [1.0], [3.0]])
        >>> round(lifted_structure_loss(x, torch.tensor([0, 0, 1])).item(), 4)  # (1 + log(e^-2 + e^-1))^2 / 2
        0.0491
    """
    x, positive, negative = _compared(embeddings, labels, normalize)
    d = _root((x[:, None] - x).square().sum(2))
    pushed = log_sum(margin - d, negative)  # (N,)
    some = torch.isfinite(pushed)
    counted = positive & some[:, None] & some  # both have negatives, or neither
    finite = torch.where(some, pushed, 0)
    losses = (torch.logaddexp(finite[:, None], finite) + d).clamp(min=0).square() / 2
    return _over(losses, counted)


@composite()
def multi_similarity_loss(
    embeddings: Tensor,
    labels: Tensor,
    *,
    alpha: float = 2.0,
    beta: float = 50.0,
    base: float = 0.5,
    mining: float | None = None,
    normalize: bool = True,
    reduction: str = "mean",
) -> Tensor:
    r"""Pairs weigh by their own similarity and by that of the others of their anchor.

    With the cosines s and the positives P and negatives Q of an anchor,

    .. math::
        \ell_i = \frac1\alpha \log\Bigl(1 + \sum_{k \in P} e^{-\alpha (s_{ik} - \lambda)}\Bigr)
               + \frac1\beta \log\Bigl(1 + \sum_{k \in Q} e^{\beta (s_{ik} - \lambda)}\Bigr)

    Args:
        embeddings: the vectors.
        labels: the class of each, integers.
        alpha: positive; sharpness of the positives.
        beta: positive; that of the negatives.
        base: lambda, the similarity between the two.
        mining: a margin: only negatives that are nearer than the farthest positive, give or take this, and positives
            that are farther than the nearest negative. None: all pairs.
        normalize: divide every vector by its norm.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``, over the anchors.

    Shape:
        - embeddings: (N, D); labels: (N,)
        - output: (N,) for ``"none"``, else ()

    Returns:
        The loss, in the dtype of ``embeddings`` (float32 under autocast).

    Raises:
        ValueError: shapes that do not fit, ``alpha`` or ``beta`` not positive.

    Source:
        Wang et al. 2019, arXiv:1904.06627.

    Example:
        >>> x = torch.eye(2)
        >>> round(multi_similarity_loss(x, torch.tensor([0, 0]), alpha=1.0).item(), 4)  # log(1 + e^0.5)
        0.9741
    """
    if not (alpha > 0 and beta > 0):
        raise ValueError(f"alpha and beta must be positive, got {alpha} and {beta}")
    x, positive, negative = _compared(embeddings, labels, normalize)
    s = x @ x.mT
    if mining is not None:
        known = s.detach()
        hardest = known.masked_fill(~positive, math.inf)
        nearest = known.masked_fill(~negative, -math.inf)
        if s.shape[0]:
            farthest, closest = hardest.amin(1, keepdim=True), nearest.amax(1, keepdim=True)
            positive, negative = positive & (known - mining < closest), negative & (known + mining > farthest)
    pulled = softplus(log_sum(-alpha * (s - base), positive)) / alpha
    pushed = softplus(log_sum(beta * (s - base), negative)) / beta
    return elements(pulled + pushed)


@composite()
def circle_loss(
    embeddings: Tensor, labels: Tensor, *, margin: float = 0.25, scale: float = 256.0, normalize: bool = True
) -> Tensor:
    r"""Each pair is pulled or pushed the more, the farther it is from where it should be.

    With the cosines s, the positives P and the negatives Q of an anchor, m = ``margin`` and the constants
    :math:`a_p = \max(0, 1 + m - s_p)`, :math:`a_q = \max(0, s_q + m)`,

    .. math::
        \ell_i = \log\Bigl(1 + \sum_{q \in Q} e^{\gamma a_q (s_q - m)}
                 \sum_{p \in P} e^{-\gamma a_p (s_p - 1 + m)}\Bigr)

    Args:
        embeddings: the vectors.
        labels: the class of each, integers.
        margin: m.
        scale: gamma, positive.
        normalize: divide every vector by its norm.

    Shape:
        - embeddings: (N, D); labels: (N,)
        - output: ()

    Returns:
        The mean over the anchors that have a positive and a negative, in the dtype of ``embeddings`` (float32 under
        autocast); 0 without one.

    Raises:
        ValueError: shapes that do not fit, ``scale`` not positive.

    Source:
        Sun et al. 2020, arXiv:2002.10857.

    Example:
        >>> x = torch.tensor([[1.0, 0.0], [1.0, 0.0], [-1.0, 0.0]])
        >>> circle_loss(x, torch.tensor([0, 0, 1])).item() < 1e-6
        True
    """
    if not scale > 0:
        raise ValueError(f"scale must be positive, got {scale}")
    x, positive, negative = _compared(embeddings, labels, normalize)
    s = x @ x.mT
    known = s.detach()
    pull = -scale * (1 + margin - known).clamp(min=0) * (s - (1 - margin))
    push = scale * (known + margin).clamp(min=0) * (s - margin)
    losses = softplus(log_sum(push, negative) + log_sum(pull, positive))
    return _over(losses, positive.any(1) & negative.any(1))


@composite()
def proxy_anchor_loss(
    embeddings: Tensor,
    labels: Tensor,
    proxies: Tensor,
    *,
    margin: float = 0.1,
    alpha: float = 32.0,
    normalize: bool = True,
) -> Tensor:
    r"""Each class has a proxy, an anchor that the embeddings of its class are drawn to and all others pushed from.

    With the cosines s of embeddings and proxies, the proxies C of all classes and those C+ of classes in the batch,

    .. math::
        \ell = \frac{1}{|C^+|} \sum_{c \in C^+} \log\Bigl(1 + \sum_{i: y_i = c} e^{-\alpha (s_{ic} - m)}\Bigr)
             + \frac{1}{|C|} \sum_{c \in C} \log\Bigl(1 + \sum_{i: y_i \ne c} e^{\alpha (s_{ic} + m)}\Bigr)

    with m = ``margin``. O(N C D).

    Args:
        embeddings: the vectors.
        labels: the class of each, integers.
        proxies: a vector of each class, learned with the model.
        margin: m.
        alpha: positive; the sharpness.
        normalize: divide every vector by its norm.

    Shape:
        - embeddings: (N, D); labels: (N,); proxies: (C, D)
        - output: ()

    Returns:
        The loss, in the dtype that torch promotes the vectors to (float32 under autocast).

    Raises:
        ValueError: shapes that do not fit, ``alpha`` not positive.

    Source:
        Kim et al. 2020, arXiv:2003.13911.

    Example:
        >>> x = torch.eye(2)
        >>> round(proxy_anchor_loss(x, torch.tensor([0, 1]), x, margin=0.0, alpha=1.0).item(), 4)
        1.0064
    """
    if not alpha > 0:
        raise ValueError(f"alpha must be positive, got {alpha}")
    check_matrix(embeddings, "embeddings")
    check_matrix(proxies, "proxies", embeddings.shape[1])
    labels = checked_indices(labels, "labels", embeddings.shape[0])
    s = unit(embeddings, normalize) @ unit(proxies.to(embeddings.dtype), normalize).mT  # (N, C)
    own = labels[:, None] == torch.arange(proxies.shape[0], device=labels.device)
    pulled = softplus(log_sum(-alpha * (s - margin), own, 0))
    pushed = softplus(log_sum(alpha * (s + margin), ~own, 0))
    return _over(pulled, own.any(0)) + pushed.sum() / max(1, proxies.shape[0])


def _shared(values: Tensor, counted: Tensor, temperature: float) -> Tensor:
    """(N, M) -> (N,): the mean of those that count, weighted by exp(temperature * value), constants; 0 of none."""
    some = counted.any(1, keepdim=True)
    shares = (temperature * values.detach()).masked_fill(~counted & some, -math.inf).softmax(1)
    return torch.where(counted, shares * values, 0).sum(1)


@composite()
def ranked_list_loss(
    embeddings: Tensor,
    labels: Tensor,
    *,
    alpha: float = 1.2,
    margin: float = 0.4,
    share: float = 0.5,
    positive_temperature: float = 0.0,
    negative_temperature: float = 10.0,
    normalize: bool = True,
    reduction: str = "mean",
) -> Tensor:
    r"""Positives come within a sphere around their anchor, negatives leave a larger one.

    With the distances d, the positives P of anchor i that are farther than :math:`\alpha - m`, and the negatives Q that
    are nearer than :math:`\alpha`,

    .. math::
        \ell_i = (1 - \lambda) \sum_{j \in P} u_{ij}\,(d_{ij} - (\alpha - m))
               + \lambda \sum_{j \in Q} w_{ij}\,(\alpha - d_{ij}),

    where the weights u and w are constants that add up to 1, proportional to :math:`e^{T_p d_{ij}}` and
    :math:`e^{-T_n d_{ij}}`: the farther the positive and the nearer the negative, the more it counts. O(N^2 D).

    Args:
        embeddings: the vectors.
        labels: the class of each, integers.
        alpha: beyond this distance a negative does not count.
        margin: m, by which the sphere of the positives is smaller.
        share: lambda, in [0, 1].
        positive_temperature: :math:`T_p`; at 0 all positives that count do so alike.
        negative_temperature: :math:`T_n`, not negative.
        normalize: divide every vector by its norm.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``, over the anchors.

    Shape:
        - embeddings: (N, D); labels: (N,)
        - output: (N,) for ``"none"``, else ()

    Returns:
        The loss, in the dtype of ``embeddings`` (float32 under autocast). At distance 0 the gradient is 0.

    Raises:
        ValueError: shapes that do not fit, ``share`` outside [0, 1], a negative temperature.

    Source:
        Wang et al. 2019, arXiv:1903.03238.

    Example:
        >>> x = torch.tensor([[0.0], [1.0], [1.5]])
        >>> ranked_list_loss(x, torch.tensor([0, 0, 1]), alpha=1.0, margin=0.5, normalize=False).item()
        0.3333333432674408
    """
    if not (0 <= share <= 1 and positive_temperature >= 0 and negative_temperature >= 0):
        raise ValueError(
            f"share must be in [0, 1] and temperatures not negative, got {share}, {positive_temperature} and "
            f"{negative_temperature}"
        )
    x, positive, negative = _compared(embeddings, labels, normalize)
    if not x.shape[0]:
        return elements(x.sum(1))
    d = _root((x[:, None] - x).square().sum(2))
    far, near = d - (alpha - margin), alpha - d
    pulled = _shared(far, positive & (far > 0), positive_temperature)
    pushed = _shared(near, negative & (near > 0), negative_temperature)
    return elements((1 - share) * pulled + share * pushed)
