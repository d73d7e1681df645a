"""One provider, ready to run one case: what providers.py and peers.py share."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .cases import Arguments, Case

Pool = Sequence[Arguments]  # several inputs of one case, used in turn, so that together they exceed the cache


def nothing() -> None:
    """A step that has nothing to restore."""


class Unavailable(Exception):
    """This provider cannot run this case; the message says why."""


@dataclass(frozen=True)
class Step:
    """One provider, ready to run one case."""

    run: Callable[[int], tuple[Tensor, Tensor | None]]  # one iteration on input i of the pool: (loss, first gradient)
    context: Callable[[], AbstractContextManager[object]] = nullcontext  # entered around the iterations, not timed
    restore: Callable[[], None] = nothing  # called before each sample, not timed
    note: str = ""  # which configuration or backend answered
    is_loss: bool = True  # has a loss, hence an error


def loss_step(
    case: Case,
    pool: Pool,
    loss: Callable[..., Tensor],
    context: Callable[[], AbstractContextManager[object]] = nullcontext,
    note: str = "",
) -> Step:
    """The iteration that all losses share: see MODES in cases.py for what is timed."""
    if case.mode == "forward":

        def forward(i: int) -> tuple[Tensor, None]:
            return loss(*pool[i]), None

        @contextmanager
        def without_gradient() -> Iterator[None]:
            with torch.no_grad(), context():
                yield

        return Step(forward, without_gradient, note=note)

    def forward_backward(i: int) -> tuple[Tensor, Tensor]:
        arguments = pool[i]
        value = loss(*arguments)
        gradient, *_ = torch.autograd.grad(value, arguments[: case.loss.differentiated])
        return value.detach(), gradient

    return Step(forward_backward, context, note=note)


def in_place_step(case: Case, pool: Pool, loss: Callable[..., Tensor], note: str) -> Step:
    """Of a loss whose gradient overwrites the logits: they are made anew before each sample, which is not timed."""
    working = list(pool)
    zero = torch.zeros((), dtype=pool[0][0].dtype, device=pool[0][0].device, requires_grad=True)

    def restore() -> None:
        for i, (logits, *rest) in enumerate(pool):
            working[i] = (logits.detach() + zero, *rest)  # not a leaf, as in a model: a leaf may not be overwritten

    restore()
    return replace(loss_step(case, working, loss, note=note), restore=restore)
