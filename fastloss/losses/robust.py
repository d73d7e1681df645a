"""Cross-entropies with another tail: towards right answers (Poly-1), or towards wrong labels (bi-tempered)."""

from __future__ import annotations

import torch
from torch import Tensor

from fastloss.core.arguments import check_range
from fastloss.core.composite import composite
from fastloss.core.reductions import aggregate, check_fit
from fastloss.losses.classification import cross_entropy

__all__ = ["bi_tempered_loss", "poly1_cross_entropy"]


def checked_classes(
    input: Tensor, target: Tensor, ignore_index: int, mask: Tensor | None, normalizer: float | Tensor | None
) -> tuple[Tensor, Tensor]:
    """(the classes, which of them count), both of the losses' shape."""
    if input.dim() < 2 or target.shape != input.shape[:1] + input.shape[2:] or target.is_floating_point():
        raise ValueError(
            f"target must be (N, ...) integers beside input (N, C, ...), got {tuple(target.shape)} of {target.dtype} "
            f"and {tuple(input.shape)}"
        )
    target = target.long()
    check_range(target, input.shape[1], ignore_index)
    check_fit(target.shape, input.device, normalizer, mask=mask)
    there = target != ignore_index
    weight = there if mask is None else torch.where(there, mask.expand(target.shape), 0)
    return target, weight


@composite()
def poly1_cross_entropy(
    input: Tensor,
    target: Tensor,
    *,
    epsilon: float = 1.0,
    ignore_index: int = -100,
    reduction: str = "mean",
    mask: Tensor | None = None,
    normalizer: float | Tensor | None = None,
) -> Tensor:
    r"""Cross-entropy with another coefficient on the first term of its series in 1 - p.

    With p, the probability of the target's class,

    .. math:: \ell = -\log p + \epsilon\,(1 - p).

    Args:
        input: logits.
        target: the classes, integers.
        epsilon: any number; positive ones weigh what is almost right more, negative ones less.
        ignore_index: a position with this index does not count.
        reduction: ``"none"``, ``"mean"`` (over the positions that count) or ``"sum"``.
        mask: broadcasts to the losses; 0 takes one out, whatever it holds. Other values weight it.
        normalizer: the denominator of the mean: a number or a 0-d tensor.

    Shape:
        - input: (N, C, ...); target: (N, ...)
        - output: (N, ...) for ``"none"``, else ()

    Returns:
        The loss, in the dtype of ``input`` (float32 under autocast); the mean is 0 where nothing counts.

    Raises:
        ValueError: shapes that do not fit, floating-point labels.
        IndexError: a class out of range.

    Source:
        Leng et al. 2022, arXiv:2204.12511.

    Example:
        >>> round(poly1_cross_entropy(torch.zeros(1, 2), torch.tensor([0])).item(), 4)  # log 2 + 1/2
        1.1931
    """
    target, weight = checked_classes(input, target, ignore_index, mask, normalizer)
    if mask is not None:
        input = torch.where((weight != 0).unsqueeze(1), input, 0)
    entropy = cross_entropy(input, target, ignore_index=ignore_index, reduction="none")
    return aggregate(entropy - epsilon * torch.expm1(-entropy), reduction, weight, normalizer)


def _log_tempered_softmax(a: Tensor, t: float) -> Tensor:
    """The logarithm of exp_t(a - s), with s such that the sum over dim 1 is 1, for t > 1.

    By Newton's method on Z(s)^(1 - t) = 1, for Z, the sum: for equal logits that is linear in s. s has the derivative
    of the implicit function through the last two steps, the first and the second one, because each squares the error.
    """

    def log_exp(shift: Tensor) -> Tensor:  # log exp_t(u) = -log(1 + (t - 1)(-u)) / (t - 1)
        return -torch.log1p((t - 1) * (shift - a)) / (t - 1)

    def step(shift: Tensor) -> Tensor:
        log_p = log_exp(shift)
        z, slope = log_p.exp().sum(1, keepdim=True), (t * log_p).exp().sum(1, keepdim=True)
        return shift + (1 - z ** (1 - t)) * z**t / ((t - 1) * slope)

    with torch.no_grad():
        shift = a.amax(1, keepdim=True)
        for _ in range(10):
            shift = step(shift)
    return log_exp(step(step(shift.detach())))


def _log_t(log_p: Tensor, t: float) -> Tensor:
    """log_t(p) = (p^(1 - t) - 1) / (1 - t)"""
    return log_p if t == 1 else torch.expm1((1 - t) * log_p) / (1 - t)


@composite()
def bi_tempered_loss(
    input: Tensor,
    target: Tensor,
    *,
    t1: float = 0.8,
    t2: float = 1.2,
    label_smoothing: float = 0.0,
    ignore_index: int = -100,
    reduction: str = "mean",
    mask: Tensor | None = None,
    normalizer: float | Tensor | None = None,
) -> Tensor:
    r"""Cross-entropy that is bounded, of a softmax with a heavy tail: wrong labels, near and far, do less harm.

    With :math:`\log_t x = (x^{1 - t} - 1) / (1 - t)`, its inverse :math:`\exp_t` and :math:`p_c = \exp_{t_2}(x_c -
    \lambda)`, which add up to 1,

    .. math::
        \ell = \sum_c y_c\,(\log_{t_1} y_c - \log_{t_1} p_c) - \frac{y_c^{2 - t_1} - p_c^{2 - t_1}}{2 - t_1}.

    t1 = t2 = 1 is cross-entropy (less the entropy of smoothed labels).

    Args:
        input: logits.
        target: the classes, integers.
        t1: in [0, 1]; below 1 the loss is bounded.
        t2: at least 1; above 1 the tail is heavy.
        label_smoothing: share of the target that is spread evenly over all classes, in [0, 1].
        ignore_index: a position with this index does not count.
        reduction: ``"none"``, ``"mean"`` (over the positions that count) or ``"sum"``.
        mask: broadcasts to the losses; 0 takes one out, whatever it holds. Other values weight it.
        normalizer: the denominator of the mean: a number or a 0-d tensor.

    Shape:
        - input: (N, C, ...); target: (N, ...)
        - output: (N, ...) for ``"none"``, else ()

    Returns:
        The loss, in the dtype of ``input`` (float32 under autocast); the mean is 0 where nothing counts.

    Raises:
        ValueError: shapes that do not fit, floating-point labels, a hyper-parameter out of range.
        IndexError: a class out of range.

    Source:
        Amid et al. 2019, arXiv:1906.03361. The authors' code spreads smoothing over the other classes only.

    Example:
        >>> round(bi_tempered_loss(torch.zeros(1, 2), torch.tensor([0]), t1=1.0, t2=1.0).item(), 4)
        0.6931
    """
    if not (0 <= t1 <= 1 and t2 >= 1 and 0 <= label_smoothing <= 1):
        raise ValueError(
            f"t1 must be in [0, 1], t2 at least 1 and label_smoothing in [0, 1], got {t1}, {t2} and {label_smoothing}"
        )
    target, weight = checked_classes(input, target, ignore_index, mask, normalizer)
    if input.shape[1] == 0:
        raise ValueError("input has no classes")
    there = weight != 0
    input = torch.where(there.unsqueeze(1), input, 0)
    log_p = input.log_softmax(1) if t2 == 1 else _log_tempered_softmax(input, t2)
    own = log_p.gather(1, torch.where(there, target, 0).unsqueeze(1)).squeeze(1)
    rest = label_smoothing / input.shape[1]
    share = 1 - label_smoothing + rest  # of the target's class

    def entropy(y: float) -> float:
        log_y = 0.0 if not y else float(_log_t(torch.tensor(y, dtype=torch.float64).log(), t1))
        return y * log_y - y ** (2 - t1) / (2 - t1)

    losses = entropy(share) - (share - rest) * _log_t(own, t1)
    if rest:
        losses = losses + (input.shape[1] - 1) * entropy(rest) - rest * _log_t(log_p, t1).sum(1)
    losses = losses + ((2 - t1) * log_p).exp().sum(1) / (2 - t1)
    return aggregate(losses, reduction, weight, normalizer)
