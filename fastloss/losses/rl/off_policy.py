"""Policies from what other policies did: by weights of the actions' advantages, or by corrected returns."""

from __future__ import annotations

import torch
from torch import Tensor

from fastloss.core.composite import composite, elements, present
from fastloss.core.metrics import Metrics
from fastloss.core.reductions import check_fit
from fastloss.losses.rl.policy_gradient import a2c_loss
from fastloss.losses.rl.returns import vtrace
from fastloss.losses.rl.transitions import of_critics, same_shape

__all__ = ["awac_loss", "awr_loss", "impala_loss"]


def _checked(temperature: float, weight_clip: float) -> None:
    """
    Raises:
        ValueError: for a hyper-parameter out of range.
    """
    if not temperature > 0 or not weight_clip > 0:
        raise ValueError(f"temperature and weight_clip must be positive, got {temperature} and {weight_clip}")


def _relative(logits: Tensor, mask: Tensor | None) -> Tensor:
    """Exponentials whose mean, over what the mask counts and as it weights it, is 1."""
    weight = torch.ones_like(logits) if mask is None else mask.to(logits.dtype).expand(logits.shape)
    counted = torch.where(weight > 0, logits + weight.log(), -torch.inf)
    return (logits - counted.flatten().logsumexp(0) + weight.sum().log()).exp()


@composite()
def awr_loss(
    logp: Tensor,
    advantages: Tensor,
    *,
    temperature: float = 1.0,
    weight_clip: float = 20.0,
    reduction: str = "mean",
    mask: Tensor | None = None,
    normalizer: float | Tensor | None = None,
    return_terms: bool = False,
) -> Tensor | tuple[Tensor, Metrics]:
    r"""Advantage-weighted regression: imitation of what was done, the more the better it was.

    .. math:: \ell = -w \log \pi(a | s), \qquad w = \min\bigl(e^{A / T},\, \mathrm{weight\_clip}\bigr)

    w is a constant. Also the actor of implicit Q-learning, with T = 1 / beta, ``weight_clip=100`` and the advantage of
    :func:`iql_value_loss`'s values.

    Args:
        logp: log-probabilities of the actions in the data.
        advantages: A, constants: returns (:func:`lambda_returns`) less values. The paper's code divides them by their
            deviation.
        temperature: T, positive: the smaller, the more the best actions count.
        weight_clip: positive; ``math.inf``: no bound.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``, over the steps.
        mask: broadcasts to the losses; 0 takes one out, whatever it holds. Other values weight it.
        normalizer: the denominator of the mean, instead of the sum of the mask: a number or a 0-d tensor.
        return_terms: also return what is usually logged.

    Shape:
        - logp, advantages: any, and the same
        - output: as logp for ``"none"``, else ()

    Returns:
        The loss, in the dtype that torch promotes the operands to (float32 under autocast); with ``return_terms``,
        (loss, terms): ``weight`` and ``advantage``.

    Raises:
        ValueError: shapes that differ, a hyper-parameter that is not positive.

    Source:
        Peng et al. 2019, arXiv:1910.00177, equation 12 and section 5 (the clip). IQL: Kostrikov et al. 2021,
        arXiv:2110.06169, equation 7.

    Example:
        >>> awr_loss(torch.tensor([-1.0, -2.0]), torch.tensor([0.0, 1000.0])).item()  # (1 + 20 * 2) / 2
        20.5
    """
    _checked(temperature, weight_clip)
    same_shape(logp.shape, advantages=advantages)
    logp, advantages = present(logp.shape, mask, normalizer, logp, advantages.detach())
    weights = (advantages / temperature).exp().clamp(max=weight_clip)
    return elements(-weights * logp, {"weight": weights, "advantage": advantages})


@composite()
def awac_loss(
    logp: Tensor,
    q_values: Tensor,
    values: Tensor,
    *,
    temperature: float = 1.0,
    weight_clip: float = 100.0,
    normalize: bool = False,
    reduction: str = "mean",
    mask: Tensor | None = None,
    normalizer: float | Tensor | None = None,
    return_terms: bool = False,
) -> Tensor | tuple[Tensor, Metrics]:
    r"""The actor of advantage-weighted actor-critic: imitation, weighted by what the critics say of the action.

    With the least value q of the critics,

    .. math:: \ell = -w \log \pi(a | s), \qquad w = \min\bigl(e^{(q(s, a) - v(s)) / T},\, \mathrm{weight\_clip}\bigr)

    w is a constant. The critics' loss is :func:`td3_critic_loss` with actions of the policy.

    Args:
        logp: log-probabilities of the actions in the data.
        q_values: of these actions, by K critics.
        values: v(s), of the policy: the least value of its own actions, averaged over some, or over all.
        temperature: T, positive; the paper's lambda.
        weight_clip: positive; ``math.inf``: no bound.
        normalize: the exponentials are divided by their mean over the batch (over what the mask counts), before they
            are clipped, so that their scale does not change the step; the authors' code does.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``, over the steps.
        mask: broadcasts to the losses; 0 takes one out, whatever it holds. Other values weight it.
        normalizer: the denominator of the mean, instead of the sum of the mask: a number or a 0-d tensor.
        return_terms: also return what is usually logged.

    Shape:
        - logp, values: (...)
        - q_values: (..., K)
        - output: (...) for ``"none"``, else ()

    Returns:
        The loss, in the dtype that torch promotes the operands to (float32 under autocast); with ``return_terms``,
        (loss, terms): ``weight`` and ``advantage``.

    Raises:
        ValueError: shapes that do not fit, a hyper-parameter that is not positive.

    Source:
        Nair et al. 2020, arXiv:2006.09359, equation 13.

    Example:
        >>> logp, q = torch.tensor([-1.0, -2.0]), torch.tensor([[3.0, 5.0], [2000.0, 1000.0]])
        >>> awac_loss(logp, q, torch.tensor([3.0, 0.0])).item()  # (1 + 100 * 2) / 2
        100.5
    """
    _checked(temperature, weight_clip)
    of_critics(logp.shape, "q_values", q_values, "logp")
    same_shape(logp.shape, values=values)
    logp, q_values, values = present(logp.shape, mask, normalizer, logp, q_values.detach(), values.detach())
    advantages = q_values.amin(-1) - values
    logits = advantages / temperature
    weights = (_relative(logits, mask) if normalize else logits.exp()).clamp(max=weight_clip)
    return elements(-weights * logp, {"weight": weights, "advantage": advantages})


@composite()
def impala_loss(
    logp: Tensor,
    old_logp: Tensor,
    rewards: Tensor,
    values: Tensor,
    next_values: Tensor,
    entropy: Tensor | None = None,
    terminated: Tensor | None = None,
    truncated: Tensor | None = None,
    *,
    value_coefficient: float = 0.5,
    entropy_coefficient: float = 0.01,
    gamma: float | Tensor = 0.99,
    lambda_: float | Tensor = 1.0,
    rho_bar: float = 1.0,
    c_bar: float = 1.0,
    pg_rho_bar: float = 1.0,
    cu_seqlens: Tensor | None = None,
    time_dim: int = 0,
    reduction: str = "mean",
    mask: Tensor | None = None,
    normalizer: float | Tensor | None = None,
    return_terms: bool = False,
) -> Tensor | tuple[Tensor, Metrics]:
    r"""IMPALA: actor and critic from trajectories of another policy, corrected by V-trace.

    With the targets v and the advantages A of :func:`vtrace`, of the ratios :math:`e^{\log\pi - \log\mu}`,

    .. math:: \ell = -A \log \pi(a | s) + c_v\,(v(s) - v)^2 - c_e\, H

    Ratios, targets and advantages are constants.

    Args:
        logp: log-probabilities of the actions that were taken, by the policy that is learnt.
        old_logp: by the one that acted; a constant.
        rewards: r.
        values: v(s).
        next_values: v(s'), a constant.
        entropy: H, of the policy that is learnt, in each state. None: 0.
        terminated, truncated, cu_seqlens, time_dim: as in :func:`discounted_returns`.
        value_coefficient, entropy_coefficient: c_v and c_e, any number.
        gamma, lambda_, rho_bar, c_bar, pg_rho_bar: as in :func:`vtrace`.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``, over the steps.
        mask: broadcasts to the losses; 0 takes a step out, whatever it holds: it is none of the trajectory's, either.
            Other values weight the losses.
        normalizer: the denominator of the mean, instead of the sum of the mask: a number or a 0-d tensor.
        return_terms: also return the three terms.

    Shape:
        - logp, old_logp, rewards, values, next_values, entropy: (T, \*), or any shape with ``time_dim``
        - terminated, truncated, gamma, lambda\_: broadcast to the rewards
        - cu_seqlens: (sequences + 1), rising from 0 to T
        - output: as rewards for ``"none"``, else ()

    Returns:
        The loss, in the dtype that torch promotes the operands to (float32 under autocast); with ``return_terms``,
        (loss, terms): ``policy_loss``, ``value_loss`` and ``entropy``, without their coefficients.

    Raises:
        ValueError: shapes that do not fit, a bound below 0.

    Source:
        Espeholt et al. 2018, arXiv:1802.01561, section 4.2; there sums over the steps, and c_v = 1/4 in this formula:
        1/2 of half the square.

    Example:
        >>> one = torch.ones(1)
        >>> loss, terms = impala_loss(-one, -one, 3 * one, one, 2 * one, one, gamma=0.5, return_terms=True)
        >>> round(loss.item(), 4), terms["policy_loss"].item(), terms["value_loss"].item()  # 3 + 1 - 1
        (7.49, 3.0, 9.0)
    """
    entropy = torch.zeros_like(logp) if entropy is None else entropy
    of_steps = {"logp": logp, "old_logp": old_logp, "values": values, "next_values": next_values, "entropy": entropy}
    same_shape(rewards.shape, **of_steps)
    check_fit(rewards.shape, rewards.device, normalizer, mask=mask)
    there = None if mask is None else (mask != 0).expand(rewards.shape)
    targets, advantages = vtrace(
        rewards, values, next_values, (logp - old_logp).detach().exp(), terminated, truncated, gamma=gamma,
        lambda_=lambda_, rho_bar=rho_bar, c_bar=c_bar, pg_rho_bar=pg_rho_bar, mask=there, cu_seqlens=cu_seqlens,
        time_dim=time_dim,
    )  # fmt: skip
    return a2c_loss(
        logp, advantages, values, targets, entropy, value_coefficient=value_coefficient,
        entropy_coefficient=entropy_coefficient, reduction=reduction, mask=mask, normalizer=normalizer,
        return_terms=True,
    )  # fmt: skip
