"""Losses between the softmax of a student and that of a teacher."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fastloss.core.arguments import Hyper, accumulator_dtype
from fastloss.core.autograd import differentiated
from fastloss.core.composite import composite
from fastloss.core.dispatch import fused
from fastloss.core.elementary import softplus
from fastloss.core.reductions import aggregate, check_fit
from fastloss.losses.log_prob import selective_log_softmax
from fastloss.skeletons.row_outputs import LEFT_OUT, RowOutputs

__all__ = [
    "categorical_entropy",
    "categorical_kl",
    "distillation_loss",
    "generalized_jsd_loss",
    "topk_distillation_loss",
]

_TEMPERATURE = {"temperature": Hyper(low=1e-30)}
_MIXED = {**_TEMPERATURE, "mixing": Hyper(low=0.0, high=1.0)}


# ------------------------------------------------------------------------------------------ of rows, for the kernels


def _log_softmaxes(
    logits: Tensor, target: Tensor | None, second: Tensor, temperature: float
) -> tuple[Tensor, Tensor, Tensor]:
    """(log-softmax of the student, of the teacher, which rows count), in the accumulator dtype"""
    dtype = accumulator_dtype(logits.dtype)
    counted = torch.ones_like(logits[:, 0], dtype=torch.bool) if target is None else target != LEFT_OUT
    student, teacher = (
        (torch.where(counted[:, None], x, 0).to(dtype) / temperature).log_softmax(1) for x in (logits, second.detach())
    )
    return student, teacher, counted


def _expectation(log_p: Tensor, values: Tensor) -> Tensor:
    """sum p * values, where p = 0 counts for nothing: (rows,)"""
    p = log_p.exp()
    return torch.where(p == 0, 0, p * torch.where(p == 0, 0, values)).sum(1)


@fused(RowOutputs(parameters=_TEMPERATURE, sums=1, two_rows=True))
def forward_kl(logits: Tensor, target: Tensor | None, second: Tensor, *, temperature: float = 1.0) -> Tensor:
    """KL(teacher || student): (1, rows)"""
    student, teacher, counted = _log_softmaxes(logits, target, second, temperature)
    return torch.where(counted, _expectation(teacher, teacher - student), 0)[None]


@fused(RowOutputs(parameters=_TEMPERATURE, sums=1, two_rows=True))
def reverse_kl(logits: Tensor, target: Tensor | None, second: Tensor, *, temperature: float = 1.0) -> Tensor:
    """KL(student || teacher): (1, rows)"""
    student, teacher, counted = _log_softmaxes(logits, target, second, temperature)
    return torch.where(counted, _expectation(student, student - teacher), 0)[None]


def _mixture(student: Tensor, teacher: Tensor, mixing: float) -> Tensor:
    """log(mixing * t + (1 - mixing) * s)

    Not by torch.logaddexp, whose derivative is NaN where both are -inf, and its second one where they are far apart.
    """
    of_teacher, of_student = teacher + math.log(mixing), student + math.log1p(-mixing)
    absent = student == -math.inf
    of_student = torch.where(absent, 0, of_student)
    step = of_teacher - of_student
    both = torch.where(step > 0, of_teacher + softplus(-step), of_student + softplus(step))
    return torch.where(absent, of_teacher, both)


@fused(RowOutputs(parameters=_MIXED, expectations=2, two_rows=True))
def jsd(
    logits: Tensor, target: Tensor | None, second: Tensor, *, temperature: float = 1.0, mixing: float = 0.5
) -> Tensor:
    """mixing KL(teacher || mixture) + (1 - mixing) KL(student || mixture): (1, rows)"""
    student, teacher, counted = _log_softmaxes(logits, target, second, temperature)
    mixture = _mixture(student, teacher, mixing)
    of_teacher, of_student = _expectation(teacher, teacher - mixture), _expectation(student, student - mixture)
    return torch.where(counted, mixing * of_teacher + (1 - mixing) * of_student, 0)[None]


@fused(RowOutputs(parameters=_MIXED, expectations=2, two_rows=True))
def skewed_forward_kl(
    logits: Tensor, target: Tensor | None, second: Tensor, *, temperature: float = 1.0, mixing: float = 0.5
) -> Tensor:
    """KL(teacher || mixture): (1, rows)"""
    student, teacher, counted = _log_softmaxes(logits, target, second, temperature)
    return torch.where(counted, _expectation(teacher, teacher - _mixture(student, teacher, mixing)), 0)[None]


@fused(RowOutputs(parameters=_MIXED, expectations=2, two_rows=True))
def skewed_reverse_kl(
    logits: Tensor, target: Tensor | None, second: Tensor, *, temperature: float = 1.0, mixing: float = 0.5
) -> Tensor:
    """KL(student || mixture): (1, rows)"""
    student, teacher, counted = _log_softmaxes(logits, target, second, temperature)
    return torch.where(counted, _expectation(student, student - _mixture(student, teacher, mixing)), 0)[None]


@fused(RowOutputs(parameters=_TEMPERATURE, expectations=2, two_rows=True))
def tvd(logits: Tensor, target: Tensor | None, second: Tensor, *, temperature: float = 1.0) -> Tensor:
    """sum |teacher - student| / 2: (1, rows)"""
    student, teacher, counted = _log_softmaxes(logits, target, second, temperature)
    return torch.where(counted, 0.5 * (student.exp() - teacher.exp()).abs().sum(1), 0)[None]


_OF_MIXTURES = {"jsd": jsd, "skewed_forward_kl": skewed_forward_kl, "skewed_reverse_kl": skewed_reverse_kl}
_KINDS = {"forward_kl": forward_kl, "reverse_kl": reverse_kl, "tvd": tvd, **_OF_MIXTURES}


def _divergences(student: Tensor, teacher: Tensor, kind: str, mixing: float, temperature: float, mask: Tensor | None):
    """The divergence of each row of (..., C): (...), in the accumulator dtype."""
    if student.shape != teacher.shape or student.dim() == 0:
        raise ValueError(f"student {tuple(student.shape)} and teacher {tuple(teacher.shape)} must have the same shape")
    if not temperature > 0:
        raise ValueError(f"temperature must be positive, got {temperature}")
    shape, classes = student.shape[:-1], student.shape[-1]
    dtype = torch.promote_types(student.dtype, teacher.dtype)
    rows, others = student.to(dtype).reshape(-1, classes), teacher.detach().to(dtype).reshape(-1, classes)
    target = None
    if mask is not None:
        target = torch.where(mask.expand(shape) != 0, 0, LEFT_OUT).reshape(-1)
    if kind == "jsd" and mixing in (0.0, 1.0):
        kind = "reverse_kl" if mixing else "forward_kl"
    more = {"mixing": mixing} if kind in _OF_MIXTURES else {}
    losses = _KINDS[kind](rows, target, others, temperature=temperature, **more)[0]
    return losses.reshape(shape)


# ------------------------------------------------------------------------------------------ losses


@composite(calls_model=True)
def distillation_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    target: Tensor | None = None,
    *,
    alpha: float = 0.5,
    temperature: float = 2.0,
    kind: str = "forward_kl",
    mixing: float = 0.5,
    scale_by_temperature: bool = True,
    ignore_index: int = -100,
    reduction: str = "mean",
    mask: Tensor | None = None,
    normalizer: float | Tensor | None = None,
) -> Tensor:
    r"""Divergence between the softmax of a student and that of a teacher, with or without hard labels beside it.

    With s and t the softmaxes of student and teacher over ``temperature`` T, :math:`\tau` = T^2 (1 without
    ``scale_by_temperature``), and D one of the divergences below,

    .. math::
        \ell = \tau D(s, t) \quad\text{or, with a target y,}\quad \alpha \tau D(s, t) + (1 - \alpha)(-\log s^{(1)}_y),

    :math:`s^{(1)}` being the student's softmax at temperature 1.

    =====================  ================================================================================
    ``kind``               D, with m = mixing * t + (1 - mixing) * s
    =====================  ================================================================================
    "forward_kl"           KL(t || s): the student covers what the teacher does; Hinton's
    "reverse_kl"           KL(s || t): the student seeks the teacher's modes; MiniLLM's
    "jsd"                  mixing KL(t || m) + (1 - mixing) KL(s || m)
    "tvd"                  sum \|t - s\| / 2
    "skewed_forward_kl"    KL(t || m), DistiLLM's
    "skewed_reverse_kl"    KL(s || m)
    =====================  ================================================================================

    The teacher is a constant. All kinds are fused, and no softmax is stored: the two rows are read once forward (once
    more, from a cache, for "tvd" and those with a mixture) and once backward.

    Args:
        student_logits, teacher_logits: floating-point, of the same shape.
        target: class indices.
        alpha: weight of the divergence beside the cross-entropy of the target.
        temperature: positive.
        kind: which divergence.
        mixing: in (0, 1); the teacher's share of the mixture.
        scale_by_temperature: multiply the divergence by T^2, so that its gradient does not shrink with T.
        ignore_index: rows with this target count for nothing, in neither term.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``, over rows.
        mask: broadcasts to the rows; 0 takes a row out, whatever it holds. Other values weight it.
        normalizer: the denominator of a mean instead of what counts: a number or a 0-d tensor.

    Shape:
        - student_logits, teacher_logits: (..., C)
        - target, mask: (...)
        - output: (...) for ``"none"``, else ()

    Returns:
        The loss, in the dtype of the student's logits.

    Raises:
        ValueError: for an unknown ``kind``, shapes that do not fit, a hyper-parameter out of range.

    Source:
        Hinton et al. 2015, arXiv:1503.02531. MiniLLM: Gu et al. 2023, arXiv:2306.08543. DistiLLM: Ko et al. 2024,
        arXiv:2402.03898.

    Example:
        >>> logits = torch.tensor([[1.0, 2.0]])
        >>> distillation_loss(logits, logits).item()
        0.0
    """
    if kind not in _KINDS:
        raise ValueError(f"{kind!r} is not a kind of divergence; choose one of {', '.join(_KINDS)}")
    if not 0 < mixing < 1:
        raise ValueError(f"mixing must be in (0, 1), got {mixing}")
    shape = student_logits.shape[:-1]
    check_fit(shape, student_logits.device, normalizer, mask=mask)
    counted = mask
    if target is not None:
        if target.shape != shape:
            raise ValueError(f"target {tuple(target.shape)} does not fit logits {tuple(student_logits.shape)}")
        labelled = target != ignore_index
        counted = labelled if mask is None else torch.where(labelled, mask, 0)
    losses = _divergences(student_logits, teacher_logits, kind, mixing, temperature, counted)
    if scale_by_temperature:
        losses = losses * temperature**2
    if target is not None:
        hard = _hard_losses(student_logits, target, labelled if mask is None else labelled & (mask != 0))
        losses = alpha * losses + (1 - alpha) * hard
    return aggregate(losses, reduction, counted, normalizer)


def _hard_losses(logits: Tensor, target: Tensor, counted: Tensor) -> Tensor:
    """Cross-entropy of each row of (..., C): (...)"""
    log_prob = selective_log_softmax(logits, torch.where(counted, target, 0), mask=counted).log_prob
    assert log_prob is not None
    return -log_prob


@composite(calls_model=True)
def generalized_jsd_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    *,
    beta: float = 0.5,
    temperature: float = 1.0,
    reduction: str = "mean",
    mask: Tensor | None = None,
    normalizer: float | Tensor | None = None,
) -> Tensor:
    r"""Generalised Jensen-Shannon divergence of generalised knowledge distillation (GKD).

    With s and t the softmaxes of student and teacher over ``temperature`` and m = beta t + (1 - beta) s,

    .. math::
        D_\beta = \beta\,\mathrm{KL}(t \,\|\, m) + (1 - \beta)\,\mathrm{KL}(s \,\|\, m),

    for beta = 0 KL(t || s) and for beta = 1 KL(s || t): the limits of :math:`D_\beta / (\beta (1 - \beta))`, as TRL has
    them. The teacher is a constant. No factor T^2.

    Args:
        student_logits, teacher_logits: floating-point, of the same shape.
        beta: in [0, 1]; the teacher's share of the mixture.
        temperature: positive.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``, over rows. (``batchmean`` of TRL: "sum" over the batch size.)
        mask: broadcasts to the rows; 0 takes a row out, whatever it holds. Other values weight it.
        normalizer: the denominator of a mean instead of what counts: a number or a 0-d tensor.

    Shape:
        - student_logits, teacher_logits: (..., C)
        - mask: broadcasts to (...)
        - output: (...) for ``"none"``, else ()

    Returns:
        The loss, in the dtype of the student's logits.

    Raises:
        ValueError: for shapes that do not fit, a hyper-parameter out of range.

    Source:
        Agarwal et al. 2023, arXiv:2306.13649.

    Example:
        >>> logits = torch.tensor([[1.0, 2.0]])
        >>> generalized_jsd_loss(logits, logits.flip(1), beta=0.0).item() > 0
        True
    """
    if not 0 <= beta <= 1:
        raise ValueError(f"beta must be in [0, 1], got {beta}")
    check_fit(student_logits.shape[:-1], student_logits.device, normalizer, mask=mask)
    losses = _divergences(student_logits, teacher_logits, "jsd", float(beta), temperature, mask)
    return aggregate(losses, reduction, mask, normalizer)


@composite(calls_model=True)
def topk_distillation_loss(
    student_logits: Tensor,
    teacher_index: Tensor,
    teacher_logp: Tensor,
    *,
    temperature: float = 1.0,
    tail: bool = True,
    reduction: str = "mean",
    mask: Tensor | None = None,
    normalizer: float | Tensor | None = None,
) -> Tensor:
    r"""KL divergence from a teacher of whom only the K most likely classes of each row are known.

    With t_k the teacher's probabilities of the classes in ``teacher_index`` and s_k the student's,

    .. math::
        \ell = \sum_k t_k (\log t_k - \log s_k) + \bar t\,(\log \bar t - \log \bar s),
        \qquad \bar t = 1 - \sum_k t_k,\ \bar s = 1 - \sum_k s_k,

    the last term, of all other classes as one, only with ``tail``. The teacher is a constant.

    Args:
        student_logits: floating-point.
        teacher_index: int64; the teacher's K classes, each once.
        teacher_logp: their log-probabilities; of the whole softmax, so that their probabilities sum to at most 1.
        temperature: positive; of the student. The teacher's log-probabilities are taken as they are.
        tail: whether the rest of the classes is one more class.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``, over rows.
        mask: broadcasts to the rows; 0 takes a row out, whatever it holds. Other values weight it.
        normalizer: the denominator of a mean instead of what counts: a number or a 0-d tensor.

    Shape:
        - student_logits: (..., C)
        - teacher_index, teacher_logp: (..., K)
        - mask: broadcasts to (...)
        - output: (...) for ``"none"``, else ()

    Returns:
        The loss, in the dtype of the student's logits.

    Raises:
        ValueError: for shapes that do not fit, a temperature that is not positive.

    Source:
        The divergence of Hinton et al. 2015, arXiv:1503.02531, of the partition into K classes and the rest.

    Example:
        >>> logits = torch.tensor([[0.0, 0.0, 0.0, 0.0]])
        >>> topk_distillation_loss(logits, torch.tensor([[1]]), torch.tensor([[0.25]]).log()).abs().item() < 1e-6
        True
    """
    if teacher_index.shape != teacher_logp.shape:
        raise ValueError(f"teacher_index {tuple(teacher_index.shape)} and teacher_logp {tuple(teacher_logp.shape)}")
    check_fit(student_logits.shape[:-1], student_logits.device, normalizer, mask=mask)
    counted = None if mask is None else (mask != 0).expand(student_logits.shape[:-1])
    found = selective_log_softmax(student_logits, teacher_index, temperature=temperature, mask=counted)
    student = found.log_prob
    assert student is not None
    teacher = teacher_logp.detach().to(student.dtype)
    if counted is not None:
        teacher = torch.where(counted[..., None], teacher, 0)
    t = teacher.exp()
    losses = torch.where(t == 0, 0, t * (torch.where(t == 0, 0, teacher) - torch.where(t == 0, 0, student))).sum(-1)
    if tail:
        rest, of_student = (1 - x.exp().sum(-1) for x in (teacher, student))
        least = torch.finfo(student.dtype).tiny
        rest, of_student = rest.clamp(min=0), of_student.clamp(min=least)
        losses = losses + torch.where(rest > 0, rest * (rest.clamp(min=least).log() - of_student.log()), 0)
    return aggregate(losses, reduction, mask, normalizer)


@composite(calls_model=True)
def categorical_kl(
    p_logits: Tensor,
    q_logits: Tensor,
    *,
    reduction: str = "mean",
    mask: Tensor | None = None,
    normalizer: float | Tensor | None = None,
) -> Tensor:
    r"""KL divergence between two categorical distributions, from their logits.

    .. math:: \mathrm{KL}(p \,\|\, q) = \sum_j p_j (\log p_j - \log q_j),\qquad 0 \log 0 = 0.

    Differentiable by both; fused where one of the two is a constant. The other direction is the other order.

    Args:
        p_logits, q_logits: floating-point, of the same shape.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``, over rows.
        mask: broadcasts to the rows; 0 takes a row out, whatever it holds. Other values weight it.
        normalizer: the denominator of a mean instead of what counts: a number or a 0-d tensor.

    Shape:
        - p_logits, q_logits: (..., C)
        - mask: broadcasts to (...)
        - output: (...) for ``"none"``, else ()

    Returns:
        The divergence, in the dtype of ``p_logits``.

    Raises:
        ValueError: for shapes that do not fit.

    Source:
        Kullback, Leibler 1951, "On information and sufficiency".

    Example:
        >>> categorical_kl(torch.tensor([[0.0, 0.0]]), torch.tensor([[0.0, 0.0]])).item()
        0.0
    """
    if p_logits.shape != q_logits.shape or p_logits.dim() == 0:
        raise ValueError(f"p_logits {tuple(p_logits.shape)} and q_logits {tuple(q_logits.shape)} must have one shape")
    check_fit(p_logits.shape[:-1], p_logits.device, normalizer, mask=mask)
    if differentiated(p_logits) and differentiated(q_logits):
        if mask is not None:
            there = (mask != 0).expand(p_logits.shape[:-1])[..., None]
            p_logits, q_logits = torch.where(there, p_logits, 0), torch.where(there, q_logits, 0)
        p, q = (x.to(accumulator_dtype(x.dtype)).log_softmax(-1) for x in (p_logits, q_logits))
        losses = _expectation(p.flatten(0, -2), (p - q).flatten(0, -2)).reshape(p.shape[:-1])
    elif differentiated(q_logits):
        losses = _divergences(q_logits, p_logits, "forward_kl", 0.5, 1.0, mask)
    else:
        losses = _divergences(p_logits, q_logits, "reverse_kl", 0.5, 1.0, mask)
    return aggregate(losses, reduction, mask, normalizer)


@composite(calls_model=True)
def categorical_entropy(
    logits: Tensor,
    *,
    temperature: float = 1.0,
    reduction: str = "mean",
    mask: Tensor | None = None,
    normalizer: float | Tensor | None = None,
) -> Tensor:
    r"""Entropy of categorical distributions, from their logits.

    .. math:: H = -\sum_j p_j \log p_j,\quad p = \mathrm{softmax}(x / T),\qquad 0 \log 0 = 0.

    Args:
        logits: floating-point.
        temperature: T, positive.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``, over rows.
        mask: broadcasts to the rows; 0 takes a row out, whatever it holds. Other values weight it.
        normalizer: the denominator of a mean instead of what counts: a number or a 0-d tensor.

    Shape:
        - logits: (..., C)
        - mask: broadcasts to (...)
        - output: (...) for ``"none"``, else ()

    Returns:
        The entropy in nats, in the dtype of the logits.

    Raises:
        ValueError: for a temperature that is not positive.

    Source:
        Shannon 1948, "A mathematical theory of communication".

    Example:
        >>> round(categorical_entropy(torch.tensor([[0.0, 0.0]])).item(), 4)
        0.6931
    """
    check_fit(logits.shape[:-1], logits.device, normalizer, mask=mask)
    counted = None if mask is None else (mask != 0).expand(logits.shape[:-1])
    index = torch.zeros(logits.shape[:-1], dtype=torch.int64, device=logits.device)
    found = selective_log_softmax(logits, index, temperature=temperature, outputs=("entropy",), mask=counted)
    assert found.entropy is not None
    return aggregate(found.entropy, reduction, mask, normalizer)
