"""Margins of the target: at its angle, before a softmax (face recognition, embeddings in general), or of its logit."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fastloss.core.arguments import Hyper, accumulator_dtype, check_range
from fastloss.core.composite import composite
from fastloss.core.derived import derived, parameter
from fastloss.core.dispatch import fused
from fastloss.core.dtypes import result_dtype, without_autocast
from fastloss.core.reductions import aggregate, check_fit
from fastloss.losses.robust import checked_classes
from fastloss.skeletons.row_outputs import LEFT_OUT, RowOutputs

__all__ = ["arcface_loss", "cosface_loss", "crammer_singer_loss", "margin_softmax_loss", "sphereface_loss"]

_BEYOND = ("linear", "cosine")


@fused(
    RowOutputs(
        parameters={
            "scale": Hyper(low=1e-30),
            "multiplier": Hyper(),
            "angle": Hyper(high=math.pi),
            "cosine": Hyper(low=-math.inf),
            "straight": Hyper(high=1.0),
            "linear_beyond": Hyper(high=1.0),
        }
    )
)
def margin_softmax(
    logits: Tensor,
    target: Tensor,
    second: None = None,
    *,
    scale: float = 64.0,
    multiplier: float = 1.0,
    angle: float = 0.0,
    cosine: float = 0.0,
    straight: float = 0.0,
    linear_beyond: float = 1.0,
) -> Tensor:
    """Cosines (rows, C) -> (1, rows)"""
    x = logits.to(accumulator_dtype(logits.dtype))
    check_range(target, logits.shape[1], LEFT_OUT)
    counted = target != LEFT_OUT
    x = torch.where(counted[:, None], x, 0)
    index = torch.where(counted, target, 0).long()[:, None]
    c = x.gather(1, index)
    if multiplier == 1.0 and angle == 0.0:
        moved = c - cosine
    else:
        largest = 1 - torch.finfo(x.dtype).eps  # an angle of 0 or pi has no derivative
        t = multiplier * torch.acos(c.clamp(-largest, largest)) + angle
        moved = torch.cos(t) - cosine
        if straight:
            moved = c + (moved - c).detach()
        if linear_beyond:
            moved = torch.where(t > math.pi, c - (math.sin(angle) * angle + cosine), moved)
    z = scale * x.scatter(1, index, moved)
    return torch.where(counted, -z.log_softmax(1).gather(1, index)[:, 0], 0)[None]


def _cosines(embeddings: Tensor, weight: Tensor) -> Tensor:
    """Of (N, D) and (C, D), or (C, K, D) of which the nearest of K counts: (N, C)"""
    dtype = accumulator_dtype(result_dtype(embeddings, weight))
    with without_autocast(embeddings):
        x, w = F.normalize(embeddings.to(dtype), dim=-1), F.normalize(weight.to(dtype), dim=-1)
        cosines = x @ w.reshape(-1, w.shape[-1]).t()
    return cosines if weight.dim() == 2 else cosines.view(len(x), *weight.shape[:2]).amax(-1)


def _sampled(weight: Tensor, target: Tensor, rate: float, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
    """The classes of the batch and others at random, `rate` of all of them: (their weights, the targets among them).

    On a device without a synchronisation: the number of classes is fixed, and at least that of the targets.
    """
    classes = len(weight)
    count = min(classes, max(math.ceil(rate * classes), target.numel()))
    order = torch.rand(classes, generator=generator, device=weight.device)
    order = order.scatter(0, target, 2.0)  # those of the batch first
    chosen = order.topk(count).indices.sort().values
    return weight[chosen], torch.searchsorted(chosen, target)


@composite(calls_model=True)
def margin_softmax_loss(
    embeddings: Tensor,
    weight: Tensor,
    target: Tensor,
    *,
    s: float = 64.0,
    m1: float = 1.0,
    m2: float = 0.0,
    m3: float = 0.0,
    beyond: str = "linear",
    straight_through: bool = False,
    sample_rate: float = 1.0,
    generator: torch.Generator | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    mask: Tensor | None = None,
    normalizer: float | Tensor | None = None,
) -> Tensor:
    r"""Cross-entropy of scaled cosines with combined margins at the target.

    With :math:`\theta_j` the angle between the embedding and the weight of class j, y the target,

    .. math::
        \ell = -\log\frac{e^{z_y}}{\sum_j e^{z_j}},\qquad z_j = s\cos\theta_j,\qquad
        z_y = s\,(\cos(m_1\theta_y + m_2) - m_3).

    m1 is SphereFace's margin, m2 ArcFace's, m3 CosFace's. The product is the BLAS library's; margin, softmax and
    gradient are one kernel. Embeddings and weights are normalised here, and get gradients.

    Args:
        embeddings: need not be normalised.
        weight: one vector a class, or K of them (sub-centres), of which the nearest counts.
        target: class indices.
        s: positive; scale of the cosines.
        m1, m2, m3: at least 0; m2 in radians, at most pi.
        beyond: where :math:`m_1\theta_y + m_2 > \pi`: ``"linear"``: :math:`\cos\theta_y - m_2 \sin m_2 - m_3`, so that
            the loss keeps falling with the cosine (ArcFace's own code); ``"cosine"``: the formula as it is, whose
            cosine rises again.
        straight_through: the gradient by the target's cosine is that of :math:`s \cos\theta_y`, which is finite
            everywhere; insightface has it so.
        sample_rate: in (0, 1]; share of the classes that take part: those of the batch, and others at random
            (partial FC).
        generator: of the sample.
        ignore_index: rows with this target count for nothing.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.
        mask: broadcasts to the losses; 0 takes one out, whatever it holds. Other values weight it.
        normalizer: the denominator of a mean instead of what counts: a number or a 0-d tensor.

    Shape:
        - embeddings: (N, D)
        - weight: (C, D) or (C, K, D)
        - target, mask: (N,)
        - output: (N,) for ``"none"``, else ()

    Returns:
        The loss, in the dtype that torch promotes the two to.

    Raises:
        ValueError: for shapes that do not fit, a hyper-parameter out of range.
        IndexError: for a target that is no class (on a CPU; a GPU's kernel traps).

    Source:
        SphereFace: Liu et al. 2017, arXiv:1704.08063. CosFace: Wang et al. 2018, arXiv:1801.09414. ArcFace: Deng et al.
        2018, arXiv:1801.07698. Sub-centres: Deng et al. 2020, ECCV. Partial FC: An et al. 2022, arXiv:2203.15565.

    Example:
        >>> weight = torch.eye(3)
        >>> margin_softmax_loss(weight, weight, torch.arange(3), m2=0.5).item() < 1e-6
        True
    """
    if embeddings.dim() != 2 or weight.dim() not in (2, 3) or embeddings.shape[-1] != weight.shape[-1]:
        raise ValueError(f"embeddings {tuple(embeddings.shape)} and weight {tuple(weight.shape)} do not fit")
    if target.shape != embeddings.shape[:1] or target.is_floating_point():
        raise ValueError(f"target {tuple(target.shape)} does not fit embeddings {tuple(embeddings.shape)}")
    if beyond not in _BEYOND:
        raise ValueError(f"{beyond!r} is no convention beyond pi; choose one of {', '.join(_BEYOND)}")
    if not s > 0 or not min(m1, m2, m3) >= 0 or not m2 <= math.pi or not 0 < sample_rate <= 1:
        raise ValueError("s must be positive, m1, m2 and m3 not negative, m2 at most pi, sample_rate in (0, 1]")
    check_fit(target.shape, embeddings.device, normalizer, mask=mask)
    counted = target != ignore_index
    if mask is not None:
        counted = torch.where(counted, mask.expand(target.shape), 0)
    target = torch.where(counted != 0, target, LEFT_OUT).long()
    if sample_rate < 1:
        weight, place = _sampled(weight, torch.where(target == LEFT_OUT, 0, target), sample_rate, generator)
        target = torch.where(target == LEFT_OUT, LEFT_OUT, place)
    rows = torch.where((target == LEFT_OUT)[:, None], 1, embeddings)  # what a row out of it holds reaches no weight
    losses = margin_softmax(
        _cosines(rows, weight),
        target,
        scale=s,
        multiplier=m1,
        angle=m2,
        cosine=m3,
        straight=float(straight_through),
        linear_beyond=float(beyond == "linear"),
    )[0]
    return aggregate(losses, reduction, counted, normalizer)


def _with_one_margin(
    name: str, margin: str, s: float, m: float, formula: str, says: str, dropped: tuple[str, ...], source: str
) -> Callable[..., Tensor]:
    """`margin_softmax_loss` with one of its margins, which is called m."""

    def body(own: dict[str, Any], for_loss: dict[str, Any]) -> Tensor:
        return margin_softmax_loss(**for_loss, s=own["s"], **{margin: own["m"]})

    return derived(
        name, __name__, margin_softmax_loss,
        [parameter("s", "float", s, keyword=True), parameter("m", "float", m, keyword=True)],
        ("s", "m1", "m2", "m3", *dropped),
        {"s": "positive; scale of the cosines.", "m": says},
        f"""{formula}

:func:`margin_softmax_loss` with this margin alone: margin, softmax and gradient are one kernel.""",
        '- embeddings: (N, D)\n- weight: (C, D) or (C, K, D)\n- target, mask: (N,)\n'
        '- output: (N,) for ``"none"``, else ()',
        f">>> weight = torch.eye(3)\n>>> {name}(weight, weight, torch.arange(3)).item() < 1e-6\nTrue",
        body, source,
    )  # fmt: skip


arcface_loss = _with_one_margin(
    "arcface_loss", "m2", 64.0, 0.5,
    r"Additive angular margin: the target's logit is :math:`z_y = s\cos(\theta_y + m)`, others' :math:`s\cos\theta_j`.",
    "at least 0; margin in radians (pytorch-metric-learning takes degrees).", (),
    "Deng et al. 2018, arXiv:1801.07698.",
)  # fmt: skip
cosface_loss = _with_one_margin(
    "cosface_loss", "m3", 64.0, 0.35,
    r"Additive cosine margin: the target's logit is :math:`z_y = s (\cos\theta_y - m)`, others' :math:`s\cos\theta_j`.",
    "at least 0; margin of the cosine.", ("beyond", "straight_through"),
    "Wang et al. 2018, arXiv:1801.09414.",
)  # fmt: skip
sphereface_loss = _with_one_margin(
    "sphereface_loss", "m1", 30.0, 1.7,
    r"""Multiplicative angular margin: the target's logit is :math:`z_y = s\cos(m\,\theta_y)`, others'
:math:`s\cos\theta_j`. With normalised embeddings and a scale, as later papers have it; the first had the embedding's
norm in the place of s, and a piecewise cosine beyond pi.""",
    "at least 0; what multiplies the angle.", ("straight_through",),
    "Liu et al. 2017, arXiv:1704.08063; in this form Wen et al. 2021, arXiv:2109.05565.",
)  # fmt: skip


@composite()
def crammer_singer_loss(
    input: Tensor,
    target: Tensor,
    *,
    margin: float = 1.0,
    ignore_index: int = -100,
    reduction: str = "mean",
    mask: Tensor | None = None,
    normalizer: float | Tensor | None = None,
) -> Tensor:
    r"""Hinge loss of several classes: the target's logit exceeds the largest of the others by a margin.

    With y, the target,

    .. math:: \ell = \max\bigl(0,\; m + \max_{j \ne y} x_j - x_y\bigr)

    :func:`torch.nn.functional.multi_margin_loss` (Weston and Watkins) adds up over the other classes instead.

    Args:
        input: logits.
        target: the classes, integers.
        margin: m, not negative.
        ignore_index: a position with this index does not count.
        reduction: ``"none"``, ``"mean"`` (over the positions that count) or ``"sum"``.
        mask: broadcasts to the losses; 0 takes one out, whatever it holds. Other values weight it.
        normalizer: the denominator of the mean: a number or a 0-d tensor.

    Shape:
        - input: (N, C, ...); target: (N, ...)
        - output: (N, ...) for ``"none"``, else ()

    Returns:
        The loss, in the dtype of ``input`` (float32 under autocast); the mean is 0 where nothing counts. Of one class
        alone the loss is 0; where several others are largest, they share the gradient.

    Raises:
        ValueError: shapes that do not fit, floating-point labels, no classes, a negative ``margin``.
        IndexError: a class out of range.

    Source:
        Crammer and Singer 2001, On the algorithmic implementation of multiclass kernel-based vector machines.

    Example:
        >>> crammer_singer_loss(torch.tensor([[0.5, 1.0, 0.0]]), torch.tensor([0])).item()
        1.5
    """
    if not margin >= 0:
        raise ValueError(f"margin must not be negative, got {margin}")
    target, weight = checked_classes(input, target, ignore_index, mask, normalizer)
    if input.shape[1] == 0:
        raise ValueError("input has no classes")
    there = weight != 0
    x = torch.where(there.unsqueeze(1), input, 0)
    index = torch.where(there, target, 0).unsqueeze(1)
    others = x.scatter(1, index, -math.inf).amax(1)
    return aggregate((margin + others - x.gather(1, index).squeeze(1)).clamp(min=0), reduction, weight, normalizer)
