"""Other libraries' losses, each where its package is installed; `make peers` downloads those that travel as wheels.

Each is called as its documentation says, with the options of ours that it knows. Read in their sources: the versions
that are named here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from types import ModuleType

import torch
import torch.nn.functional as F

from .cases import Case
from .steps import Pool, Step, Unavailable, in_place_step, loss_step


def options_of(case: Case, names: Mapping[str, str]) -> dict[str, float]:
    """The case's options by a peer's names; Unavailable if it lacks one, or is not about this case at all."""
    if case.loss.function != "cross_entropy" or case.loss.streams > 1 or len(case.shape) != 2:
        raise Unavailable("has cross-entropy of (rows, C) with class indices only")
    missing = [name for name in case.loss.options if name not in names]
    if missing:
        raise Unavailable(f"has no {', '.join(missing)}")
    return {names[name]: value for name, value in case.loss.options.items()}


def load(module: str, pool: Pool) -> ModuleType:
    """A peer's module; all of them have kernels for GPUs only."""
    if not pool[0][0].is_cuda:
        raise Unavailable("has kernels for GPUs only")
    try:
        return __import__(module, fromlist=["*"])
    except ImportError as error:
        raise Unavailable(f"is not installed: {error}") from error


def liger(case: Case, pool: Pool) -> Step:
    """liger-kernel 0.8.5. The gradient overwrites the logits, so fastloss-in-place is its counterpart."""
    names = {"label_smoothing": "label_smoothing", "z_loss": "lse_square_scale", "softcap": "softcap"}
    options = options_of(case, names)
    function = load("liger_kernel.transformers.functional", pool).liger_cross_entropy
    loss = partial(function, **options)
    if case.mode == "forward":
        return loss_step(case, pool, loss)
    return in_place_step(case, pool, loss, "in place; .item() in forward")


def fla(case: Case, pool: Pool) -> Step:
    """fla-core 0.6.0. Two kernels, forward and backward; the logits are read twice."""
    names = {"label_smoothing": "label_smoothing", "z_loss": "lse_square_scale", "softcap": "logit_softcapping"}
    options = options_of(case, names)
    function = load("fla.modules.fused_cross_entropy", pool).cross_entropy_loss
    return loss_step(case, pool, lambda logits, target: function(logits, target, **options)[0].mean())


def quack(case: Case, pool: Pool) -> Step:
    """quack-kernels 0.6.5, of which no wheel is carried: with its compiler it has more than 100 MB."""
    options_of(case, {})
    return loss_step(case, pool, load("quack.cross_entropy", pool).cross_entropy)


def torch_chunked(case: Case, pool: Pool) -> Step:
    """Torch's own linear_cross_entropy by chunks, from 2.13 on, with the options that it picks for the device."""
    if case.loss.function != "linear_cross_entropy":
        raise Unavailable("has linear_cross_entropy only")
    if not hasattr(F, "linear_cross_entropy"):
        raise Unavailable("torch has it from 2.13 on")
    options = torch.nn.LinearCrossEntropyOptions()
    return loss_step(case, pool, partial(F.linear_cross_entropy, options=options), note="auto")


PEERS: dict[str, Callable[[Case, Pool], Step]] = {
    "liger": liger,
    "fla": fla,
    "quack": quack,
    "torch-chunked": torch_chunked,
}
