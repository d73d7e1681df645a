"""Actors and critics from a replay buffer: SAC and TD3, with any number of critics."""

from __future__ import annotations

import torch
from torch import Tensor

from fastloss.core.composite import composite, elements, present
from fastloss.core.metrics import Metrics
from fastloss.losses.rl.transitions import Transitions, against, checked_alpha, of_critics

__all__ = [
    "ddpg_actor_loss",
    "sac_actor_loss",
    "sac_alpha_loss",
    "sac_critic_loss",
    "td3_actor_loss",
    "td3_critic_loss",
]


def _expected(logp: Tensor, values: Tensor | float, alpha: float | Tensor) -> Tensor:
    """(..., A) -> (...): the sum of pi (alpha log pi - q); an action of probability 0 adds nothing."""
    probs = logp.exp()
    there = probs > 0
    inner = alpha * torch.where(there, logp, 0) - values
    return (probs * torch.where(there, inner, 0)).sum(-1)


@composite()
def sac_actor_loss(
    logp: Tensor,
    q_values: Tensor,
    *,
    alpha: float | Tensor = 0.2,
    discrete: bool = False,
    reduction: str = "mean",
    mask: Tensor | None = None,
    normalizer: float | Tensor | None = None,
    return_terms: bool = False,
) -> Tensor | tuple[Tensor, Metrics]:
    r"""Loss of the actor of soft actor-critic.

    With the least value q of the critics,

    .. math::
        \ell = \alpha \log \pi(a | s) - q(s, a), \qquad
        \text{discrete: } \ell = \sum_a \pi(a | s)\,\bigl(\alpha \log \pi(a | s) - q(s, a)\bigr)

    The gradient flows through both into the action, which the policy has made of noise; in the discrete form only
    through the probabilities. alpha is a constant.

    Args:
        logp: log-probabilities of one action of the policy, or of all (``discrete``).
        q_values: what the critics say of the same actions. Their parameters are to be frozen by the caller.
        alpha: temperature; a number, or a tensor of one.
        discrete: the expectation over all actions.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``, over the steps.
        mask: broadcasts to the losses; 0 takes one out, whatever it holds. Other values weight it.
        normalizer: the denominator of the mean, instead of the sum of the mask: a number or a 0-d tensor.
        return_terms: also return what is usually logged.

    Shape:
        - logp: (...), or (..., A) for ``discrete``
        - q_values: the same and K critics, (..., K) or (..., A, K)
        - output: (...) for ``"none"``, else ()

    Returns:
        The loss, in the dtype that torch promotes the operands to (float32 under autocast); with ``return_terms``,
        (loss, terms): ``entropy``, -log pi or its expectation.

    Raises:
        ValueError: shapes that do not fit.

    Source:
        Haarnoja et al. 2018, arXiv:1812.05905, equation 9; Christodoulou 2019 (discrete), arXiv:1910.07207.

    Example:
        >>> sac_actor_loss(torch.tensor([-1.0]), torch.tensor([[3.0, 2.0]]), alpha=0.5).item()
        -2.5
    """
    of_critics(logp.shape, "q_values", q_values, "logp")
    alpha = checked_alpha(alpha)
    steps = logp.shape[: logp.dim() - discrete]
    logp, q_values = present(steps, mask, normalizer, logp, q_values)
    least = q_values.amin(-1)
    if discrete:
        return elements(_expected(logp, least.detach(), alpha), {"entropy": -_expected(logp, 0.0, 1.0)})
    return elements(alpha * logp - least, {"entropy": -logp})


@composite()
def sac_critic_loss(
    q_values: Tensor,
    rewards: Tensor,
    next_q_values: Tensor,
    next_logp: Tensor,
    terminated: Tensor | None = None,
    *,
    alpha: float | Tensor = 0.2,
    gamma: float | Tensor = 0.99,
    delta: float | None = None,
    discrete: bool = False,
    reduction: str = "mean",
    mask: Tensor | None = None,
    normalizer: float | Tensor | None = None,
    return_terms: bool = False,
) -> Tensor | tuple[Tensor, Metrics]:
    r"""Loss of the critics of soft actor-critic, summed over them.

    With the least value q' of the target critics, and a' of the policy,

    .. math::
        \ell = \sum_k \rho\bigl(q_k(s, a) - r - \gamma\,(1 - \mathrm{terminated})\,v'\bigr), \qquad
        v' = q'(s', a') - \alpha \log \pi(a' | s')

    or for ``discrete`` the expectation of v' over a'; :math:`\rho(d) = d^2`, or Huber's with ``delta``. The target is a
    constant.

    Args:
        q_values: of the action that was taken, by K critics.
        rewards: r; or, for n steps, the discounted sum of them, with gamma^n for ``gamma``.
        next_q_values: q' of a' (of all actions), by the target critics.
        next_logp: log-probabilities of a' (of all actions).
        terminated: nonzero where the episode ended by itself; the next state is not looked at there. Not where it was
            truncated.
        alpha: temperature; a number, or a tensor of one.
        gamma: the discount, or one of each step.
        delta: where Huber's loss bends (its square is halved). None: the squared error.
        discrete: the expectation over all actions of the next state.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``, over the steps.
        mask: broadcasts to the losses; 0 takes one out, whatever it holds. Other values weight it.
        normalizer: the denominator of the mean, instead of the sum of the mask: a number or a 0-d tensor.
        return_terms: also return what is usually logged.

    Shape:
        - q_values: (..., K)
        - rewards, terminated: (...)
        - next_logp: (...), or (..., A) for ``discrete``
        - next_q_values: the same and K' critics, (..., K') or (..., A, K')
        - output: (...) for ``"none"``, else ()

    Returns:
        The loss, in the dtype that torch promotes the operands to (float32 under autocast); with ``return_terms``,
        (loss, terms): ``q_value`` (the mean of the critics) and ``target``.

    Raises:
        ValueError: shapes that do not fit, a ``delta`` that is not positive.

    Source:
        Haarnoja et al. 2018, arXiv:1812.05905, equation 5, there halved; Christodoulou 2019 (discrete),
        arXiv:1910.07207.

    Example:
        >>> q, next_q = torch.tensor([[1.0, 2.0]]), torch.tensor([[4.0, 6.0]])
        >>> one = torch.ones(1)
        >>> sac_critic_loss(q, one, next_q, -one, alpha=2.0, gamma=0.5).item()  # target 4
        13.0
    """
    of_critics(rewards.shape, "q_values", q_values, "rewards")
    of_critics(next_logp.shape, "next_q_values", next_q_values, "next_logp")
    if next_logp.shape[: next_logp.dim() - discrete] != rewards.shape:
        raise ValueError(f"next_logp {tuple(next_logp.shape)} does not fit rewards {tuple(rewards.shape)}")
    alpha = checked_alpha(alpha)
    steps = Transitions(rewards, terminated, gamma, mask, normalizer)
    q_values, next_q_values, next_logp = steps.there(q_values, next_q_values.detach(), next_logp.detach())
    least = next_q_values.amin(-1)
    target = steps.target(-_expected(next_logp, least, alpha) if discrete else least - alpha * next_logp)
    return elements(*against(q_values, target, delta))


@composite()
def sac_alpha_loss(
    log_alpha: Tensor,
    logp: Tensor,
    *,
    target_entropy: float,
    discrete: bool = False,
    reduction: str = "mean",
    mask: Tensor | None = None,
    normalizer: float | Tensor | None = None,
) -> Tensor:
    r"""Loss of the temperature of soft actor-critic, which holds the entropy of the policy at a target.

    .. math:: \ell = -\alpha\,\bigl(\log \pi(a | s) + \bar H\bigr), \qquad \alpha = e^{\mathrm{log\_alpha}}

    or for ``discrete`` the expectation over a. The policy is a constant.

    Args:
        log_alpha: the logarithm of the temperature, which is trained.
        logp: log-probabilities of one action of the policy, or of all (``discrete``).
        target_entropy: the entropy that is wanted; minus the number of dimensions of an action is usual, and 0.98 log A
            of A discrete ones.
        discrete: the expectation over all actions.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``, over the steps.
        mask: broadcasts to the losses; 0 takes one out, whatever it holds. Other values weight it.
        normalizer: the denominator of the mean, instead of the sum of the mask: a number or a 0-d tensor.

    Shape:
        - log_alpha: one number
        - logp: (...), or (..., A) for ``discrete``
        - output: (...) for ``"none"``, else ()

    Returns:
        The loss, in the dtype that torch promotes the operands to (float32 under autocast).

    Raises:
        ValueError: if ``log_alpha`` is not one number.

    Source:
        Haarnoja et al. 2018, arXiv:1812.05905, equation 18. Some implementations have log alpha for its factor alpha.

    Example:
        >>> sac_alpha_loss(torch.tensor(0.0), torch.tensor([-1.0]), target_entropy=-2.0).item()
        3.0
    """
    if log_alpha.numel() != 1:
        raise ValueError(f"log_alpha must be one number, got the shape {tuple(log_alpha.shape)}")
    (logp,) = present(logp.shape[: logp.dim() - discrete], mask, normalizer, logp.detach())
    of_policy = _expected(logp, 0.0, 1.0) if discrete else logp
    return elements(-log_alpha.reshape(()).exp() * (of_policy + target_entropy))


@composite()
def td3_actor_loss(
    q_values: Tensor,
    *,
    reduction: str = "mean",
    mask: Tensor | None = None,
    normalizer: float | Tensor | None = None,
) -> Tensor:
    r"""Loss of a deterministic policy: minus what a critic says of its actions.

    .. math:: \ell = -q(s, \pi(s))

    The actor of TD3, with the first critic: :func:`ddpg_actor_loss` under its other name.

    Args:
        q_values: of the actions of the policy, through which the gradient flows. The critic's parameters are to be
            frozen by the caller.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``, over the steps.
        mask: broadcasts to the losses; 0 takes one out, whatever it holds. Other values weight it.
        normalizer: the denominator of the mean, instead of the sum of the mask: a number or a 0-d tensor.

    Shape:
        - q_values: (...)
        - output: (...) for ``"none"``, else ()

    Returns:
        The loss, in the dtype of ``q_values`` (float32 under autocast).

    Raises:
        ValueError: a mask that does not fit.

    Source:
        Silver et al. 2014, Deterministic policy gradient algorithms; Fujimoto et al. 2018 (TD3), arXiv:1802.09477.

    Example:
        >>> td3_actor_loss(torch.tensor([1.0, 2.0])).item()
        -1.5
    """
    (q_values,) = present(q_values.shape, mask, normalizer, q_values)
    return elements(-q_values)


@composite()
def ddpg_actor_loss(
    q_values: Tensor,
    *,
    reduction: str = "mean",
    mask: Tensor | None = None,
    normalizer: float | Tensor | None = None,
) -> Tensor:
    r"""Deterministic policy gradient: minus what the critic says of the policy's actions.

    .. math:: \ell = -q(s, \pi(s))

    The critic's loss is :func:`td3_critic_loss` with one critic and no noise, or :func:`td_learning`.

    Args:
        q_values: of the actions of the policy, through which the gradient flows. The critic's parameters are to be
            frozen by the caller.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``, over the steps.
        mask: broadcasts to the losses; 0 takes one out, whatever it holds. Other values weight it.
        normalizer: the denominator of the mean, instead of the sum of the mask: a number or a 0-d tensor.

    Shape:
        - q_values: (...)
        - output: (...) for ``"none"``, else ()

    Returns:
        The loss, in the dtype of ``q_values`` (float32 under autocast).

    Raises:
        ValueError: a mask that does not fit.

    Source:
        Silver et al. 2014, Deterministic policy gradient algorithms; Lillicrap et al. 2016, arXiv:1509.02971.

    Example:
        >>> ddpg_actor_loss(torch.tensor([1.0, 2.0])).item()
        -1.5
    """
    (q_values,) = present(q_values.shape, mask, normalizer, q_values)
    return elements(-q_values)


@composite()
def td3_critic_loss(
    q_values: Tensor,
    rewards: Tensor,
    next_q_values: Tensor,
    terminated: Tensor | None = None,
    *,
    gamma: float | Tensor = 0.99,
    delta: float | None = None,
    reduction: str = "mean",
    mask: Tensor | None = None,
    normalizer: float | Tensor | None = None,
    return_terms: bool = False,
) -> Tensor | tuple[Tensor, Metrics]:
    r"""Loss of the critics of TD3, summed over them: each against the least value of the target critics.

    .. math::
        \ell = \sum_k \rho\bigl(q_k(s, a) - r - \gamma\,(1 - \mathrm{terminated}) \min_j q'_j(s', a')\bigr)

    with :math:`\rho(d) = d^2`, or Huber's with ``delta``. The target is a constant. a' is the target policy's action
    with clipped noise: :func:`fastloss.rl.smoothed_actions`. With one critic and no noise it is DDPG's loss.

    Args:
        q_values: of the action that was taken, by K critics.
        rewards: r; or, for n steps, the discounted sum of them, with gamma^n for ``gamma``.
        next_q_values: of a', by the target critics.
        terminated, gamma, delta, reduction, mask, normalizer, return_terms: as in :func:`sac_critic_loss`.

    Shape:
        - q_values: (..., K); next_q_values: (..., K')
        - rewards, terminated: (...)
        - output: (...) for ``"none"``, else ()

    Returns:
        The loss, in the dtype that torch promotes the operands to (float32 under autocast); with ``return_terms``,
        (loss, terms): ``q_value`` (the mean of the critics) and ``target``.

    Raises:
        ValueError: shapes that do not fit, a ``delta`` that is not positive.

    Source:
        Fujimoto et al. 2018, arXiv:1802.09477; Lillicrap et al. 2016 (DDPG), arXiv:1509.02971.

    Example:
        >>> q, next_q = torch.tensor([[1.0, 2.0]]), torch.tensor([[4.0, 6.0]])
        >>> td3_critic_loss(q, torch.ones(1), next_q, gamma=0.5).item()  # target 3
        5.0
    """
    of_critics(rewards.shape, "q_values", q_values, "rewards")
    of_critics(rewards.shape, "next_q_values", next_q_values, "rewards")
    steps = Transitions(rewards, terminated, gamma, mask, normalizer)
    q_values, next_q_values = steps.there(q_values, next_q_values)
    return elements(*against(q_values, steps.target(next_q_values.amin(-1)), delta))
