"""Overlap of predicted and true regions: of images, or of anything else with positions."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from fastloss.core.arguments import check_range
from fastloss.core.composite import composite, elements
from fastloss.core.reductions import check_fit

__all__ = ["dice_loss", "focal_tversky_loss", "lovasz_hinge_loss", "lovasz_softmax_loss", "tversky_loss"]

ACTIVATIONS = ("softmax", "sigmoid", "none")


class _Regions(NamedTuple):
    """Of each sample and class, or of each class."""

    both: Tensor  # (N, C), sum of p t
    predicted: Tensor  # (N, C), sum of p, or of its square
    true: Tensor  # (N, C), sum of t, or of its square


def _counted(
    shape: torch.Size, device: torch.device, position_mask: Tensor | None, target: Tensor, ignored: int | None
):
    """(N, P), the weights of the positions; None: all count alike."""
    check_fit(shape, device, None, position_mask=position_mask)
    weight = None
    if position_mask is not None:
        weight = _flat(position_mask.expand(shape))
    if ignored is not None:
        there = _flat(target != ignored)
        weight = there if weight is None else torch.where(there, weight, 0)
    return weight


def _flat(x: Tensor) -> Tensor:
    """(N, P)"""
    return x.reshape(x.shape[0], math.prod(x.shape[1:]))


def _check_input(input: Tensor) -> None:
    if input.dim() < 2 or not input.is_floating_point():
        raise ValueError(f"input must be floating-point (N, C, ...), got {input.dtype} {tuple(input.shape)}")


def _indices(input: Tensor, target: Tensor, ignore_index: int) -> Tensor:
    """(N, P), the class of each position."""
    if target.shape != input.shape[:1] + input.shape[2:] or target.is_floating_point():
        raise ValueError(
            f"target must be (N, ...) integers or have the input's shape, got {tuple(target.shape)} of {target.dtype} "
            f"and {tuple(input.shape)}"
        )
    target = target.long()
    check_range(target, input.shape[1], ignore_index)
    return _flat(target)


def _activated(x: Tensor, activation: str) -> Tensor:
    """x: (N, C, P)"""
    if activation not in ACTIVATIONS:
        raise ValueError(f"{activation!r} is no activation; choose one of {', '.join(ACTIVATIONS)}")
    return {"softmax": lambda: x.softmax(1), "sigmoid": x.sigmoid, "none": lambda: x}[activation]()


def _regions(
    input: Tensor,
    target: Tensor,
    activation: str | None,
    batch: bool,
    squared: bool,
    ignore_index: int,
    position_mask: Tensor | None,
) -> _Regions:
    _check_input(input)
    positions = input.shape[:1] + input.shape[2:]
    by_class = target.shape == input.shape and (target.is_floating_point() or target.dim() != input.dim() - 1)
    if not by_class:
        indices = _indices(input, target, ignore_index)
    weight = _counted(positions, input.device, position_mask, target, None if by_class else ignore_index)
    x = input.reshape(*input.shape[:2], math.prod(input.shape[2:]))  # (N, C, P)
    if weight is not None:
        x = torch.where((weight != 0)[:, None], x, 0)
    p = _activated(x, activation or ("sigmoid" if by_class else "softmax"))
    predicted = p * p if squared else p
    if weight is not None:
        weight = weight.to(p.dtype)
        predicted = predicted * weight[:, None]
    predicted = predicted.sum(2)
    if by_class:
        t = target.detach().reshape(x.shape).to(p.dtype)
        if weight is not None:
            t = torch.where((weight != 0)[:, None], t * weight[:, None], 0)
        both, true = (p * t).sum(2), (t * t if squared else t).sum(2)
    else:
        # without the N C P numbers of a one-hot target
        place = torch.where(indices == ignore_index, 0, indices)  # (N, P)
        counts = torch.ones_like(p[:, 0]) if weight is None else weight
        own = p.gather(1, place[:, None])[:, 0] * counts
        both, true = (torch.zeros_like(predicted).scatter_add(1, place, x) for x in (own, counts))
    regions = _Regions(both, predicted, true)
    return _Regions(*(x.sum(0, keepdim=True) for x in regions)) if batch else regions


def _ratio(part: Tensor, whole: Tensor) -> Tensor:
    """part / whole; 1 where there is nothing."""
    some = whole != 0
    return torch.where(some, part / torch.where(some, whole, 1), 1)


def _check_smooth(smooth: float) -> None:
    if not smooth >= 0:
        raise ValueError(f"smooth must not be negative, got {smooth}")


@composite()
def dice_loss(
    input: Tensor,
    target: Tensor,
    *,
    smooth: float = 1e-5,
    squared: bool = False,
    batch: bool = False,
    activation: str | None = None,
    ignore_index: int = -100,
    position_mask: Tensor | None = None,
    reduction: str = "mean",
) -> Tensor:
    r"""One minus the Dice coefficient of predicted and true regions, of each sample and class.

    With the probabilities p and the targets t at the positions of a sample,

    .. math::
        \ell = 1 - \frac{2 \sum p\, t + s}{\sum p + \sum t + s}, \qquad
        \text{squared: } 1 - \frac{2 \sum p\, t + s}{\sum p^2 + \sum t^2 + s}

    with s = ``smooth``. A class that is neither predicted nor there costs nothing; one that is not there costs about 1
    wherever it is predicted. No one-hot target is made of indices.

    Args:
        input: logits; probabilities with ``activation="none"``.
        target: the class of each position, integers; or, in the shape of the input, how far each class is there.
        smooth: not negative.
        squared: squares in the denominator (V-Net).
        batch: sums over the batch, too: a loss of each class.
        activation: ``"softmax"``, ``"sigmoid"`` or ``"none"``. None: softmax of index targets, sigmoid of others.
        ignore_index: a position with this index does not count.
        position_mask: broadcasts to the positions; 0 takes one out, whatever it holds. Other values weight it.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``, over samples and classes.

    Shape:
        - input: (N, C, ...); target: (N, ...) integers or (N, C, ...); position_mask: (N, ...)
        - output: (N, C) for ``"none"``, (1, C) with ``batch``, else ()

    Returns:
        The loss, in the dtype that torch promotes the operands to (float32 under autocast).

    Raises:
        ValueError: shapes that do not fit, an unknown ``activation``, a negative ``smooth``.
        IndexError: a class out of range.

    Source:
        Milletari et al. 2016 (V-Net), arXiv:1606.04797; Sudre et al. 2017, arXiv:1707.03237.

    Example:
        >>> x = torch.tensor([[[0.9, 0.1]]])
        >>> round(dice_loss(x, torch.tensor([[[1.0, 0.0]]]), activation="none", smooth=0.0).item(), 4)
        0.1
    """
    _check_smooth(smooth)
    both, predicted, true = _regions(input, target, activation, batch, squared, ignore_index, position_mask)
    return elements(1 - _ratio(2 * both + smooth, predicted + true + smooth))


def _tversky(
    input: Tensor, target: Tensor, alpha: float, beta: float, smooth: float, batch: bool, activation: str | None,
    ignore_index: int, position_mask: Tensor | None,
) -> Tensor:  # fmt: skip
    """1 - the index, (N, C)."""
    _check_smooth(smooth)
    if not (alpha >= 0 and beta >= 0):
        raise ValueError(f"alpha and beta must not be negative, got {alpha} and {beta}")
    both, predicted, true = _regions(input, target, activation, batch, False, ignore_index, position_mask)
    wrong = alpha * (predicted - both) + beta * (true - both)
    return 1 - _ratio(both + smooth, both + wrong + smooth)


@composite()
def tversky_loss(
    input: Tensor,
    target: Tensor,
    *,
    alpha: float = 0.5,
    beta: float = 0.5,
    smooth: float = 1e-5,
    batch: bool = False,
    activation: str | None = None,
    ignore_index: int = -100,
    position_mask: Tensor | None = None,
    reduction: str = "mean",
) -> Tensor:
    r"""One minus the Tversky index: what is predicted wrongly and what is missed have weights of their own.

    With :math:`T = \sum p\,t`, the false positives :math:`F_+ = \sum p\,(1 - t)`, the misses :math:`F_- = \sum (1 -
    p)\,t` and s = ``smooth``,

    .. math:: \ell = 1 - \frac{T + s}{T + \alpha F_+ + \beta F_- + s}.

    Halves are the Dice coefficient, ones the Jaccard index.

    Args:
        input, target, smooth, batch, activation, ignore_index, position_mask, reduction: as in
            :func:`fastloss.dice_loss`.
        alpha: not negative; the weight of false positives.
        beta: not negative; that of misses: above ``alpha`` it buys recall.

    Shape:
        - input: (N, C, ...); target: (N, ...) integers or (N, C, ...); position_mask: (N, ...)
        - output: (N, C) for ``"none"``, (1, C) with ``batch``, else ()

    Returns:
        The loss, in the dtype that torch promotes the operands to (float32 under autocast).

    Raises:
        ValueError: shapes that do not fit, an unknown ``activation``, a negative hyper-parameter.
        IndexError: a class out of range.

    Source:
        Salehi et al. 2017, arXiv:1706.05721.

    Example:
        >>> x = torch.tensor([[[1.0, 1.0]]])
        >>> tversky_loss(x, torch.tensor([[[1.0, 0.0]]]), alpha=1.0, activation="none", smooth=0.0).item()
        0.5
    """
    arguments = (alpha, beta, smooth, batch, activation, ignore_index, position_mask)
    return elements(_tversky(input, target, *arguments))


@composite()
def focal_tversky_loss(
    input: Tensor,
    target: Tensor,
    *,
    alpha: float = 0.3,
    beta: float = 0.7,
    gamma: float = 0.75,
    smooth: float = 1e-5,
    batch: bool = False,
    activation: str | None = None,
    ignore_index: int = -100,
    position_mask: Tensor | None = None,
    reduction: str = "mean",
) -> Tensor:
    r"""A power of :func:`fastloss.tversky_loss`: below 1, regions that fit almost still count.

    .. math:: \ell = (1 - \mathrm{TI})^\gamma

    Args:
        input, target, smooth, batch, activation, ignore_index, position_mask, reduction: as in
            :func:`fastloss.dice_loss`.
        alpha: not negative; the weight of false positives.
        beta: not negative; that of misses.
        gamma: positive; the exponent, which the paper writes as 1 / gamma, 3/4 there.

    Shape:
        - input: (N, C, ...); target: (N, ...) integers or (N, C, ...); position_mask: (N, ...)
        - output: (N, C) for ``"none"``, (1, C) with ``batch``, else ()

    Returns:
        The loss, in the dtype that torch promotes the operands to (float32 under autocast). Where a region fits
        exactly, and the power has no derivative, the gradient is 0.

    Raises:
        ValueError: shapes that do not fit, an unknown ``activation``, a hyper-parameter out of range.
        IndexError: a class out of range.

    Source:
        Abraham and Khan 2019, arXiv:1810.07842.

    Example:
        >>> x, t = torch.tensor([[[1.0, 1.0]]]), torch.tensor([[[1.0, 0.0]]])
        >>> focal_tversky_loss(x, t, alpha=1.0, gamma=2.0, activation="none", smooth=0.0).item()
        0.25
    """
    if not gamma > 0:
        raise ValueError(f"gamma must be positive, got {gamma}")
    arguments = (alpha, beta, smooth, batch, activation, ignore_index, position_mask)
    losses = _tversky(input, target, *arguments)
    apart = losses > 0
    return elements(torch.where(apart, torch.where(apart, losses, 1) ** gamma, 0))


# ------------------------------------------------------------------------------------------ Lovasz


def _extended(errors: Tensor, true: Tensor) -> tuple[Tensor, Tensor]:
    """The errors (..., P) in falling order, and what each is multiplied by in the Lovasz extension of the Jaccard loss.

    A position that has a larger error than others adds to the loss what it takes from the index when it is counted as
    wrong after them. These steps are 1 / U or I / (U (U - 1)), for intersection I and union U after the step: as
    differences of neighbouring indices they would have no digits left in large images.
    """
    ordered, order = errors.sort(-1, descending=True)
    true = true.gather(-1, order)
    count = true.sum(-1, keepdim=True)
    intersection = (count - true.cumsum(-1)).to(errors.dtype)
    union = (count + (~true).cumsum(-1)).to(errors.dtype)
    first = union <= 1  # nothing is there, and this is the first that is said to be
    wrong = torch.where(first, 1, intersection / (union * (union - 1)).clamp(min=1))
    steps = torch.where(true, 1 / union, wrong)
    return ordered, steps


@composite()
def lovasz_softmax_loss(
    input: Tensor,
    target: Tensor,
    *,
    classes: str = "present",
    batch: bool = True,
    activation: str = "softmax",
    ignore_index: int = -100,
    position_mask: Tensor | None = None,
    reduction: str = "mean",
) -> Tensor:
    r"""The Lovasz extension of the Jaccard index: a convex bound of the mean intersection over union of the classes.

    With the errors :math:`m_c = |[t = c] - p_c|` at the positions and :math:`\bar\Delta_{J_c}`, the extension of
    :math:`1 - J_c` from sets of wrong positions to vectors of errors,

    .. math:: \ell = \frac{1}{|\mathcal C|} \sum_{c \in \mathcal C} \bar\Delta_{J_c}(m_c).

    Args:
        input: logits; probabilities with ``activation="none"``.
        target: the class of each position, integers.
        classes: ``"present"``, the mean is over the classes that are in the target, or ``"all"``.
        batch: one index over the positions of the whole batch; else one of each sample.
        activation: ``"softmax"`` or ``"none"``.
        ignore_index: a position with this index does not count.
        position_mask: broadcasts to the positions; 0 takes one out, whatever it holds; no weights.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``, over the samples (one with ``batch``).

    Shape:
        - input: (N, C, ...); target, position_mask: (N, ...)
        - output: (N,) for ``"none"``, (1,) with ``batch``, else ()

    Returns:
        The loss, in the dtype of ``input`` (float32 under autocast); 0 where nothing counts.

    Raises:
        ValueError: shapes that do not fit, an unknown ``activation`` or ``classes``.
        IndexError: a class out of range.

    Source:
        Berman et al. 2018, arXiv:1705.08790.

    Example:
        >>> p = torch.tensor([[0.75, 0.25], [0.0, 1.0]])
        >>> lovasz_softmax_loss(p, torch.tensor([0, 1]), activation="none").item()
        0.1875
    """
    if classes not in ("present", "all"):
        raise ValueError(f"{classes!r} are no classes; choose present or all")
    _check_input(input)
    indices = _indices(input, target, ignore_index)
    there = _counted(target.shape, input.device, position_mask, target, ignore_index) != 0  # (N, P)
    x = input.reshape(*input.shape[:2], math.prod(input.shape[2:]))  # (N, C, P)
    p = _activated(torch.where(there[:, None], x, 0), activation)
    if batch:
        p = p.transpose(0, 1).flatten(1)[None]  # (1, C, N P)
        indices, there = indices.flatten()[None], there.flatten()[None]
    true = (indices[:, None] == torch.arange(input.shape[1], device=input.device)[:, None]) & there[
        :, None
    ]  # (N, C, P)
    errors = torch.where(there[:, None], torch.where(true, 1 - p, p), 0)
    ordered, steps = _extended(errors, true)
    losses = (ordered * steps).sum(2)  # (N, C)
    counted = true.any(2) if classes == "present" else there.any(1, keepdim=True).expand_as(losses)
    count = counted.sum(1)
    return elements(torch.where(counted, losses, 0).sum(1) / count.clamp(min=1))


@composite()
def lovasz_hinge_loss(
    input: Tensor,
    target: Tensor,
    *,
    batch: bool = True,
    ignore_index: int = -100,
    position_mask: Tensor | None = None,
    reduction: str = "mean",
) -> Tensor:
    r"""The Lovasz extension of the Jaccard index of one region, with hinge errors.

    With the logits x, the labels :math:`y = \pm 1` and the extension of :func:`fastloss.lovasz_softmax_loss`,

    .. math:: \ell = \bar\Delta_J\bigl(\max(0, 1 - x y)\bigr).

    Args:
        input: logits of being in the region.
        target: labels, 0 or 1, integers.
        batch: one index over the positions of the whole batch; else one of each sample.
        ignore_index: a position with this label does not count.
        position_mask: broadcasts to the positions; 0 takes one out, whatever it holds; no weights.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``, over the samples (one with ``batch``).

    Shape:
        - input, target, position_mask: (N, ...)
        - output: (N,) for ``"none"``, (1,) with ``batch``, else ()

    Returns:
        The loss, in the dtype of ``input`` (float32 under autocast); 0 where nothing counts.

    Raises:
        ValueError: shapes that differ, floating-point labels.
        IndexError: a label that is neither 0 nor 1.

    Source:
        Berman and Blaschko 2015 and 2018, arXiv:1512.07797, arXiv:1705.08790.

    Example:
        >>> lovasz_hinge_loss(torch.tensor([2.0, 0.0]), torch.tensor([1, 0])).item()  # half of the union is wrong
        0.5
    """
    if input.shape != target.shape or not input.dim() or target.is_floating_point():
        raise ValueError(
            f"target must be integers of the input's shape; target {tuple(target.shape)} of {target.dtype}, "
            f"input {tuple(input.shape)}"
        )
    target = target.long()
    check_range(target, 2, ignore_index)
    there = _counted(target.shape, input.device, position_mask, target, ignore_index) != 0  # (N, P)
    x, labels = (tensor.reshape(there.shape) for tensor in (input, target))
    if batch:
        x, labels, there = (tensor.flatten()[None] for tensor in (x, labels, there))
    true = (labels == 1) & there
    errors = torch.where(there, 1 - torch.where(there, x, 0) * torch.where(true, 1, -1), -math.inf)
    ordered, steps = _extended(errors, true)
    return elements((ordered.clamp(min=0) * steps).sum(1))
