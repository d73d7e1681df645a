"""Penalties on predictions: too certain ones, and those that leave an old model's."""

from __future__ import annotations

import torch
from torch import Tensor

from fastloss.core.composite import composite, elements, present
from fastloss.losses.classification import cross_entropy

__all__ = ["confidence_penalty", "entropy", "lwf_loss"]


def _entropies(input: Tensor) -> Tensor:
    """(...), over the last dimension; a class of probability 0 adds nothing, to the gradient either."""
    log_p = input.log_softmax(-1)
    p = log_p.exp()
    return -(p * torch.where(p > 0, log_p, 0)).sum(-1)


@composite()
def entropy(
    input: Tensor,
    *,
    reduction: str = "mean",
    mask: Tensor | None = None,
    normalizer: float | Tensor | None = None,
) -> Tensor:
    r"""Entropy of the distributions that logits stand for.

    .. math:: H = -\sum_c p_c \log p_c, \qquad p = \mathrm{softmax}(x)

    To be subtracted where policies should explore, or added where unlabeled predictions should be certain.

    Args:
        input: logits x; -inf for what cannot be.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``, over the distributions.
        mask: broadcasts to the entropies; 0 takes one out, whatever it holds. Other values weight it.
        normalizer: the denominator of the mean, instead of the sum of the mask: a number or a 0-d tensor.

    Shape:
        - input: (..., C)
        - output: (...) for ``"none"``, else ()

    Returns:
        The entropy in nats, in the dtype of ``input`` (float32 under autocast).

    Raises:
        ValueError: a mask that does not fit.

    Source:
        Williams and Peng 1991, Function optimization using connectionist reinforcement learning algorithms; Grandvalet
        and Bengio 2004, Semi-supervised learning by entropy minimization.

    Example:
        >>> round(entropy(torch.zeros(1, 4)).item(), 4)  # log 4
        1.3863
    """
    (input,) = present(input.shape[:-1], mask, normalizer, input)
    return elements(_entropies(input))


@composite()
def confidence_penalty(
    input: Tensor,
    *,
    threshold: float | None = None,
    reduction: str = "mean",
    mask: Tensor | None = None,
    normalizer: float | Tensor | None = None,
) -> Tensor:
    r"""Minus the entropy of predictions: certain ones cost.

    .. math:: \ell = -H(\mathrm{softmax}(x)), \quad\text{with a threshold } \max(0, \mathrm{threshold} - H)

    Args:
        input: logits x.
        threshold: an entropy, from which on nothing is gained. None: no bound.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``, over the predictions.
        mask: broadcasts to the losses; 0 takes one out, whatever it holds. Other values weight it.
        normalizer: the denominator of the mean, instead of the sum of the mask: a number or a 0-d tensor.

    Shape:
        - input: (..., C)
        - output: (...) for ``"none"``, else ()

    Returns:
        The penalty, in the dtype of ``input`` (float32 under autocast).

    Raises:
        ValueError: a mask that does not fit.

    Source:
        Pereyra et al. 2017, arXiv:1701.06548.

    Example:
        >>> round(confidence_penalty(torch.zeros(1, 4)).item(), 4)
        -1.3863
    """
    (input,) = present(input.shape[:-1], mask, normalizer, input)
    found = _entropies(input)
    return elements(-found if threshold is None else (threshold - found).clamp(min=0))


@composite()
def lwf_loss(
    input: Tensor,
    old_logits: Tensor,
    *,
    temperature: float = 2.0,
    reduction: str = "mean",
    mask: Tensor | None = None,
    normalizer: float | Tensor | None = None,
) -> Tensor:
    r"""Learning without forgetting: the answers of the old heads should stay what they were.

    .. math:: \ell = -\sum_c q_c \log p_c, \qquad p = \mathrm{softmax}(x / T), \quad q = \mathrm{softmax}(o / T)

    Args:
        input: logits x of the old heads of the model that is trained.
        old_logits: o, those of the old model on the same samples; constants.
        temperature: T, positive.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``, over the samples.
        mask: broadcasts to the losses; 0 takes one out, whatever it holds. Other values weight it.
        normalizer: the denominator of the mean, instead of the sum of the mask: a number or a 0-d tensor.

    Shape:
        - input, old_logits: (N, C)
        - output: (N,) for ``"none"``, else ()

    Returns:
        The loss, in the dtype that torch promotes the operands to (float32 under autocast).

    Raises:
        ValueError: shapes that differ or are not (N, C), a temperature that is not positive.

    Source:
        Li and Hoiem 2016, arXiv:1606.09282.

    Example:
        >>> round(lwf_loss(torch.zeros(1, 2), torch.zeros(1, 2)).item(), 4)
        0.6931
    """
    if input.dim() != 2 or input.shape != old_logits.shape:
        shapes = (tuple(x.shape) for x in (input, old_logits))
        raise ValueError("input {} and old_logits {} must be (N, C)".format(*shapes))
    if not temperature > 0:
        raise ValueError(f"temperature must be positive, got {temperature}")
    x, old = present(input.shape[:1], mask, normalizer, input, old_logits.detach())
    target = (old / temperature).softmax(1).to(x.dtype)
    return elements(cross_entropy(x, target, reduction="none", temperature=temperature))
