"""The collectives that the losses here use: torch's functional ones, which torch.compile sees through.

A problem of autograd (:mod:`fastloss.core.autograd`) holds no process group: a group goes by its name and its size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from fastloss.core.autograd import Gradients, differentiate, gradient_wanted


class Ranks(NamedTuple):
    """A process group as a problem may hold it."""

    name: str
    size: int
    rank: int  # of this process

    @classmethod
    def of(cls, group: dist.ProcessGroup | None) -> Ranks:
        """`group`; None: the default group of torch.distributed, which has to be initialised."""
        group = dist.distributed_c10d._get_default_group() if group is None else group
        rank = dist.get_rank(group)
        if rank < 0:
            raise ValueError("this process is not in the group")
        return cls(group.group_name, dist.get_world_size(group), rank)


def gathered(x: Tensor, ranks: Ranks) -> Tensor:
    """(n, ...) of every rank, all alike -> (ranks, n, ...), in the order of the ranks. Without a gradient."""
    operators = torch.ops._c10d_functional
    result = operators.wait_tensor(operators.all_gather_into_tensor(x.detach().contiguous(), ranks.size, ranks.name))
    return result.view(ranks.size, *x.shape)


def summed(x: Tensor, ranks: Ranks) -> Tensor:
    """The sum over the ranks, without a gradient."""
    operators = torch.ops._c10d_functional
    return operators.wait_tensor(operators.all_reduce(x.detach().contiguous(), "sum", ranks.name))


class GatherProblem(NamedTuple):
    """The rows of all ranks, as many of each; the gradient is summed over the ranks."""

    ranks: Ranks
    wanted: tuple[int, ...]
    outputs: int = 1
    differentiable: tuple[int, ...] = (0,)
    early: bool = False
    reduced: bool = False

    def forward(self, namespace: str, tensors: Sequence[Tensor], early: bool) -> tuple[tuple[Tensor], Gradients]:
        return (gathered(tensors[0], self.ranks).flatten(0, 1),), ()

    def gradients(
        self, namespace: str, tensors: Sequence[Tensor], state: Sequence[Tensor], upstream: Tensor
    ) -> Gradients:
        operators = torch.ops._c10d_functional
        sent = upstream.contiguous()
        return (operators.wait_tensor(operators.reduce_scatter_tensor(sent, "sum", self.ranks.size, self.ranks.name)),)

    def reference(self, tensors: Sequence[Tensor]) -> Tensor:
        raise NotImplementedError("all_gather_with_grad has no second derivative")


def all_gather_with_grad(
    x: Tensor,
    group: dist.ProcessGroup | None = None,
    *,
    grad: str = "sum",
    sizes: Sequence[int] | None = None,
) -> Tensor:
    r"""The rows of all ranks, in the order of the ranks, with a gradient.

    Args:
        x: this rank's rows.
        group: the process group; None: the default one.
        grad: ``"sum"``: a row's gradient is the sum over the ranks of what each did with it, which takes a
            reduce-scatter in backward: that of the sum of the ranks' losses. ``"local"``: only what its own rank did
            with it, without a collective in backward: the other ranks' rows are constants.
        sizes: the number of rows of each rank, where they differ. None: all have as many as this one.

    Shape:
        - x: (n, ...), of which only n may differ between the ranks
        - output: (N, ...), N the sum over the ranks

    Returns:
        The rows, in the dtype of ``x``. Ranks with fewer rows than the largest send zeros for those that they lack.

    Raises:
        ValueError: an unknown ``grad``, or ``sizes`` that do not fit; NotImplementedError: from a second backward
        through the summed gradient.
    """
    if grad not in ("sum", "local"):
        raise ValueError(f"{grad!r} is not a valid value for grad; choose sum or local")
    ranks = Ranks.of(group)
    if sizes is not None and (len(sizes) != ranks.size or sizes[ranks.rank] != x.shape[0]):
        raise ValueError(f"sizes {tuple(sizes)} are not those of {ranks.size} ranks, of which this has {x.shape[0]}")
    if ranks.size == 1:
        return x
    sizes = [x.shape[0]] * ranks.size if sizes is None else sizes
    even = len(set(sizes)) == 1
    sent = x if even else torch.cat([x, x.new_zeros(max(sizes) - x.shape[0], *x.shape[1:])])
    if grad == "local":
        blocks = list(gathered(sent, ranks).unbind())
        blocks[ranks.rank] = sent
    else:
        together = differentiate(GatherProblem(ranks, (0,) if gradient_wanted(sent) else ()), "", (sent,))
        if even:
            return together
        blocks = list(together.unflatten(0, (ranks.size, -1)).unbind())
    return torch.cat([block[:size] for block, size in zip(blocks, sizes, strict=True)])
