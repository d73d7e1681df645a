"""Policy gradients: log-probabilities of actions times what the actions were worth; entropies."""

from __future__ import annotations

import torch
from torch import Tensor

from fastloss.core.composite import composite, elements, present
from fastloss.core.metrics import Metrics
from fastloss.core.reductions import check_fit
from fastloss.losses.log_prob import selective_log_softmax
from fastloss.losses.regression import mse_loss
from fastloss.losses.rl.transitions import checked_actions, same_shape

__all__ = ["a2c_loss", "entropy_loss", "policy_gradient_loss", "reinforce_loss"]


@composite()
def reinforce_loss(
    logp: Tensor,
    advantages: Tensor,
    *,
    reduction: str = "mean",
    mask: Tensor | None = None,
    normalizer: float | Tensor | None = None,
) -> Tensor:
    r"""Policy gradient from the log-probabilities of the actions taken.

    .. math:: \ell = -A \log \pi(a | s)

    Its expected gradient, over actions of the policy, is minus that of the expected return, for every A that is the
    return minus a function of the state. The loss itself says nothing. A is a constant.

    Args:
        logp: log-probabilities of the actions that were taken, of any distribution.
        advantages: A: advantages (:func:`gae`), or returns minus a baseline.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``, over the steps.
        mask: broadcasts to the losses; 0 takes one out, whatever it holds. Other values weight it.
        normalizer: the denominator of the mean, instead of the sum of the mask: a number or a 0-d tensor.

    Shape:
        - logp, advantages: any, and the same
        - output: as logp for ``"none"``, else ()

    Returns:
        The loss, in the dtype that torch promotes the operands to (float32 under autocast).

    Raises:
        ValueError: shapes that differ.

    Source:
        Williams 1992, Simple statistical gradient-following algorithms for connectionist reinforcement learning.

    Example:
        >>> reinforce_loss(torch.tensor([-1.0, -2.0]), torch.tensor([1.0, 0.5])).item()
        1.0
    """
    same_shape(logp.shape, advantages=advantages)
    logp, advantages = present(logp.shape, mask, normalizer, logp, advantages.detach())
    return elements(-advantages * logp)


def _counted(logits: Tensor, mask: Tensor | None, normalizer: float | Tensor | None) -> Tensor | None:
    """Which rows of the logits are to be read; None: all."""
    check_fit(logits.shape[:-1], logits.device, normalizer, mask=mask)
    return None if mask is None else (mask != 0).expand(logits.shape[:-1])


@composite(calls_model=True)
def policy_gradient_loss(
    logits: Tensor,
    actions: Tensor,
    advantages: Tensor,
    *,
    reduction: str = "mean",
    mask: Tensor | None = None,
    normalizer: float | Tensor | None = None,
) -> Tensor:
    r"""Policy gradient of a categorical policy, from its logits.

    .. math:: \ell = -A \log \pi(a | s), \qquad \pi = \mathrm{softmax}(x)

    The loss of :func:`reinforce_loss`, which is for other distributions; the logits are read once forward and once
    backward. A is a constant.

    Args:
        logits: x, of all actions; -inf for actions that there are not.
        actions: a, integers.
        advantages: A: advantages (:func:`gae`), or returns minus a baseline.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``, over the steps.
        mask: broadcasts to the losses; 0 takes one out, whatever it holds. Other values weight it.
        normalizer: the denominator of the mean, instead of the sum of the mask: a number or a 0-d tensor.

    Shape:
        - logits: (..., A)
        - actions, advantages: (...)
        - output: (...) for ``"none"``, else ()

    Returns:
        The loss, in the dtype that torch promotes the operands to (float32 under autocast).

    Raises:
        ValueError: shapes that do not fit.
        IndexError: an action that there is not (on a CPU).

    Source:
        Williams 1992, Simple statistical gradient-following algorithms for connectionist reinforcement learning.
        rlax's ``policy_gradient_loss``, whose weights are the mask.

    Example:
        >>> logits, actions = torch.zeros(1, 2), torch.tensor([1])
        >>> round(policy_gradient_loss(logits, actions, torch.tensor([2.0])).item(), 4)  # 2 log 2
        1.3863
    """
    checked_actions(actions, logits.shape[:-1], "the logits")
    same_shape(actions.shape, advantages=advantages)
    counted = _counted(logits, mask, normalizer)
    log_prob = selective_log_softmax(logits, actions, mask=counted).log_prob
    assert log_prob is not None
    (advantages,) = present(actions.shape, mask, None, advantages.detach())
    return elements(-advantages * log_prob)


@composite(calls_model=True)
def entropy_loss(
    logits: Tensor,
    *,
    reduction: str = "mean",
    mask: Tensor | None = None,
    normalizer: float | Tensor | None = None,
) -> Tensor:
    r"""Minus the entropy of a categorical policy: what is minimised for the policy to go on exploring.

    .. math:: \ell = \sum_a \pi_a \log \pi_a, \qquad \pi = \mathrm{softmax}(x), \qquad 0 \log 0 = 0

    Args:
        logits: x, of all actions; -inf for actions that there are not.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``, over the steps.
        mask: broadcasts to the losses; 0 takes one out, whatever it holds. Other values weight it.
        normalizer: the denominator of the mean, instead of the sum of the mask: a number or a 0-d tensor.

    Shape:
        - logits: (..., A)
        - output: (...) for ``"none"``, else ()

    Returns:
        The loss in nats, in the dtype of ``logits`` (float32 under autocast).

    Raises:
        ValueError: a mask that does not fit.

    Source:
        Williams and Peng 1991, Function optimization using connectionist reinforcement learning algorithms. rlax's
        ``entropy_loss``, whose weights are the mask.

    Example:
        >>> round(entropy_loss(torch.zeros(1, 4)).item(), 4)  # -log 4
        -1.3863
    """
    counted = _counted(logits, mask, normalizer)
    index = torch.zeros(logits.shape[:-1], dtype=torch.int64, device=logits.device)
    entropy = selective_log_softmax(logits, index, outputs=("entropy",), mask=counted).entropy
    assert entropy is not None
    return elements(-entropy)


@composite()
def a2c_loss(
    logp: Tensor,
    advantages: Tensor,
    values: Tensor,
    returns: Tensor,
    entropy: Tensor | None = None,
    *,
    value_coefficient: float = 0.5,
    entropy_coefficient: float = 0.01,
    reduction: str = "mean",
    mask: Tensor | None = None,
    normalizer: float | Tensor | None = None,
    return_terms: bool = False,
) -> Tensor | tuple[Tensor, Metrics]:
    r"""Advantage actor-critic: policy gradient, squared error of the values, and a bonus for entropy.

    .. math:: \ell = -A \log \pi(a | s) + c_v\,(v - R)^2 - c_e\, H

    A and R are constants. Of categorical policies :func:`fastloss.selective_log_softmax` has log-probability and
    entropy from one reading of the logits.

    Args:
        logp: log-probabilities of the actions that were taken.
        advantages: A, and
        returns: R, of :func:`gae`, say.
        values: v(s).
        entropy: H, of the policy in each state. None: 0.
        value_coefficient, entropy_coefficient: c_v and c_e, any number.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``, over the steps.
        mask: broadcasts to the losses; 0 takes one out, whatever it holds. Other values weight it.
        normalizer: the denominator of the mean, instead of the sum of the mask: a number or a 0-d tensor.
        return_terms: also return the three terms.

    Shape:
        - logp, advantages, values, returns, entropy: any, and the same
        - output: as logp for ``"none"``, else ()

    Returns:
        The loss, in the dtype that torch promotes the operands to (float32 under autocast); with ``return_terms``,
        (loss, terms): ``policy_loss``, ``value_loss`` and ``entropy``, without their coefficients.

    Raises:
        ValueError: shapes that differ.

    Source:
        Mnih et al. 2016, arXiv:1602.01783.

    Example:
        >>> one = torch.ones(1)
        >>> a2c_loss(-one, 2 * one, one, 3 * one, one, return_terms=True)  # 2 + 2 - 0.01
        (tensor(3.9900), {'policy_loss': tensor(2.), 'value_loss': tensor(4.), 'entropy': tensor(1.)})
    """
    entropy = torch.zeros_like(logp) if entropy is None else entropy
    same_shape(logp.shape, advantages=advantages, values=values, returns=returns, entropy=entropy)
    logp, advantages, values, returns, entropy = present(
        logp.shape, mask, normalizer, logp, advantages.detach(), values, returns.detach(), entropy
    )
    policy = -advantages * logp
    value = mse_loss(values, returns.to(values.dtype), reduction="none")
    losses = policy + value_coefficient * value - entropy_coefficient * entropy
    return elements(losses, {"policy_loss": policy, "value_loss": value, "entropy": entropy})
