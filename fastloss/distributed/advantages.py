"""What policy losses are weighted with, over the batch of all ranks."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor

from fastloss.core.dtypes import result_dtype, widened
from fastloss.core.reductions import check_fit
from fastloss.distributed.collectives import Ranks, gathered


def normalize_advantages(
    advantages: Tensor, group: dist.ProcessGroup | None = None, *, mask: Tensor | None = None, eps: float = 1e-8
) -> Tensor:
    r"""Advantages with the mean 0 and the variance 1 over the batch of all ranks.

    .. math::
        \hat A = \frac{A - \mathrm{mean}(A)}{\sqrt{\mathrm{var}(A) + \mathrm{eps}}}

    over the elements that the mask counts, with N - 1 in the variance. Each rank sends its count, its mean and its sum
    of squares about that, 24 bytes in one all-gather; they are merged in the order of the ranks, in float64, so that a
    mean far from 0 costs no digits, and all ranks have the same two numbers. The result is a constant.

    Args:
        advantages: this rank's.
        group: the ranks among which the batch is shared out; None: the default group.
        mask: 0 takes an element out, whatever it holds; it becomes 0.
        eps: added to the variance.

    Shape:
        - advantages: any, which may differ between the ranks; a rank may have none
        - mask: broadcasts to it
        - output: that of ``advantages``

    Returns:
        The normalised advantages, in the dtype of ``advantages``.

    Raises:
        ValueError: a mask that does not fit.

    Source:
        Whitened over minibatches in PPO's reference code (Huang et al. 2022, "The 37 implementation details of PPO").
    """
    check_fit(advantages.shape, advantages.device, None, mask=mask)
    (values,) = widened(advantages.detach())
    values = values.double()
    there = torch.ones_like(values, dtype=torch.bool) if mask is None else (mask != 0).expand(values.shape)
    values = torch.where(there, values, 0)
    count = there.sum().double()
    mean = values.sum() / count.clamp(min=1)
    squares = torch.where(there, values - mean, 0).square().sum()
    counts, means, squares = gathered(torch.stack([count, mean, squares]), Ranks.of(group)).unbind(1)  # (ranks,)
    total = counts.sum()
    mean = (counts * means).sum() / total.clamp(min=1)
    variance = (squares + counts * (means - mean).square()).sum() / (total - 1).clamp(min=1)
    return torch.where(there, (values - mean) * (variance + eps).rsqrt(), 0).to(result_dtype(advantages))
