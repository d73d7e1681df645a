"""A trial's call by a backend: all that comes out of it, under the trial's transform."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

import fastloss
from fastloss.tiles import linear, similarity

from .arguments import each
from .trial import Trial

Result = dict[str, Tensor]
"""By name, what a call returns, and its gradients."""

TRANSFORMS: tuple[str, ...] = (
    "no_grad", "again", "twice", "grad", "vmap", "vmap of grad", "checkpoint", "autocast bfloat16",
    "autocast float16",
)  # fmt: skip
FUNCTIONAL = ("grad", "vmap", "vmap of grad")
SLOW_TRANSFORMS = ("compile", "compile by inductor", "export")


def flat(result: Any, name: str = "value") -> Result:
    """What a loss returns, tensors by name."""
    if isinstance(result, Tensor):
        return {name: result}
    if isinstance(result, dict):
        parts = {key: x for key, x in result.items() if isinstance(x, Tensor)}
        return {f"{name} {key}": x for key, x in parts.items()}
    fields = getattr(result, "_fields", range(len(result)))
    found: Result = {}
    for key, x in zip(fields, result, strict=True):
        found |= flat(x, name if key == 0 else f"{name} {key}")
    return found


@contextlib.contextmanager
def tiles(small: bool) -> Iterator[None]:
    """Those of `small_tiles` in tests/conftest.py, by which arguments of this size have several."""
    if not small:
        yield
        return
    limit = 7 * 37 * 8
    changes: list[tuple[Any, str, Any]] = [
        (similarity, "TILE_BYTES", 1), (similarity, "MIN_ROWS", 16), (similarity, "KEPT_BYTES", 16 * 30 * 8),
        (linear, "CHUNK_BYTES", {"cpu": limit}),
    ]  # fmt: skip
    before = [getattr(module, name) for module, name, _ in changes]
    for module, name, value in changes:
        setattr(module, name, value)
    try:
        yield
    finally:
        for (module, name, _), value in zip(changes, before, strict=True):
            setattr(module, name, value)


Upstream = Callable[[Tensor], Tensor]
"""The gradient of something that a call returns."""


def upstream(trial: Trial, value: Tensor) -> Tensor:
    """The same numbers by all backends, in the dtype of the value, which is one entry of a batch under vmap."""
    if trial.upstream == "ones":
        return torch.ones_like(value)
    if trial.upstream == "random":
        places = torch.arange(value.numel(), dtype=torch.float64).view(value.shape)
        numbers = 0.5 + 2 * (12.9898 * places + trial.seed % 1000).sin()  # a generator is not for vmap
        return numbers.to(getattr(torch, trial.dtype)).to(value.dtype)
    return torch.full_like(value, float(trial.upstream))


def _gradients(up: Upstream, outputs: Result, leaves: dict[str, Tensor], **how: Any) -> Result:
    wanted = {name: x for name, x in outputs.items() if x.requires_grad}
    if not wanted or not leaves:
        return {f"gradient of {name}": torch.zeros_like(x) for name, x in leaves.items()}
    ups = [up(x) for x in wanted.values()]
    found = torch.autograd.grad(list(wanted.values()), list(leaves.values()), ups, allow_unused=True, **how)
    filled = [torch.zeros_like(x) if g is None else g for x, g in zip(leaves.values(), found, strict=True)]
    return {f"gradient of {name}": g for name, g in zip(leaves, filled, strict=True)}


def _plain(trial: Trial, f: Callable[..., Any], leaves: dict[str, Tensor], up: Upstream, exact: bool) -> Result:
    outputs = flat(f(*leaves.values()))
    if trial.transform == "again" and not exact:  # the first gradients have been given away
        _gradients(up, outputs, leaves, retain_graph=True)
    if trial.transform != "twice":
        return outputs | _gradients(up, outputs, leaves)
    first = _gradients(up, outputs, leaves, create_graph=True)
    again = {name: x for name, x in first.items() if x.requires_grad}
    second = _gradients(up, again, leaves)
    return outputs | first | {f"second {name}": g for name, g in second.items()}


def _func(trial: Trial, f: Callable[..., Any], leaves: dict[str, Tensor], up: Upstream, exact: bool) -> Result:
    """torch.func: of the value, summed up with the upstream gradient."""
    names, inputs = list(leaves), list(leaves.values())

    def total(*tensors: Tensor) -> tuple[Tensor, Tensor]:
        (value, *_) = flat(f(*tensors)).values()
        return (value * up(value)).sum(), value

    both = torch.func.grad(total, argnums=tuple(range(len(inputs))), has_aux=True)
    if trial.transform == "grad":
        gradients, value = both(*inputs)
        return {"value": value} | {f"gradient of {name}": g for name, g in zip(names, gradients, strict=True)}
    batches = [torch.stack([x, 0.5 * x]) for x in inputs]
    if trial.transform == "vmap":
        run: Callable[..., Any] = lambda *tensors: ((), total(*tensors)[1])  # noqa: E731
    else:
        run = both
    if exact:
        entries = [run(*(batch[k] for batch in batches)) for k in range(2)]
        gradients = tuple(torch.stack(parts) for parts in zip(*(entry[0] for entry in entries), strict=True))
        value = torch.stack([entry[1] for entry in entries])
    else:
        gradients, value = torch.func.vmap(run)(*batches)
    return {"value": value} | {f"gradient of {name}": g for name, g in zip(names, gradients, strict=False)}


def _compiled(trial: Trial, f: Callable[..., Any], leaves: dict[str, Tensor], up: Upstream, exact: bool) -> Result:
    if exact:
        return _plain(trial, f, leaves, up, exact)
    torch._dynamo.reset()
    if trial.transform == "export":

        class Loss(torch.nn.Module):
            def forward(self, *tensors: Tensor) -> Any:
                return f(*tensors)

        program = torch.export.export(Loss(), tuple(leaves.values())).module()
        return _plain(trial, program, leaves, up, exact)
    engine = "inductor" if trial.transform.endswith("inductor") else "aot_eager"
    return _plain(trial, torch.compile(f, backend=engine), leaves, up, exact)


def result(
    trial: Trial,
    arguments: dict[str, Any],
    way: str,
    exact: bool = False,
    bent: Callable[[Tensor], Tensor] | None = None,
) -> Result:
    """What the call returns and its gradients.

    Args:
        way: the backend.
        exact: without the transform, where it changes no number: a loop for vmap, no autocast.
        bent: changes the upstream gradient.
    """
    case, transform = trial.of, trial.transform

    def up(value: Tensor) -> Tensor:
        plain = upstream(trial, value)
        return plain if bent is None else bent(plain).to(plain.dtype)

    grad = transform != "no_grad" or exact
    leaves = {
        name: arguments[name].detach().requires_grad_(grad)
        for name in trial.leaves
        if isinstance(arguments.get(name), Tensor) and arguments[name].is_floating_point()
    }
    rest = each(Tensor.detach, {name: x for name, x in arguments.items() if name not in leaves})
    how = {**case.how(trial.how), **trial.options}

    autocast: Any = contextlib.nullcontext()
    if transform.startswith("autocast") and not exact:
        autocast = torch.autocast("cpu", getattr(torch, transform.split()[1]))

    def f(*tensors: Tensor) -> Any:
        if how.get("inplace"):  # torch overwrites no leaf either
            tensors = tuple(x.clone() for x in tensors)
        with autocast:  # and not backward, as torch's page says
            return case.loss(**rest, **dict(zip(leaves, tensors, strict=True)), **how)

    with contextlib.ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        stack.enter_context(fastloss.backend(way))
        stack.enter_context(tiles(trial.tiles))
        if not leaves or transform == "no_grad":
            stack.enter_context(torch.set_grad_enabled(grad))
            return {name: x.detach() for name, x in flat(f(*leaves.values())).items()}
        if transform in FUNCTIONAL:
            found = _func(trial, f, leaves, up, exact)
        elif transform in SLOW_TRANSFORMS:
            found = _compiled(trial, f, leaves, up, exact)
        elif transform == "checkpoint" and not exact:
            found = _plain(trial, lambda *xs: checkpoint(f, *xs, use_reentrant=False), leaves, up, exact)
        else:
            found = _plain(trial, f, leaves, up, exact)
        return {name: x.detach() for name, x in found.items()}
