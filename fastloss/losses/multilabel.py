"""Classification into several classes at once."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from fastloss.core.composite import composite, elements, present
from fastloss.core.elementary import log_sum, softplus

__all__ = ["asymmetric_loss", "two_way_loss", "zlpr_loss"]


def _power(x: Tensor, exponent: float) -> Tensor:
    """x ** exponent of x in [0, 1]; below 1 it has an infinite slope at 0, where the gradient is 0."""
    if exponent == 0:
        return torch.ones_like(x)
    return x.clamp(min=torch.finfo(x.dtype).tiny) ** exponent if exponent < 1 else x**exponent


def _check_shapes(input: Tensor, target: Tensor) -> None:
    if input.shape != target.shape:
        raise ValueError(f"input {tuple(input.shape)} and target {tuple(target.shape)} differ in shape")


@composite()
def asymmetric_loss(
    input: Tensor,
    target: Tensor,
    *,
    gamma_negative: float = 4.0,
    gamma_positive: float = 1.0,
    shift: float = 0.05,
    reduction: str = "mean",
    mask: Tensor | None = None,
    normalizer: float | Tensor | None = None,
) -> Tensor:
    r"""Focal loss of many labels, most of them negative: these fade faster, and the easiest count nothing.

    Elementwise, with :math:`p = \sigma(x)` and :math:`q = \max(p - \mathrm{shift}, 0)`,

    .. math::
        \ell = -t\,(1 - p)^{\gamma_+} \log p - (1 - t)\,q^{\gamma_-} \log(1 - q).

    Everything is computed from log-sigmoids: large logits need no clamp.

    Args:
        input: logits x, any real number.
        target: labels t, 0 or 1, or numbers between; a constant.
        gamma_negative: not negative; how fast negatives fade.
        gamma_positive: not negative; how fast positives fade.
        shift: in [0, 1); probabilities of negatives below it cost nothing.
        reduction: ``"none"``, ``"mean"`` or ``"sum"`` (the authors').
        mask: broadcasts to the losses; 0 takes an element out, whatever it holds. Other values weight it.
        normalizer: the denominator of the mean, instead of the sum of the mask: a number or a 0-d tensor.

    Shape:
        - input, target: any, and the same
        - output: the shape of ``input`` for ``"none"``, else ()

    Returns:
        The loss, in the dtype that torch promotes the operands to (float32 under autocast).

    Raises:
        ValueError: shapes that differ, a hyper-parameter out of range.

    Source:
        Ridnik et al. 2021, arXiv:2009.14119.

    Example:
        >>> asymmetric_loss(torch.tensor([-10.0]), torch.tensor([0])).item()
        0.0
    """
    if not (gamma_negative >= 0 and gamma_positive >= 0 and 0 <= shift < 1):
        raise ValueError(
            f"gamma_negative and gamma_positive must not be negative and shift be in [0, 1), got {gamma_negative}, "
            f"{gamma_positive} and {shift}"
        )
    _check_shapes(input, target)
    x, t = present(input.shape, mask, normalizer, input, target.detach())
    miss, hit = torch.sigmoid(-x), torch.sigmoid(x)
    positive = _power(miss, gamma_positive) * F.logsigmoid(x)
    if shift:
        shifted = (hit - shift).clamp(min=0)
        negative = _power(shifted, gamma_negative) * torch.log1p(-shifted)
    else:
        negative = _power(hit, gamma_negative) * F.logsigmoid(-x)
    return elements(-t * positive - (1 - t) * negative)


@composite()
def zlpr_loss(
    input: Tensor,
    target: Tensor,
    *,
    reduction: str = "mean",
    mask: Tensor | None = None,
    normalizer: float | Tensor | None = None,
) -> Tensor:
    r"""Zero-bounded log-sum-exp of pairs: all positive classes above 0, all negative ones below.

    .. math::
        \ell = \log\Bigl(1 + \sum_{c: t_c = 0} e^{x_c}\Bigr) + \log\Bigl(1 + \sum_{c: t_c > 0} e^{-x_c}\Bigr)

    Predicted are the classes with logits above 0.

    Args:
        input: logits x.
        target: 1 for the classes of a sample, 0 for others; less than 0: not known, the class does not count.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``, over the samples.
        mask: broadcasts to the losses; 0 takes a sample out, whatever it holds. Other values weight it.
        normalizer: the denominator of the mean, instead of the sum of the mask: a number or a 0-d tensor.

    Shape:
        - input, target: (N, C)
        - output: (N,) for ``"none"``, else ()

    Returns:
        The loss, in the dtype that torch promotes the operands to (float32 under autocast).

    Raises:
        ValueError: shapes that differ or are not (N, C).

    Source:
        Su et al. 2022, arXiv:2208.02955.

    Example:
        >>> round(zlpr_loss(torch.zeros(1, 3), torch.tensor([[1, 0, 0]])).item(), 4)  # log 3 + log 2
        1.7918
    """
    _check_shapes(input, target)
    if input.dim() != 2:
        raise ValueError(f"input must be (N, C), got {tuple(input.shape)}")
    x, t = present(input.shape[:1], mask, normalizer, input, target.detach())
    # softplus of a log-sum-exp is log(1 + sum)
    negative, positive = log_sum(x, t == 0, 1), log_sum(-x, t > 0, 1)
    return elements(softplus(negative) + softplus(positive))


@composite()
def two_way_loss(
    input: Tensor, target: Tensor, *, positive_temperature: float = 4.0, negative_temperature: float = 1.0
) -> Tensor:
    r"""All positives above all negatives, in every sample and in every class.

    For a row or a column with the positives P and the negatives Q,

    .. math::
        \ell = \mathrm{sp}\Bigl(T_- \log \sum_{Q} e^{x / T_-} + T_+ \log \sum_{P} e^{-x / T_+}\Bigr),
        \qquad \mathrm{sp}(x) = \log(1 + e^x),

    and the loss is the mean over the rows with positives plus the mean over the columns with positives.

    Args:
        input: logits x.
        target: 1 for the classes of a sample, 0 for others; less than 0: not known, neither.
        positive_temperature: positive; above 1 all positives count, not the lowest alone.
        negative_temperature: positive.

    Shape:
        - input, target: (N, C)
        - output: ()

    Returns:
        The loss, in the dtype that torch promotes the operands to (float32 under autocast); 0 without positives.

    Raises:
        ValueError: shapes that differ or are not (N, C), a temperature that is not positive.

    Source:
        Kobayashi 2023, Two-way multi-label loss (CVPR).

    Example:
        >>> round(two_way_loss(torch.zeros(1, 2), torch.tensor([[1, 0]])).item(), 4)  # log 2 of the row
        0.6931
    """
    _check_shapes(input, target)
    if input.dim() != 2:
        raise ValueError(f"input must be (N, C), got {tuple(input.shape)}")
    if not (positive_temperature > 0 and negative_temperature > 0):
        raise ValueError(f"temperatures must be positive, got {positive_temperature} and {negative_temperature}")
    positive, negative = target > 0, target == 0
    total = input.new_zeros(())
    for dim in (0, 1):
        above = negative_temperature * log_sum(input / negative_temperature, negative, dim)
        below = positive_temperature * log_sum(-input / positive_temperature, positive, dim)
        counted = positive.any(dim)
        losses = torch.where(counted, softplus(above + below), 0)
        total = total + losses.sum() / counted.sum().clamp(min=1)
    return total
