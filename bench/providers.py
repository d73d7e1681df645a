"""Who is measured. A provider is a function (case, pool) -> Step in the table at the end of this file.

Other libraries are in peers.py.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

import fastloss

from .cases import Case
from .peers import PEERS
from .steps import Pool, Step, Unavailable, in_place_step, loss_step


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
    function = partial(case.loss.fused, **case.loss.options)
    try:
        with fastloss.backend(backend):
            answering = fastloss.explain(case.loss.fused, *pool[0], **case.loss.options).backend
    except fastloss.BackendError as error:
        raise Unavailable(str(error)) from error
    return loss_step(case, pool, function, partial(fastloss.backend, backend), answering)


def fastloss_in_place(case: Case, pool: Pool) -> Step:
    """The gradient overwrites the logits."""
    function = case.loss.fused
    if case.mode == "forward":
        raise Unavailable("no gradient to write")
    if "inplace" not in inspect.signature(function).parameters:
        raise Unavailable(f"{case.loss.function} has no in-place variant")
    answering = fastloss.explain(function, *pool[0], **case.loss.options, inplace=True).backend
    if answering == "reference":
        raise Unavailable("the reference backend answers, which never writes in place")
    loss = partial(function, **case.loss.options, inplace=True)
    return in_place_step(case, pool, loss, answering)


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
    **PEERS,
}
