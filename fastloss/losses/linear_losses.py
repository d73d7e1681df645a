"""A loss of the log-probabilities of linear logits, whose gradients are made while a chunk's logits are there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from fastloss.core.arguments import accumulator_dtype
from fastloss.core.autograd import gradient_wanted
from fastloss.losses.log_prob import (
    LINEAR,
    NUMBERS,
    fewest,
    in_places,
    linear_rows,
    linear_selective_log_softmax,
    named,
    rows_of_a_chunk,
)
from fastloss.skeletons.linear_outputs import Head, has_gradients_early

__all__: list[str] = []

# What has to be known for the gradient by a log-probability: its own token, its sequence, or its pair, of which the
# first half of the batch has the one sequence and the second the other.
TOKENS, SEQUENCES, PAIRS = "tokens", "sequences", "pairs"


def linear_loss(
    loss: Callable[..., Any],
    arguments: dict[str, Any],
    together: str | None,
    *,
    hidden: Tensor,
    weight: Tensor,
    index: Tensor,
    bias: Tensor | None,
    outputs: Sequence[str],
    mask: Tensor | None,
    chunk_size: int | None,
    **how: Any,
) -> Any:
    """loss(numbers, **arguments), of the numbers of :func:`fastloss.linear_selective_log_softmax`.

    Where the gradient by a token's numbers follows from what is `together` with it, all gradients are made in forward:
    3 products of N H C multiply-adds instead of 4. Each chunk asks the loss for them, the numbers of later chunks being
    0 then.

    Args:
        loss: takes what was asked for, and the arguments; returns the loss, or with ``return_terms`` (loss, terms).
        together: one of the three above; None: anything.
    """
    reduced = "none" not in (arguments.get("reduction"), arguments.get("aggregation"))
    differentiated = [x for x in (hidden, weight, bias) if x is not None and gradient_wanted(x)]
    if together is None or not reduced or not differentiated or not has_gradients_early(hidden):
        found = linear_selective_log_softmax(
            hidden, weight, index, bias, outputs=outputs, mask=mask, chunk_size=chunk_size, **how
        )
        return loss(found, **arguments)
    order = _in_pairs(index) if together == PAIRS else None
    r = linear_rows(hidden, weight, index, bias, outputs, mask, order, **how)
    names = [name for name, x in arguments.items() if isinstance(x, Tensor)]
    # The node of the loss keeps this function, also when its backward has run, so no tensor is in it but by argument.
    rest = {name: x for name, x in arguments.items() if name not in names}
    shape, some = index.shape, r.places is not None

    def of_numbers(stacked: Tensor, others: Sequence[Tensor]) -> Any:
        given = dict(zip(names, others, strict=False))
        places = others[-1] if some else None
        return loss(named(in_places(stacked, places, shape.numel()), outputs, shape), **rest, **given)

    def value_of(stacked: Tensor, others: Sequence[Tensor]) -> Tensor:
        result = of_numbers(stacked, others)
        return result[0] if isinstance(result, tuple) else result

    others = (*(arguments[name] for name in names), *(() if r.places is None else (r.places,)))
    head = Head(value_of, _without_constants(value_of, others, r.operands), _units(together, index, r.places))
    value, stacked = LINEAR[fewest(outputs)](*r.operands, **r.how, chunk=rows_of_a_chunk(chunk_size), head=head)
    if not arguments.get("return_terms"):
        return value
    with torch.no_grad():
        return value, of_numbers(stacked, others)[1]


def _without_constants(
    loss: Callable[[Tensor, Sequence[Tensor]], Tensor],
    others: tuple[Tensor, ...],
    operands: tuple[Tensor, Tensor, Tensor, Tensor | None],
) -> tuple[Tensor, ...]:
    """The other tensors; those that the loss itself detaches are detached, which it says nowhere."""
    wanted = [x for x in others if gradient_wanted(x)]
    if not wanted:
        return others
    rows, _, target, _ = operands
    nothing = torch.zeros(NUMBERS, len(target), dtype=accumulator_dtype(rows.dtype), device=rows.device)
    value = loss(nothing.requires_grad_(), others)
    found = torch.autograd.grad(value, [nothing, *wanted], allow_unused=True)[1:]
    used = {id(x) for x, gradient in zip(wanted, found, strict=True) if gradient is not None}
    return tuple(x if id(x) in used else x.detach() for x in others)


def _in_pairs(index: Tensor) -> Tensor:
    """The rows of (2 B, ...) so that those of a pair follow each other."""
    rows = torch.arange(index.numel(), device=index.device)
    return rows.view(2, len(index) // 2, index.shape[1:].numel()).transpose(0, 1).reshape(-1)


def _units(together: str, index: Tensor, places: Tensor | None) -> Sequence[int] | None:
    """How many of the rows are of each sequence or pair."""
    if together == TOKENS or index.numel() == 0:
        return None
    of_sequence = index.shape[1:].numel() if together == PAIRS else index.shape[-1]
    rows = of_sequence * (2 if together == PAIRS else 1)
    count = index.numel() // rows
    if places is None or len(places) == index.numel():
        return [rows] * count
    return torch.bincount(places // of_sequence % count, minlength=count).tolist()
