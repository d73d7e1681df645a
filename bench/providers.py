"""Who is measured. A provider is a function (case, pool) -> Step in the table at the end of this file.

A peer is a few lines, for example

    def peer(case: Case, pool: Pool) -> Step:
        if case.loss.name != "cross_entropy":
            raise Unavailable("has plain cross-entropy only")
        return loss_step(case, pool, peer_package.cross_entropy)

and an entry in PROVIDERS.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

import fastloss

from .cases import Arguments, Case

Pool = Sequence[Arguments]  # several inputs of one case, used in turn, so that together they exceed the cache


class Unavailable(Exception):
    """This provider cannot run this case; the message says why."""


@dataclass(frozen=True)
class Step:
    """One provider, ready to run one case."""

    run: Callable[[int], tuple[Tensor, Tensor | None]]  # one iteration on input i of the pool: (loss, gradient)
    context: Callable[[], AbstractContextManager[object]] = nullcontext  # entered around the iterations, not timed
    restore: Callable[[], None] = lambda: None  # called before each sample, not timed
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
        (gradient,) = torch.autograd.grad(value, arguments[0])
        return value.detach(), gradient

    return Step(forward_backward, context, note=note)


def eager(case: Case, pool: Pool) -> Step:
    return loss_step(case, pool, case.loss.torch_function)


def compiled(case: Case, pool: Pool) -> Step:
    """The best configuration of torch.compile.

    On CUDA the one that times several kernels and keeps the fastest. On a CPU the default: max-autotune and one graph
    of loss and gradient (torch.func.grad_and_value) were within the noise of it (1024 x 32000 fp32, torch 2.13).
    """
    mode = "max-autotune-no-cudagraphs" if pool[0][0].is_cuda else "default"
    torch.compiler.reset()  # the next case is another shape: a recompilation counts against a limit of 8
    compiled_loss = torch.compile(case.loss.torch_function, mode=mode, dynamic=False, fullgraph=True)
    step = loss_step(case, pool, compiled_loss, note=mode)
    try:
        with step.context():
            step.run(0)
    except RuntimeError as error:  # no C++ compiler, an unsupported GPU ...
        raise Unavailable(str(error).strip().splitlines()[0]) from error
    return step


def fastloss_backend(backend: str, case: Case, pool: Pool) -> Step:
    """`auto` is what a user gets without asking; the others are explicit, and refuse what they cannot compute."""
    function = partial(getattr(fastloss, case.loss.function), **case.loss.options)
    try:
        with fastloss.backend(backend):
            answering = fastloss.explain(getattr(fastloss, case.loss.function), *pool[0], **case.loss.options).backend
    except fastloss.BackendError as error:
        raise Unavailable(str(error)) from error
    return loss_step(case, pool, function, partial(fastloss.backend, backend), answering)


def fastloss_in_place(case: Case, pool: Pool) -> Step:
    """The gradient overwrites the logits, which are made anew before each sample, outside the timed region."""
    function = getattr(fastloss, case.loss.function)
    if case.mode == "forward":
        raise Unavailable("no gradient to write")
    if "inplace" not in inspect.signature(function).parameters:
        raise Unavailable(f"{case.loss.function} has no in-place variant")
    answering = fastloss.explain(function, *pool[0], **case.loss.options, inplace=True).backend
    if answering == "reference":
        raise Unavailable("the reference backend answers, which never writes in place")
    working = list(pool)
    zero = torch.zeros((), dtype=pool[0][0].dtype, device=pool[0][0].device, requires_grad=True)

    def restore() -> None:
        for i, (logits, *rest) in enumerate(pool):
            working[i] = (logits.detach() + zero, *rest)  # not a leaf, as in a model: a leaf may not be overwritten

    restore()
    step = loss_step(case, working, partial(function, **case.loss.options, inplace=True), note=answering)
    return replace(step, restore=restore)


def copy(case: Case, pool: Pool) -> Step:
    """The limit: moves as many bytes as the case counts, half of them read, half written, into a warm buffer."""
    device = pool[0][0].device
    generator = torch.Generator(device).manual_seed(0)
    elements = max(1, case.bytes // 2 // 4)
    sources = [torch.randn(elements, device=device, generator=generator) for _ in pool]
    destinations = [torch.zeros_like(source) for source in sources]  # zeros: written, hence backed by real pages

    def run(i: int) -> tuple[Tensor, None]:
        return destinations[i].copy_(sources[i]), None

    return Step(run, is_loss=False)


PROVIDERS: dict[str, Callable[[Case, Pool], Step]] = {
    "copy": copy,
    "eager": eager,
    "torch.compile": compiled,
    "fastloss": partial(fastloss_backend, "auto"),
    "fastloss:reference": partial(fastloss_backend, "reference"),
    "fastloss:cpu": partial(fastloss_backend, "cpu"),
    "fastloss:triton": partial(fastloss_backend, "triton"),
    "fastloss:cuda": partial(fastloss_backend, "cuda"),
    "fastloss-in-place": fastloss_in_place,
}
