"""Self-supervised learning: losses between two encodings of the same samples."""

from __future__ import annotations

import torch
from torch import Tensor

from fastloss.core.composite import composite, elements, present
from fastloss.core.dtypes import result_dtype, widened
from fastloss.core.metrics import Metrics
from fastloss.losses.classification import cross_entropy
from fastloss.losses.contrastive import nt_xent
from fastloss.losses.regression import mse_loss
from fastloss.skeletons.comparisons import check_matrix, unit

__all__ = [
    "barlow_twins_loss",
    "byol_loss",
    "dcl_loss",
    "dino_loss",
    "ibot_loss",
    "koleo_loss",
    "mae_loss",
    "simsiam_loss",
    "sinkhorn",
    "swav_loss",
    "vicreg_loss",
]


def _off_diagonal_square(x: Tensor) -> Tensor:
    """sum of the squares of the covariances of different columns of x (N, D), whose columns have the mean 0.

    |X'X|^2 = |XX'|^2 in the Frobenius norm: the smaller of the two matrices is built.
    """
    size, width = x.shape
    gram = x.t() @ x if width <= size else x @ x.t()
    variances = x.square().sum(0)
    return (gram.square().sum() - variances.square().sum()) / (size - 1) ** 2


@composite()
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
) -> Tensor | tuple[Tensor, Metrics]:
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
        ``invariance``, ``variance``, ``covariance``, detached and before their coefficients.

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
    similarity = mse_loss(z_a, z_b)
    centered = [x - x.mean(0) for x in (z_a, z_b)]
    deviations = [(x.square().sum(0) / (size - 1) + eps).sqrt() for x in centered]
    spread = (gamma - torch.cat(deviations)).clamp(min=0).sum() / (2 * width)
    redundancy = (_off_diagonal_square(centered[0]) + _off_diagonal_square(centered[1])) / width
    loss = invariance * similarity + variance * spread + covariance * redundancy
    return loss, {"invariance": similarity, "variance": spread, "covariance": redundancy}


@composite()
def barlow_twins_loss(
    z_a: Tensor, z_b: Tensor, *, redundancy: float = 0.005, eps: float = 1e-5, return_terms: bool = False
) -> Tensor | tuple[Tensor, Metrics]:
    r"""Two views of a sample agree in every dimension, and no dimension repeats another.

    With the correlations :math:`C_{de}` of dimension d of one view with dimension e of the other, over the batch,

    .. math:: \ell = \sum_d (1 - C_{dd})^2 + \lambda \sum_{d \ne e} C_{de}^2

    Args:
        z_a, z_b: embeddings of two views of N samples.
        redundancy: lambda.
        eps: added to the variances.
        return_terms: also return the two terms.

    Shape:
        - z_a, z_b: (N, D) with N at least 2
        - output: ()

    Returns:
        The loss, in the dtype that torch promotes the operands to (float32 under autocast); with ``return_terms``,
        (loss, terms): ``invariance`` and ``redundancy``, before the coefficient.

    Raises:
        ValueError: shapes that do not fit.

    Source:
        Zbontar et al. 2021, arXiv:2103.03230: variances of N, as the authors' batch normalisation has them.

    Example:
        >>> z = torch.tensor([[1.0, -1.0], [-1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]])
        >>> barlow_twins_loss(z, z, eps=0.0).item()
        0.0
    """
    if z_a.dim() != 2 or z_a.shape != z_b.shape or z_a.shape[0] < 2:
        raise ValueError(
            f"z_a and z_b must have one shape (N, D) with N > 1, got {tuple(z_a.shape)} and {tuple(z_b.shape)}"
        )
    a, b = ((z - z.mean(0)) / (z.var(0, correction=0) + eps).sqrt() for z in (z_a, z_b.to(z_a.dtype)))
    correlation = a.mT @ b / z_a.shape[0]
    own = torch.diagonal(correlation)
    invariance = (own - 1).square().sum()
    off = (correlation - torch.diag_embed(own)).square().sum()
    return invariance + redundancy * off, {"invariance": invariance, "redundancy": off}


def _cosines(a: Tensor, b: Tensor) -> Tensor:
    """(N,), of the rows of two matrices."""
    check_matrix(a, "the prediction")
    check_matrix(b, "the target", a.shape[1], a.shape[0])
    return (unit(a, True) * unit(b.detach().to(a.dtype), True)).sum(1)


@composite()
def byol_loss(input: Tensor, target: Tensor, *, reduction: str = "mean") -> Tensor:
    r"""The prediction of one view should point where the averaged network puts the other one.

    .. math:: \ell = 2 - 2 \cos(p, \mathrm{sg}(z))

    The authors add the same with the views exchanged.

    Args:
        input: p, the online network's prediction.
        target: z, the target network's projection of the other view; no gradient flows into it.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``, over the samples.

    Shape:
        - input, target: (N, D)
        - output: (N,) for ``"none"``, else ()

    Returns:
        The loss, in the dtype that torch promotes the operands to (float32 under autocast).

    Raises:
        ValueError: shapes that do not fit.

    Source:
        Grill et al. 2020, arXiv:2006.07733.

    Example:
        >>> byol_loss(torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 3.0]])).item()
        2.0
    """
    return elements(2 - 2 * _cosines(input, target))


@composite()
def simsiam_loss(p1: Tensor, p2: Tensor, z1: Tensor, z2: Tensor, *, reduction: str = "mean") -> Tensor:
    r"""Each view's prediction should point where the same network puts the other view.

    .. math:: \ell = -\tfrac12 \cos(p_1, \mathrm{sg}(z_2)) - \tfrac12 \cos(p_2, \mathrm{sg}(z_1))

    Args:
        p1, p2: predictions of the two views.
        z1, z2: their projections; no gradient flows into them, by which the network does not collapse.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``, over the samples.

    Shape:
        - p1, p2, z1, z2: (N, D)
        - output: (N,) for ``"none"``, else ()

    Returns:
        The loss, in the dtype that torch promotes the operands to (float32 under autocast).

    Raises:
        ValueError: shapes that do not fit.

    Source:
        Chen and He 2021, arXiv:2011.10566.

    Example:
        >>> x = torch.eye(2)
        >>> simsiam_loss(x, x, x, x).item()
        -1.0
    """
    return elements(-0.5 * (_cosines(p1, z2) + _cosines(p2, z1)))


@composite()
def dcl_loss(
    z1: Tensor, z2: Tensor, *, temperature: float = 0.1, sigma: float | None = None, reduction: str = "mean"
) -> Tensor:
    r"""Decoupled contrastive loss: :func:`fastloss.nt_xent` whose sum leaves the positive out.

    With the cosines s of the 2N views and j(i), the other view of i,

    .. math:: \ell_i = \log \sum_{k \ne i, j(i)} e^{s_{ik} / \tau} - w_i\, s_{i j(i)} / \tau

    with w = 1, or, with ``sigma``, :math:`w_i = 2 - e^{s_{i j(i)} / \sigma} / E\, e^{s_{\cdot\, j(\cdot)} / \sigma}`, a
    constant: pairs that are far apart weigh more. The matrix of the similarities is never stored.

    Args:
        z1, z2: embeddings of two views of N samples.
        temperature: tau, positive.
        sigma: positive; None: no weights.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``, over the 2N views.

    Shape:
        - z1, z2: (N, D)
        - output: (2N,), those of z1 first, for ``"none"``, else ()

    Returns:
        The loss, in the dtype that torch promotes the operands to (float32 under autocast).

    Raises:
        ValueError: shapes that do not fit, ``temperature`` or ``sigma`` not positive.

    Source:
        Yeh et al. 2022, arXiv:2110.06848.

    Example:
        >>> x = torch.eye(2)
        >>> round(dcl_loss(x, x, temperature=1.0).item(), 4)  # log 2 - 1
        -0.3069
    """
    if sigma is not None and not sigma > 0:
        raise ValueError(f"sigma must be positive, got {sigma}")
    losses = nt_xent(z1, z2, temperature=temperature, decoupled=True, reduction="none")
    if sigma is None:
        return elements(losses)
    positive = (unit(z1, True) * unit(z2, True)).sum(1)
    less = z1.shape[0] * (positive.detach() / sigma).softmax(0) - 1  # 1 - w
    return elements(losses + (less * positive / temperature).repeat(2))


def _sharpened(teacher: Tensor, center: Tensor | None, temperature: float) -> Tensor:
    """The teacher's distributions (..., K), centred, constants.

    Raises:
        ValueError: if the center is not (K,).
    """
    if center is not None and center.shape != teacher.shape[-1:]:
        raise ValueError(f"center must be {tuple(teacher.shape[-1:])}, got {tuple(center.shape)}")
    logits = teacher.detach() if center is None else teacher.detach() - center.detach()
    return (logits / temperature).softmax(-1)


def _between_views(student: Tensor, q: Tensor, temperature: float) -> Tensor:
    """The mean cross-entropy of the logits (S, N, K) of each view to the distributions (T, N, K) of the first T views,
    but its own: it is linear in its target, so a view meets the mean of its teachers, once."""
    views, size, classes = student.shape
    teachers = q.shape[0]
    total = q.sum(0)
    # a view is no teacher of its own
    pairs = [teachers - int(view < teachers) for view in range(views)]
    targets = torch.stack([total - q[view] if view < teachers else total for view in range(views)])
    counts = teachers - (torch.arange(views, device=student.device) < teachers).to(student.dtype)[:, None, None]
    targets = targets / counts.clamp(min=1)
    flat = student.reshape(views * size, classes), targets.reshape(views * size, classes)
    losses = cross_entropy(*flat, reduction="none", temperature=temperature).reshape(views, size)
    return (losses * counts[:, :, 0]).sum() / (max(1, sum(pairs)) * max(1, size))


@composite()
def dino_loss(
    student: Tensor,
    teacher: Tensor,
    center: Tensor | None = None,
    *,
    student_temperature: float = 0.1,
    teacher_temperature: float = 0.04,
) -> Tensor:
    r"""Self-distillation: the student's distribution of one view should be the teacher's of another one.

    With :math:`p_s = \mathrm{softmax}(s / \tau_s)` and :math:`q_t = \mathrm{softmax}((t - c) / \tau_t)`,

    .. math:: \ell = -\frac{1}{|V|} \sum_{(s, t) \in V} E \sum_k q_{tk} \log p_{sk}

    over the pairs V of different views; the teacher sees the first views of the student's. The cross-entropy is linear
    in its target, so each view of the student meets the mean of its teachers, once. After each step c becomes
    ``momentum * c + (1 - momentum) * teacher.mean((0, 1))``, with 0.9 in the authors' code.

    Args:
        student: logits of all views, the small ones, too.
        teacher: logits of the first, large views; constants.
        center: c, the running mean of the teacher's logits. None: 0.
        student_temperature: positive.
        teacher_temperature: positive; below the student's, by which the distributions sharpen.

    Shape:
        - student: (S, N, K); teacher: (T, N, K) with T <= S; center: (K,)
        - output: ()

    Returns:
        The loss, in the dtype that torch promotes the operands to (float32 under autocast).

    Raises:
        ValueError: shapes that do not fit, a single view, a temperature that is not positive.

    Source:
        Caron et al. 2021, arXiv:2104.14294.

    Example:
        >>> round(dino_loss(torch.zeros(2, 1, 4), torch.zeros(2, 1, 4)).item(), 4)  # log 4
        1.3863
    """
    if not (student_temperature > 0 and teacher_temperature > 0):
        raise ValueError(f"temperatures must be positive, got {student_temperature} and {teacher_temperature}")
    views = student.shape[0] if student.dim() == 3 else 0
    if views < 2 or teacher.dim() != 3 or teacher.shape[1:] != student.shape[1:] or not 0 < teacher.shape[0] <= views:
        raise ValueError(
            f"student must be (S, N, K) with S > 1, teacher (T, N, K) with T <= S, got {tuple(student.shape)} and "
            f"{tuple(teacher.shape)}"
        )
    q = _sharpened(teacher, center, teacher_temperature).to(student.dtype)  # (T, N, K)
    return _between_views(student, q, student_temperature)


@composite()
def ibot_loss(
    student: Tensor,
    teacher: Tensor,
    mask: Tensor | None = None,
    center: Tensor | None = None,
    *,
    student_temperature: float = 0.1,
    teacher_temperature: float = 0.04,
    aggregation: str = "seq-mean-token-mean",
    normalizer: float | Tensor | None = None,
) -> Tensor:
    r"""Self-distillation of patches: of a masked patch the student should say what the teacher, who sees it, says.

    With :math:`p = \mathrm{softmax}(s / \tau_s)` and :math:`q = \mathrm{softmax}((t - c) / \tau_t)` of patch i,

    .. math:: \ell_i = -\sum_k q_{ik} \log p_{ik}

    and the mean is over the masked patches of an image, then over the images that have some. After each step c becomes
    a running mean of the teacher's logits, as in :func:`fastloss.dino_loss`.

    Args:
        student: logits of the patches, from the masked image.
        teacher: those from the whole image; constants.
        mask: 1 for the patches that were masked out, and count. None: all.
        center: c. None: 0.
        student_temperature: positive.
        teacher_temperature: positive.
        aggregation: over patches and images, of which a patch is a token and an image a sequence:
            ``"seq-mean-token-mean"``, ``"token-mean"``, ``"token-sum"``, ``"none"`` ...
        normalizer: the denominator of the outer mean. DINOv2's is the number of all images, masked patches or not.

    Shape:
        - student, teacher: (N, L, K); mask: (N, L); center: (K,)
        - output: (N, L) for ``"none"``, else ()

    Returns:
        The loss, in the dtype that torch promotes the operands to (float32 under autocast); 0 where nothing counts.

    Raises:
        ValueError: shapes that do not fit, a temperature that is not positive.

    Source:
        Zhou et al. 2022, arXiv:2111.07832; averaged as in DINOv2, arXiv:2304.07193.

    Example:
        >>> round(ibot_loss(torch.zeros(1, 2, 4), torch.zeros(1, 2, 4), torch.tensor([[1, 0]])).item(), 4)  # log 4
        1.3863
    """
    if not (student_temperature > 0 and teacher_temperature > 0):
        raise ValueError(f"temperatures must be positive, got {student_temperature} and {teacher_temperature}")
    if student.dim() != 3 or student.shape != teacher.shape:
        raise ValueError(f"student {tuple(student.shape)} and teacher {tuple(teacher.shape)} must be (N, L, K)")
    student, teacher = present(student.shape[:2], mask, normalizer, student, teacher)
    q = _sharpened(teacher, center, teacher_temperature).to(student.dtype)
    losses = cross_entropy(student.flatten(0, 1), q.flatten(0, 1), reduction="none", temperature=student_temperature)
    return elements(losses.reshape(student.shape[:2]))


def sinkhorn(scores: Tensor, *, epsilon: float = 0.05, iterations: int = 3) -> Tensor:
    r"""Assigns samples to prototypes so that every prototype gets as much: the codes of SwAV.

    .. math:: Q = \mathrm{diag}(u)\, e^{S / \epsilon}\, \mathrm{diag}(v)

    with u and v from alternating normalisations of columns and rows, in logarithms, so that no score overflows. Not
    differentiated.

    Args:
        scores: S, of each sample with each prototype.
        epsilon: positive; the larger, the softer.
        iterations: of both normalisations; at least 1.

    Shape:
        - scores: (..., N, K)
        - output: (..., N, K)

    Returns:
        Distributions over the prototypes, in the dtype of ``scores``: every row adds up to 1, the columns to N / K but
        for what further iterations would change.

    Raises:
        ValueError: ``epsilon`` not positive, no iterations, another shape, integers.

    Source:
        Caron et al. 2020, arXiv:2006.09882; Cuturi 2013, arXiv:1306.0895.

    Example:
        >>> sinkhorn(torch.tensor([[1.0, 0.0], [1.0, 0.0]])).tolist()
        [[0.5, 0.5], [0.5, 0.5]]
    """
    if not epsilon > 0 or iterations < 1 or scores.dim() < 2 or not scores.is_floating_point():
        raise ValueError(
            f"epsilon must be positive, iterations at least 1 and scores (..., N, K) floating-point, got {epsilon}, "
            f"{iterations} and {scores.dtype} {tuple(scores.shape)}"
        )
    (wide,) = widened(scores.detach())
    log_q = wide / epsilon
    for _ in range(iterations):
        log_q = log_q.log_softmax(-2).log_softmax(-1)
    return log_q.exp().to(scores.dtype)


@composite()
def swav_loss(
    embeddings: Tensor,
    prototypes: Tensor,
    queue: Tensor | None = None,
    *,
    assigned: int = 2,
    temperature: float = 0.1,
    epsilon: float = 0.05,
    iterations: int = 3,
) -> Tensor:
    r"""Swapped assignments: each view should predict the prototypes that other views of the sample are assigned to.

    With the cosines :math:`s_{vk}` of view v with the prototypes and the codes q of :func:`fastloss.sinkhorn`, over the
    batch and the queue,

    .. math:: \ell = -\frac{1}{|V|} \sum_{(v, t) \in V} E \sum_k q_{tk} \log \mathrm{softmax}(s_v / \tau)_k

    over the pairs V of different views, of which t is one of the first, large ones.

    Args:
        embeddings: of all views, divided by their norms here.
        prototypes: one vector each, divided by their norms here.
        queue: embeddings of earlier batches, constants, which take part in the assignment of every view.
        assigned: how many views are assigned: the first ones.
        temperature: tau, positive.
        epsilon: of the assignment, positive.
        iterations: of the assignment, at least 1.

    Shape:
        - embeddings: (V, N, D); prototypes: (K, D); queue: (M, D)
        - output: ()

    Returns:
        The loss, in the dtype that torch promotes the operands to (float32 under autocast).

    Raises:
        ValueError: shapes that do not fit, a single view, a hyper-parameter out of range.

    Source:
        Caron et al. 2020, arXiv:2006.09882.

    Example:
        >>> round(swav_loss(torch.ones(2, 3, 4), torch.ones(4, 4)).item(), 4)  # log 4
        1.3863
    """
    if not temperature > 0:
        raise ValueError(f"temperature must be positive, got {temperature}")
    check_matrix(prototypes, "prototypes")
    classes, width = prototypes.shape
    if embeddings.dim() != 3 or embeddings.shape[0] < 2 or embeddings.shape[2] != width:
        raise ValueError(f"embeddings must be (V, N, {width}) with V > 1, got {tuple(embeddings.shape)}")
    views, size = embeddings.shape[:2]
    if not 1 <= assigned <= views:
        raise ValueError(f"assigned must be between 1 and {views}, the number of views, got {assigned}")
    given = [embeddings, prototypes, *([] if queue is None else [queue])]
    embeddings, prototypes, *more = (x.to(result_dtype(*given)) for x in given)
    centers = unit(prototypes, True)
    scores = (unit(embeddings.flatten(0, 1), True) @ centers.mT).reshape(views, size, classes)
    known = scores[:assigned].detach()
    for before in more:
        check_matrix(before, "queue", columns=width)
        earlier = unit(before.detach(), True) @ centers.detach().mT
        known = torch.cat([known, earlier.expand(assigned, *earlier.shape)], 1)
    q = sinkhorn(known, epsilon=epsilon, iterations=iterations)[:, :size]
    return _between_views(scores, q, temperature)


@composite()
def koleo_loss(embeddings: Tensor, *, eps: float = 1e-8, reduction: str = "mean") -> Tensor:
    r"""Embeddings spread evenly over the sphere: each is pushed from its nearest neighbour.

    .. math:: \ell_i = -\log\bigl(\min_{j \ne i} \|x_i - x_j\| + \epsilon\bigr), \qquad \|x_i\| = 1

    Args:
        embeddings: the vectors, divided by their norms here.
        eps: positive.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``, over the vectors.

    Shape:
        - embeddings: (N, D)
        - output: (N,) for ``"none"``, else ()

    Returns:
        The loss, in the dtype of ``embeddings`` (float32 under autocast); 0 of a single vector. Of two equal vectors
        the gradient is 0.

    Raises:
        ValueError: another shape, ``eps`` not positive.

    Source:
        Sablayrolles et al. 2019, arXiv:1806.03198; as in DINOv2, arXiv:2304.07193.

    Example:
        >>> round(koleo_loss(torch.eye(2)).item(), 4)  # -log sqrt 2
        -0.3466
    """
    if not eps > 0:
        raise ValueError(f"eps must be positive, got {eps}")
    check_matrix(embeddings, "embeddings")
    x = unit(embeddings, True)
    if x.shape[0] < 2:
        return elements(x.sum(1) * 0)
    with torch.no_grad():
        similarities = x @ x.mT
        itself = torch.eye(x.shape[0], dtype=torch.bool, device=x.device)
        nearest = similarities.masked_fill(itself, -2).argmax(1)
    square = (x - x[nearest]).square().sum(1)
    apart = square > 0
    distance = torch.where(apart, torch.where(apart, square, 1).sqrt(), 0)
    return elements(-(distance + eps).log())


@composite()
def mae_loss(
    pred: Tensor,
    target: Tensor,
    mask: Tensor | None = None,
    *,
    norm_pix: bool = False,
    reduction: str = "mean",
    normalizer: float | Tensor | None = None,
) -> Tensor:
    r"""Masked autoencoders: the squared error of the patches that the encoder did not see.

    With the D numbers of a patch,

    .. math::
        \ell = \frac1D \sum_d (p_d - t_d)^2, \qquad
        \text{norm\_pix: } t \to \frac{t - \bar t}{\sqrt{\mathrm{Var}(t) + 10^{-6}}}

    and the mean is over the patches that the mask counts.

    Args:
        pred: the decoder's patches.
        target: those of the image, constants.
        mask: 1 for the patches that were masked out, and count. None: all.
        norm_pix: every target patch is brought to mean 0 and variance 1, which makes better representations.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``, over the patches.
        normalizer: the denominator of the mean, instead of the sum of the mask: a number or a 0-d tensor.

    Shape:
        - pred, target: (N, L, D); mask: (N, L)
        - output: (N, L) for ``"none"``, else ()

    Returns:
        The loss, in the dtype that torch promotes the operands to (float32 under autocast); 0 where nothing counts.

    Raises:
        ValueError: shapes that do not fit, ``norm_pix`` with patches of one number.

    Source:
        He et al. 2022, arXiv:2111.06377.

    Example:
        >>> pred, target = torch.zeros(1, 2, 4), torch.tensor([[[1.0] * 4, [3.0] * 4]])
        >>> mae_loss(pred, target, torch.tensor([[1, 0]])).item()
        1.0
    """
    if pred.dim() != 3 or pred.shape != target.shape:
        raise ValueError(f"pred {tuple(pred.shape)} and target {tuple(target.shape)} must be (N, L, D)")
    pred, target = present(pred.shape[:2], mask, normalizer, pred, target.detach())
    width = pred.shape[2]
    if norm_pix:
        if width < 2:
            raise ValueError("norm_pix needs patches of more than one number")
        target = target - target.mean(2, keepdim=True)
        target = target / (target.square().sum(2, keepdim=True) / (width - 1) + 1e-6).sqrt()
    return elements(mse_loss(pred, target.to(pred.dtype), reduction="none").sum(2) / max(1, width))
