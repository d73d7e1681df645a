"""Losses of binary labels: from probabilities, logits and margins."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fastloss.core import torch_losses
from fastloss.core.arguments import Domain, Hyper, Invalid, Refused, autocast_applies, readable
from fastloss.core.dispatch import fused
from fastloss.core.dtypes import one_dtype, result_dtype, widened
from fastloss.core.metrics import counted
from fastloss.core.reductions import aggregate
from fastloss.skeletons.pointwise import Pointwise

__all__ = [
    "binary_cross_entropy",
    "binary_cross_entropy_with_logits",
    "hinge_embedding_loss",
    "hinge_loss",
    "margin_ranking_loss",
    "sigmoid_focal_loss",
    "soft_margin_loss",
]


def _fits(weight: Tensor, target: Tensor) -> bool:
    """Whether the weight broadcasts to the target, and not the other way round."""
    try:
        return torch.broadcast_shapes(weight.shape, target.shape) == target.shape
    except RuntimeError:
        return False


def _torch_weights(arguments: dict[str, Any]) -> dict[str, Any] | Refused:
    """Weights as torch wants them; what it refuses, it shall refuse."""
    names = ("input", "target", "weight", "pos_weight")
    if not one_dtype(arguments, *names):
        return Invalid("the operands differ in dtype")
    target = arguments.get("target")
    for name in names[2:]:
        weight = arguments.get(name)
        if isinstance(weight, Tensor) and isinstance(target, Tensor):
            if not _fits(weight, target):
                return Invalid(f"{name} does not broadcast to the target")
            if weight.requires_grad:
                return Invalid(f"{name} requires a gradient")
        elif weight is not None:
            return Invalid(f"{name} is no tensor")
    return arguments


def _smoothed(target: Tensor, smoothing: float) -> Tensor:
    return target + smoothing * (0.5 - target)


def _with_smoothed_target(arguments: dict[str, Any]) -> dict[str, Any] | Refused:
    """The kernels take the target as it is."""
    found, smoothing = _torch_weights(arguments), arguments.get("label_smoothing", 0.0)
    _check_smoothing(smoothing)
    if isinstance(found, Refused) or not smoothing or not isinstance(found.get("target"), Tensor):
        return found
    operands = {name: x for name, x in found.items() if isinstance(x, Tensor)}
    wide = dict(zip(operands, widened(*operands.values()), strict=True))  # halves would round the target
    rest = {name: x for name, x in found.items() if name != "label_smoothing"}
    return {**rest, **wide, "target": _smoothed(wide["target"], smoothing)}


def _check_smoothing(smoothing: float) -> None:
    if not 0 <= smoothing <= 1:
        raise ValueError(f"label_smoothing must be in [0, 1], got {smoothing}")


@fused(
    Pointwise(
        operands=("input", "target", "weight"),
        fill={"weight": 1.0},
        differentiable=("input", "target"),
        shapes="equal",
        domain=Domain("all elements of input and target should be between 0 and 1", RuntimeError),
        drop_in=True,
        prepare=_torch_weights,
    )
)
def binary_cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> Tensor:
    r"""Binary cross-entropy of probabilities. :func:`binary_cross_entropy_with_logits` is the accurate form.

    A drop-in for :func:`torch.nn.functional.binary_cross_entropy`. Elementwise, with the weight w (1 by default),

    .. math::
        \ell = -w\,\bigl(t \log p + (1 - t) \log(1 - p)\bigr),

    where a logarithm is at least -100. The mean divides by the number of elements, with weights too.

    Args:
        input: probabilities p, in [0, 1].
        target: probabilities or labels t, in [0, 1]; differentiated as well.
        weight: of each element.
        size_average, reduce: deprecated, as in torch.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.

    Shape:
        - input, target: any, and the same
        - weight: broadcasts to ``target``
        - output: the shape of ``input`` for ``"none"``, else ()

    Returns:
        The loss, in the dtype of the operands, which have to agree (float32 under autocast).

    Raises:
        Torch's exceptions: ``ValueError`` for shapes that differ or an unknown reduction, ``RuntimeError`` for an
        element of ``input`` or ``target`` outside [0, 1] (on a GPU: a device-side trap).

    Source:
        Good 1952, Rational decisions.

    Example:
        >>> round(binary_cross_entropy(torch.tensor([0.5, 1.0]), torch.tensor([1.0, 1.0])).item(), 5)
        0.34657
    """
    return torch_losses.binary_cross_entropy(input, target, weight, size_average, reduce, reduction)


@fused(
    Pointwise(
        operands=("input", "target", "weight", "pos_weight"),
        fill={"weight": 1.0, "pos_weight": 1.0},
        differentiable=("input", "target"),
        shapes="equal",
        drop_in=True,
        prepare=_with_smoothed_target,
    )
)
def binary_cross_entropy_with_logits(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
    pos_weight: Tensor | None = None,
    *,
    label_smoothing: float = 0.0,
) -> Tensor:
    r"""Binary cross-entropy of logits.

    A drop-in for :func:`torch.nn.functional.binary_cross_entropy_with_logits`. Elementwise, with the sigmoid
    :math:`\sigma`, the weight w and the weight p of positives (both 1 by default),

    .. math::
        \ell = -w\,\bigl(p\, t \log\sigma(x) + (1 - t) \log(1 - \sigma(x))\bigr).

    The mean divides by the number of elements, with weights too. The kernels take both logarithms without cancellation:
    they are more accurate than torch's form for large negative logits, and for -inf the loss of a positive is inf,
    where torch's is NaN.

    Args:
        input: logits x, any real number.
        target: probabilities or labels t, in [0, 1]; differentiated as well.
        weight: of each element.
        size_average, reduce: deprecated, as in torch.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.
        pos_weight: weight of the positive part; above 1 it buys recall, below 1 precision.
        label_smoothing: s in [0, 1]; the target is :math:`(1 - s)\, t + s / 2` (not of torch's function).

    Shape:
        - input, target: any, and the same
        - weight, pos_weight: broadcast to ``target``
        - output: the shape of ``input`` for ``"none"``, else ()

    Returns:
        The loss, in the dtype of the operands (float32 under autocast).

    Raises:
        Torch's exceptions: ``ValueError`` for shapes that differ or an unknown reduction, ``RuntimeError`` for weights
        that do not broadcast or that require a gradient. ``ValueError`` for a ``label_smoothing`` out of range.

    Source:
        Good 1952, Rational decisions.

    Example:
        >>> round(binary_cross_entropy_with_logits(torch.tensor([0.0, 100.0]), torch.tensor([1.0, 1.0])).item(), 5)
        0.34657
    """
    _check_smoothing(label_smoothing)
    torchs = torch_losses.binary_cross_entropy_with_logits
    if not label_smoothing:
        return torchs(input, target, weight, size_average, reduce, reduction, pos_weight)
    x, t, weight, pos_weight = widened(input, target, weight, pos_weight)
    loss = torchs(x, _smoothed(t, label_smoothing), weight, size_average, reduce, reduction, pos_weight)
    return loss.to(input.dtype) if input.dtype.itemsize == 2 and not autocast_applies(input) else loss


# ------------------------------------------------------------------------------------------ focal loss


def _positives(normalizer: str, targets: Tensor, mask: Tensor | None) -> Tensor:
    """What "positives" stands for: max(1, sum of the targets that the mask counts)."""
    if normalizer != "positives":
        raise ValueError(f"normalizer must be a number, a tensor or 'positives', got {normalizer!r}")
    targets = targets.detach()
    if mask is not None:
        targets = torch.where(mask != 0, targets * mask, 0)
    return targets.sum(dtype=torch.float64).clamp(min=1)


def _check_focal(alpha: Any, gamma: Any) -> None:
    if isinstance(alpha, Tensor):
        if readable(alpha) and not ((alpha >= 0) & (alpha <= 1)).all():
            raise ValueError(f"alpha, a tensor, must be in [0, 1], got {alpha}")
    elif not (0 <= alpha <= 1 or alpha == -1):
        raise ValueError(f"alpha must be in [0, 1], or -1 for none, got {alpha}")
    if not gamma >= 0:
        raise ValueError(f"gamma must not be negative, got {gamma}")


def _with_positives(arguments: dict[str, Any]) -> dict[str, Any] | Refused:
    _check_focal(arguments.get("alpha", 0.25), arguments.get("gamma", 2.0))
    if isinstance(arguments.get("normalizer"), str) and isinstance(arguments.get("targets"), Tensor):
        arguments["normalizer"] = _positives(arguments["normalizer"], arguments["targets"], arguments.get("mask"))
    return arguments


@fused(
    Pointwise(
        operands=("inputs", "targets"),
        parameters={"alpha": Hyper(low=-1.0, high=1.0), "gamma": Hyper()},
        shapes="equal",
        prepare=_with_positives,
    )
)
def sigmoid_focal_loss(
    inputs: Tensor,
    targets: Tensor,
    alpha: float | Tensor = 0.25,
    gamma: float = 2.0,
    reduction: str = "none",
    *,
    mask: Tensor | None = None,
    normalizer: float | Tensor | str | None = None,
) -> Tensor:
    r"""Focal loss of binary labels: cross-entropy in which examples that are classified well count less.

    The signature and the values are those of ``torchvision.ops.sigmoid_focal_loss``; the keyword-only arguments are
    extras. Elementwise, with :math:`p_t = \sigma(x)\, t + (1 - \sigma(x)) (1 - t)`, the binary cross-entropy
    :math:`\ell_{ce}` of the logit and :math:`\alpha_t = \alpha t + (1 - \alpha)(1 - t)`,

    .. math::
        \ell = \alpha_t\, (1 - p_t)^\gamma\, \ell_{ce}.

    Everything is computed from log-sigmoids and, for half types, in float32: large logits give neither NaN nor inf.

    Args:
        inputs: logits x, any real number.
        targets: labels or probabilities t, in [0, 1]; differentiated as well.
        alpha: in [0, 1], the weight of positives, 1 - alpha that of negatives; or -1: both have the weight 1. A tensor,
            one of each class: broadcasts to the losses, by torch's operations; a constant.
        gamma: at least 0; how fast the loss fades as :math:`p_t` grows. 0: weighted cross-entropy.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.
        mask: broadcasts to the losses; 0 takes an element out, whatever it holds. Other values weight it.
        normalizer: the denominator of the mean, instead of the sum of the mask: a number, a 0-d tensor, or
            ``"positives"``: the sum of the targets that the mask counts, at least 1.

    Shape:
        - inputs, targets: any, and the same
        - output: the shape of ``inputs`` for ``"none"``, else ()

    Returns:
        The loss, in the dtype that torch promotes the operands to (float32 under autocast).

    Raises:
        ValueError: shapes that differ, ``alpha`` or ``gamma`` out of range, an unknown reduction, a normalizer without
            a mean.

    Source:
        Lin et al. 2017 (RetinaNet), arXiv:1708.02002.

    Example:
        >>> round(sigmoid_focal_loss(torch.tensor([0.0, 3.0]), torch.tensor([1.0, 1.0]), reduction="sum").item(), 5)
        0.04335
    """
    _check_focal(alpha, gamma)
    if inputs.shape != targets.shape:
        raise ValueError(f"inputs {tuple(inputs.shape)} and targets {tuple(targets.shape)} differ in shape")
    if isinstance(normalizer, str):
        normalizer = _positives(normalizer, targets, mask)
    dtype = result_dtype(inputs, targets)
    x, t = counted(mask, *widened(inputs, targets.to(dtype)))
    entropy = -(t * F.logsigmoid(x) + (1 - t) * F.logsigmoid(-x))
    miss = torch.sigmoid(x) * (1 - t) + torch.sigmoid(-x) * t  # 1 - p_t
    losses = entropy
    if gamma == 2:
        losses = miss * miss * entropy
    elif gamma:
        # a power below 1 has an infinite slope at 0, to which a confident logit underflows
        losses = miss.clamp(min=torch.finfo(miss.dtype).tiny) ** gamma * entropy
    if isinstance(alpha, Tensor):
        if not _fits(alpha, inputs):
            raise ValueError(f"alpha {tuple(alpha.shape)} does not broadcast to the losses {tuple(inputs.shape)}")
        (alpha,) = widened(alpha.detach())
    if isinstance(alpha, Tensor) or alpha >= 0:
        losses = (alpha * t + (1 - alpha) * (1 - t)) * losses
    return aggregate(losses, reduction, mask, normalizer).to(dtype)


# ------------------------------------------------------------------------------------------ margins


def _of_input_dtype(arguments: dict[str, Any]) -> dict[str, Any] | Refused:
    input, target = arguments.get("input"), arguments.get("target")
    if isinstance(input, Tensor) and isinstance(target, Tensor):
        if target.is_floating_point() and not one_dtype(arguments, "input", "target"):
            return Invalid("input and target differ in dtype")
        if target.dtype == torch.uint8:
            return Invalid("to torch, an unsigned 255 is the label -1")
        if not input.is_floating_point():
            return Invalid("the input is not floating-point")
    return arguments


def _of_soft_margin(arguments: dict[str, Any]) -> dict[str, Any] | Refused:
    target = arguments.get("target")
    if isinstance(target, Tensor) and (target.requires_grad or target.dtype == torch.bool):
        return Invalid("torch neither differentiates the target nor negates bool tensors")
    return _of_input_dtype(arguments)


@fused(
    Pointwise(
        operands=("input", "target"),
        differentiable=("input",),
        shapes="equal",
        drop_in=True,
        prepare=_of_soft_margin,
    )
)
def soft_margin_loss(
    input: Tensor,
    target: Tensor,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> Tensor:
    r"""Logistic loss of labels -1 and 1.

    A drop-in for :func:`torch.nn.functional.soft_margin_loss`. Elementwise

    .. math::
        \ell = \log(1 + e^{-t x}).

    Torch's exponential overflows from :math:`-tx > 88` on (11 in float16), and its gradient is NaN there. The kernels
    give the true value and gradient.

    Args:
        input: predictions x, any real number.
        target: labels t, -1 or 1; not differentiated, as in torch.
        size_average, reduce: deprecated, as in torch.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.

    Shape:
        - input, target: any, and the same
        - output: the shape of ``input`` for ``"none"``, else ()

    Returns:
        The loss, in the dtype of ``input`` (float32 under autocast).

    Raises:
        Torch's exceptions: ``RuntimeError`` for shapes that do not fit or a target that requires a gradient,
        ``ValueError`` for an unknown reduction.

    Source:
        Cox 1958, The regression analysis of binary sequences.

    Example:
        >>> round(soft_margin_loss(torch.tensor([0.0, 2.0]), torch.tensor([1.0, -1.0])).item(), 5)
        1.41004
    """
    return torch_losses.soft_margin_loss(input, target, size_average, reduce, reduction)


@fused(
    Pointwise(
        operands=("input", "target"),
        parameters={"margin": Hyper(low=-math.inf)},
        differentiable=("input",),
        drop_in=True,
        prepare=_of_input_dtype,
    )
)
def hinge_embedding_loss(
    input: Tensor,
    target: Tensor,
    margin: float = 1.0,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> Tensor:
    r"""Loss of distances: of pairs that are alike the distance, of others what it falls short of a margin.

    A drop-in for :func:`torch.nn.functional.hinge_embedding_loss`. Elementwise

    .. math::
        \ell = \begin{cases} x & t = 1 \\ \max(0,\; \mathrm{margin} - x) & t = -1. \end{cases}

    For any other label it is the sum of the two, as in torch, whose clamp also lets the gradient through at the margin.

    Args:
        input: distances x, any real number.
        target: labels t, -1 or 1; not differentiated.
        margin: distance from which on a pair that is not alike costs nothing.
        size_average, reduce: deprecated, as in torch.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.

    Shape:
        - input, target: any, broadcast together
        - output: the broadcast shape for ``"none"``, else ()

    Returns:
        The loss, in the dtype of ``input`` (float32 under autocast).

    Raises:
        Torch's exceptions: ``RuntimeError`` for shapes that do not broadcast, ``ValueError`` for an unknown reduction.

    Source:
        Hadsell, Chopra and LeCun 2006, Dimensionality reduction by learning an invariant mapping, without the squares.

    Example:
        >>> hinge_embedding_loss(torch.tensor([0.5, 0.75]), torch.tensor([1.0, -1.0]), reduction="none").tolist()
        [0.5, 0.25]
    """
    return torch_losses.hinge_embedding_loss(input, target, margin, size_average, reduce, reduction)


def _of_ranking(arguments: dict[str, Any]) -> dict[str, Any] | Refused:
    tensors = [arguments.get(name) for name in ("input1", "input2", "target")]
    if all(isinstance(x, Tensor) for x in tensors):
        if len({x.dim() for x in tensors}) > 1:  # type: ignore[union-attr]
            return Invalid("the operands differ in their number of dimensions")
        if any(x.dtype in (torch.bool, torch.uint8) for x in tensors):  # type: ignore[union-attr]
            return Invalid("torch neither subtracts nor negates bool tensors, and unsigned ones with a wrap")
        if not any(x.is_floating_point() for x in tensors[:2]):  # type: ignore[union-attr]
            return Invalid("the inputs are not floating-point")
    return arguments


@fused(
    Pointwise(
        operands=("input1", "input2", "target"),
        parameters={"margin": Hyper(low=-math.inf)},
        drop_in=True,
        prepare=_of_ranking,
    )
)
def margin_ranking_loss(
    input1: Tensor,
    input2: Tensor,
    target: Tensor,
    margin: float = 0,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> Tensor:
    r"""Ranking loss: the first input should be larger where the label is 1, the second where it is -1.

    A drop-in for :func:`torch.nn.functional.margin_ranking_loss`. Elementwise

    .. math::
        \ell = \max(0,\; \mathrm{margin} - t\,(x_1 - x_2)).

    Torch's clamp lets the gradient through at 0, and so do the kernels.

    Args:
        input1, input2: scores, any real number.
        target: labels t, -1 or 1; differentiated as well.
        margin: by how much the scores should differ.
        size_average, reduce: deprecated, as in torch.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.

    Shape:
        - input1, input2, target: as many dimensions each, broadcast together
        - output: the broadcast shape for ``"none"``, else ()

    Returns:
        The loss, in the dtype that torch promotes the operands to (float32 under autocast).

    Raises:
        Torch's exceptions: ``RuntimeError`` for shapes that do not fit, ``ValueError`` for an unknown reduction.

    Source:
        Herbrich, Graepel and Obermayer 1999, Support vector learning for ordinal regression.

    Example:
        >>> margin_ranking_loss(torch.tensor([1.0]), torch.tensor([3.0]), torch.tensor([1.0])).item()
        2.0
    """
    return torch_losses.margin_ranking_loss(input1, input2, target, margin, size_average, reduce, reduction)


@fused(
    Pointwise(
        operands=("input", "target"),
        parameters={"margin": Hyper(low=-math.inf), "squared": Hyper(high=1.0)},
        differentiable=("input",),
        shapes="equal",
    )
)
def hinge_loss(
    input: Tensor,
    target: Tensor,
    *,
    margin: float = 1.0,
    squared: bool = False,
    reduction: str = "mean",
    mask: Tensor | None = None,
    normalizer: float | Tensor | None = None,
) -> Tensor:
    r"""Hinge loss of labels -1 and 1, the loss of support vector machines.

    Elementwise

    .. math::
        \ell = \max(0,\; \mathrm{margin} - t x), \quad\text{or its square.}

    The gradient at the kink is 0.

    Args:
        input: predictions x, any real number.
        target: labels t, -1 or 1, of any dtype; not differentiated.
        margin: how far on the right side a prediction costs nothing.
        squared: square the hinge.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.
        mask: broadcasts to the losses; 0 takes an element out, whatever it holds. Other values weight it.
        normalizer: the denominator of the mean, instead of the sum of the mask: a number or a 0-d tensor.

    Shape:
        - input, target: any, and the same
        - output: the shape of ``input`` for ``"none"``, else ()

    Returns:
        The loss, in the dtype that torch promotes the operands to (float32 under autocast).

    Raises:
        ValueError: shapes that differ, an unknown reduction.

    Source:
        Cortes and Vapnik 1995, Support-vector networks.

    Example:
        >>> hinge_loss(torch.tensor([0.5, 2.0]), torch.tensor([1, -1])).item()
        1.75
    """
    if input.shape != target.shape:
        raise ValueError(f"input {tuple(input.shape)} and target {tuple(target.shape)} differ in shape")
    dtype = result_dtype(input, target)
    input, target = counted(mask, *widened(input, target.detach()))
    violation = F.relu(margin - target * input)
    return aggregate(violation.square() if squared else violation, reduction, mask, normalizer).to(dtype)
