"""Returns, advantages and targets of trajectories: recurrences over time, which know how an episode ended."""

# ``terminated`` and ``truncated`` are told apart everywhere: behind a step that has terminated there is nothing, and
# its next state has no value; a trajectory that was truncated, or ends with the batch, goes on unseen, so the value of
# its next state stands for what would have come, and nothing of the next row of the batch reaches it.

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fastloss.core.arguments import Hyper
from fastloss.core.dispatch import fused
from fastloss.core.dtypes import result_dtype
from fastloss.core.metrics import detached
from fastloss.skeletons.scan import Scan, Steps, composed, normalized, recurrence, shifted

__all__ = [
    "discounted_returns",
    "gae",
    "lambda_returns",
    "linear_scan",
    "n_step_returns",
    "q_lambda",
    "retrace",
    "td_lambda",
    "tree_backup",
    "upgo",
    "vtrace",
]

_RATES = ("gamma", "lambda_")


def _checked(first: Tensor, *others: tuple[str, Any], rates: tuple[Any, ...]) -> torch.dtype:
    """The dtype of what is returned.

    Args:
        others: what has to have the shape of the first, by name.
        rates: numbers, or tensors that broadcast.

    Raises:
        ValueError: if shapes differ.
    """
    for name, x in others:
        if x is not None and x.shape != first.shape:
            raise ValueError(f"{name} must have the shape of the rewards, {tuple(first.shape)}, got {tuple(x.shape)}")
    return result_dtype(first, *(x for _, x in others if x is not None), *rates)


def _scan(steps: Steps, inputs: Tensor, coefficients: Tensor | float) -> Tensor:
    """y over the steps that are there; a loss of its own, so that the gradient is a kernel's, too."""
    if not isinstance(coefficients, Tensor):
        coefficients = torch.full_like(inputs, coefficients)
    inputs, coefficients = steps.handed_on(coefficients.expand(inputs.shape), inputs)
    return linear_scan(inputs, coefficients, time_dim=steps.time_dim)


def _discount(steps: Steps, gamma: Any, dtype: torch.dtype) -> Tensor | float:
    return gamma * steps.alive(dtype)


def _plus(reward: Tensor, discount: Tensor | float, value: Tensor) -> Tensor:
    """reward + discount value; 0 infinity is 0."""
    if isinstance(discount, Tensor):
        return reward + composed(discount, value)
    return reward + discount * value if discount else reward


@fused(
    Scan(
        operands=("inputs", "coefficients"),
        rates=("coefficients",),
        differentiable=("inputs", "coefficients"),
        linear=True,
    )
)
def linear_scan(inputs: Tensor, coefficients: float | Tensor, *, reverse: bool = True, time_dim: int = 0) -> Tensor:
    r"""A linear recurrence over time, with a coefficient of each step.

    .. math:: y_t = x_t + a_t\, y_{t+1}, \qquad y_T = 0,

    or, with ``reverse=False``, :math:`y_t = x_t + a_t\, y_{t-1}` and :math:`y_{-1} = 0`. Where :math:`a_t` is 0,
    nothing of the other steps is looked at, infinite or NaN.

    Args:
        inputs: x.
        coefficients: a; a number, or a tensor that broadcasts to the inputs.
        reverse: from the last step to the first, as returns are added up.
        time_dim: the dimension of time.

    Shape:
        - inputs: (T, \*), or any shape with ``time_dim``
        - coefficients: broadcasts to the inputs
        - output: as inputs

    Returns:
        y, in the dtype that inputs and coefficients promote to. The recurrence is in float32 at least.

    Raises:
        ValueError: a ``time_dim`` that the inputs do not have.

    Source:
        Blelloch 1990, "Prefix sums and their applications", section 1.4. On a CPU the steps come in their order; on a
        GPU a long sequence is composed block by block, which rounds otherwise, but in the same way in every batch.

    Example:
        >>> linear_scan(torch.tensor([1.0, 2.0, 4.0]), 0.5)
        tensor([3., 4., 4.])
    """
    if not -inputs.dim() <= time_dim < inputs.dim():
        raise ValueError(f"time_dim must be a dimension of {tuple(inputs.shape)}, got {time_dim}")
    dtype = result_dtype(inputs, coefficients) if isinstance(coefficients, Tensor) else result_dtype(inputs)
    wide = torch.promote_types(dtype, torch.float32)
    if isinstance(coefficients, Tensor):
        coefficients = coefficients.to(wide).expand(inputs.shape)
    else:
        coefficients = torch.full_like(inputs, coefficients, dtype=wide)
    return recurrence(inputs.to(wide), coefficients, time_dim % inputs.dim(), reverse).to(dtype)


@fused(
    Scan(
        operands=("rewards", "next_values", "gamma"),
        rates=("gamma",),
        differentiable=("rewards", "next_values", "gamma"),
    )
)
def discounted_returns(
    rewards: Tensor,
    next_values: Tensor | None = None,
    terminated: Tensor | None = None,
    truncated: Tensor | None = None,
    *,
    gamma: float | Tensor = 0.99,
    mask: Tensor | None = None,
    cu_seqlens: Tensor | None = None,
    time_dim: int = 0,
) -> Tensor:
    r"""Sums of the discounted rewards from each step on.

    .. math::
        G_t = r_t + \gamma \begin{cases} G_{t+1} & \text{the trajectory goes on} \\
        0 & \text{it has terminated} \\ v(s_{t+1}) & \text{it was truncated, or ends with the batch} \end{cases}

    Args:
        rewards: r.
        next_values: v(s'), looked at where a trajectory breaks off; None: 0.
        terminated: nonzero where the episode ended with the step, and its next state is worth nothing.
        truncated: nonzero where the trajectory was cut off behind the step.
        gamma: the discount, or one of each step, as a tensor that broadcasts.
        mask: 0 takes a step out, whatever it holds: the one before it is then followed by the one behind it, and its
            own result is 0. Not a weight.
        cu_seqlens: where the sequences begin that lie one behind the other along time, and where the last one ends;
            None: each column of the batch is one.
        time_dim: the dimension of time; 0 with ``cu_seqlens``.

    Shape:
        - rewards, next_values: (T, \*), or any shape with ``time_dim``
        - terminated, truncated, mask: broadcast to the rewards
        - cu_seqlens: (sequences + 1), rising from 0 to T
        - output: as rewards

    Returns:
        G, in the dtype that rewards and values promote to. The sums are in float32 at least. Differentiable by rewards
        and values.

    Raises:
        ValueError: shapes that do not fit.

    Source:
        Sutton and Barto 2018, equation 3.8; Pardo et al. 2018, arXiv:1712.00378, for what truncation is.

    Example:
        >>> discounted_returns(torch.tensor([1.0, 0.0, 4.0]), gamma=0.5)
        tensor([2., 2., 4.])
    """
    dtype = _checked(rewards, ("next_values", next_values), rates=(gamma,))
    steps = Steps(rewards, terminated, truncated, mask, cu_seqlens, time_dim)
    r, w, gamma = steps.counted(rewards, next_values, gamma)
    follows = steps.follows(r.dtype)
    if w is not None:
        ends = _plus(torch.zeros_like(r), _discount(steps, gamma, r.dtype), w)
        r = r + torch.where(follows == 0, ends, 0)
    return steps.output(_scan(steps, r, gamma * follows), dtype)


@fused(
    Scan(
        operands=("rewards", "next_values", "gamma", "lambda_"),
        rates=_RATES,
        differentiable=("rewards", "next_values", "gamma", "lambda_"),
    )
)
def lambda_returns(
    rewards: Tensor,
    next_values: Tensor,
    terminated: Tensor | None = None,
    truncated: Tensor | None = None,
    *,
    gamma: float | Tensor = 0.99,
    lambda_: float | Tensor = 0.95,
    mask: Tensor | None = None,
    cu_seqlens: Tensor | None = None,
    time_dim: int = 0,
) -> Tensor:
    r"""Mixtures of the n-step returns of all n, the targets of TD(lambda).

    .. math:: G_t = r_t + \gamma \bigl((1 - \lambda)\, v(s_{t+1}) + \lambda\, G_{t+1}\bigr),

    with :math:`v(s_{t+1})` alone where the trajectory was truncated or ends with the batch, and :math:`G_t = r_t` where
    it has terminated. The last return of a finite trajectory so has the weight :math:`\lambda^{T-t-1}`.

    Args:
        rewards: r.
        next_values: v(s').
        terminated, truncated, mask, cu_seqlens, time_dim: as in :func:`discounted_returns`.
        gamma: the discount, or one of each step, as a tensor that broadcasts.
        lambda_: how much of the return of the next step is taken, or one of each step.

    Shape:
        - rewards, next_values: (T, \*), or any shape with ``time_dim``
        - terminated, truncated, mask, gamma, lambda\_: broadcast to the rewards
        - cu_seqlens: (sequences + 1), rising from 0 to T
        - output: as rewards

    Returns:
        G, in the dtype that rewards and values promote to. The recurrence is in float32 at least. Differentiable: in
        Dreamer's imagination the actor is trained through these returns. For a critic's target call ``.detach()``.

    Raises:
        ValueError: shapes that do not fit.

    Source:
        Sutton and Barto 2018, section 12.1; Hafner et al. 2020, arXiv:1912.01603, equation 6. rlax's
        ``lambda_returns(r_t, discount_t, v_t, lambda_)``, with ``gamma`` for its discounts.

    Example:
        >>> lambda_returns(torch.tensor([1.0, 0.0]), torch.tensor([2.0, 4.0]), gamma=0.5, lambda_=0.5)
        tensor([2., 2.])
    """
    dtype = _checked(rewards, ("next_values", next_values), rates=(gamma, lambda_))
    steps = Steps(rewards, terminated, truncated, mask, cu_seqlens, time_dim)
    r, w, gamma, lambda_ = steps.counted(rewards, next_values, gamma, lambda_)
    trace = lambda_ * steps.follows(r.dtype)
    inputs = _plus(r, _discount(steps, gamma, r.dtype) * (1 - trace), w)
    return steps.output(_scan(steps, inputs, gamma * trace), dtype)


@fused(Scan(operands=("rewards", "values", "next_values", "gamma", "lambda_"), rates=_RATES, outputs=2))
def gae(
    rewards: Tensor,
    values: Tensor,
    next_values: Tensor,
    terminated: Tensor | None = None,
    truncated: Tensor | None = None,
    *,
    gamma: float | Tensor = 0.99,
    lambda_: float | Tensor = 0.95,
    mask: Tensor | None = None,
    cu_seqlens: Tensor | None = None,
    time_dim: int = 0,
    normalize: bool = False,
) -> tuple[Tensor, Tensor]:
    r"""Generalised advantage estimation.

    .. math::
        \delta_t = r_t + \gamma\, v(s_{t+1}) - v(s_t), \qquad
        A_t = \delta_t + \gamma\lambda\, A_{t+1}, \qquad G_t = A_t + v(s_t).

    Where the episode has terminated, :math:`v(s_{t+1})` is 0; there, and where the trajectory was truncated or ends
    with the batch, :math:`A_{t+1}` is 0. All results are constants: no gradient flows into an argument.

    Args:
        rewards: r.
        values: v(s).
        next_values: v(s'), of the state that the step led to: where an episode was truncated its last state, and not
            the first of the next episode.
        terminated, truncated, mask, cu_seqlens, time_dim: as in :func:`discounted_returns`.
        gamma: the discount, or one of each step, as a tensor that broadcasts.
        lambda_: between the one-step error, 0, and the whole return, 1; or one of each step.
        normalize: subtract the mean of the advantages that the mask counts, and divide by their standard deviation
            (with N - 1) plus 1e-8. The returns stay as they are.

    Shape:
        - rewards, values, next_values: (T, \*), or any shape with ``time_dim``
        - terminated, truncated, mask, gamma, lambda\_: broadcast to the rewards
        - cu_seqlens: (sequences + 1), rising from 0 to T
        - output: two tensors, as rewards

    Returns:
        (advantages, returns), in the dtype that rewards and values promote to. The recurrence is in float32 at least.

    Raises:
        ValueError: shapes that do not fit.

    Source:
        Schulman et al. 2016, arXiv:1506.02438, equation 16. rlax's
        ``truncated_generalized_advantage_estimation`` and torchrl's ``generalized_advantage_estimate``, whose ``done``
        is terminated or truncated.

    Example:
        >>> rewards, values = torch.tensor([1.0, 0.0]), torch.tensor([2.0, 4.0])
        >>> gae(rewards, values, torch.tensor([4.0, 8.0]), gamma=0.5, lambda_=0.5)
        (tensor([1., 0.]), tensor([3., 4.]))
    """
    dtype = _checked(rewards, ("values", values), ("next_values", next_values), rates=(gamma, lambda_))
    steps = Steps(rewards, terminated, truncated, mask, cu_seqlens, time_dim)
    r, v, w, gamma, lambda_ = steps.counted(*map(detached, (rewards, values, next_values, gamma, lambda_)))
    delta = _plus(r, _discount(steps, gamma, r.dtype), w) - v
    advantages = _scan(steps, delta, gamma * lambda_ * steps.follows(r.dtype))
    returns = steps.output(advantages + v, dtype)
    if normalize:
        advantages = normalized(advantages, steps.there)
    return steps.output(advantages, dtype), returns


def n_step_returns(
    rewards: Tensor,
    next_values: Tensor,
    terminated: Tensor | None = None,
    truncated: Tensor | None = None,
    *,
    n: int,
    gamma: float | Tensor = 0.99,
    mask: Tensor | None = None,
    cu_seqlens: Tensor | None = None,
    time_dim: int = 0,
) -> Tensor:
    r"""Sums of n discounted rewards, and the value of the state behind them.

    .. math:: G_t = \sum_{k=0}^{n-1} \gamma^k r_{t+k} + \gamma^n v(s_{t+n}),

    with fewer rewards where the trajectory breaks off within n steps: up to its end, and the value there unless it has
    terminated.

    Args:
        rewards: r.
        next_values: v(s').
        n: at least 1.
        terminated, truncated, mask, cu_seqlens, time_dim: as in :func:`discounted_returns`. A step that the mask takes
            out is none of the n.
        gamma: the discount, or one of each step, as a tensor that broadcasts.

    Shape:
        - rewards, next_values: (T, \*), or any shape with ``time_dim``
        - terminated, truncated, mask, gamma: broadcast to the rewards
        - cu_seqlens: (sequences + 1), rising from 0 to T
        - output: as rewards

    Returns:
        G, in the dtype that rewards and values promote to; the sums are in float32 at least. Differentiable by rewards
        and values. log2(n) passes over memory.

    Raises:
        ValueError: shapes that do not fit, an ``n`` below 1.

    Source:
        Sutton and Barto 2018, equation 7.1. rlax's ``n_step_bootstrapped_returns``.

    Example:
        >>> n_step_returns(torch.tensor([1.0, 2.0, 4.0]), torch.tensor([8.0, 4.0, 8.0]), n=2, gamma=0.5)
        tensor([3., 6., 8.])
    """
    if n < 1:
        raise ValueError(f"n must be at least 1, got {n}")
    dtype = _checked(rewards, ("next_values", next_values), rates=(gamma,))
    steps = Steps(rewards, terminated, truncated, mask, cu_seqlens, time_dim)
    dim = steps.time_dim
    r, w, gamma = steps.counted(rewards, next_values, gamma)
    follows = steps.follows(r.dtype)
    ends = _plus(r, _discount(steps, gamma, r.dtype), w)  # if the step is the last that counts
    order = None
    a, b = (gamma * follows).expand(r.shape), torch.where(follows == 0, ends, r)
    if steps.there is not None:  # those that are there side by side
        order = (~steps.there).to(torch.uint8).argsort(dim=dim, stable=True)
        a, b, ends = (x.gather(dim, order) for x in (a, b, ends))
    y, more, span = ends, n - 1, 1
    while more and span < r.shape[dim]:
        if more & 1:
            y = b + composed(a, shifted(y, span, dim, True))
        b, a = b + composed(a, shifted(b, span, dim, True)), composed(a, shifted(a, span, dim, True))
        more, span = more >> 1, 2 * span
    if more:  # longer than any trajectory
        y = b
    if order is not None:
        y = torch.zeros_like(y).scatter(dim, order, y)
    return steps.output(y, dtype)


def td_lambda(
    rewards: Tensor,
    values: Tensor,
    next_values: Tensor,
    terminated: Tensor | None = None,
    truncated: Tensor | None = None,
    *,
    gamma: float | Tensor = 0.99,
    lambda_: float | Tensor = 0.95,
    mask: Tensor | None = None,
    cu_seqlens: Tensor | None = None,
    time_dim: int = 0,
) -> Tensor:
    r"""Errors of values against the lambda-returns.

    .. math:: \delta_t = \bar G_t - v(s_t),

    with :math:`G` of :func:`lambda_returns`, a constant: the gradient is that of the values, -1.

    Args:
        rewards: r.
        values: v(s).
        next_values: v(s').
        terminated, truncated, gamma, lambda_, mask, cu_seqlens, time_dim: as in :func:`lambda_returns`.

    Shape:
        - rewards, values, next_values: (T, \*), or any shape with ``time_dim``
        - terminated, truncated, mask, gamma, lambda\_: broadcast to the rewards
        - cu_seqlens: (sequences + 1), rising from 0 to T
        - output: as rewards

    Returns:
        The errors, in the dtype that rewards and values promote to; 0 where the mask takes a step out.

    Raises:
        ValueError: shapes that do not fit.

    Source:
        Sutton and Barto 2018, section 12.2. rlax's ``td_lambda``.

    Example:
        >>> rewards, values = torch.tensor([1.0, 0.0]), torch.tensor([2.0, 4.0])
        >>> td_lambda(rewards, values, torch.tensor([4.0, 8.0]), gamma=0.5, lambda_=0.5)
        tensor([1., 0.])
    """
    _checked(rewards, ("values", values), ("next_values", next_values), rates=(gamma, lambda_))
    options: dict[str, Any] = {"mask": mask, "cu_seqlens": cu_seqlens, "time_dim": time_dim}
    rewards, next_values, gamma, lambda_ = map(detached, (rewards, next_values, gamma, lambda_))
    target = lambda_returns(rewards, next_values, terminated, truncated, gamma=gamma, lambda_=lambda_, **options)
    if mask is not None:
        values = torch.where(mask != 0, values, 0)
    return target - values


@fused(
    Scan(
        operands=("rewards", "values", "next_values", "ratios", "gamma", "lambda_"),
        rates=_RATES,
        outputs=2,
        parameters={"rho_bar": Hyper(), "c_bar": Hyper(), "pg_rho_bar": Hyper()},
    )
)
def vtrace(
    rewards: Tensor,
    values: Tensor,
    next_values: Tensor,
    ratios: Tensor,
    terminated: Tensor | None = None,
    truncated: Tensor | None = None,
    *,
    gamma: float | Tensor = 0.99,
    lambda_: float | Tensor = 1.0,
    rho_bar: float = 1.0,
    c_bar: float = 1.0,
    pg_rho_bar: float = 1.0,
    mask: Tensor | None = None,
    cu_seqlens: Tensor | None = None,
    time_dim: int = 0,
) -> tuple[Tensor, Tensor]:
    r"""V-trace: values of a policy from trajectories of another one, and the advantages of its actions.

    With the ratios :math:`\pi/\mu` of the probabilities of the actions taken,
    :math:`\rho_t = \min(\bar\rho, \pi/\mu)` and :math:`c_t = \lambda \min(\bar c, \pi/\mu)`,

    .. math::
        v_t = v(s_t) + e_t, \qquad
        e_t = \rho_t \bigl(r_t + \gamma v(s_{t+1}) - v(s_t)\bigr) + \gamma c_t\, e_{t+1}, \\
        A_t = \min(\bar\rho_{pg}, \pi/\mu) \bigl(r_t + \gamma (v(s_{t+1}) + \lambda e_{t+1}) - v(s_t)\bigr).

    Where the episode has terminated, :math:`v(s_{t+1})` is 0; there, and where the trajectory was truncated or ends
    with the batch, :math:`e_{t+1}` is 0. All results are constants: no gradient flows into an argument.

    Args:
        rewards: r.
        values: v(s).
        next_values: v(s').
        ratios: of the probabilities of the actions, by the policy that is learnt and by the one that acted.
        terminated, truncated, mask, cu_seqlens, time_dim: as in :func:`discounted_returns`.
        gamma: the discount, or one of each step, as a tensor that broadcasts.
        lambda_: multiplies c; or one of each step.
        rho_bar: bound of the ratios in the errors: whose policy the values are of.
        c_bar: bound of the ratios in the traces: how far corrections reach.
        pg_rho_bar: bound of the ratios in the advantages.

    Shape:
        - rewards, values, next_values, ratios: (T, \*), or any shape with ``time_dim``
        - terminated, truncated, mask, gamma, lambda\_: broadcast to the rewards
        - cu_seqlens: (sequences + 1), rising from 0 to T
        - output: two tensors, as rewards

    Returns:
        (targets of the values, advantages for the policy gradient), in the dtype that the operands promote to. The
        recurrence is in float32 at least.

    Raises:
        ValueError: shapes that do not fit, a bound below 0.

    Source:
        Espeholt et al. 2018, arXiv:1802.01561, equation 1 and section 4.2. rlax's ``vtrace_td_error_and_advantage``,
        whose errors are the targets less the values.

    Example:
        >>> rewards, values = torch.tensor([1.0, 0.0]), torch.tensor([2.0, 4.0])
        >>> vtrace(rewards, values, torch.tensor([4.0, 8.0]), torch.tensor([2.0, 0.5]), gamma=0.5)
        (tensor([3., 4.]), tensor([1., 0.]))
    """
    for name, bound in (("rho_bar", rho_bar), ("c_bar", c_bar), ("pg_rho_bar", pg_rho_bar)):
        if not bound >= 0:
            raise ValueError(f"{name} must be at least 0, got {bound}")
    dtype = _checked(
        rewards, ("values", values), ("next_values", next_values), ("ratios", ratios), rates=(gamma, lambda_)
    )
    steps = Steps(rewards, terminated, truncated, mask, cu_seqlens, time_dim)
    operands = map(detached, (rewards, values, next_values, ratios, gamma, lambda_))
    r, v, w, ratios, gamma, lambda_ = steps.counted(*operands)
    discount, follows = _discount(steps, gamma, r.dtype), steps.follows(r.dtype)
    delta = _plus(r, discount, w) - v
    errors = _scan(steps, ratios.clamp(max=rho_bar) * delta, lambda_ * ratios.clamp(max=c_bar) * gamma * follows)
    traced = _plus(torch.zeros_like(r), lambda_, steps.next(errors, follows))
    advantages = ratios.clamp(max=pg_rho_bar) * (_plus(r, discount, w + traced) - v)
    return steps.output(v + errors, dtype), steps.output(advantages, dtype)


def _corrected(
    steps: Steps, r: Tensor, v: Tensor, w: Tensor, gamma: Any, trace: Tensor | float | None, dtype: torch.dtype
) -> Tensor:
    """r + g (w + e'), with the corrections e = c (r + g w - v + g e'); a trace of None: 1 where that is no loss."""
    discount, follows = _discount(steps, gamma, r.dtype), steps.follows(r.dtype)
    target = _plus(r, discount, w)
    if trace is None:
        trace = (target >= v).to(r.dtype)
    errors = _scan(steps, _plus(torch.zeros_like(r), trace, target - v), trace * discount * follows)
    return steps.output(_plus(r, discount, w + steps.next(errors, follows)), dtype)


@fused(
    Scan(
        operands=("rewards", "values", "next_values", "ratios", "gamma", "lambda_"),
        rates=_RATES,
        parameters={"c_bar": Hyper()},
    )
)
def retrace(
    rewards: Tensor,
    values: Tensor,
    next_values: Tensor,
    ratios: Tensor,
    terminated: Tensor | None = None,
    truncated: Tensor | None = None,
    *,
    gamma: float | Tensor = 0.99,
    lambda_: float | Tensor = 1.0,
    c_bar: float = 1.0,
    mask: Tensor | None = None,
    cu_seqlens: Tensor | None = None,
    time_dim: int = 0,
) -> Tensor:
    r"""Retrace: targets of action values from trajectories of another policy.

    With :math:`q_t = q(s_t, a_t)`, :math:`v(s) = \mathbb E_{a \sim \pi} q(s, a)` and
    :math:`c_t = \lambda \min(\bar c, \pi/\mu)` of the actions taken,

    .. math::
        G_t = r_t + \gamma \bigl(v(s_{t+1}) + e_{t+1}\bigr), \qquad e_t = c_t\, (G_t - q_t).

    Where the episode has terminated, :math:`G_t = r_t`; where the trajectory was truncated or ends with the batch,
    :math:`e_{t+1}` is 0. The result is a constant: no gradient flows into an argument.

    Args:
        rewards: r.
        values: q(s, a) of the actions taken.
        next_values: v(s'), the expectation of q by the policy whose values are learnt.
        ratios: of the probabilities of the actions taken, by that policy and by the one that acted.
        terminated, truncated, mask, cu_seqlens, time_dim: as in :func:`discounted_returns`.
        gamma: the discount, or one of each step, as a tensor that broadcasts.
        lambda_: multiplies the traces; or one of each step.
        c_bar: bound of the ratios.

    Shape:
        - rewards, values, next_values, ratios: (T, \*), or any shape with ``time_dim``
        - terminated, truncated, mask, gamma, lambda\_: broadcast to the rewards
        - cu_seqlens: (sequences + 1), rising from 0 to T
        - output: as rewards

    Returns:
        The targets of q(s, a), in the dtype that the operands promote to. The recurrence is in float32 at least.

    Raises:
        ValueError: shapes that do not fit, a bound below 0.

    Source:
        Munos et al. 2016, arXiv:1606.02647, equation 4. rlax's ``general_off_policy_returns_from_q_and_v``.

    Example:
        >>> rewards, values = torch.tensor([1.0, 0.0]), torch.tensor([2.0, 2.0])
        >>> retrace(rewards, values, torch.tensor([4.0, 8.0]), torch.tensor([2.0, 0.5]), gamma=0.5)
        tensor([3.5000, 4.0000])
    """
    if not c_bar >= 0:
        raise ValueError(f"c_bar must be at least 0, got {c_bar}")
    dtype = _checked(
        rewards, ("values", values), ("next_values", next_values), ("ratios", ratios), rates=(gamma, lambda_)
    )
    steps = Steps(rewards, terminated, truncated, mask, cu_seqlens, time_dim)
    operands = map(detached, (rewards, values, next_values, ratios, gamma, lambda_))
    r, v, w, ratios, gamma, lambda_ = steps.counted(*operands)
    return _corrected(steps, r, v, w, gamma, lambda_ * ratios.clamp(max=c_bar), dtype)


@fused(Scan(operands=("rewards", "values", "next_values", "probabilities", "gamma", "lambda_"), rates=_RATES))
def tree_backup(
    rewards: Tensor,
    values: Tensor,
    next_values: Tensor,
    probabilities: Tensor,
    terminated: Tensor | None = None,
    truncated: Tensor | None = None,
    *,
    gamma: float | Tensor = 0.99,
    lambda_: float | Tensor = 1.0,
    mask: Tensor | None = None,
    cu_seqlens: Tensor | None = None,
    time_dim: int = 0,
) -> Tensor:
    r"""Tree backup: targets of action values, whatever policy acted.

    :func:`retrace` with the traces :math:`c_t = \lambda\, \pi(a_t | s_t)`,

    .. math::
        G_t = r_t + \gamma \bigl(v(s_{t+1}) + e_{t+1}\bigr), \qquad e_t = \lambda\, \pi(a_t | s_t)\, (G_t - q_t).

    The result is a constant: no gradient flows into an argument.

    Args:
        rewards: r.
        values: q(s, a) of the actions taken.
        next_values: v(s'), the expectation of q by the policy whose values are learnt.
        probabilities: of the actions taken, by that policy.
        terminated, truncated, gamma, lambda_, mask, cu_seqlens, time_dim: as in :func:`retrace`.

    Shape:
        - rewards, values, next_values, probabilities: (T, \*), or any shape with ``time_dim``
        - terminated, truncated, mask, gamma, lambda\_: broadcast to the rewards
        - cu_seqlens: (sequences + 1), rising from 0 to T
        - output: as rewards

    Returns:
        As :func:`retrace`.

    Raises:
        ValueError: shapes that do not fit.

    Source:
        Precup, Sutton and Singh 2000; Munos et al. 2016, arXiv:1606.02647, table 1.

    Example:
        >>> rewards, values = torch.tensor([1.0, 0.0]), torch.tensor([2.0, 2.0])
        >>> tree_backup(rewards, values, torch.tensor([4.0, 8.0]), torch.tensor([0.5, 0.5]), gamma=0.5)
        tensor([3.5000, 4.0000])
    """
    dtype = _checked(
        rewards,
        ("values", values),
        ("next_values", next_values),
        ("probabilities", probabilities),
        rates=(gamma, lambda_),
    )
    steps = Steps(rewards, terminated, truncated, mask, cu_seqlens, time_dim)
    operands = map(detached, (rewards, values, next_values, probabilities, gamma, lambda_))
    r, v, w, probabilities, gamma, lambda_ = steps.counted(*operands)
    return _corrected(steps, r, v, w, gamma, lambda_ * probabilities, dtype)


@fused(Scan(operands=("rewards", "values", "next_values", "gamma", "lambda_"), rates=_RATES))
def q_lambda(
    rewards: Tensor,
    values: Tensor,
    next_values: Tensor,
    terminated: Tensor | None = None,
    truncated: Tensor | None = None,
    *,
    gamma: float | Tensor = 0.99,
    lambda_: float | Tensor = 0.95,
    mask: Tensor | None = None,
    cu_seqlens: Tensor | None = None,
    time_dim: int = 0,
) -> Tensor:
    r"""Q(lambda) with off-policy corrections: targets of action values without importance weights.

    :func:`retrace` with the traces :math:`c_t = \lambda`,

    .. math::
        G_t = r_t + \gamma \bigl(v(s_{t+1}) + e_{t+1}\bigr), \qquad e_t = \lambda\, (G_t - q_t).

    It converges where the two policies are near enough to each other for this lambda. The result is a constant: no
    gradient flows into an argument. Peng's and Williams's Q(lambda), rlax's ``q_lambda``, is :func:`lambda_returns` of
    the largest q(s', a).

    Args:
        rewards: r.
        values: q(s, a) of the actions taken.
        next_values: v(s'), the expectation of q by the policy whose values are learnt, or its maximum.
        terminated, truncated, gamma, lambda_, mask, cu_seqlens, time_dim: as in :func:`retrace`.

    Shape:
        - rewards, values, next_values: (T, \*), or any shape with ``time_dim``
        - terminated, truncated, mask, gamma, lambda\_: broadcast to the rewards
        - cu_seqlens: (sequences + 1), rising from 0 to T
        - output: as rewards

    Returns:
        As :func:`retrace`.

    Raises:
        ValueError: shapes that do not fit.

    Source:
        Harutyunyan et al. 2016, arXiv:1602.04951, equation 8.

    Example:
        >>> rewards, values = torch.tensor([1.0, 0.0]), torch.tensor([2.0, 2.0])
        >>> q_lambda(rewards, values, torch.tensor([4.0, 8.0]), gamma=0.5, lambda_=0.5)
        tensor([3.5000, 4.0000])
    """
    dtype = _checked(rewards, ("values", values), ("next_values", next_values), rates=(gamma, lambda_))
    steps = Steps(rewards, terminated, truncated, mask, cu_seqlens, time_dim)
    r, v, w, gamma, lambda_ = steps.counted(*map(detached, (rewards, values, next_values, gamma, lambda_)))
    return _corrected(steps, r, v, w, gamma, lambda_, dtype)


@fused(Scan(operands=("rewards", "values", "next_values", "gamma"), rates=("gamma",)))
def upgo(
    rewards: Tensor,
    values: Tensor,
    next_values: Tensor,
    terminated: Tensor | None = None,
    truncated: Tensor | None = None,
    *,
    gamma: float | Tensor = 0.99,
    mask: Tensor | None = None,
    cu_seqlens: Tensor | None = None,
    time_dim: int = 0,
) -> Tensor:
    r"""Upgoing returns: those of the trajectory as long as it goes better than expected.

    .. math::
        G_t = r_t + \gamma \begin{cases} G_{t+1} & r_{t+1} + \gamma v(s_{t+2}) \ge v(s_{t+1}) \\
        v(s_{t+1}) & \text{else} \end{cases}

    Where the episode has terminated, :math:`G_t = r_t`; where the trajectory was truncated or ends with the batch, the
    second case holds. ``next_values`` are taken to be the ``values`` of the next step where there is one. The result is
    a constant: no gradient flows into an argument.

    Args:
        rewards: r.
        values: v(s).
        next_values: v(s').
        terminated, truncated, mask, cu_seqlens, time_dim: as in :func:`discounted_returns`.
        gamma: the discount, or one of each step, as a tensor that broadcasts.

    Shape:
        - rewards, values, next_values: (T, \*), or any shape with ``time_dim``
        - terminated, truncated, mask, gamma: broadcast to the rewards
        - cu_seqlens: (sequences + 1), rising from 0 to T
        - output: as rewards

    Returns:
        G, in the dtype that rewards and values promote to; the policy gradient's advantages are G less the values,
        clipped by importance ratios. The recurrence is in float32 at least.

    Raises:
        ValueError: shapes that do not fit.

    Source:
        Vinyals et al. 2019, "Grandmaster level in StarCraft II using multi-agent reinforcement learning", methods.

    Example:
        >>> rewards, values = torch.tensor([1.0, 2.0]), torch.tensor([1.0, 4.0])
        >>> upgo(rewards, values, torch.tensor([4.0, 8.0]), gamma=0.5)
        tensor([4., 6.])
    """
    dtype = _checked(rewards, ("values", values), ("next_values", next_values), rates=(gamma,))
    steps = Steps(rewards, terminated, truncated, mask, cu_seqlens, time_dim)
    r, v, w, gamma = steps.counted(*map(detached, (rewards, values, next_values, gamma)))
    return _corrected(steps, r, v, w, gamma, None, dtype)
