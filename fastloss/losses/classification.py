"""Classification losses."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fastloss.core import torch_losses
from fastloss.core.arguments import Hyper, autocast_applies, known_to_be_false
from fastloss.core.dispatch import fused
from fastloss.core.dtypes import widened
from fastloss.skeletons.linear import LinearRow
from fastloss.skeletons.row import Row

__all__ = ["cross_entropy", "linear_cross_entropy", "softmax_focal_loss"]


_CROSS_ENTROPY = Row(
    parameters={
        "label_smoothing": Hyper(high=1.0),
        "z_loss": Hyper(),
        "softcap": Hyper(none=0.0),
        "temperature": Hyper(low=1e-30),
    },
    drop_in=True,
)


@fused(_CROSS_ENTROPY)
def cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: bool | None = None,
    ignore_index: int = -100,
    reduce: bool | None = None,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
    *,
    z_loss: float = 0.0,
    softcap: float | None = None,
    temperature: float = 1.0,
    inplace: bool = False,
) -> Tensor:
    r"""Softmax cross-entropy between logits and class indices or class probabilities.

    A drop-in for :func:`torch.nn.functional.cross_entropy`; the keyword-only arguments are extras. With
    :math:`z = \mathrm{softcap}\cdot\tanh(x/\mathrm{softcap})/\mathrm{temperature}` (z = x by default), C classes,
    label smoothing :math:`\epsilon`, class weights :math:`w` and, for one row,

    .. math::
        q_c = (1-\epsilon)\, w_c\, t_c + \frac{\epsilon}{C} w_c, \qquad
        \ell = \sum_c q_c\,\bigl(\mathrm{lse}(z) - z_c\bigr) + z_{loss}\, w_y\, \mathrm{lse}(z)^2,

    where t is the one-hot vector of the class index y, or the given class probabilities (then :math:`w_y = 1` in the
    last term). ``reduction="mean"`` divides the sum of the rows' losses by :math:`\sum w_y` over the rows that are not
    ignored, or by the number of rows for class probabilities.

    Args:
        input: logits, any real number; -inf takes a class out.
        target: class indices, or class probabilities with the dtype of ``input``.
        weight: non-negative weight of each class.
        size_average, reduce: deprecated, as in torch.
        ignore_index: rows with this class index count for nothing: their loss and gradient are exactly 0. Logits that
            are NaN there give a gradient of NaN where torch computes the call, as they do in torch.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.
        label_smoothing: in [0, 1]; mass spread evenly over all C classes.
        z_loss: at least 0; coefficient of the squared log-partition (PaLM uses 1e-4), which keeps the logits from
            drifting.
        softcap: positive; bounds the logits smoothly to (-softcap, softcap), as Gemma 2 does. None or 0: no bound.
        temperature: positive; divides the logits. A tensor is taken too (by the reference), and differentiated.
        inplace: allows the backward's gradient to overwrite ``input``, which saves the memory of one gradient. The
            logits are lost; a backward then works once. Backends and reductions that need the logits keep them.

    Shape:
        - input: (C), (N, C) or (N, C, d1, ..., dk)
        - target: (), (N) or (N, d1, ..., dk) of int64 in [0, C) or ``ignore_index``; or the shape of ``input``
        - weight: (C)
        - output: the shape of the class indices for ``"none"``, else ()

    Returns:
        The loss, in the dtype of ``input`` (float32 under autocast). All rows ignored: 0 / 0 = NaN, as in torch.

    Raises:
        Torch's exceptions for arguments that do not fit (``ValueError``, ``RuntimeError``), ``IndexError`` for a class
        index out of range (on CUDA: a device-side trap, or an ``IndexError`` before the launch with the environment
        variable ``FASTLOSS_VALIDATE=1``), ``ValueError`` for a ``z_loss``, ``softcap`` or ``temperature`` out of range.

    Source:
        Label smoothing: Szegedy et al. 2016, arXiv:1512.00567. z-loss: Chowdhery et al. 2022, arXiv:2204.02311.
        Soft-capping: Gemma Team 2024, arXiv:2408.00118.

    Example:
        >>> logits = torch.tensor([[2.0, 0.0], [0.0, 1.0]], requires_grad=True)
        >>> cross_entropy(logits, torch.tensor([0, 0])).item()
        0.7200949788093567
    """
    if z_loss < 0 or (softcap is not None and softcap < 0):
        raise ValueError(f"z_loss and softcap must not be negative, got {z_loss} and {softcap}")
    tempered = isinstance(temperature, Tensor) or temperature != 1.0
    if not isinstance(temperature, Tensor) and temperature <= 0:
        raise ValueError(f"temperature must be positive, got {temperature}")
    if (softcap or tempered or z_loss) and autocast_applies(input):
        input = input.float()  # as autocast does with torch's own cross_entropy, here before the extras
        weight = weight if weight is None else weight.float()
    if softcap:
        input = softcap * torch.tanh(input / softcap)
    if tempered:
        input = input / temperature
    if isinstance(target, Tensor) and target.dtype == torch.uint8 and label_smoothing and input.dim() <= 2:
        target = target.long()  # torch takes uint8, but its mean of weighted and smoothed losses does not
    if not z_loss:
        return torch_losses.cross_entropy(
            input, target, weight, size_average, ignore_index, reduce, reduction, label_smoothing
        )

    if size_average is not None or reduce is not None:
        reduction = torch.nn._reduction.legacy_get_string(size_average, reduce)
    rows = torch_losses.cross_entropy(
        input, target, weight, ignore_index=ignore_index, reduction="none", label_smoothing=label_smoothing
    )
    lse = torch.logsumexp(input, dim=min(1, input.dim() - 1))
    if target.is_floating_point():
        row_weight = torch.ones_like(lse)
    else:
        counted = target != ignore_index
        row_weight = counted.to(lse.dtype) if weight is None else weight[target.long() * counted] * counted
        lse = lse.where(counted, 0.0)  # a row that is not counted may hold anything, NaN included
    rows = rows + z_loss * row_weight * lse.square()
    if reduction == "none":
        return rows
    return rows.sum() if reduction == "sum" else rows.sum() / row_weight.sum()


@fused(LinearRow(_CROSS_ENTROPY))
def linear_cross_entropy(
    input: Tensor,
    linear_weight: Tensor,
    target: Tensor,
    *,
    linear_bias: Tensor | None = None,
    weight: Tensor | None = None,
    reduction: str = "mean",
    ignore_index: int | None = None,
    label_smoothing: float = 0.0,
    options: Any = None,
    z_loss: float = 0.0,
    softcap: float | None = None,
    temperature: float = 1.0,
    accumulate_float32: bool = True,
) -> Tensor:
    r"""Softmax cross-entropy of the logits ``input @ linear_weight.T + linear_bias``, which are never stored whole.

    A drop-in for :func:`torch.nn.functional.linear_cross_entropy` (new in torch 2.13; here with every torch): the last
    layer of a classifier or a language model and its loss, at the value and the gradients of

    .. math::
        \mathrm{cross\_entropy}(x W^T + b,\; \mathrm{target}),

    see :func:`cross_entropy`. The logits are computed chunk by chunk, 64 MiB of them at a time on a CPU and 256 MiB
    elsewhere, and turned into gradients in place: beyond a chunk, forward and backward take the memory of the gradients
    themselves. ``"mean"`` and ``"sum"`` take the three matrix products that torch takes too, all in forward. So does
    ``"none"`` on a CPU, with two more in backward unless the upstream gradient is the same for all rows that count or
    only ``input`` wants a gradient; elsewhere it takes four in all.

    Half types on a CPU are multiplied in float32, with a copy of ``linear_weight`` in it, and logits and gradients are
    rounded once, at the end. float16 gradients wait for the upstream gradient, a loss scale say, before they are
    rounded: on a CPU in float32, elsewhere by computing the logits a second time in backward.

    Args:
        input: the features of each row.
        linear_weight: the weights of each class.
        target: class indices, or class probabilities in the dtype of the logits.
        linear_bias: the bias of each class.
        weight, reduction, label_smoothing, z_loss, softcap, temperature: as in :func:`cross_entropy`.
        ignore_index: rows with this class index count for nothing, whatever their features are, NaN included.
            None: -100. Only for class indices.
        options: a :class:`torch.nn.LinearCrossEntropyOptions`. Chunks are the rule here, with options or without;
            ``batch_chunk_size`` is their number of rows, ``acc_dtype`` decides for ``accumulate_float32`` unless it is
            None, the other fields trade memory for what costs nothing here.
        accumulate_float32: for half types, sums the gradient of ``linear_weight`` over the chunks in float32, in two
            more buffers of its shape (4 bytes and 2 bytes an element). False adds up in the half type, without them:
            each chunk then rounds the sum once more, which for bfloat16 took 0.6% of the gradient with 32 chunks and
            5.9% with 512. On a CPU, and with a single chunk, False changes nothing.

    Shape:
        - input: (H) or (N, H)
        - linear_weight: (C, H), or (C, d1, ..., dk, H), which needs (N, H)
        - target: (), (N) or (N, d1, ..., dk) of int64 in [0, C) or ``ignore_index``; or (C), (N, C) or
          (N, C, d1, ..., dk)
        - linear_bias: (C) or (C, d1, ..., dk)
        - output: the shape of the class indices for ``"none"``, else ()

    Returns:
        The loss, in the dtype of ``input`` (float32 under autocast, with products in its half type). All rows ignored:
        0 / 0 = NaN.

    Raises:
        Torch's exceptions for arguments that do not fit, and those of :func:`cross_entropy`.

    Source:
        Gradients of chunks in forward: Hsu et al. 2024 (Liger Kernel), arXiv:2410.10989.

    Example:
        >>> hidden, head = torch.randn(8, 4), torch.randn(10, 4, requires_grad=True)
        >>> linear_cross_entropy(hidden, head, torch.arange(8)).backward()
    """
    if input.dim() < 1 or input.dim() > 2:
        raise RuntimeError(f"expected input with dimensionality 1 or 2, got {input.dim()}")
    if linear_weight.dim() < 2:
        raise RuntimeError(f"expected linear_weight with dimensionality at least 2, got {linear_weight.dim()}")
    if input.shape[-1] != linear_weight.shape[-1]:
        raise RuntimeError(
            "expected equal input and linear_weight last dimensions (in_features), "
            f"got {input.shape[-1]} and {linear_weight.shape[-1]}, respectively"
        )
    classes = tuple(linear_weight.shape[:-1])  # (C, d1, ..., dk)
    if linear_bias is not None and tuple(linear_bias.shape) != classes:
        raise RuntimeError(f"expected linear_bias shape {classes}, got {tuple(linear_bias.shape)}")
    if len(classes) > 1 and input.dim() == 1:
        raise RuntimeError(
            f"K-dimensional loss defined by linear_weight shape {tuple(linear_weight.shape)} requires"
            f" batched input, (N, {input.shape[-1]}), got unbatched input with shape {tuple(input.shape)}"
        )
    shape = (*input.shape[:-1], *classes)
    if ignore_index is not None and target.shape == shape:
        raise RuntimeError("ignore_index cannot be specified when target contains probabilities")
    bias = None if linear_bias is None else linear_bias.flatten()
    if not target.is_floating_point():
        input = _without_ignored_rows(input, target, -100 if ignore_index is None else ignore_index)
    logits = F.linear(input, linear_weight.flatten(0, -2), bias).reshape(shape)
    return _CROSS_ENTROPY.signature.reference(
        logits,
        target,
        weight,
        reduction=reduction,
        ignore_index=-100 if ignore_index is None else ignore_index,
        label_smoothing=label_smoothing,
        z_loss=z_loss,
        softcap=softcap,
        temperature=temperature,
    )


def _without_ignored_rows(input: Tensor, target: Tensor, ignore_index: int) -> Tensor:
    """`input` with zeros for the rows of which no target counts: their G is 0, but 0 * NaN is NaN."""
    ignored = target == ignore_index
    if target.shape[:1] != input.shape[:-1] or known_to_be_false(ignored):
        return input  # what does not fit is torch's to refuse
    if target.dim() > 1:
        ignored = ignored.flatten(1).all(1)
    return input.masked_fill(ignored.unsqueeze(-1), 0.0)


@fused(Row(parameters={"gamma": Hyper()}, weight="alpha", index_targets_only=True))
def softmax_focal_loss(
    input: Tensor,
    target: Tensor,
    alpha: Tensor | None = None,
    gamma: float = 2.0,
    *,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
    inplace: bool = False,
) -> Tensor:
    r"""Focal loss over exclusive classes: cross-entropy in which confident rows count for less.

    With :math:`p = \mathrm{softmax}(x)` and, as in :func:`cross_entropy`, the class weights :math:`\alpha` and the
    target distribution :math:`q_c = (1-\epsilon)\, \alpha_c\, t_c + \frac{\epsilon}{C}\, \alpha_c`, for one row

    .. math::
        \ell = \sum_c q_c\, (1 - p_c)^\gamma\, (-\log p_c),

    which for a class index y without label smoothing :math:`\epsilon` is
    :math:`-\alpha_y (1-p_y)^\gamma \log p_y`. Each class of a smoothed or soft target has a modulating factor of its
    own, as in Keras (``CategoricalFocalCrossentropy``) and MONAI: a common factor :math:`(1-p_y)^\gamma` would take the
    loss to 0 at :math:`p_y = 1` and undo the smoothing.

    ``reduction="mean"`` divides by :math:`\sum \alpha_y` over the rows that are not ignored (by the number of rows for
    class probabilities), so that gamma=0 is :func:`cross_entropy` in every reduction. Keras, MONAI and others divide by
    the number of rows, whatever their weights: that is ``reduction="sum"`` divided by it.

    Args:
        input: logits, any real number; -inf takes a class out.
        target: class indices, or class probabilities with the dtype of ``input``.
        alpha: non-negative weight of each class. A number would only scale the loss: multiply by it.
        gamma: at least 0; how fast the weight of a row falls as it becomes confident.
        ignore_index: rows with this class index count for nothing: their loss and gradient are exactly 0.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.
        label_smoothing: in [0, 1]; mass spread evenly over all C classes.
        inplace: as in :func:`cross_entropy`.

    Shape:
        - input: (C), (N, C) or (N, C, d1, ..., dk)
        - target: (), (N) or (N, d1, ..., dk) of int64 in [0, C) or ``ignore_index``; or the shape of ``input``
        - alpha: (C)
        - output: the shape of the class indices for ``"none"``, else ()

    Returns:
        The loss, in the dtype of ``input`` (float32 under autocast). All rows ignored: 0 / 0 = NaN.

    Raises:
        ValueError: for a negative ``gamma``, an ``alpha`` that is not a tensor, an unknown ``reduction``; else as
            :func:`cross_entropy`.

    Source:
        Lin et al. 2017, arXiv:1708.02002.

    Example:
        >>> logits = torch.tensor([[2.0, 0.0], [0.0, 1.0]], requires_grad=True)
        >>> softmax_focal_loss(logits, torch.tensor([0, 0])).item()
        0.3518359661102295
    """
    if gamma < 0:
        raise ValueError(f"gamma must not be negative, got {gamma}")
    if reduction not in ("none", "mean", "sum"):
        raise ValueError(f"{reduction!r} is not a valid value for reduction; choose none, mean or sum")
    classes = min(1, input.dim() - 1)
    if alpha is not None and not (isinstance(alpha, Tensor) and alpha.shape == input.shape[classes : classes + 1]):
        found = tuple(alpha.shape) if isinstance(alpha, Tensor) else alpha
        raise ValueError(f"alpha is the weight of each class, a tensor of shape (C), got {found}")
    dtype = torch.float32 if autocast_applies(input) else input.dtype
    input, alpha = widened(input, alpha)
    if gamma == 0:
        loss = torch_losses.cross_entropy(
            input, target, alpha, ignore_index=ignore_index, reduction=reduction, label_smoothing=label_smoothing
        )
        return loss.to(dtype)

    log_p = F.log_softmax(input, classes)
    alpha_of_class = None if alpha is None else alpha.view([-1 if d == classes else 1 for d in range(input.dim())])
    if target.shape == input.shape:
        # for its errors; the value is not used
        torch_losses.cross_entropy(input, target, alpha, reduction=reduction, label_smoothing=label_smoothing)
        mass = widened(target)[0] * (1 - label_smoothing) + label_smoothing / input.shape[classes]
        mass = mass if alpha_of_class is None else mass * alpha_of_class
        rows = (mass * _focal_term(log_p, gamma)).sum(classes)
        row_weight = torch.ones_like(rows)
    else:
        log_p_y = -F.nll_loss(log_p, target, ignore_index=ignore_index, reduction="none")  # 0 where ignored
        counted = target != ignore_index
        row_weight = counted.to(log_p.dtype) if alpha is None else alpha[target.long() * counted] * counted
        rows = row_weight * _focal_term(log_p_y, gamma)
        if label_smoothing:
            spread = _focal_term(log_p, gamma) * (1.0 if alpha_of_class is None else alpha_of_class)
            rows = (1 - label_smoothing) * rows + label_smoothing * spread.mean(classes).where(counted, 0.0)
    if reduction == "none":
        return rows.to(dtype)
    return (rows.sum() if reduction == "sum" else rows.sum() / row_weight.sum()).to(dtype)


def _focal_term(log_p: Tensor, gamma: float) -> Tensor:
    """(1 - p)^gamma (-log p), gamma > 0; 0 with the derivatives 0 at p = 1, where autograd would see 0 * inf."""
    miss = -torch.expm1(log_p.clamp(min=torch.finfo(log_p.dtype).min))  # the derivative at log p = -inf is 0, not NaN
    certain = miss == 0
    return miss.masked_fill(certain, 1.0).pow(gamma).masked_fill(certain, 0.0) * -log_p
