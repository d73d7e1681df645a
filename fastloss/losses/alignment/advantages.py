"""Advantages of sampled sequences from their rewards: no loss, but what the losses of policies are weighted with."""

# They are constants of the differentiation, of O(sequences) or O(tokens), and torch's on every backend. A group is the
# sequences of one prompt: `group_size` consecutive ones, or those that have the same number in `group_ids`.

from __future__ import annotations

import math

import torch
from torch import Tensor

from fastloss.core.dtypes import widened
from fastloss.core.reductions import check_fit

__all__ = [
    "gdpo_advantages",
    "grpo_advantages",
    "opo_advantages",
    "pass_at_k_advantages",
    "reinforce_plus_plus_advantages",
    "remax_advantages",
    "rloo_advantages",
]

_SCALES = ("group", "batch", "none")


class _Groups:
    """Sums over the groups of a flat batch, without a loop and without waiting for a device."""

    def __init__(self, count: int, group_size: int | None, group_ids: Tensor | None) -> None:
        if (group_size is None) == (group_ids is None):
            raise ValueError("either a group_size or group_ids must be given")
        if group_size is not None and (group_size < 1 or count % group_size):
            raise ValueError(f"group_size must be positive and divide the number of rewards, {count}, got {group_size}")
        if group_ids is not None and (group_ids.numel() != count or group_ids.is_floating_point()):
            raise ValueError(f"group_ids must be {count} integers, got {group_ids.dtype} {tuple(group_ids.shape)}")
        self._size = group_size
        self._ids = None if group_ids is None else group_ids.reshape(-1).long()

    def total(self, values: Tensor) -> Tensor:
        """(N, ...) -> (N, ...): the sum over each one's group."""
        if self._size is not None:
            grouped = values.reshape(-1, self._size, *values.shape[1:])
            return grouped.sum(1, keepdim=True).expand_as(grouped).reshape(values.shape)
        assert self._ids is not None
        # As many sums as there are sequences: the number of groups is not known without looking.
        return torch.zeros_like(values).index_put((self._ids,), values, accumulate=True).index_select(0, self._ids)

    def count(self, values: Tensor) -> Tensor:
        return self.total(torch.ones_like(values))

    def centred(self, values: Tensor) -> Tensor:
        return values - self.total(values) / self.count(values)

    def deviation(self, values: Tensor) -> Tensor:
        """Root of the mean square about the mean with N - 1; 0 in a group of one."""
        return (self.total(self.centred(values).square()) / (self.count(values) - 1).clamp(min=1)).sqrt()


def _flat(rewards: Tensor) -> Tensor:
    """(N): float32 or float64, and a constant"""
    (rewards,) = widened(rewards.detach())
    return (rewards if rewards.is_floating_point() else rewards.float()).reshape(-1)


def _returned(advantages: Tensor, rewards: Tensor) -> Tensor:
    dtype = rewards.dtype if rewards.is_floating_point() else advantages.dtype
    return advantages.reshape(rewards.shape).to(dtype)


def _whitened(values: Tensor, weights: Tensor, eps: float) -> Tensor:
    """(values - mean) / sqrt(variance + eps) over what the weights count, with N - 1; 0 elsewhere."""
    count = weights.sum()
    mean = (values * weights).sum() / count.clamp(min=1)
    centred = torch.where(weights != 0, values - mean, 0)
    variance = (centred.square() * weights).sum() / (count - 1).clamp(min=1)
    return centred * weights * (variance + eps).rsqrt()


def grpo_advantages(
    rewards: Tensor,
    group_size: int | None = None,
    *,
    group_ids: Tensor | None = None,
    scale_rewards: str = "group",
    eps: float = 1e-4,
) -> Tensor:
    r"""Advantages of group-relative policy optimisation: rewards against the mean of their group.

    .. math::
        A_i = \frac{r_i - \mathrm{mean}(r_{group})}{\mathrm{std} + \mathrm{eps}},

    with the standard deviation (N - 1 in the denominator) of the group, of the batch, or without the division. A group
    of one has the advantage 0. The result is a constant: no gradient flows into ``rewards``.

    Args:
        rewards: of the sequences.
        group_size: sequences of a group, which are consecutive.
        group_ids: instead of ``group_size``: a number in [0, N) for each of the N sequences, equal within a group.
        scale_rewards: ``"group"``, ``"batch"`` or ``"none"`` (Dr. GRPO).
        eps: added to the deviation.

    Shape:
        - rewards, group_ids: any, of N elements
        - output: that of ``rewards``

    Returns:
        The advantages, in the dtype of ``rewards``.

    Raises:
        ValueError: an unknown ``scale_rewards``, neither or both of ``group_size`` and ``group_ids``, or one that does
            not fit.

    Source:
        Shao et al. 2024, arXiv:2402.03300. Without the division: Liu et al. 2025, arXiv:2503.20783. By the batch: Hu et
        al. 2025, arXiv:2501.03262.

    Example:
        >>> grpo_advantages(torch.tensor([1.0, 0.0, 3.0, 1.0]), 2, scale_rewards="none")
        tensor([ 0.5000, -0.5000,  1.0000, -1.0000])
    """
    if scale_rewards not in _SCALES:
        raise ValueError(f"{scale_rewards!r} is not a valid scale_rewards; choose one of {', '.join(_SCALES)}")
    r = _flat(rewards)
    groups = _Groups(r.numel(), group_size, group_ids)
    advantages = groups.centred(r)
    if scale_rewards == "group":
        advantages = advantages / (groups.deviation(r) + eps)
    elif scale_rewards == "batch":
        centred = r - r.sum() / max(1, r.numel())
        advantages = advantages / ((centred.square().sum() / max(1, r.numel() - 1)).sqrt() + eps)
    return _returned(advantages, rewards)


def rloo_advantages(rewards: Tensor, group_size: int | None = None, *, group_ids: Tensor | None = None) -> Tensor:
    r"""Advantages of REINFORCE leave-one-out: rewards against the mean of the others in their group.

    .. math::
        A_i = r_i - \frac{1}{n - 1}\sum_{j \neq i} r_j

    A group of one has the advantage 0. The result is a constant.

    Args:
        rewards: of the sequences.
        group_size: sequences of a group, which are consecutive.
        group_ids: instead of ``group_size``; see :func:`grpo_advantages`.

    Shape:
        - rewards, group_ids: any, of N elements
        - output: that of ``rewards``

    Returns:
        The advantages, in the dtype of ``rewards``.

    Raises:
        ValueError: neither or both of ``group_size`` and ``group_ids``, or one that does not fit.

    Source:
        Ahmadian et al. 2024, arXiv:2402.14740.

    Example:
        >>> rloo_advantages(torch.tensor([1.0, 0.0, 2.0]), 3)
        tensor([ 0.0000, -1.5000,  1.5000])
    """
    r = _flat(rewards)
    groups = _Groups(r.numel(), group_size, group_ids)
    count = groups.count(r)
    return _returned(groups.centred(r) * count / (count - 1).clamp(min=1), rewards)


def opo_advantages(
    rewards: Tensor, lengths: Tensor, group_size: int | None = None, *, group_ids: Tensor | None = None
) -> Tensor:
    r"""Advantages of on-policy optimisation with the optimal baseline: the mean reward, weighted by length.

    .. math::
        A_i = r_i - \frac{\sum_j l_j r_j}{\sum_j l_j}, \quad \text{over the group}

    The baseline minimises the variance of the gradient if its square grows as the length. A group of one has the
    advantage 0. The result is a constant.

    Args:
        rewards: of the sequences.
        lengths: their numbers of tokens.
        group_size: sequences of a group, which are consecutive.
        group_ids: instead of ``group_size``; see :func:`grpo_advantages`.

    Shape:
        - rewards, lengths, group_ids: any, of N elements
        - output: that of ``rewards``

    Returns:
        The advantages, in the dtype of ``rewards``.

    Raises:
        ValueError: lengths of another number, neither or both of ``group_size`` and ``group_ids``, or one that does
            not fit.

    Source:
        Hao et al. 2025, arXiv:2505.23585.

    Example:
        >>> opo_advantages(torch.tensor([1.0, 0.0]), torch.tensor([1, 3]), 2)
        tensor([ 0.7500, -0.2500])
    """
    if lengths.numel() != rewards.numel():
        raise ValueError(f"lengths must be one for each of {rewards.numel()} rewards, got {tuple(lengths.shape)}")
    r = _flat(rewards)
    weight = lengths.detach().reshape(-1).to(r.dtype)
    groups = _Groups(r.numel(), group_size, group_ids)
    tokens, centred = groups.total(weight), groups.centred(r)
    return _returned(centred - groups.total(weight * centred) / torch.where(tokens == 0, 1, tokens), rewards)


def remax_advantages(rewards: Tensor, baseline_rewards: Tensor, *, mask: Tensor | None = None) -> Tensor:
    r"""Advantages of ReMax: against the reward of the greedy answer to the same prompt.

    Of rewards of sequences :math:`A = r - b`; of rewards of tokens, with the mask m,

    .. math::
        A_t = m_t\Bigl(\sum_{u \ge t} m_u r_u - b\Bigr).

    The result is a constant.

    Args:
        rewards: of the sequences, or of their tokens.
        baseline_rewards: of the greedy answers, whole sequences.
        mask: of the tokens, for rewards of tokens; 0 takes one out, whatever it holds.

    Shape:
        - rewards: (...) or (..., T)
        - baseline_rewards: (...)
        - mask: broadcasts to ``rewards``
        - output: that of ``rewards``

    Returns:
        The advantages, in the dtype of ``rewards``.

    Raises:
        ValueError: shapes that do not fit, a mask of whole sequences.

    Source:
        Li et al. 2023, arXiv:2310.10505.

    Example:
        >>> remax_advantages(torch.tensor([[0.0, 1.0]]), torch.tensor([0.25]))
        tensor([[0.7500, 0.7500]])
    """
    of_tokens = rewards.dim() == baseline_rewards.dim() + 1
    if rewards.shape[: baseline_rewards.dim()] != baseline_rewards.shape or (not of_tokens and mask is not None):
        raise ValueError(
            f"baseline_rewards {tuple(baseline_rewards.shape)} must be one for each sequence of the rewards, "
            f"{tuple(rewards.shape)}, and only rewards of tokens may have a mask"
        )
    check_fit(rewards.shape, rewards.device, None, mask=mask)
    r = _flat(rewards).view(rewards.shape)
    baseline = _flat(baseline_rewards).view(baseline_rewards.shape).to(r.dtype)
    if not of_tokens:
        return _returned(r - baseline, rewards)
    weights = torch.ones_like(r) if mask is None else (mask != 0).to(r.dtype).expand_as(r)
    to_go = torch.where(weights != 0, r, 0).flip(-1).cumsum(-1).flip(-1)
    return _returned((to_go - baseline.unsqueeze(-1)) * weights, rewards)


def _discounted(rewards: Tensor, there: Tensor, gamma: float) -> Tensor:
    """(..., T): y_t = r_t + gamma y_{t+1} where a token is there, and y_{t+1} where it is not, which skips it.

    By doubling: after k rounds an entry has the next 2^k tokens, so there are log2(T) rounds and not T.
    """
    total, factor = rewards * there, torch.where(there != 0, torch.full_like(rewards, gamma), 1)
    distance = 1
    while distance < rewards.shape[-1]:
        beyond = torch.nn.functional.pad(total[..., distance:], (0, distance))
        total = total + factor * beyond
        factor = factor * torch.nn.functional.pad(factor[..., distance:], (0, distance))
        distance *= 2
    return total * there


def reinforce_plus_plus_advantages(
    rewards: Tensor,
    group_size: int | None = None,
    *,
    group_ids: Tensor | None = None,
    mask: Tensor | None = None,
    gamma: float = 1.0,
    eps: float = 1e-8,
) -> Tensor:
    r"""Advantages of REINFORCE++: returns of tokens, whitened over the batch.

    .. math::
        A_t = \frac{R_t - \mathrm{mean}}{\sqrt{\mathrm{var} + \mathrm{eps}}}, \qquad R_t = r_t + \gamma R_{t+1},

    with mean and variance (N - 1) over all tokens that the mask counts; a token that it does not count is skipped: it
    neither has a reward nor discounts. With groups (REINFORCE++-baseline) R is instead the whole reward of the sequence
    against the mean of its group. The result is a constant.

    Args:
        rewards: of the tokens; usually all in the last one.
        group_size: sequences of a group, which are consecutive. None, and no ``group_ids``: no groups.
        group_ids: instead of ``group_size``; see :func:`grpo_advantages`.
        mask: of the tokens; 0 takes one out, whatever it holds.
        gamma: discount, for no groups.
        eps: added to the variance.

    Shape:
        - rewards: (..., T)
        - mask: broadcasts to ``rewards``
        - group_ids: any, of as many elements as there are sequences
        - output: that of ``rewards``

    Returns:
        The advantages, in the dtype of ``rewards``; 0 where the mask counts nothing.

    Raises:
        ValueError: a ``group_size`` or ``group_ids`` that does not fit.

    Source:
        Hu et al. 2025, arXiv:2501.03262.

    Example:
        >>> reinforce_plus_plus_advantages(torch.tensor([[0.0, 1.0], [0.0, -1.0]]))
        tensor([[ 0.8660,  0.8660],
                [-0.8660, -0.8660]])
    """
    check_fit(rewards.shape, rewards.device, None, mask=mask)
    r = _flat(rewards).view(rewards.shape)
    there = torch.ones_like(r) if mask is None else (mask != 0).to(r.dtype).expand_as(r)
    r = torch.where(there != 0, r, 0)
    if group_size is None and group_ids is None:
        returns = _discounted(r, there, gamma)
    else:
        scores = r.sum(-1)
        centred = _Groups(scores.numel(), group_size, group_ids).centred(scores.reshape(-1)).view(scores.shape)
        returns = centred.unsqueeze(-1) * there
    return _returned(_whitened(returns, there, eps), rewards)


def gdpo_advantages(
    rewards: Tensor,
    group_size: int | None = None,
    *,
    group_ids: Tensor | None = None,
    weights: Tensor | None = None,
    eps: float = 1e-4,
) -> Tensor:
    r"""Advantages of several rewards, each normalised in its group before they are added (GDPO).

    .. math::
        S_i = \sum_k w_k\,\frac{r_{ik} - \mathrm{mean}_k}{\mathrm{std}_k + \mathrm{eps}}, \qquad
        A_i = \frac{S_i - \mathrm{mean}(S)}{\mathrm{std}(S) + \mathrm{eps}},

    mean and deviation (N - 1) of the first step over the group, of the second over the batch. No reward drowns another
    that is of smaller size. The result is a constant.

    Args:
        rewards: K rewards of each sequence.
        group_size: sequences of a group, which are consecutive.
        group_ids: instead of ``group_size``; see :func:`grpo_advantages`.
        weights: of the rewards. None: 1 each.
        eps: added to the deviations.

    Shape:
        - rewards: (N, K)
        - weights: (K)
        - output: (N)

    Returns:
        The advantages, in the dtype of ``rewards``.

    Raises:
        ValueError: rewards that are not (N, K), weights that are not (K), neither or both of ``group_size`` and
            ``group_ids``, or one that does not fit.

    Source:
        Liu et al. 2026, arXiv:2601.05242.

    Example:
        >>> gdpo_advantages(torch.tensor([[1.0, 0.0], [0.0, 0.0]]), 2)
        tensor([ 0.7070, -0.7070])
    """
    if rewards.dim() != 2 or (weights is not None and weights.shape != rewards.shape[1:]):
        raise ValueError(f"rewards must be (N, K) and weights (K), got {tuple(rewards.shape)} and {weights}")
    r = _flat(rewards).view(rewards.shape)
    groups = _Groups(r.shape[0], group_size, group_ids)
    normalised = groups.centred(r) / (groups.deviation(r) + eps)
    if weights is not None:
        normalised = normalised * weights.detach().to(r.dtype)
    score = normalised.sum(1)
    centred = score - score.sum() / max(1, score.numel())
    deviation = (centred.square().sum() / max(1, score.numel() - 1)).sqrt()
    return _returned(centred / (deviation + eps), rewards[:, 0] if rewards.shape[1] else rewards.sum(1))


def pass_at_k_advantages(
    rewards: Tensor, group_size: int, *, k: int | None = None, scale_rewards: str = "none", eps: float = 1e-6
) -> Tensor:
    r"""Advantages for the best of k samples: what a sequence adds to the maximum of the k-subsets of its group.

    .. math::
        A_i = \binom{n}{k}^{-1} \sum_{I \ni i,\; |I| = k} \Bigl(\max_{j \in I} r_j - \max_{j \in I \setminus i}
        r_j\Bigr)

    over the subsets I of the n sequences of the group: an unbiased gradient of the expected maximum, with the best of
    the others as the baseline. With k = n the best sequence has its lead over the second, and the others have 0. It is
    computed from the sorted rewards, where it is a difference of two cumulative sums. The result is a constant.

    Args:
        rewards: of the sequences.
        group_size: sequences of a group, which are consecutive.
        k: from 2 to ``group_size``; None: ``group_size``.
        scale_rewards: ``"group"``: divides by the standard deviation (N - 1) of the group's rewards; ``"none"``.
        eps: added to the deviation.

    Shape:
        - rewards: any, of N elements
        - output: that of ``rewards``

    Returns:
        The advantages, in the dtype of ``rewards``.

    Raises:
        ValueError: a ``group_size``, ``k`` or ``scale_rewards`` that does not fit.

    Source:
        Walder and Karkhanis 2025, arXiv:2505.15201. k = n: Tang et al. 2025, arXiv:2503.19595.

    Example:
        >>> pass_at_k_advantages(torch.tensor([1.0, 0.0, 3.0]), 3)
        tensor([0., 0., 2.])
    """
    size = group_size if k is None else k
    if not 2 <= size <= group_size:
        raise ValueError(f"k must be from 2 to group_size, {group_size}, got {k}")
    if scale_rewards not in ("group", "none"):
        raise ValueError(f"{scale_rewards!r} is not a valid scale_rewards; choose 'group' or 'none'")
    r = _flat(rewards)
    groups = _Groups(r.numel(), group_size, None)
    ordered, order = r.view(-1, group_size).sort(1)
    # Subsets of which place i (from 0) is the largest and place j < i the second: the rest is from the j before.
    subsets = [math.comb(j, size - 2) / math.comb(group_size, size) for j in range(group_size)]
    share = torch.tensor(subsets, dtype=r.dtype, device=r.device)
    before = share.cumsum(0) - share
    lead = ordered * before - ((ordered * share).cumsum(1) - ordered * share)
    advantages = torch.zeros_like(ordered).scatter(1, order, lead).view(-1)
    if scale_rewards == "group":
        advantages = advantages / (groups.deviation(r) + eps)
    return _returned(advantages, rewards)
