"""What the tests of the pointwise losses know of one of them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Case:
    """A pointwise loss with options, and inputs for it."""

    name: str  # unique, e.g. "huber_loss, delta 0.5"
    loss: Callable[..., Any]
    # tensors by argument name, in float64 (integer and bool tensors as they are); the laws convert, reshape none
    make: Callable[[torch.Generator], dict[str, Any]]
    differentiable: tuple[str, ...]  # the arguments whose gradients are compared
    options: Mapping[str, Any] = field(default_factory=dict, hash=False)  # keywords that are no tensors
    # the same loss by independent torch code, elementwise, with all arguments and options by name:
    # (**tensors, **options) -> losses, unmasked. None: an external oracle is in test_pointwise_oracles_*.
    oracle: Callable[..., Tensor] | None = None
    reductions: tuple[str, ...] = ("none", "mean", "sum")  # values of `reduction`, or of `aggregation`
    masked: bool = False  # does the signature have mask and normalizer?
    dtypes: tuple[torch.dtype, ...] = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
    twice: bool = True  # differentiable twice at these inputs
    derivative: bool = True  # is the gradient the derivative? torch's is not where it clamps a variance, for one

    def __str__(self) -> str:
        return self.name

    @property
    def reduction_argument(self) -> str:
        return "aggregation" if "aggregation" in inspect.signature(self.loss).parameters else "reduction"

    @property
    def has_terms(self) -> bool:
        return "return_terms" in inspect.signature(self.loss).parameters
