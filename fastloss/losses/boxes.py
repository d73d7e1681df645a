"""Boxes: one minus the intersection over union of a predicted and a true one, and what is added to it."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from fastloss.core.composite import composite, elements, present

__all__ = ["ciou_loss", "diou_loss", "giou_loss", "iou_loss"]


class _Boxes(NamedTuple):
    iou: Tensor
    union: Tensor
    hull: tuple[Tensor, Tensor]  # width and height of the smallest box around both
    distance: Tensor  # of the centres, squared
    sizes: tuple[Tensor, Tensor, Tensor, Tensor]  # width and height of the predicted box, of the true one


def _boxes(input: Tensor, target: Tensor, eps: float, mask: Tensor | None, normalizer: float | Tensor | None) -> _Boxes:
    if input.shape != target.shape or not input.dim() or input.shape[-1] != 4:
        raise ValueError(f"boxes are (..., 4); input {tuple(input.shape)}, target {tuple(target.shape)}")
    input, target = present(input.shape[:-1], mask, normalizer, input, target.detach())
    a, b = input.unbind(-1), target.unbind(-1)
    sizes = (a[2] - a[0], a[3] - a[1], b[2] - b[0], b[3] - b[1])
    inner = [(torch.minimum(a[2 + k], b[2 + k]) - torch.maximum(a[k], b[k])).clamp(min=0) for k in (0, 1)]
    hull = [torch.maximum(a[2 + k], b[2 + k]) - torch.minimum(a[k], b[k]) for k in (0, 1)]
    intersection = inner[0] * inner[1]
    union = sizes[0] * sizes[1] + sizes[2] * sizes[3] - intersection
    distance = ((a[0] + a[2] - b[0] - b[2]).square() + (a[1] + a[3] - b[1] - b[3]).square()) / 4
    return _Boxes(intersection / (union + eps), union, (hull[0], hull[1]), distance, sizes)


@composite()
def iou_loss(
    input: Tensor,
    target: Tensor,
    *,
    eps: float = 1e-7,
    reduction: str = "mean",
    mask: Tensor | None = None,
    normalizer: float | Tensor | None = None,
) -> Tensor:
    r"""One minus the intersection over union of two boxes.

    .. math:: \ell = 1 - \frac{|A \cap B|}{|A \cup B| + \epsilon}

    Boxes that do not meet have no gradient.

    Args:
        input: predicted boxes, (x1, y1, x2, y2) with x1 <= x2 and y1 <= y2.
        target: true boxes, constants.
        eps: keeps a division finite.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``, over the boxes.
        mask: broadcasts to the losses; 0 takes a box out, whatever it holds. Other values weight it.
        normalizer: the denominator of the mean, instead of the sum of the mask: a number or a 0-d tensor.

    Shape:
        - input, target: (..., 4)
        - output: (...) for ``"none"``, else ()

    Returns:
        The loss, in the dtype that torch promotes the operands to (float32 under autocast).

    Raises:
        ValueError: shapes that differ or do not end in 4.

    Source:
        Yu et al. 2016 (UnitBox), arXiv:1608.01471, without its logarithm.

    Example:
        >>> box = torch.tensor([[0.0, 0.0, 1.0, 1.0]])
        >>> round(iou_loss(box, box + torch.tensor([0.5, 0.0, 0.5, 0.0])).item(), 4)
        0.6667
    """
    return elements(1 - _boxes(input, target, eps, mask, normalizer).iou)


@composite()
def giou_loss(
    input: Tensor,
    target: Tensor,
    *,
    eps: float = 1e-7,
    reduction: str = "mean",
    mask: Tensor | None = None,
    normalizer: float | Tensor | None = None,
) -> Tensor:
    r"""Generalised intersection over union: boxes that do not meet are drawn together, too.

    With C, the smallest box around both,

    .. math:: \ell = 1 - \mathrm{IoU} + \frac{|C| - |A \cup B|}{|C| + \epsilon}.

    Args:
        input: predicted boxes, (x1, y1, x2, y2) with x1 <= x2 and y1 <= y2.
        target: true boxes, constants.
        eps: keeps a division finite.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``, over the boxes.
        mask: broadcasts to the losses; 0 takes a box out, whatever it holds. Other values weight it.
        normalizer: the denominator of the mean, instead of the sum of the mask: a number or a 0-d tensor.

    Shape:
        - input, target: (..., 4)
        - output: (...) for ``"none"``, else ()

    Returns:
        The loss, in the dtype that torch promotes the operands to (float32 under autocast).

    Raises:
        ValueError: shapes that differ or do not end in 4.

    Source:
        Rezatofighi et al. 2019, arXiv:1902.09630.

    Example:
        >>> box = torch.tensor([[0.0, 0.0, 1.0, 1.0]])
        >>> round(giou_loss(box, box + torch.tensor([0.5, 0.0, 0.5, 0.0])).item(), 4)
        0.6667
    """
    boxes = _boxes(input, target, eps, mask, normalizer)
    hull = boxes.hull[0] * boxes.hull[1]
    return elements(1 - boxes.iou + (hull - boxes.union) / (hull + eps))


@composite()
def diou_loss(
    input: Tensor,
    target: Tensor,
    *,
    eps: float = 1e-7,
    reduction: str = "mean",
    mask: Tensor | None = None,
    normalizer: float | Tensor | None = None,
) -> Tensor:
    r"""Intersection over union, and the distance of the centres.

    With d, the distance of the centres, and c, the diagonal of the smallest box around both,

    .. math:: \ell = 1 - \mathrm{IoU} + \frac{d^2}{c^2 + \epsilon}.

    Args:
        input: predicted boxes, (x1, y1, x2, y2) with x1 <= x2 and y1 <= y2.
        target: true boxes, constants.
        eps: keeps a division finite.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``, over the boxes.
        mask: broadcasts to the losses; 0 takes a box out, whatever it holds. Other values weight it.
        normalizer: the denominator of the mean, instead of the sum of the mask: a number or a 0-d tensor.

    Shape:
        - input, target: (..., 4)
        - output: (...) for ``"none"``, else ()

    Returns:
        The loss, in the dtype that torch promotes the operands to (float32 under autocast).

    Raises:
        ValueError: shapes that differ or do not end in 4.

    Source:
        Zheng et al. 2020, arXiv:1911.08287.

    Example:
        >>> box = torch.tensor([[0.0, 0.0, 1.0, 1.0]])
        >>> round(diou_loss(box, box + torch.tensor([0.5, 0.0, 0.5, 0.0])).item(), 4)
        0.7436
    """
    boxes = _boxes(input, target, eps, mask, normalizer)
    diagonal = boxes.hull[0].square() + boxes.hull[1].square() + eps
    return elements(1 - boxes.iou + boxes.distance / diagonal)


@composite()
def ciou_loss(
    input: Tensor,
    target: Tensor,
    *,
    eps: float = 1e-7,
    reduction: str = "mean",
    mask: Tensor | None = None,
    normalizer: float | Tensor | None = None,
) -> Tensor:
    r"""Intersection over union, the distance of the centres, and the difference of the aspect ratios.

    .. math::
        \ell = 1 - \mathrm{IoU} + \frac{d^2}{c^2 + \epsilon} + \alpha v, \qquad
        v = \frac{4}{\pi^2}\Bigl(\arctan\frac{w_B}{h_B} - \arctan\frac{w_A}{h_A}\Bigr)^2, \quad
        \alpha = \frac{v}{1 - \mathrm{IoU} + v + \epsilon},

    with :math:`\alpha` a constant. A box without width and height has no aspect ratio, and no gradient by it.

    Args:
        input: predicted boxes, (x1, y1, x2, y2) with x1 <= x2 and y1 <= y2.
        target: true boxes, constants.
        eps: keeps a division finite.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``, over the boxes.
        mask: broadcasts to the losses; 0 takes a box out, whatever it holds. Other values weight it.
        normalizer: the denominator of the mean, instead of the sum of the mask: a number or a 0-d tensor.

    Shape:
        - input, target: (..., 4)
        - output: (...) for ``"none"``, else ()

    Returns:
        The loss, in the dtype that torch promotes the operands to (float32 under autocast).

    Raises:
        ValueError: shapes that differ or do not end in 4.

    Source:
        Zheng et al. 2020, arXiv:1911.08287.

    Example:
        >>> box = torch.tensor([[0.0, 0.0, 1.0, 1.0]])
        >>> round(ciou_loss(box, box + torch.tensor([0.5, 0.0, 0.5, 0.0])).item(), 4)
        0.7436
    """
    boxes = _boxes(input, target, eps, mask, normalizer)
    diagonal = boxes.hull[0].square() + boxes.hull[1].square() + eps
    width, height, true_width, true_height = boxes.sizes
    point = (width == 0) & (height == 0)
    angle = torch.atan2(torch.where(point, 0, width), torch.where(point, 1, height))
    v = (torch.atan2(true_width, true_height) - angle).square() * (4 / math.pi**2)
    alpha = (v / (1 - boxes.iou + v + eps)).detach()
    return elements(1 - boxes.iou + boxes.distance / diagonal + alpha * v)
