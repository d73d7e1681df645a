"""What the tests know of a loss: how to make its arguments, and what must be true of them."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from support import to
from torch import Tensor

import fastloss

Shape = tuple[int, ...]
Arguments = dict[str, Any]
Build = Callable[[torch.Generator, Shape], Arguments]
FLOATING = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
REDUCTIONS = ("none", "mean", "sum")


@dataclass(frozen=True, eq=False)
class Case:
    """A loss with one set of options, and arguments of any size for it. :mod:`cases` says how a law uses one."""

    name: str  # below `fastloss`: "huber_loss", "rl.ppo_clip_loss"
    build: Build  # (generator, shape) -> arguments by name, floating tensors in float64 on the CPU
    # the size that the laws take: of the elements (pointwise); of the logits (row); rows, sources, targets (outer);
    # queries, keys, features (similarity); rows, features, classes, positions (linear). The batch is first, if there is
    # one.
    shape: Shape
    differentiable: tuple[str, ...]  # the arguments that have gradients; other floating tensors are constants
    skeleton: str | None = None  # "pointwise", "row", "outer", "similarity", "linear"; None: no kernels
    variant: str = ""  # what tells this case from the others of the same loss
    options: Mapping[str, Any] = field(default_factory=dict)  # keywords that are no tensors
    indices: tuple[str, ...] = ()  # integer arguments: classes, labels, episodes
    # optional tensors -> their kind: "losses", broadcasts to the losses; "exact", has their shape; "classes", one for
    # each class; "number", 0-d
    optional: Mapping[str, str] = field(default_factory=dict)
    domain: Mapping[str, tuple[float, float]] = field(default_factory=dict)  # closed ranges of values; default: all
    # The same by independent code, in torch: (**arguments, **options) -> losses, or with `reduction` what is returned.
    # None: compared with another library in oracles/.
    oracle: Callable[..., Tensor] | None = None
    reductions: tuple[str, ...] = REDUCTIONS  # values of `reduction`, or of `aggregation`
    # of the summands that a loss or gradient is the difference of, by reduction, where they may cancel
    magnitude: float = 0.0
    dtypes: tuple[torch.dtype, ...] = FLOATING
    derivative: bool = True  # is the gradient the derivative? torch's is not where it clamps a variance, for one
    twice: bool = True  # differentiable twice at these arguments
    fuses: bool = True  # do the kernels take it? False: left to the reference, and explicit backends say so
    batched: bool = True  # is the first number of the shape the batch?

    def __str__(self) -> str:
        return ", ".join(filter(None, (self.name, self.variant)))

    @property
    def family(self) -> str:
        """The module of the loss, as "rl.policy"; of torch's own functions "unfused"."""
        module = inspect.unwrap(self.loss).__module__
        return module.removeprefix("fastloss.losses.") if module.startswith("fastloss.") else "unfused"

    @property
    def loss(self) -> Callable[..., Any]:
        return functools.reduce(getattr, self.name.split("."), fastloss)

    @property
    def drop_in(self) -> Callable[..., Any] | None:
        """Torch's function of the same name, if it is another one."""
        torchs = getattr(F, self.name, None)
        return None if torchs is self.loss else torchs

    @functools.cached_property
    def parameters(self) -> Mapping[str, inspect.Parameter]:
        return inspect.signature(self.loss).parameters

    @property
    def composed(self) -> bool:
        """Is it made of other losses and torch's operations, by `composite`?"""
        return hasattr(self.loss, "parts")

    @property
    def masked(self) -> bool:
        return "mask" in self.parameters

    @property
    def return_terms(self) -> bool:
        return "return_terms" in self.parameters

    @property
    def reduction_argument(self) -> str:
        return "aggregation" if "aggregation" in self.parameters else "reduction"

    @property
    def reduced(self) -> str:
        """The first reduction to one number."""
        return next(how for how in self.reductions if how != "none")

    def make(
        self,
        generator: torch.Generator,
        shape: Shape | None = None,
        dtype: torch.dtype = torch.float64,
        device: str = "cpu",
    ) -> Arguments:
        """Fresh arguments by name. Their numbers do not depend on the dtype, but are rounded to it."""
        return to(self.build(generator, self.shape if shape is None else shape), device, dtype)

    def with_batch(self, count: int) -> Shape:
        """The shape with another number of rows."""
        assert self.batched, f"{self} has no batch"
        return (count, *self.shape[1:])

    def how(self, reduction: str) -> Arguments:
        """All keywords of a call: the options and the reduction (losses without one have their own mean)."""
        named = {self.reduction_argument: reduction} if self.reduction_argument in self.parameters else {}
        return {**self.options, **named}

    def call(self, arguments: Arguments, reduction: str, **more: Any) -> Any:
        return self.loss(**arguments, **{**self.how(reduction), **more})

    def make_optional(self, name: str, generator: torch.Generator, arguments: Arguments) -> Tensor:
        """An optional tensor that fits arguments, on their device in their dtype; masks are of bool."""
        first = arguments[self.differentiable[0]]
        kind = self.optional[name]
        if kind == "classes":
            shape = first.shape[1:2] if first.dim() > 1 else first.shape
            if self.skeleton == "linear":
                shape = arguments["linear_weight"].shape[:1]
        elif kind == "number":
            return torch.tensor(7.0, dtype=first.dtype, device=first.device)
        else:
            with fastloss.backend("reference"), torch.no_grad():
                losses = self.call(arguments, "none")
            shape = (losses[0] if isinstance(losses, tuple) else losses).shape
        numbers = torch.rand(shape, generator=generator, dtype=torch.float64)
        if name == "mask":
            return (numbers < 0.6).to(first.device)
        return (numbers + 0.1).to(first.device, first.dtype)


MASKED = {"mask": "losses", "normalizer": "number"}  # of the losses that have both


def normal(generator: torch.Generator, *shape: int, shift: float = 0.0, scale: float = 1.0) -> Tensor:
    return shift + scale * torch.randn(shape, generator=generator, dtype=torch.float64)


def uniform(generator: torch.Generator, low: float, high: float, *shape: int) -> Tensor:
    return low + (high - low) * torch.rand(shape, generator=generator, dtype=torch.float64)


def signs(generator: torch.Generator, *shape: int) -> Tensor:
    return 2.0 * torch.randint(2, shape, generator=generator).double() - 1


def over_counted(losses: Tensor, target: Tensor, reduction: str) -> Tensor:
    """Losses that are 0 where the target is -100, reduced."""
    if reduction == "none":
        return losses
    return losses.sum() / (1 if reduction == "sum" else (target != -100).sum())
