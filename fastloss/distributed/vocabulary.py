"""Cross-entropy over a vocabulary of which every rank holds a slice of the classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from fastloss.core.arguments import Refused, accumulator_dtype, autocast_applies, check_range
from fastloss.core.autograd import Gradients, differentiate, gradient_wanted
from fastloss.core.dispatch import by_operators, namespace_for
from fastloss.core.registry import LOSSES
from fastloss.distributed import whole_rows
from fastloss.distributed.collectives import Ranks, gathered
from fastloss.operators.row import LINEAR, LOG_SUM, MASS, MAX, REDUCTIONS, TARGET, WEIGHT, row_layout

_LOSS = "cross_entropy"


class VocabularyProblem(NamedTuple):
    """A call without its tensors: this rank's logits, the target, and this rank's class weights where there are any.

    Its first output is that of ``row_outputs``; a second one (3, rows) has lse, class weight and whether the target is
    the largest.
    """

    loss: str  # the kernels', and their parameters
    parameters: tuple[float, ...]
    ignore_index: int
    first_class: int
    classes: int  # of all ranks
    sent: tuple[int, ...]  # the statistics that not every rank knows, or has 0 of
    ranks: Ranks
    wanted: tuple[int, ...]
    outputs: int = 1
    differentiable: tuple[int, ...] = (0,)
    early: bool = False
    reduced: bool = False

    def forward(self, namespace: str, tensors: Sequence[Tensor], early: bool) -> tuple[tuple[Tensor, ...], Gradients]:
        logits, target, weight = self._operands(tensors)
        if not namespace:
            return self._by_reference(logits, target, weight)
        steps = getattr(torch.ops, namespace)
        statistics = steps.row_statistics(logits, None, target, weight, *self._how, self.first_class, self.classes)
        if self.ranks.size > 1 and logits.shape[0]:
            statistics = self._merged(steps, statistics, target)
        losses = steps.row_outputs(statistics, target, *self._how, self.classes)
        if self.outputs == 1:
            return (losses,), (statistics,)
        lse = statistics[MAX] + statistics[LOG_SUM]
        found = statistics[TARGET] == statistics[MAX]
        if not target.is_floating_point():
            counted = target != self.ignore_index
            lse, found = lse.masked_fill(~counted, 0), found & counted
        return (losses, torch.stack([lse, statistics[WEIGHT], found.to(lse.dtype)])), (statistics,)

    def _merged(self, steps: Any, own: Tensor, target: Tensor) -> Tensor:
        """The statistics of whole rows, (k, rows), from those of this rank."""
        sent = list(self.sent)
        arrived = gathered(own if len(sent) == len(own) else own[sent], self.ranks)
        if len(sent) < len(own):
            slices = own.new_zeros(self.ranks.size, *own.shape)
            slices[:, sent] = arrived
            arrived = slices
        merged = steps.row_merge(arrived, self.loss, self.parameters)
        if WEIGHT not in sent:
            merged[WEIGHT] = 1 if target.is_floating_point() else (target != self.ignore_index).to(own.dtype)
        return merged

    def gradients(
        self, namespace: str, tensors: Sequence[Tensor], state: Sequence[Tensor], upstream: Tensor
    ) -> Gradients:
        logits, target, weight = self._operands(tensors)
        if 0 in logits.shape:
            return (torch.empty_like(logits),)
        if not namespace:
            return self._gradient_by_reference(logits, state, upstream)
        operands = (upstream.contiguous(), *state, logits, None, target, weight)
        return (getattr(torch.ops, namespace).row_gradient(*operands, *self._how, self.first_class, self.classes),)

    def reference(self, tensors: Sequence[Tensor]) -> Tensor:
        raise NotImplementedError(
            "what is shared out over ranks has no second derivative: it would take collectives in the second backward"
        )

    @property
    def _how(self) -> tuple[str, tuple[float, ...], int]:
        return self.loss, self.parameters, self.ignore_index

    def _by_reference(
        self, logits: Tensor, target: Tensor, weight: Tensor | None
    ) -> tuple[tuple[Tensor, ...], Gradients]:
        where = (self.first_class, self.classes, self.ranks)
        state = [whole_rows.whole(logits, *where)]
        state.append(whole_rows.whole(target, *where) if target.is_floating_point() else target)
        if weight is not None:
            state.append(whole_rows.whole(weight, *where))
        return self._of_whole_rows(*state), state

    def _of_whole_rows(self, logits: Tensor, target: Tensor, weight: Tensor | None = None) -> tuple[Tensor, ...]:
        return whole_rows.outputs(self.loss, self.parameters, self.ignore_index, logits, target, weight)

    def _gradient_by_reference(self, own: Tensor, state: Sequence[Tensor], upstream: Tensor) -> Gradients:
        logits, *rest = state

        def of_own(own: Tensor) -> Tensor:
            end = self.first_class + own.shape[1]
            return self._of_whole_rows(torch.cat([logits[:, : self.first_class], own, logits[:, end:]], 1), *rest)[0]

        _, pullback = torch.func.vjp(of_own, own)  # type: ignore[misc]
        return pullback(upstream)

    def _operands(self, tensors: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor | None]:
        return tensors[0], tensors[1], tensors[2] if len(tensors) > 2 else None


def own_classes(
    local: int, ranks: Ranks, vocab_range: tuple[int, int] | None, vocab_size: int | None
) -> tuple[int, int, int]:
    """(first class of this rank, how many of its columns are classes, how many classes there are)"""
    if vocab_range is not None:
        first, end = vocab_range
        if vocab_size is None:
            raise ValueError("vocab_range needs vocab_size, the number of classes of all ranks")
        if not 0 <= first <= end <= vocab_size or end - first > local:
            raise ValueError(f"vocab_range {vocab_range} does not fit {local} logits and {vocab_size} classes")
        return first, end - first, vocab_size
    if vocab_size is None:
        return ranks.rank * local, local, ranks.size * local
    chunk = -(-vocab_size // ranks.size)
    first = min(ranks.rank * max(chunk, local), vocab_size)
    valid = min(max(chunk, local), vocab_size - first)
    if valid > local:
        raise ValueError(
            f"{local} logits on rank {ranks.rank} are neither torch.chunk's share of {vocab_size} classes among "
            f"{ranks.size} ranks, nor that of a padded vocabulary; say which classes they are by vocab_range"
        )
    return first, valid, vocab_size


def rows_of(matrix: Tensor, valid: int) -> Tensor:
    """(..., C) -> (rows, C), of the first `valid` classes."""
    matrix = matrix[..., :valid]
    return row_layout(matrix.unsqueeze(0) if matrix.dim() == 1 else matrix.flatten(0, -2))


@by_operators
def vocab_parallel_cross_entropy(
    logits_local: Tensor,
    target: Tensor,
    group: dist.ProcessGroup | None = None,
    *,
    vocab_range: tuple[int, int] | None = None,
    vocab_size: int | None = None,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    softcap: float | None = None,
    temperature: float = 1.0,
    normalizer: float | Tensor | None = None,
    return_terms: bool = False,
) -> Any:
    r"""Softmax cross-entropy of logits of which every rank holds some of the classes, without gathering them.

    The loss is :func:`fastloss.cross_entropy` of the ranks' logits side by side, on every rank, and the gradient is
    that of ``logits_local``. Each rank reads its logits once and comes to a few numbers a row: the maximum, the log of
    the sum relative to it, the target's logit. One all-gather exchanges them, they are merged in the order of the
    ranks, so that all ranks have the same bits; backward has no collective.

    Every rank calls it with the same target and options. The gradient is right where every rank differentiates its own
    copy of the loss, as under tensor parallelism.

    Args:
        logits_local: this rank's logits. Its columns are neighbouring classes; a rank may have none.
        target: class indices among those of all ranks, the same on every rank; or this rank's slice of the class
            probabilities, in the dtype of the logits, a constant.
        group: the ranks that share the vocabulary; None: the default group.
        vocab_range: (first, end): this rank's columns are the classes ``first`` to ``end - 1``, and columns beyond are
            padding. The ranks' ranges have to make up the vocabulary. None: without ``vocab_size`` every rank has as
            many classes; with it, columns of :func:`torch.chunk` (DTensor's ``Shard``), or, where every rank has
            more than that, slices of a vocabulary that is padded at its end (Megatron's).
        vocab_size: the number of classes, without padding.
        weight: class weights of this rank's classes, padding included.
        ignore_index: rows with this class index count for nothing: their loss and gradient are exactly 0.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.
        label_smoothing, z_loss, softcap, temperature: as in :func:`fastloss.cross_entropy`, numbers. Smoothing spreads
            over all ``vocab_size`` classes.
        normalizer: what the mean divides by, in place of the sum of the targets' class weights (the number of rows for
            probabilities): a count over data parallel ranks, say, of :func:`global_count`. 0 is taken as 1.
        return_terms: also return what is logged.

    Shape:
        - logits_local: (..., C_local)
        - target: (...) of int64, or (..., C_local)
        - weight: (C_local)
        - output: (...) for ``"none"``, else ()

    Returns:
        The loss, in the dtype of the logits (float32 under autocast); with ``return_terms`` (loss, terms): the means
        over the rows that count of ``log_partition`` and (of indices) ``accuracy``, and ``z_loss``, its part of the
        loss. All rows ignored: 0 / 0 = NaN, as in :func:`fastloss.cross_entropy`; with a normalizer 0.

    Raises:
        ValueError: arguments that do not fit; IndexError: a class index out of range; NotImplementedError: from a
            second backward through the gradient.

    Source:
        Shoeybi et al. 2019 (Megatron-LM), arXiv:1909.08053.
    """
    if not isinstance(logits_local, Tensor) or logits_local.dim() < 1 or not logits_local.is_floating_point():
        raise ValueError("logits_local must be a floating-point tensor of shape (..., C_local)")
    if reduction not in REDUCTIONS:
        raise ValueError(f"{reduction!r} is not a valid value for reduction; choose none, mean or sum")
    if normalizer is not None and reduction != "mean":
        raise ValueError(f"a normalizer has no meaning with {reduction!r}")
    *batch, local = logits_local.shape
    soft = target.is_floating_point()
    if list(target.shape) != ([*batch, local] if soft else batch):
        raise ValueError(f"target {tuple(target.shape)} does not fit logits {tuple(logits_local.shape)}")
    if soft and target.dtype != logits_local.dtype:
        raise ValueError(f"soft targets of {target.dtype} for logits of {logits_local.dtype}")
    if weight is not None and weight.shape != (local,):
        raise ValueError(f"weight must have the shape {(local,)}, got {tuple(weight.shape)}")
    extras = {"label_smoothing": label_smoothing, "z_loss": z_loss, "softcap": softcap, "temperature": temperature}
    parameters = LOSSES[_LOSS].signature.parameter_values(extras)
    if isinstance(parameters, Refused):
        raise ValueError(parameters.reason)
    ranks = Ranks.of(group)
    first, valid, classes = own_classes(local, ranks, vocab_range, vocab_size)

    logits = rows_of(logits_local, valid)
    if soft:
        target = rows_of(target.detach(), valid)
    else:
        target = target.reshape(-1).long().contiguous()
        check_range(target, classes, ignore_index)
    tensors = [logits, target]
    if weight is not None:
        tensors.append(weight.detach()[:valid].to(accumulator_dtype(logits.dtype)).contiguous())
    if soft:
        sent = [MAX, LOG_SUM, MASS, LINEAR]
    else:
        sent = [MAX, LOG_SUM, TARGET, *[WEIGHT] * (weight is not None), *[MASS, LINEAR] * bool(label_smoothing)]
    wanted = (0,) if gradient_wanted(logits) else ()
    problem = VocabularyProblem(
        _LOSS, tuple(parameters), ignore_index, first, classes, tuple(sent), ranks, wanted, outputs=2
    )
    losses, of_rows = differentiate(problem, namespace_for(logits), tensors)
    losses = losses[0]
    lse, row_weight, found = of_rows.unbind()
    dtype = torch.float32 if autocast_applies(logits_local) else logits_local.dtype

    def reduced(values: Tensor) -> Tensor:
        if reduction == "sum":
            return values.sum()
        if normalizer is None:
            return values.sum() / row_weight.sum()
        if isinstance(normalizer, Tensor):
            return values.sum() / torch.where(normalizer == 0, 1, normalizer).to(values)
        return values.sum() / (normalizer or 1)

    loss = losses.reshape(batch) if reduction == "none" else reduced(losses)
    if not return_terms:
        return loss.to(dtype)
    counted = max(1, lse.numel()) if soft else (target != ignore_index).sum().clamp(min=1)
    of_z = z_loss * row_weight * lse.square()
    terms = {
        "log_partition": lse.sum() / counted,
        "z_loss": of_z.sum() / counted if reduction == "none" else reduced(of_z),
    }
    if not soft:
        terms["accuracy"] = found.sum() / counted
    return loss.to(dtype), {name: term.to(dtype) for name, term in terms.items()}
