"""Sums over many parameters at once, by torch's operations on lists of tensors: few launches for a whole model."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fastloss.core.arguments import differentiation_refused, leaves
from fastloss.core.autograd import Gradients, differentiate, pure
from fastloss.core.input_gradients import norms

Tensors = list[Tensor] | tuple[Tensor, ...]  # what torch's operations on lists take
Parameters = Any  # a tensor, a Module, a mapping of names to tensors, or an iterable of tensors or of (name, tensor)


def collected(parameters: Parameters, biases: bool = True) -> list[Tensor]:
    """The floating-point tensors; with `biases` False without those whose name, where they have one, ends in "bias"."""
    if isinstance(parameters, Tensor):
        return [parameters]
    if isinstance(parameters, torch.nn.Module):
        parameters = parameters.named_parameters()
    entries: Iterable[Any] = parameters.items() if isinstance(parameters, Mapping) else parameters
    found = []
    for entry in entries:
        name, tensor = ("", entry) if isinstance(entry, Tensor) else entry
        if tensor.is_floating_point() and (biases or not name.endswith("bias")):
            found.append(tensor)
    return found


def alike(parameters: Parameters, **others: Parameters) -> list[list[Tensor]]:
    """The parameters, and lists that have a tensor of the same shape for each.

    Raises:
        ValueError: if one has not.
    """
    lists = [collected(parameters)]
    for name, other in others.items():
        lists.append(collected(other))
        if [x.shape for x in lists[-1]] != [x.shape for x in lists[0]]:
            raise ValueError(f"{name} must have a tensor for each parameter, of its shape")
    return lists


def _at(tensors: Tensors, places: Sequence[int]) -> Tensors:
    return tensors if len(places) == len(tensors) else [tensors[place] for place in places]


def _wide(tensors: Tensors) -> Tensors:
    narrow = any(x.dtype.itemsize == 2 for x in tensors)
    return [x.float() if x.dtype.itemsize == 2 else x for x in tensors] if narrow else tensors


def _added(numbers: Tensors) -> Tensor:
    """The sum of 0-d tensors, in float64 if one is, on the first one's device."""
    device, dtypes = numbers[0].device, {x.dtype for x in numbers}
    if len(dtypes) > 1 or any(x.device != device for x in numbers):
        dtype = torch.float64 if torch.float64 in dtypes else torch.float32
        numbers = [x.to(device, dtype) for x in numbers]
    return torch.stack(list(numbers)).sum()


BLOCK = 1 << 16  # elements: on a CPU, a block and what is made of it stay in a core's cache


def _groups(*lists: Tensors, by: Callable[[Tensor], object] | None = None) -> list[Sequence[int]]:
    """Places of the tensors of one device and dtype, in all lists, and of one `by`, which operations take at once."""
    groups: dict[object, list[int]] = {}
    if by is None and len({x.device for x in lists[0]}) == 1 and all(len({x.dtype for x in xs}) == 1 for xs in lists):
        return [range(len(lists[0]))]
    for k, some in enumerate(zip(*lists, strict=True)):
        kind = some[0].device, *[x.dtype for x in some], by(some[0]) if by else None
        groups.setdefault(kind, []).append(k)
    return list(groups.values())


def _blocks(tensors: Tensors) -> Iterator[slice]:
    """Places of neighbours: on a CPU of BLOCK elements or, where one is large, more; else of all."""
    start = size = 0
    for k, count in enumerate([x.numel() for x in tensors] if tensors[0].is_cpu else ()):
        size += count
        if size >= BLOCK:
            yield slice(start, k + 1)
            start, size = k + 1, 0
    if start < len(tensors):
        yield slice(start, len(tensors))


def _vectors(*lists: Tensors) -> Iterator[Tensors]:
    """The numbers of lists of like shapes on a CPU, in float32 at least: a vector of each list at a time, of a block.

    Small tensors are copied together, because a call for each takes longer than their numbers; what is large is not.
    """
    small: list[int] = []
    size = 0
    for k, first in enumerate(lists[0]):
        count = first.numel()
        if count < BLOCK // 4:
            small.append(k)
            size += count
        elif count <= BLOCK:
            yield _wide([xs[k].reshape(-1) for xs in lists])
        else:
            yield from map(_wide, zip(*[xs[k].reshape(-1).split(BLOCK) for xs in lists], strict=True))
        if size >= BLOCK or (small and k == len(lists[0]) - 1):
            yield _wide([torch._utils._flatten_dense_tensors(_at(xs, small)) for xs in lists])
            small, size = [], 0


def _few(tensors: Tensors) -> Tensors:
    """The same numbers, on a CPU with the small tensors in one."""
    small = [x for x in tensors if x.is_cpu and x.numel() < BLOCK // 16]
    if len(small) < 2:
        return tensors
    return [*(x for x in tensors if x.numel() >= BLOCK // 16), torch._utils._flatten_dense_tensors(small)]


def _slopes(lists: Sequence[Tensors], slopes: Callable[..., Tensors]) -> list[Tensor]:
    """What `slopes` makes of parts of the lists, in float32 at least, in the places and dtypes of the first one."""
    found = list(lists[0])
    for group in _groups(*lists):
        some = [_at(xs, group) for xs in lists]
        made: list[Tensor] = []
        for block in _blocks(some[0]):
            made += slopes(*[_wide(xs[block]) for xs in some])
        for place, slope in zip(group, made, strict=True):
            dtype = found[place].dtype
            found[place] = slope if slope.dtype is dtype else slope.to(dtype)
    return found


class PowerSum(NamedTuple):
    """l1 sum |x| + l2 sum x^2 over all tensors."""

    l1: float
    l2: float
    wanted: tuple[int, ...]
    early: bool = False
    outputs: int = 1
    reduced: bool = True

    @property
    def differentiable(self) -> tuple[int, ...]:
        return self.wanted

    def forward(self, namespace: str, tensors: Tensors, early: bool) -> tuple[tuple[Tensor], Gradients]:
        sizes: list[Tensor] = []
        squares: list[Tensor] = []
        for group in _groups(tensors):
            some = _at(tensors, group)
            if some[0].is_cpu and self.l1:  # torch's norm of order 1 takes three times as long on a CPU
                for (x,) in _vectors(some):
                    sizes.append(x.abs().sum())
                    if self.l2:
                        squares.append(torch.dot(x, x))
                continue
            few = _wide(_few(some))
            if self.l1:
                sizes.append(torch.stack(torch._foreach_norm(few, 1)).sum())
            if self.l2:
                roots = torch.stack(torch._foreach_norm(few, 2))
                squares.append(torch.dot(roots, roots))
        parts = [factor * _added(sums) for factor, sums in ((self.l1, sizes), (self.l2, squares)) if sums]
        return (_added(parts) if parts else _wide(tensors)[0].new_zeros(()),), ()

    def gradients(self, namespace: str, tensors: Tensors, state: Sequence[Tensor], upstream: Tensor) -> Gradients:
        def slopes(x: Tensors) -> Tensors:
            factor = upstream.to(x[0].device)
            if not self.l1:
                return torch._foreach_mul(x, 2 * self.l2 * factor)
            signs = torch._foreach_sign(x)
            if not self.l2:
                torch._foreach_mul_(signs, self.l1 * factor)
                return signs
            if self.l1 != 1:
                torch._foreach_mul_(signs, self.l1)
            torch._foreach_add_(signs, x, alpha=2 * self.l2)
            torch._foreach_mul_(signs, factor)
            return signs

        return _slopes([_at(tensors, self.wanted)], slopes)

    def reference(self, tensors: Tensors) -> Tensor:
        sums = []
        for x in _wide(tensors):
            if self.l1:
                sums.append(self.l1 * x.abs().sum())
            if self.l2 or not self.l1:
                sums.append(self.l2 * x.square().sum())
        return _added(sums)


class WeightedSquares(NamedTuple):
    """sum w (x - a)^2 over all x; the tensors are all x, then all a, then all w, and x alone is differentiated."""

    wanted: tuple[int, ...]
    early: bool = False
    outputs: int = 1
    reduced: bool = True

    @property
    def differentiable(self) -> tuple[int, ...]:
        return self.wanted

    def forward(self, namespace: str, tensors: Tensors, early: bool) -> tuple[tuple[Tensor], Gradients]:
        lists, sums = self._lists(tensors), []
        for group in _groups(*lists):
            some = [_at(xs, group) for xs in lists]
            if some[0][0].is_cpu:
                for x, anchor, weight in _vectors(*some):
                    moved = x - anchor
                    pull = moved * weight
                    sums.append(torch.dot(pull, moved.to(pull.dtype)))
            else:
                every, anchors, weights = (_wide(xs) for xs in some)
                moves = torch._foreach_sub(every, anchors)
                products = torch._foreach_mul(torch._foreach_mul(moves, weights), moves)
                sums.append(torch._utils._flatten_dense_tensors(products).sum())
        return (_added(sums),), ()

    def gradients(self, namespace: str, tensors: Tensors, state: Sequence[Tensor], upstream: Tensor) -> Gradients:
        def slopes(x: Tensors, anchors: Tensors, weights: Tensors) -> Tensors:
            pulls = torch._foreach_mul(torch._foreach_sub(x, anchors), weights)
            torch._foreach_mul_(pulls, 2 * upstream.to(x[0].device))
            return pulls

        return _slopes([_at(xs, self.wanted) for xs in self._lists(tensors)], slopes)

    def _lists(self, tensors: Tensors) -> list[Tensors]:
        count = len(tensors) // 3
        return [tensors[:count], tensors[count : 2 * count], tensors[2 * count :]]

    def reference(self, tensors: Tensors) -> Tensor:
        x, anchors, weights = (_wide(xs) for xs in self._lists(tensors))
        return _added([(w * (p - a).square()).sum() for p, a, w in zip(x, anchors, weights, strict=True)])


def _rows(x: Tensor) -> Tensor:
    """(groups, members): the entries of the first dimension; what has one dimension consists of groups of one."""
    if x.dim() == 2:
        return x
    return x.reshape(-1, 1) if x.dim() < 2 else x.flatten(1)


class GroupNorms(NamedTuple):
    """The sum of the norms of all rows, each times the root of its length if `sizes`."""

    sizes: bool
    wanted: tuple[int, ...]
    early: bool = False
    outputs: int = 1
    reduced: bool = True

    @property
    def differentiable(self) -> tuple[int, ...]:
        return self.wanted

    def _weight(self, rows: Tensor) -> float:
        return math.sqrt(rows.shape[1]) if self.sizes else 1.0

    def forward(self, namespace: str, tensors: Tensors, early: bool) -> tuple[tuple[Tensor], Gradients]:
        """The state: the norms of all tensors of one device, dtype and length of a row."""
        matrices, sums, state = [_rows(x) for x in tensors], [], []
        for group in _groups(matrices, by=_width):
            some = _at(matrices, group)
            lengths = [torch.linalg.vector_norm(*_wide([torch.cat(some[block])]), dim=1) for block in _blocks(some)]
            state.append(torch.cat(lengths))
            sums.append(self._weight(some[0]) * state[-1].sum())
        return (_added(sums),), state

    def gradients(self, namespace: str, tensors: Tensors, state: Sequence[Tensor], upstream: Tensor) -> Gradients:
        matrices = [_rows(x) for x in tensors]
        found: list[Tensor] = list(tensors)
        for group, lengths in zip(_groups(matrices, by=_width), state, strict=True):
            some = _at(matrices, group)
            factors = torch.where(lengths == 0, 0, self._weight(some[0]) * upstream.to(lengths.device) / lengths)
            pulls = torch._foreach_mul(_wide(some), factors[:, None].split([x.shape[0] for x in some]))
            for place, pull in zip(group, pulls, strict=True):
                x = tensors[place]
                found[place] = (pull if pull.shape == x.shape else pull.reshape(x.shape)).to(x.dtype)
        return _at(found, self.wanted)

    def reference(self, tensors: Tensors) -> Tensor:
        return _added([self._weight(x) * norms(x).sum() for x in map(_rows, _wide(tensors))])


def _width(rows: Tensor) -> int:
    return rows.shape[1]


def _summed(problem: Callable[[tuple[int, ...]], Any], tensors: list[Tensor], constants: Tensors = ()) -> Tensor:
    """The problem of those places whose gradients are wanted, with constants behind the tensors; 0 of no tensors."""
    if not tensors:
        return torch.zeros(())
    together = [*tensors, *(x.detach() for x in constants)]
    if pure() or leaves() or differentiation_refused():  # torch.func has no rules for operations on lists
        return problem(()).reference(together)
    wanted = tuple(k for k, x in enumerate(tensors) if x.requires_grad) if torch.is_grad_enabled() else ()
    return differentiate(problem(wanted), "", together)  # torch's own operators


def power_sum(tensors: list[Tensor], l1: float, l2: float) -> Tensor:
    """l1 sum |x| + l2 sum x^2, 0-d, in float32 at least; the gradient of |x| at 0 is 0."""
    return _summed(lambda wanted: PowerSum(l1, l2, wanted), tensors)


def weighted_squares(tensors: list[Tensor], anchors: list[Tensor], weights: list[Tensor]) -> Tensor:
    """sum w (x - a)^2, 0-d, in float32 at least; a and w are constants."""
    return _summed(WeightedSquares, tensors, (*anchors, *weights))


def group_norms(tensors: list[Tensor], sizes: bool) -> Tensor:
    """The sum of the norms of the entries of first dimensions, 0-d, in float32 at least; the gradient at 0 is 0."""
    return _summed(lambda wanted: GroupNorms(sizes, wanted), tensors)
