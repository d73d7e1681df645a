"""Sums over many parameters at once, by torch's operations on lists of tensors: few launches for a whole model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fastloss.core.arguments import differentiation_refused, leaves
from fastloss.core.autograd import Gradients, differentiate, gradient_wanted, pure

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


def _wide(tensors: Sequence[Tensor]) -> list[Tensor]:
    return [x.float() if x.dtype.itemsize == 2 else x for x in tensors]


def _added(numbers: Sequence[Tensor]) -> Tensor:
    """The sum of 0-d tensors, in float64 if one is, on the first one's device."""
    device, dtypes = numbers[0].device, {x.dtype for x in numbers}
    if len(dtypes) > 1 or any(x.device != device for x in numbers):
        dtype = torch.float64 if torch.float64 in dtypes else torch.float32
        numbers = [x.to(device, dtype) for x in numbers]
    return torch.stack(list(numbers)).sum()


def _scaled(tensors: list[Tensor], factor: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
    """Products with a 0-d tensor in float32 at least, in the dtypes of other tensors."""
    devices = {x.device for x in tensors}
    products: Sequence[Tensor]
    if len(devices) == 1:
        products = torch._foreach_mul(tensors, factor.to(next(iter(devices))))
    else:
        products = [x * factor.to(x.device) for x in tensors]
    return [x if x.dtype == y.dtype else x.to(y.dtype) for x, y in zip(products, like, strict=True)]


class PowerSum(NamedTuple):
    """sum |x|^order over all tensors, for the order 1 or 2."""

    order: int
    wanted: tuple[int, ...]
    early: bool = False
    outputs: int = 1
    reduced: bool = True

    @property
    def differentiable(self) -> tuple[int, ...]:
        return self.wanted

    def forward(self, namespace: str, tensors: Sequence[Tensor], early: bool) -> tuple[tuple[Tensor], Gradients]:
        sums = torch._foreach_norm(_wide(tensors), self.order)
        return (_added(torch._foreach_mul(sums, sums) if self.order == 2 else sums),), ()

    def gradients(
        self, namespace: str, tensors: Sequence[Tensor], state: Sequence[Tensor], upstream: Tensor
    ) -> Gradients:
        of = [tensors[place] for place in self.wanted]
        if self.order == 1:
            return _scaled(list(torch._foreach_sign(_wide(of))), upstream, of)
        return _scaled(_wide(of), 2 * upstream, of)

    def reference(self, tensors: Sequence[Tensor]) -> Tensor:
        return _added([(x.abs() if self.order == 1 else x.square()).sum() for x in _wide(tensors)])


class WeightedSquares(NamedTuple):
    """sum w (x - a)^2 over all x; the tensors are all x, then all a, then all w, and x alone is differentiated."""

    wanted: tuple[int, ...]
    early: bool = False
    outputs: int = 1
    reduced: bool = True

    @property
    def differentiable(self) -> tuple[int, ...]:
        return self.wanted

    def _parts(self, tensors: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        count = len(tensors) // 3
        wide = _wide(tensors)
        return wide[:count], wide[count : 2 * count], wide[2 * count :]

    def forward(self, namespace: str, tensors: Sequence[Tensor], early: bool) -> tuple[tuple[Tensor], Gradients]:
        x, anchors, weights = self._parts(tensors)
        differences = torch._foreach_sub(x, anchors)
        pulls = torch._foreach_mul(differences, weights)
        products = torch._foreach_mul(pulls, differences)
        return (_added([p.sum() for p in products]),), ()

    def gradients(
        self, namespace: str, tensors: Sequence[Tensor], state: Sequence[Tensor], upstream: Tensor
    ) -> Gradients:
        x, anchors, weights = ([part[place] for place in self.wanted] for part in self._parts(tensors))
        pulls = torch._foreach_mul(torch._foreach_sub(x, anchors), weights)
        return _scaled(list(pulls), 2 * upstream, [tensors[place] for place in self.wanted])

    def reference(self, tensors: Sequence[Tensor]) -> Tensor:
        x, anchors, weights = self._parts(tensors)
        return _added([(w * (p - a).square()).sum() for p, a, w in zip(x, anchors, weights, strict=True)])


def _summed(problem: Any, tensors: list[Tensor]) -> Tensor:
    if pure() or leaves() or differentiation_refused():  # torch.func has no rules for operations on lists
        return problem.reference(tensors)
    return differentiate(problem, "", tensors)  # torch's own operators


def power_sum(tensors: list[Tensor], order: int) -> Tensor:
    """sum |x|^order, 0-d, in float32 at least; the gradient of |x| at 0 is 0."""
    if not tensors:
        return torch.zeros(())
    return _summed(PowerSum(order, tuple(k for k, x in enumerate(tensors) if gradient_wanted(x))), tensors)


def weighted_squares(tensors: list[Tensor], anchors: list[Tensor], weights: list[Tensor]) -> Tensor:
    """sum w (x - a)^2, 0-d, in float32 at least; a and w are constants."""
    if not tensors:
        return torch.zeros(())
    wanted = tuple(k for k, x in enumerate(tensors) if gradient_wanted(x))
    return _summed(WeightedSquares(wanted), [*tensors, *(x.detach() for x in (*anchors, *weights))])
