"""Temporal differences: values, and values of actions, against the reward and the value of what follows."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fastloss.core.composite import composite, elements, present
from fastloss.core.metrics import Metrics
from fastloss.losses.classification import cross_entropy
from fastloss.losses.log_prob import selective_log_softmax
from fastloss.losses.regression import expectile_loss
from fastloss.losses.rl.returns import n_step_returns
from fastloss.losses.rl.transitions import Transitions, checked_actions, chosen, errors, same_shape

__all__ = [
    "cql_loss",
    "double_q_learning",
    "dqn_loss",
    "expected_sarsa",
    "iql_value_loss",
    "n_step_td",
    "q_learning",
    "td_learning",
]


@composite()
def td_learning(
    values: Tensor,
    rewards: Tensor,
    next_values: Tensor,
    terminated: Tensor | None = None,
    *,
    gamma: float | Tensor = 0.99,
    delta: float | None = None,
    reduction: str = "mean",
    mask: Tensor | None = None,
    normalizer: float | Tensor | None = None,
) -> Tensor:
    r"""TD(0): a value against the reward and the value of the next state.

    .. math:: \ell = \rho\bigl(v(s) - r - \gamma\,(1 - \mathrm{terminated})\,v(s')\bigr)

    with :math:`\rho(d) = d^2`, or Huber's with ``delta``. The target is a constant. A step that was truncated is one
    like others: its next state has a value. With values of actions, q(s, a) and q(s', a'), this is SARSA.

    Args:
        values: v(s).
        rewards: r; or, for n steps, the discounted sum of them, with gamma^n for ``gamma``.
        next_values: v(s'), usually of a target network.
        terminated: nonzero where the episode ended by itself; v(s') is not looked at there.
        gamma: the discount, or one of each step.
        delta: where Huber's loss bends (its square is halved). None: the squared error.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``, over the steps.
        mask: broadcasts to the losses; 0 takes one out, whatever it holds. Other values weight it.
        normalizer: the denominator of the mean, instead of the sum of the mask: a number or a 0-d tensor.

    Shape:
        - values, rewards, next_values, terminated: any, and the same
        - output: as values for ``"none"``, else ()

    Returns:
        The loss, in the dtype that torch promotes the operands to (float32 under autocast).

    Raises:
        ValueError: shapes that differ, a ``delta`` that is not positive.

    Source:
        Sutton 1988, Learning to predict by the methods of temporal differences. rlax's ``td_learning`` and ``sarsa``
        return the error.

    Example:
        >>> values, rewards, next_values = torch.tensor([1.0]), torch.tensor([1.0]), torch.tensor([4.0])
        >>> td_learning(values, rewards, next_values, gamma=0.5).item()
        4.0
        >>> td_learning(values, rewards, next_values, torch.tensor([True]), gamma=0.5).item()
        0.0
    """
    same_shape(rewards.shape, values=values, next_values=next_values)
    steps = Transitions(rewards, terminated, gamma, mask, normalizer)
    values, next_values = steps.there(values, next_values)
    return elements(errors(values, steps.target(next_values), delta))


@composite()
def n_step_td(
    values: Tensor,
    rewards: Tensor,
    next_values: Tensor,
    terminated: Tensor | None = None,
    truncated: Tensor | None = None,
    *,
    n: int,
    gamma: float | Tensor = 0.99,
    delta: float | None = None,
    time_dim: int = 0,
    reduction: str = "mean",
    mask: Tensor | None = None,
    normalizer: float | Tensor | None = None,
) -> Tensor:
    r"""A value against n discounted rewards and the value of the state behind them.

    .. math:: \ell_t = \rho\Bigl(v(s_t) - \sum_{k=0}^{n-1} \gamma^k r_{t+k} - \gamma^n v(s_{t+n})\Bigr)

    with :math:`\rho(d) = d^2`, or Huber's with ``delta``, and the target of :func:`n_step_returns`, a constant: where a
    trajectory breaks off within n steps it has fewer rewards.

    Args:
        values: v(s).
        rewards, next_values, terminated, truncated, n, gamma, time_dim: as in :func:`n_step_returns`.
        delta: where Huber's loss bends (its square is halved). None: the squared error.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``, over the steps.
        mask: broadcasts to the losses; 0 takes a step out, whatever it holds: it is none of the n, either. Other values
            weight the losses.
        normalizer: the denominator of the mean, instead of the sum of the mask: a number or a 0-d tensor.

    Shape:
        - values, rewards, next_values: (T, \*), or any shape with ``time_dim``
        - terminated, truncated, gamma: broadcast to the rewards
        - output: as values for ``"none"``, else ()

    Returns:
        The loss, in the dtype that torch promotes the operands to (float32 under autocast).

    Raises:
        ValueError: shapes that do not fit, an ``n`` below 1, a ``delta`` that is not positive.

    Source:
        Sutton and Barto 2018, section 7.1.

    Example:
        >>> rewards, next_values = torch.tensor([1.0, 2.0, 4.0]), torch.tensor([8.0, 4.0, 8.0])
        >>> n_step_td(torch.tensor([3.0, 6.0, 6.0]), rewards, next_values, n=2, gamma=0.5, reduction="none")
        tensor([0., 0., 4.])
    """
    same_shape(rewards.shape, values=values, next_values=next_values)
    values, rewards, next_values = present(
        rewards.shape, mask, normalizer, values, rewards.detach(), next_values.detach()
    )
    steps = None if mask is None else (mask != 0).expand(rewards.shape)
    target = n_step_returns(
        rewards, next_values, terminated, truncated, n=n, gamma=gamma, mask=steps, time_dim=time_dim
    )
    return elements(errors(values, target, delta))


def _checked(q_values: Tensor, actions: Tensor, rewards: Tensor, **of_actions: Tensor | None) -> None:
    """
    Raises:
        ValueError: for shapes that do not fit; those of actions are (..., A).
    """
    if not q_values.dim() or q_values.shape[:-1] != rewards.shape:
        raise ValueError(f"q_values {tuple(q_values.shape)} must be (..., A) beside rewards {tuple(rewards.shape)}")
    checked_actions(actions, rewards.shape, "the rewards")
    for name, x in of_actions.items():
        if x is not None and x.shape != q_values.shape:
            raise ValueError(f"{name} {tuple(x.shape)} must have the shape of q_values, {tuple(q_values.shape)}")


def _greedy(next_q_values: Tensor, selector: Tensor | None) -> Tensor:
    """(...): the value of the best action, as the selector has it."""
    if selector is None:
        return next_q_values.amax(-1)
    return next_q_values.gather(-1, selector.argmax(-1, keepdim=True))[..., 0]


def _target(
    steps: Transitions,
    actions: Tensor,
    next_q_values: Tensor,
    selector: Tensor | None,
    target_q_values: Tensor | None,
    coefficient: float,
    temperature: float,
    clip: float,
) -> Tensor:
    """With the greedy action; or Munchausen's, of a soft policy and how likely it was to act as it did.

    Raises:
        ValueError: a hyper-parameter out of range, where it is looked at.
    """
    if target_q_values is None:
        return steps.target(_greedy(next_q_values, selector))
    if not temperature > 0 or not clip <= 0:
        raise ValueError(f"temperature must be positive and log_policy_clip at most 0, got {temperature} and {clip}")
    (target_q_values,) = steps.there(target_q_values.detach())
    log_policy = selective_log_softmax(target_q_values, actions, temperature=temperature).log_prob
    soft = selective_log_softmax(next_q_values.detach(), actions, temperature=temperature, outputs=("logsumexp",))
    assert log_policy is not None and soft.logsumexp is not None
    bonus = coefficient * (temperature * log_policy).clamp(min=clip)
    return steps.target(temperature * soft.logsumexp) + bonus


@composite()
def q_learning(
    q_values: Tensor,
    actions: Tensor,
    rewards: Tensor,
    next_q_values: Tensor,
    terminated: Tensor | None = None,
    *,
    target_q_values: Tensor | None = None,
    munchausen_coefficient: float = 0.9,
    temperature: float = 0.03,
    log_policy_clip: float = -1.0,
    gamma: float | Tensor = 0.99,
    delta: float | None = None,
    reduction: str = "mean",
    mask: Tensor | None = None,
    normalizer: float | Tensor | None = None,
) -> Tensor:
    r"""The value of the action that was taken against the reward and the best value of the next state.

    .. math:: \ell = \rho\bigl(q(s, a) - r - \gamma\,(1 - \mathrm{terminated}) \max_{a'} q(s', a')\bigr)

    with :math:`\rho(d) = d^2`, or Huber's with ``delta``. The target is a constant.

    With ``target_q_values``, Munchausen's: the policy :math:`\pi = \mathrm{softmax}(\bar q / T)` of the target network
    :math:`\bar q`, whose values ``next_q_values`` are, too, is soft, and what it did not expect to do costs something,

    .. math::
        \ell = \rho\bigl(q(s, a) - r - \alpha\,[T \log \pi(a | s)]_{l_0}^0
               - \gamma\,(1 - \mathrm{terminated})\, T \log \sum_{a'} e^{\bar q(s', a') / T}\bigr).

    Args:
        q_values: q(s, .), of all actions.
        actions: a, integers.
        rewards: r; or, for n steps, the discounted sum of them, with gamma^n for ``gamma``.
        next_q_values: q(s', .), usually of a target network; -inf for actions that there are not.
        terminated: nonzero where the episode ended by itself; the next state is not looked at there. Not where it was
            truncated.
        target_q_values: of all actions in s, of the target network, for Munchausen's loss. None: not that.
        munchausen_coefficient: alpha, how much of the log-policy is added to the reward.
        temperature: T of the entropy; positive. Without ``target_q_values`` not looked at, as its neighbours.
        log_policy_clip: :math:`l_0`, at most 0: the scaled log-policy is no less.
        gamma: the discount, or one of each step.
        delta: where Huber's loss bends (its square is halved). None: the squared error.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``, over the steps.
        mask: broadcasts to the losses; 0 takes one out, whatever it holds. Other values weight it.
        normalizer: the denominator of the mean, instead of the sum of the mask: a number or a 0-d tensor.

    Shape:
        - q_values, next_q_values, target_q_values: (..., A)
        - actions, rewards, terminated: (...)
        - output: (...) for ``"none"``, else ()

    Returns:
        The loss, in the dtype that torch promotes the operands to (float32 under autocast).

    Raises:
        ValueError: shapes that do not fit, a ``delta`` that is not positive, a hyper-parameter out of range.
        IndexError: an action that there is not (on a CPU).

    Source:
        Watkins and Dayan 1992. rlax's ``q_learning`` returns the error. Munchausen: Vieillard et al. 2020,
        arXiv:2007.14430, equation 2, with the clip of section 3.

    Example:
        >>> q, next_q = torch.tensor([[1.0, 5.0]]), torch.tensor([[2.0, 4.0]])
        >>> q_learning(q, torch.tensor([0]), torch.tensor([1.0]), next_q, gamma=0.5).item()
        4.0
        >>> target_q = torch.tensor([[0.0, 9.0]])  # Munchausen's target is 1.9 - 0.9 + 2
        >>> loss = q_learning(q, torch.tensor([0]), torch.tensor([1.9]), next_q, target_q_values=target_q, gamma=0.5)
        >>> round(loss.item(), 3)
        4.0
    """
    _checked(q_values, actions, rewards, next_q_values=next_q_values, target_q_values=target_q_values)
    steps = Transitions(rewards, terminated, gamma, mask, normalizer)
    q_values, actions, next_q_values = steps.there(q_values, actions, next_q_values)
    munchausen = target_q_values, munchausen_coefficient, temperature, log_policy_clip
    return elements(errors(chosen(q_values, actions), _target(steps, actions, next_q_values, None, *munchausen), delta))


@composite()
def double_q_learning(
    q_values: Tensor,
    actions: Tensor,
    rewards: Tensor,
    next_q_values: Tensor,
    selector: Tensor,
    terminated: Tensor | None = None,
    *,
    gamma: float | Tensor = 0.99,
    delta: float | None = None,
    reduction: str = "mean",
    mask: Tensor | None = None,
    normalizer: float | Tensor | None = None,
) -> Tensor:
    r"""Q-learning in which one network says which action is best, and another what it is worth.

    .. math::
        \ell = \rho\bigl(q(s, a) - r - \gamma\,(1 - \mathrm{terminated})\, q'(s', \arg\max_{a'} q(s', a'))\bigr)

    with :math:`\rho(d) = d^2`, or Huber's with ``delta``. The target is a constant. A maximum over estimates is too
    large on average; this is not.

    Args:
        q_values: q(s, .), of all actions.
        actions: a, integers.
        rewards: r; or, for n steps, the discounted sum of them, with gamma^n for ``gamma``.
        next_q_values: q'(s', .), of the target network.
        selector: q(s', .), of the network that is trained; -inf for actions that there are not.
        terminated, gamma, delta, reduction, mask, normalizer: as in :func:`q_learning`.

    Shape:
        - q_values, next_q_values, selector: (..., A)
        - actions, rewards, terminated: (...)
        - output: (...) for ``"none"``, else ()

    Returns:
        The loss, in the dtype that torch promotes the operands to (float32 under autocast).

    Raises:
        ValueError: shapes that do not fit, a ``delta`` that is not positive.
        IndexError: an action that there is not (on a CPU).

    Source:
        van Hasselt et al. 2016, arXiv:1509.06461. rlax's ``double_q_learning`` returns the error.

    Example:
        >>> q, next_q, selector = torch.tensor([[1.0, 5.0]]), torch.tensor([[2.0, 4.0]]), torch.tensor([[1.0, 0.0]])
        >>> double_q_learning(q, torch.tensor([0]), torch.tensor([1.0]), next_q, selector, gamma=0.5).item()
        1.0
    """
    _checked(q_values, actions, rewards, next_q_values=next_q_values, selector=selector)
    steps = Transitions(rewards, terminated, gamma, mask, normalizer)
    q_values, actions, next_q_values, selector = steps.there(q_values, actions, next_q_values, selector)
    return elements(errors(chosen(q_values, actions), steps.target(_greedy(next_q_values, selector)), delta))


@composite()
def expected_sarsa(
    q_values: Tensor,
    actions: Tensor,
    rewards: Tensor,
    next_q_values: Tensor,
    next_probs: Tensor,
    terminated: Tensor | None = None,
    *,
    gamma: float | Tensor = 0.99,
    delta: float | None = None,
    reduction: str = "mean",
    mask: Tensor | None = None,
    normalizer: float | Tensor | None = None,
) -> Tensor:
    r"""The value of the action that was taken against the reward and what the policy gets in the next state.

    .. math::
        \ell = \rho\Bigl(q(s, a) - r - \gamma\,(1 - \mathrm{terminated}) \sum_{a'} \pi(a' | s')\, q(s', a')\Bigr)

    with :math:`\rho(d) = d^2`, or Huber's with ``delta``. The target is a constant. An action of probability 0 is not
    looked at.

    Args:
        q_values: q(s, .), of all actions.
        actions: a, integers.
        rewards: r; or, for n steps, the discounted sum of them, with gamma^n for ``gamma``.
        next_q_values: q(s', .), usually of a target network.
        next_probs: probabilities of the actions in s' under the policy.
        terminated, gamma, delta, reduction, mask, normalizer: as in :func:`q_learning`.

    Shape:
        - q_values, next_q_values, next_probs: (..., A)
        - actions, rewards, terminated: (...)
        - output: (...) for ``"none"``, else ()

    Returns:
        The loss, in the dtype that torch promotes the operands to (float32 under autocast).

    Raises:
        ValueError: shapes that do not fit, a ``delta`` that is not positive.
        IndexError: an action that there is not (on a CPU).

    Source:
        van Seijen et al. 2009, A theoretical and empirical analysis of expected Sarsa. rlax's ``expected_sarsa``
        returns the error.

    Example:
        >>> q, next_q, probs = torch.tensor([[1.0, 5.0]]), torch.tensor([[2.0, 4.0]]), torch.tensor([[0.5, 0.5]])
        >>> expected_sarsa(q, torch.tensor([0]), torch.tensor([1.5]), next_q, probs, gamma=0.5).item()
        4.0
    """
    _checked(q_values, actions, rewards, next_q_values=next_q_values)
    same_shape(next_q_values.shape, next_probs=next_probs)
    steps = Transitions(rewards, terminated, gamma, mask, normalizer)
    q_values, actions, next_q_values, next_probs = steps.there(q_values, actions, next_q_values, next_probs)
    expected = torch.where(next_probs == 0, 0, next_probs * next_q_values).sum(-1)
    return elements(errors(chosen(q_values, actions), steps.target(expected), delta))


@composite()
def dqn_loss(
    q_values: Tensor,
    actions: Tensor,
    rewards: Tensor,
    next_q_values: Tensor,
    selector: Tensor | None = None,
    terminated: Tensor | None = None,
    *,
    weights: Tensor | None = None,
    target_q_values: Tensor | None = None,
    munchausen_coefficient: float = 0.9,
    temperature: float = 0.03,
    log_policy_clip: float = -1.0,
    gamma: float | Tensor = 0.99,
    delta: float | None = 1.0,
    reduction: str = "mean",
    mask: Tensor | None = None,
    normalizer: float | Tensor | None = None,
    return_td_errors: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    r"""What deep Q-networks minimise: Huber's loss of Q-learning, with the weights of prioritised replay.

    .. math::
        \ell = w\, \rho(d), \qquad
        d = q(s, a) - r - \gamma\,(1 - \mathrm{terminated})\, q'(s', a^*), \qquad
        a^* = \arg\max_{a'} q(s', a')

    with the greedy action of the target network q' itself where there is no ``selector``. The target is a constant.
    With ``target_q_values`` it is that of Munchausen's deep Q-networks, see :func:`q_learning`.

    Args:
        q_values: q(s, .), of all actions.
        actions: a, integers.
        rewards: r; or, for n steps, the discounted sum of them, with gamma^n for ``gamma``.
        next_q_values: q'(s', .), of the target network.
        selector: q(s', .), of the network that is trained, for double Q-learning.
        terminated, gamma, reduction, mask, normalizer: as in :func:`q_learning`.
        weights: multiply the losses: importance weights of prioritised replay, constants. The mean divides by the
            number of the steps all the same.
        target_q_values, munchausen_coefficient, temperature, log_policy_clip: as in :func:`q_learning`; not beside a
            ``selector``, for no action is greedy there.
        delta: where Huber's loss bends. None: the squared error.
        return_td_errors: also return d, from which prioritised replay makes the priorities.

    Shape:
        - q_values, next_q_values, selector, target_q_values: (..., A)
        - actions, rewards, terminated, weights: (...)
        - output: (...) for ``"none"``, else ()

    Returns:
        The loss, in the dtype that torch promotes the operands to (float32 under autocast); with ``return_td_errors``,
        (loss, d), d (...) detached and 0 where the mask has taken a step out.

    Raises:
        ValueError: shapes that do not fit, a ``delta`` that is not positive, a hyper-parameter out of range, both a
            ``selector`` and ``target_q_values``.
        IndexError: an action that there is not (on a CPU).

    Source:
        Mnih et al. 2015; van Hasselt et al. 2016, arXiv:1509.06461; Schaul et al. 2016 (priorities), arXiv:1511.05952;
        Vieillard et al. 2020 (Munchausen), arXiv:2007.14430.

    Example:
        >>> q, next_q = torch.tensor([[1.0, 5.0]]), torch.tensor([[2.0, 4.0]])
        >>> dqn_loss(q, torch.tensor([0]), torch.tensor([1.0]), next_q, gamma=0.5, return_td_errors=True)
        (tensor(1.5000), tensor([-2.]))
    """
    if selector is not None and target_q_values is not None:
        raise ValueError("either selector or target_q_values: the policy of Munchausen's target is soft, not greedy")
    of_actions = {"next_q_values": next_q_values, "selector": selector, "target_q_values": target_q_values}
    _checked(q_values, actions, rewards, **of_actions)
    steps = Transitions(rewards, terminated, gamma, mask, normalizer)
    q_values, actions, next_q_values = steps.there(q_values, actions, next_q_values)
    if selector is not None:
        (selector,) = steps.there(selector)
    munchausen = target_q_values, munchausen_coefficient, temperature, log_policy_clip
    taken, target = chosen(q_values, actions), _target(steps, actions, next_q_values, selector, *munchausen)
    differences = (taken - target).detach()
    if weights is None:
        losses = errors(taken, target, delta)
    else:
        (weights,) = steps.there(weights.detach())
        taken, target = present(rewards.shape, weights, None, taken, target)  # a weight of 0 takes a step out, too
        losses = weights * errors(taken, target, delta)
    return elements(losses, beside=differences if return_td_errors else None)


@composite()
def cql_loss(
    q_values: Tensor,
    actions: Tensor,
    rewards: Tensor,
    next_q_values: Tensor,
    selector: Tensor | None = None,
    terminated: Tensor | None = None,
    *,
    conservative_coefficient: float = 1.0,
    temperature: float = 1.0,
    gamma: float | Tensor = 0.99,
    delta: float | None = None,
    reduction: str = "mean",
    mask: Tensor | None = None,
    normalizer: float | Tensor | None = None,
    return_terms: bool = False,
) -> Tensor | tuple[Tensor, Metrics]:
    r"""Conservative Q-learning from data of another policy: what was not tried is not believed to be better.

    .. math::
        \ell = \rho(d) + \alpha \Bigl(T \log \sum_{a'} e^{q(s, a') / T} - q(s, a)\Bigr)

    with the temperature T, the error d of Q-learning (double, with ``selector``), :math:`\rho(d) = d^2`, or Huber's
    with ``delta``. The second part is T times a cross-entropy of the actions that were taken. The target is a constant.

    Args:
        q_values: q(s, .), of all actions.
        actions: a, integers.
        rewards: r; or, for n steps, the discounted sum of them, with gamma^n for ``gamma``.
        next_q_values: q'(s', .), of the target network.
        selector: q(s', .), of the network that is trained, for double Q-learning.
        terminated, gamma, delta, reduction, mask, normalizer: as in :func:`q_learning`.
        conservative_coefficient: alpha.
        temperature: T, positive.
        return_terms: also return the two terms.

    Shape:
        - q_values, next_q_values, selector: (..., A)
        - actions, rewards, terminated: (...)
        - output: (...) for ``"none"``, else ()

    Returns:
        The loss, in the dtype that torch promotes the operands to (float32 under autocast); with ``return_terms``,
        (loss, terms): ``td`` and ``conservative``, before the coefficient.

    Raises:
        ValueError: shapes that do not fit, a temperature or a ``delta`` that is not positive.
        IndexError: an action that there is not (on a CPU).

    Source:
        Kumar et al. 2020, arXiv:2006.04779, equation 4 with the entropy as regulariser, CQL(H); the paper halves the
        squared error.

    Example:
        >>> q = torch.zeros(1, 2)
        >>> round(cql_loss(q, torch.tensor([0]), torch.tensor([1.0]), q).item(), 4)  # 1 + log 2
        1.6931
    """
    if not temperature > 0:
        raise ValueError(f"temperature must be positive, got {temperature}")
    _checked(q_values, actions, rewards, next_q_values=next_q_values, selector=selector)
    steps = Transitions(rewards, terminated, gamma, mask, normalizer)
    q_values, actions, next_q_values = steps.there(q_values, actions, next_q_values)
    if selector is not None:
        (selector,) = steps.there(selector)
    td = errors(chosen(q_values, actions), steps.target(_greedy(next_q_values, selector)), delta)
    count = q_values.shape[-1]
    rows = q_values.reshape(math.prod(rewards.shape), count), actions.long().reshape(math.prod(rewards.shape))
    conservative = temperature * cross_entropy(*rows, reduction="none", temperature=temperature).reshape(td.shape)
    return elements(td + conservative_coefficient * conservative, {"td": td, "conservative": conservative})


@composite()
def iql_value_loss(
    values: Tensor,
    q_values: Tensor,
    *,
    tau: float = 0.7,
    reduction: str = "mean",
    mask: Tensor | None = None,
    normalizer: float | Tensor | None = None,
) -> Tensor:
    r"""Values as expectiles of the values of the actions in the data: a maximum over what was tried.

    With the least q(s, a) of the critics,

    .. math:: \ell = |\tau - 1_{q < v}|\,(q - v)^2.

    The critics are then trained by :func:`td_learning` with these values of the next states.

    Args:
        values: v(s).
        q_values: q(s, a) of the target networks, constants.
        tau: between 0 and 1; nearer to 1 nearer to the best action.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``, over the steps.
        mask: broadcasts to the losses; 0 takes one out, whatever it holds. Other values weight it.
        normalizer: the denominator of the mean, instead of the sum of the mask: a number or a 0-d tensor.

    Shape:
        - values: (...)
        - q_values: (..., K) of K critics
        - output: (...) for ``"none"``, else ()

    Returns:
        The loss, in the dtype that torch promotes the operands to (float32 under autocast).

    Raises:
        ValueError: shapes that do not fit, ``tau`` out of range.

    Source:
        Kostrikov et al. 2021, arXiv:2110.06169, equation 5.

    Example:
        >>> iql_value_loss(torch.tensor([0.0, 0.0]), torch.tensor([[2.0, 3.0], [-2.0, 1.0]]), tau=0.75).item()
        2.0
    """
    if not q_values.dim() or q_values.shape[:-1] != values.shape:
        raise ValueError(f"q_values {tuple(q_values.shape)} must be (..., K) beside values {tuple(values.shape)}")
    values, q_values = present(values.shape, mask, normalizer, values, q_values.detach())
    dtype = torch.promote_types(values.dtype, q_values.dtype)
    return elements(expectile_loss(values.to(dtype), q_values.amin(-1).to(dtype), tau, reduction="none"))
