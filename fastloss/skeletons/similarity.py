"""Losses over all pairs of two sets of vectors: from what a loss says of itself to the operators.

What a loss compares is described by the classes of :mod:`fastloss.skeletons.comparisons`, whose references build the
matrix of all similarities; `fused` computes the same with O((N + M) D) memory. All that is linear in the similarities -
the mean over several positives, label smoothing - needs no pairs at all: sum_j t_ij z_ij = s <q_i, sum_j t_ij k_j>. So
the operators know one target a row, and the rest is added here, in differentiable torch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fastloss.core.arguments import (
    DEVICES,
    SMALL_ON_CPU,
    Empty,
    Invalid,
    Refused,
    Signature,
    autocast_applies,
    differentiation_refused,
)
from fastloss.core.autograd import Gradients, differentiate, gradient_wanted
from fastloss.core.dtypes import in_float32
from fastloss.operators.similarity import DIFFERENTIABLE
from fastloss.skeletons.comparisons import (
    IGNORED,
    SigmoidComparison,
    SoftmaxComparison,
    TwoWayComparison,
    denominator,
)
from fastloss.skeletons.similarity_oracles import ORACLES
from fastloss.skeletons.triplets import SemiHardTriplets, batch_hard
from fastloss.tiles.similarity import row_dots

_SMALL = Refused(f"up to {SMALL_ON_CPU} pairs on a CPU, torch's own kernels are quicker than the way to ours")


class _Positives(NamedTuple):
    """The positive keys of every query, by label."""

    anchor: Tensor  # (N,), one of them; IGNORED where there is none
    other: Tensor  # (N,), a key with another label; IGNORED where there is none
    mean: Tensor  # (N, D), of the positive keys; 0 where there is none


def _positives(labels: Tensor, key_labels: Tensor, key: Tensor, exclude_self: bool) -> _Positives:
    """By sorting: O(M log M), shapes that do not depend on the labels, deterministic.

    Sums over a class are differences of sums over a prefix: in float64, where that costs no digits of a float32.
    """
    size = key_labels.shape[0]
    rows = torch.arange(labels.shape[0], device=key.device)
    ordered, order = torch.sort(key_labels, stable=True)
    first, last = (torch.searchsorted(ordered, labels, right=right) for right in (False, True))
    same = last - first
    prefix = torch.cat([key.new_zeros(1, key.shape[1], dtype=torch.float64), key[order].cumsum(0, dtype=torch.float64)])
    total = prefix[last] - prefix[first]
    if exclude_self:
        count, total = same - 1, total - key
        number = order.argsort() - first + 1  # the next one of its class
    else:
        count, number = same, rows
    # Different ones for different rows: what a row adds to the gradient of its anchor is taken out again afterwards,
    # with the rounding of all that was added there.
    anchor = order[(first + number % same.clamp(min=1)).clamp(max=size - 1)]
    other = order[(last + rows % (size - same).clamp(min=1)) % size]
    mean = (total / count.clamp(min=1)[:, None]).to(key.dtype)
    found = count > 0
    return _Positives(
        torch.where(found, anchor, IGNORED),
        torch.where(same < size, other, IGNORED),
        torch.where(found[:, None], mean, 0),
    )


class SimilarityProblem(NamedTuple):
    """An operator over pairs of vectors without its tensors."""

    operator: str
    places: tuple[int, ...]  # of the operator's arguments among the tensors; -1: it is no tensor
    scalars: tuple[Any, ...]  # the arguments that are no tensors
    wanted: tuple[int, ...]
    wanted_arguments: int
    reduced: bool
    early: bool

    @property
    def outputs(self) -> int:
        return 1

    @property
    def differentiable(self) -> tuple[int, ...]:
        return self.wanted

    def forward(self, namespace: str, tensors: Sequence[Tensor], early: bool) -> tuple[tuple[Tensor], Gradients]:
        wanted = self.wanted_arguments if early else 0
        loss, gradients = self._run(namespace, tensors, None, wanted)
        return (loss.sum() if self.reduced and not wanted else loss,), gradients

    def gradients(
        self, namespace: str, tensors: Sequence[Tensor], state: Sequence[Tensor], upstream: Tensor
    ) -> Gradients:
        rows = upstream.expand(tensors[0].shape[:1]).contiguous()
        return self._run(namespace, tensors, rows, self.wanted_arguments)[1]

    def reference(self, tensors: Sequence[Tensor]) -> Tensor:
        losses = ORACLES[self.operator](*self._arguments(tensors))
        return losses.sum() if self.reduced else losses

    def _run(self, namespace: str, tensors: Sequence[Tensor], upstream: Tensor | None, wanted: int) -> Any:
        return getattr(getattr(torch.ops, namespace), self.operator)(*self._arguments(tensors), upstream, wanted)

    def _arguments(self, tensors: Sequence[Tensor]) -> list[Any]:
        return [
            scalar if place < 0 else tensors[place] for place, scalar in zip(self.places, self.scalars, strict=True)
        ]


def similarity_losses(operator: str, namespace: str, arguments: tuple[Any, ...], reduced: bool) -> Tensor:
    """The losses (N,) or, if `reduced`, their sum, by an operator; `arguments`: its own, up to ``upstream``."""
    tensors = [x for x in arguments if isinstance(x, Tensor)]
    places: list[int] = []
    wanted, wanted_arguments = [], 0
    for k, argument in enumerate(arguments):
        places.append(sum(p >= 0 for p in places) if isinstance(argument, Tensor) else -1)
        if places[k] >= 0 and k in DIFFERENTIABLE[operator] and gradient_wanted(argument):
            wanted.append(places[k])
            wanted_arguments |= 1 << k
    scalars = tuple(None if isinstance(x, Tensor) else x for x in arguments)
    early = reduced and bool(wanted)
    problem = SimilarityProblem(operator, tuple(places), scalars, tuple(wanted), wanted_arguments, reduced, early)
    return differentiate(problem, namespace, tensors)


def _fused_softmax(p: SoftmaxComparison, namespace: str, reduction: str) -> Tensor:
    size, columns = p.query.shape[0], p.key.shape[0] + (p.own is not None)
    dropped = labels = key_labels = None
    linear: Tensor | None = None  # (N,), what the losses of the operator lack
    if p.labels is None:
        assert p.target is not None
        target = p.target
        positive = None
        if p.decoupled or p.label_smoothing:
            positive = p.own
            if positive is None:
                positive = p.key[target.clamp(min=0)]
    else:
        found = _positives(*p.labels, p.key, p.exclude_self)
        target, positive = found.anchor, found.mean
    counted = target != IGNORED
    if p.decoupled:
        if p.labels is None:
            dropped = target.clamp(min=0)
            if columns < 2 + p.exclude_self:
                counted = torch.zeros_like(counted)
            # another one for every row: what it adds to the key's gradient, and the linear part takes out again, has
            # the rounding of its own sum
            rows = torch.arange(size, device=target.device)
            anchor = (target + 1) % columns if p.own is None else rows % p.key.shape[0]
            if p.exclude_self:
                anchor = torch.where(anchor == rows, (target + 2) % columns, anchor)
        else:
            (labels, key_labels), anchor = p.labels, found.other
            counted = counted & (anchor != IGNORED)
        target = torch.where(counted, anchor, IGNORED)
    if positive is not None:
        place = target.clamp(min=0)
        anchors = p.key[place.clamp(max=p.key.shape[0] - 1)]
        if p.own is not None:
            anchors = torch.where((place == p.key.shape[0])[:, None], p.own, anchors)
        wanted = positive
        if p.label_smoothing:
            total, allowed = p.key.sum(0), columns
            if p.own is not None:
                total = total + p.own
            if p.exclude_self:
                total, allowed = total - p.query, columns - 1
            wanted = torch.lerp(positive, (total / max(1, allowed)).expand_as(positive), p.label_smoothing)
        linear = p.scale * row_dots(p.query, anchors - wanted)
    key: Tensor | None = p.key
    if p.exclude_self:
        key = key_labels = None  # the operator, and Dynamo (2.13), want one tensor once
    arguments = (p.query, key, p.own, p.scale, target, dropped, labels, key_labels)
    if linear is not None:
        linear = linear.where(counted, 0)
    losses = similarity_losses("similarity_softmax", namespace, arguments, reduction != "none")
    if linear is not None:
        losses = losses + (linear if reduction == "none" else linear.sum())
    return losses / denominator(size, counted) if reduction == "mean" else losses


def _fused_two_way(p: TwoWayComparison, namespace: str, reduction: str) -> Tensor:
    losses = similarity_losses("similarity_two_way", namespace, (p.query, p.key, p.scale), reduction != "none")
    if p.label_smoothing:
        own = row_dots(p.query, p.key)
        others = ((p.query @ p.key.mean(0)) + (p.key @ p.query.mean(0))) / 2
        linear = p.label_smoothing * p.scale * (own - others)
        losses = losses + (linear if reduction == "none" else linear.sum())
    return losses / p.query.shape[0] if reduction == "mean" else losses


def _fused_sigmoid(p: SigmoidComparison, namespace: str, reduction: str) -> Tensor:
    arguments = (p.query, p.key, p.scale, p.bias)
    losses = similarity_losses("similarity_sigmoid", namespace, arguments, reduction != "none")
    return losses / p.query.shape[0] if reduction == "mean" else losses


def _fused_semi_hard(p: SemiHardTriplets, namespace: str, reduction: str) -> Tensor:
    arguments = (p.vectors, p.labels, p.margin, p.squared)
    losses = similarity_losses("similarity_semi_hard", namespace, arguments, reduction != "none")
    return losses / p.pairs().clamp(min=1) if reduction == "mean" else losses


def _fused_hardest(p: Any, namespace: str, reduction: str) -> Tensor:
    positive, negative = getattr(torch.ops, namespace).hardest_pairs(p.vectors.detach(), p.labels)
    return batch_hard(p, positive, negative, reduction)


_FUSED: dict[str, Callable[..., Tensor]] = {
    "SoftmaxComparison": _fused_softmax,
    "TwoWayComparison": _fused_two_way,
    "SigmoidComparison": _fused_sigmoid,
    "SemiHardTriplets": _fused_semi_hard,
    "HardestTriplets": _fused_hardest,
}


class SimilarityCall(NamedTuple):
    """A call of such a loss: what is compared, and what is to be made of the losses."""

    compared: Any
    reduction: str
    dtype: torch.dtype  # of the returned loss

    @property
    def device_type(self) -> str:
        return self.compared[0].device.type

    def run(self, namespace: str) -> Tensor:
        with torch.autocast(self.device_type, enabled=False):
            loss = _FUSED[type(self.compared).__name__](self.compared, namespace, self.reduction)
        return loss if loss.dtype == self.dtype else loss.to(self.dtype)


class Similarity:
    """What :func:`fastloss.core.dispatch.fused` has to know of a loss over all pairs.

    Args:
        describe: from the arguments of the loss, without ``reduction`` and by name, what it compares, with tensors in
            float32 or float64; raises for arguments that make no sense.
        vectors: name of the first argument.
    """

    def __init__(self, describe: Callable[..., Any], vectors: str) -> None:
        self.describe, self.vectors = describe, vectors

    def attach(self, reference: Callable[..., Any]) -> None:
        self.signature = Signature(reference, {})

    def lower(self, args: tuple[Any, ...], kwargs: dict[str, Any], *, automatic: bool) -> SimilarityCall | Refused:
        """`automatic`: the caller did not choose a backend, so torch may have the calls at which it is quicker."""
        bound = self.signature.bind(args, kwargs)
        if bound is None:
            return Invalid("the arguments do not match the signature")
        first = bound.get(self.vectors)
        if not isinstance(first, Tensor):
            return Invalid(f"{self.vectors} is not a tensor")
        if not first.is_floating_point() or first.layout != torch.strided:
            return Invalid(f"no kernels for {first.dtype} of the layout {first.layout}")
        if first.device.type not in DEVICES:
            return Refused(f"no kernels for {first.device.type} tensors")
        reason = differentiation_refused()
        if reason is not None:
            return reason
        arguments = {**self.signature.defaults, **bound}
        reduction = arguments.pop("reduction")
        narrow = autocast_applies(first)
        try:
            with torch.autocast(first.device.type, enabled=False):
                compared = self.describe(**arguments)
        except TypeError as error:
            return Invalid(str(error))
        if reduction not in ("none", "mean", "sum"):
            return Invalid(f"no reduction {reduction!r}")
        tensors = [x for x in compared if isinstance(x, Tensor)]
        if any(x.device != first.device for x in tensors):
            return Invalid("the arguments are on different devices")
        if any(0 in x.shape for x in tensors):
            return Empty()
        number = compared[0].shape[0] * (compared[1].shape[0] if compared[1].dim() > 1 else compared[0].shape[0])
        if automatic and first.is_cpu and number <= SMALL_ON_CPU:
            return _SMALL
        return SimilarityCall(compared, reduction, torch.float32 if narrow else first.dtype)

    def answer(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """What the reference body answers; under autocast in float32."""
        first = args[0] if args else kwargs.get(self.vectors)
        if not (isinstance(first, Tensor) and autocast_applies(first)):
            return self.signature.reference(*args, **kwargs)
        with torch.autocast(first.device.type, enabled=False):
            args = tuple(in_float32(x) for x in args)
            return self.signature.reference(*args, **{name: in_float32(x) for name, x in kwargs.items()})
