"""Critics that are many, against values that are too large: random subsets of them, and the lower part of what they
think possible."""

from __future__ import annotations

import torch
from torch import Tensor

from fastloss.core.composite import composite, elements
from fastloss.core.metrics import Metrics
from fastloss.losses.rl.distributional import quantile_huber_loss
from fastloss.losses.rl.transitions import Transitions, against, checked_alpha, of_critics, same_shape

__all__ = ["redq_critic_loss", "tqc_critic_loss"]


def _some(values: Tensor, count: int, generator: torch.Generator | None) -> Tensor:
    """(..., K) -> (..., count), the same critics at random in all rows; all of them in their order, if that is all."""
    if count == values.shape[-1]:
        return values
    device = values.device if generator is None else generator.device
    chosen = torch.randperm(values.shape[-1], generator=generator, device=device)[:count]
    return values.index_select(-1, chosen.to(values.device))


@composite()
def redq_critic_loss(
    q_values: Tensor,
    rewards: Tensor,
    next_q_values: Tensor,
    next_logp: Tensor,
    terminated: Tensor | None = None,
    *,
    subset: int = 2,
    generator: torch.Generator | None = None,
    alpha: float | Tensor = 0.2,
    gamma: float | Tensor = 0.99,
    delta: float | None = None,
    reduction: str = "mean",
    mask: Tensor | None = None,
    normalizer: float | Tensor | None = None,
    return_terms: bool = False,
) -> Tensor | tuple[Tensor, Metrics]:
    r"""Loss of an ensemble of critics, each against the least of a few of the target critics, chosen at random.

    With a' of the policy and a random set M of ``subset`` target critics, the same for the whole batch,

    .. math::
        \ell = \sum_k \rho\Bigl(q_k(s, a) - r - \gamma\,(1 - \mathrm{terminated})
               \bigl(\min_{j \in M} q'_j(s', a') - \alpha \log \pi(a' | s')\bigr)\Bigr)

    with :math:`\rho(d) = d^2`, or Huber's with ``delta``. The target is a constant. How far the values are too small or
    too large is decided by the size of the subset, and not by that of the ensemble.

    Args:
        q_values: of the action that was taken, by K critics.
        rewards: r; or, for n steps, the discounted sum of them, with gamma^n for ``gamma``.
        next_q_values: of a', by the target critics.
        next_logp: log-probabilities of a'.
        terminated, alpha, gamma, delta, reduction, mask, normalizer, return_terms: as in :func:`sac_critic_loss`.
        subset: how many target critics the minimum is of. All of them: no random number is drawn.
        generator: of the choice; on any device. None: the default one of the critics' device.

    Shape:
        - q_values: (..., K); next_q_values: (..., K')
        - rewards, terminated, next_logp: (...)
        - output: (...) for ``"none"``, else ()

    Returns:
        The loss, in the dtype that torch promotes the operands to (float32 under autocast); with ``return_terms``,
        (loss, terms): ``q_value`` (the mean of the critics) and ``target``.

    Raises:
        ValueError: shapes that do not fit, a subset that is empty or larger than the ensemble, a ``delta`` that is not
            positive.

    Source:
        Chen et al. 2021, arXiv:2101.05982, algorithm 1; there 10 critics and subsets of 2. The actor's loss has the
        mean of all critics: :func:`sac_actor_loss` of ``q_values.mean(-1, keepdim=True)``.

    Example:
        >>> q, next_q, one = torch.tensor([[1.0, 2.0]]), torch.tensor([[4.0, 6.0, 5.0]]), torch.ones(1)
        >>> redq_critic_loss(q, one, next_q, -one, subset=3, alpha=2.0, gamma=0.5).item()  # target 4
        13.0
    """
    of_critics(rewards.shape, "q_values", q_values, "rewards")
    of_critics(rewards.shape, "next_q_values", next_q_values, "rewards")
    same_shape(rewards.shape, next_logp=next_logp)
    if not 1 <= subset <= next_q_values.shape[-1]:
        raise ValueError(f"subset must be from 1 to the {next_q_values.shape[-1]} target critics, got {subset}")
    alpha = checked_alpha(alpha)
    steps = Transitions(rewards, terminated, gamma, mask, normalizer)
    q_values, next_q_values, next_logp = steps.there(q_values, next_q_values.detach(), next_logp.detach())
    least = _some(next_q_values, subset, generator).amin(-1)
    return elements(*against(q_values, steps.target(least - alpha * next_logp), delta))


@composite()
def tqc_critic_loss(
    quantiles: Tensor,
    rewards: Tensor,
    next_quantiles: Tensor,
    next_logp: Tensor,
    terminated: Tensor | None = None,
    *,
    drop: int = 2,
    kappa: float = 1.0,
    alpha: float | Tensor = 0.2,
    gamma: float | Tensor = 0.99,
    reduction: str = "mean",
    mask: Tensor | None = None,
    normalizer: float | Tensor | None = None,
    return_terms: bool = False,
) -> Tensor | tuple[Tensor, Metrics]:
    r"""Loss of truncated quantile critics: each critic's distribution of returns against the lower part of all.

    The K' N' quantiles of the target critics at a' of the policy are put into one order z, of which the K' ``drop``
    largest are left out. With the M that remain, and the quantiles :math:`\theta_{ki}` of critic k,

    .. math::
        \ell = \sum_k \frac1{N M} \sum_{i=1}^N \sum_{j=1}^M
               \bigl|\tau_i - [u_{kij} < 0]\bigr|\, \mathcal L_\kappa(u_{kij}), \qquad
        u_{kij} = r + \gamma\,(1 - \mathrm{terminated})\bigl(z_j - \alpha \log \pi(a' | s')\bigr) - \theta_{ki},

    with the midpoints :math:`\tau_i` and :math:`\mathcal L_\kappa` of :func:`quantile_huber_loss`, whose kernels it
    takes: the pairs are never stored. The target is a constant.

    Args:
        quantiles: of the returns of the action that was taken, by K critics.
        rewards: r; or, for n steps, the discounted sum of them, with gamma^n for ``gamma``.
        next_quantiles: of the returns of a', by the target critics; in any order.
        next_logp: log-probabilities of a'.
        terminated, alpha, gamma, reduction, mask, normalizer: as in :func:`sac_critic_loss`.
        drop: how many quantiles are left out for each target critic; the more, the smaller the values.
        kappa: at least 0; where the loss of a pair turns from quadratic to linear.
        return_terms: also return what is usually logged.

    Shape:
        - quantiles: (..., K, N); next_quantiles: (..., K', N')
        - rewards, terminated, next_logp: (...)
        - output: (...) for ``"none"``, else ()

    Returns:
        The loss, in the dtype that torch promotes the operands to (float32 under autocast); with ``return_terms``,
        (loss, terms): ``q_value`` (the mean of the critics' means) and ``target`` (the mean of what remains).

    Raises:
        ValueError: shapes that do not fit, a ``drop`` that leaves nothing, a ``kappa`` out of range.

    Source:
        Kuznetsov et al. 2020, arXiv:2005.04269, section 4; there 5 critics of 25 quantiles. The authors' code and
        sb3-contrib's average over the critics, too: this divided by K. The actor's loss is :func:`sac_actor_loss` with
        the mean of all quantiles, none left out.

    Example:
        >>> quantiles, next_quantiles = torch.zeros(1, 1, 2), torch.tensor([[[4.0, 1.0], [2.0, 9.0]]])
        >>> zero = torch.zeros(1)
        >>> tqc_critic_loss(quantiles, zero, next_quantiles, zero, drop=1, gamma=1.0).item()  # targets 1 and 2
        0.5
    """
    for name, x in (("quantiles", quantiles), ("next_quantiles", next_quantiles)):
        if x.dim() < 2 or x.shape[:-2] != rewards.shape:
            raise ValueError(f"{name} {tuple(x.shape)} must be (..., K, N) beside rewards {tuple(rewards.shape)}")
    same_shape(rewards.shape, next_logp=next_logp)
    critics, each = next_quantiles.shape[-2:]
    if not 0 <= drop < each:
        raise ValueError(f"drop must be at least 0 and less than the {each} quantiles of a target critic, got {drop}")
    alpha = checked_alpha(alpha)
    steps = Transitions(rewards, terminated, gamma, mask, normalizer)
    quantiles, z, next_logp = steps.there(quantiles, next_quantiles.detach().flatten(-2), next_logp.detach())
    remaining = z.sort(-1).values[..., : critics * (each - drop)]
    target = steps.target(remaining - (alpha * next_logp)[..., None])
    of_all = target[..., None, :].expand(*quantiles.shape[:-1], target.shape[-1])
    losses = quantile_huber_loss(quantiles, of_all, kappa=kappa, reduction="none") / max(1, quantiles.shape[-1])
    return elements(losses.sum(-1), {"q_value": quantiles.mean((-2, -1)), "target": target.mean(-1)})
