"""What means over several ranks need: counts of all of them, and labels that cross from one to the next."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor

from fastloss.distributed.collectives import Ranks, gathered, summed


def global_count(mask_or_labels: Tensor, group: dist.ProcessGroup | None = None, *, ignore_index: int = -100) -> Tensor:
    r"""How many elements count on all ranks together: what a mean over the whole batch divides by.

    A loss never synchronises; it takes this as ``normalizer=``. The ranks' losses then add up to the mean of the whole
    batch, whatever each rank has. A wrapper that averages gradients over R ranks (DDP, FSDP) wants the R-fold of it:
    ``normalizer=global_count(...) / R``. Over micro-batches, count all of them first.

    Args:
        mask_or_labels: a mask (bool: its true elements; floating-point: their sum), or labels (integers: those that
            are not ``ignore_index``).
        group: the ranks among which the batch is shared out; None: the default group.
        ignore_index: the label that does not count.

    Shape:
        - mask_or_labels: any, also of no elements; it may differ between the ranks
        - output: ()

    Returns:
        The count, of int64, or float64 for a floating-point mask; on the device, without waiting for it.
    """
    if mask_or_labels.is_floating_point():
        count = mask_or_labels.sum(dtype=torch.float64)
    else:
        count = (mask_or_labels if mask_or_labels.dtype == torch.bool else mask_or_labels != ignore_index).sum()
    return summed(count, Ranks.of(group))


def shift_labels(labels: Tensor, group: dist.ProcessGroup | None = None, *, ignore_index: int = -100) -> Tensor:
    r"""The next token of each position, where the ranks hold consecutive stretches of the sequence.

    Under context or sequence parallelism the label of a rank's last position is the first one of the next rank: it
    comes by an all-gather of one label a sequence. The last position of the last rank gets ``ignore_index``. What comes
    out is for losses that do not shift: ``lm_loss(..., shift_labels=...)``, or ``cross_entropy``.

    Args:
        labels: the token of each of this rank's positions.
        group: the ranks among which the sequence is shared out, in its order; None: the default group.
        ignore_index: the label that does not count.

    Shape:
        - labels: (..., T), T at least 1, which may differ between the ranks
        - output: (..., T)

    Returns:
        The labels, in the dtype of ``labels``.

    Raises:
        ValueError: if a rank has no position.
    """
    if labels.dim() < 1 or labels.shape[-1] == 0:
        raise ValueError(f"labels must be (..., T) with T at least 1, got {tuple(labels.shape)}")
    ranks = Ranks.of(group)
    firsts = gathered(labels[..., :1], ranks)  # (ranks, ..., 1)
    last = ranks.rank + 1 == ranks.size
    following = torch.full_like(labels[..., :1], ignore_index) if last else firsts[ranks.rank + 1]
    return torch.cat([labels[..., 1:], following], -1)
