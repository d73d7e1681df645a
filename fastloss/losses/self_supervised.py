"""Self-supervised learning: losses between two encodings of the same samples."""

from __future__ import annotations

import torch
from torch import Tensor

from fastloss.dispatch import fused
from fastloss.losses.metric import _check_smoothing
from fastloss.losses.precision import result_dtype, widened
from fastloss.losses.similarity import (
    SigmoidPairs,
    SoftmaxPairs,
    TwoWayPairs,
    check_matrix,
    check_reduction,
    multiplier,
    scale_of,
    unit,
)
from fastloss.losses.terms import Terms
from fastloss.lowering import autocast_applies
from fastloss.skeletons.pairwise import Pairwise

__all__ = ["clip_loss", "moco_loss", "siglip_loss", "vicreg_loss"]


def _moco_pairs(
    query: Tensor, key: Tensor, queue: Tensor, temperature: float | Tensor, normalize: bool, label_smoothing: float
) -> SoftmaxPairs:
    check_matrix(query, "query")
    size, width = query.shape
    check_matrix(key, "key", width, size)
    check_matrix(queue, "queue", width)
    _check_smoothing(label_smoothing)
    query, key, queue = (unit(x, normalize) for x in widened(query, key.detach(), queue.detach()))
    column = torch.full((size,), queue.shape[0], device=query.device)
    return SoftmaxPairs(query, queue, scale_of(temperature, query), key, column, label_smoothing=label_smoothing)


@fused(Pairwise(_moco_pairs, "query"))
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

    Raises:
        ValueError: shapes that do not fit, a hyper-parameter out of range.

    Source:
        He et al. 2020, arXiv:1911.05722.

    Example:
        >>> x = torch.eye(2)
        >>> round(moco_loss(x, x, x.flip(0)[:1], temperature=1.0, reduction="sum").item(), 4)
        1.0064
    """
    pairs = _moco_pairs(query, key, queue, temperature, normalize, label_smoothing)
    check_reduction(reduction)
    return pairs.reference(reduction).to(result_dtype(query))


def _clip_pairs(
    image: Tensor, text: Tensor, logit_scale: float | Tensor, normalize: bool, label_smoothing: float
) -> TwoWayPairs:
    check_matrix(image, "image")
    check_matrix(text, "text", image.shape[1], image.shape[0])
    _check_smoothing(label_smoothing)
    image, text = (unit(x, normalize) for x in widened(image, text))
    return TwoWayPairs(image, text, multiplier(logit_scale, image, "logit_scale"), label_smoothing)


@fused(Pairwise(_clip_pairs, "image"))
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
    pairs = _clip_pairs(image, text, logit_scale, normalize, label_smoothing)
    check_reduction(reduction)
    return pairs.reference(reduction).to(result_dtype(image))


def _siglip_pairs(
    image: Tensor, text: Tensor, logit_scale: float | Tensor, logit_bias: float | Tensor, normalize: bool
) -> SigmoidPairs:
    check_matrix(image, "image")
    check_matrix(text, "text", image.shape[1], image.shape[0])
    image, text = (unit(x, normalize) for x in widened(image, text))
    scale, bias = multiplier(logit_scale, image, "logit_scale"), multiplier(logit_bias, image, "logit_bias")
    return SigmoidPairs(image, text, scale, bias)


@fused(Pairwise(_siglip_pairs, "image"))
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

    Raises:
        ValueError: shapes that do not fit.

    Source:
        Zhai et al. 2023, arXiv:2303.15343.

    Example:
        >>> x = torch.eye(2)
        >>> round(siglip_loss(x, x, 10.0, -5.0).item(), 4)  # 2 log(1 + exp(-5))
        0.0134
    """
    pairs = _siglip_pairs(image, text, logit_scale, logit_bias, normalize)
    check_reduction(reduction)
    return pairs.reference(reduction).to(result_dtype(image))


def _off_diagonal_square(x: Tensor) -> Tensor:
    """sum of the squares of the covariances of different columns of x (N, D), whose columns have the mean 0.

    |X'X|^2 = |XX'|^2 in the Frobenius norm: the smaller of the two matrices is built.
    """
    size, width = x.shape
    gram = x.t() @ x if width <= size else x @ x.t()
    variances = x.square().sum(0)
    return (gram.square().sum() - variances.square().sum()) / (size - 1) ** 2


def vicreg_loss(
    z_a: Tensor,
    z_b: Tensor,
    *,
    invariance: float = 25.0,
    variance: float = 25.0,
    covariance: float = 1.0,
    gamma: float = 1.0,
    eps: float = 1e-4,
    return_terms: bool = False,
) -> Tensor | tuple[Tensor, Terms]:
    r"""Variance-invariance-covariance regularisation: two views agree, no dimension collapses, none repeats another.

    .. math::
        \ell = \lambda \frac{\|Z - Z'\|^2}{N D}
             + \mu \sum_{X\in\{Z,Z'\}} \frac1{2D} \sum_d \max(0, \gamma - \sqrt{\mathrm{Var}(X_d) + \epsilon})
             + \nu \sum_{X\in\{Z,Z'\}} \frac1D \sum_{d\ne e} \mathrm{Cov}(X_d, X_e)^2

    with N - 1 in variances and covariances, as in the authors' code. The covariance term takes the smaller of a D x D
    and an N x N matrix: O(N D min(N, D)) operations.

    Args:
        z_a, z_b: embeddings of two views of N samples.
        invariance, variance, covariance: the coefficients, lambda, mu, nu.
        gamma: the standard deviation that is wanted.
        eps: added to the variance.
        return_terms: also return the three terms.

    Shape:
        - z_a, z_b: (N, D) with N at least 2
        - output: ()

    Returns:
        The loss (float32 under autocast; halves compute in float32), or (loss, terms) with ``return_terms``:
        ``invariance``, ``variance``, ``covariance``, detached and
        before their coefficients.

    Raises:
        ValueError: shapes that do not fit.

    Source:
        Bardes et al. 2022, arXiv:2105.04906. Equal to the authors' code (facebookresearch/vicreg) and to lightly's
        ``VICRegLoss``, which halve the variance term; the paper's equation does not.

    Example:
        >>> z = torch.tensor([[1.0, -1.0], [-1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]])
        >>> vicreg_loss(z, z).item()
        0.0
    """
    if z_a.dim() != 2 or z_a.shape != z_b.shape or z_a.shape[0] < 2:
        raise ValueError(
            f"z_a and z_b must have one shape (N, D) with N > 1, got {tuple(z_a.shape)} and {tuple(z_b.shape)}"
        )
    size, width = z_a.shape
    dtype = torch.float32 if autocast_applies(z_a) else result_dtype(z_a, z_b)
    with torch.autocast(z_a.device.type, enabled=False):  # half products would cancel in the covariances
        a, b = widened(z_a, z_b)
        similarity = (a - b).square().mean()
        centered = [x - x.mean(0) for x in (a, b)]
        deviations = [(x.square().sum(0) / (size - 1) + eps).sqrt() for x in centered]
        spread = (gamma - torch.cat(deviations)).clamp(min=0).sum() / (2 * width)
        redundancy = (_off_diagonal_square(centered[0]) + _off_diagonal_square(centered[1])) / width
        loss = (invariance * similarity + variance * spread + covariance * redundancy).to(dtype)
    if not return_terms:
        return loss
    terms = {"invariance": similarity, "variance": spread, "covariance": redundancy}
    return loss, {name: term.detach().to(dtype) for name, term in terms.items()}
