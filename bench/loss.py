"""A loss to be measured."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

import fastloss

Shape = tuple[int, ...]
Arguments = tuple[Tensor, ...]  # of one call; the loss is differentiated by the first ones


@dataclass(frozen=True)
class Loss:
    """A loss with fixed options."""

    name: str  # in tables and for --loss
    function: str  # in fastloss, "rl.ppo_clip_loss" for example
    torch_function: Callable[..., Tensor]  # (*arguments) -> 0-d: the same loss, written with torch alone
    make_arguments: Callable[[Shape, torch.dtype, torch.Generator], Arguments]
    shapes: tuple[Shape, ...]
    cuda_shapes: tuple[Shape, ...]  # on a GPU, whose caches and launch times ask for more
    options: Mapping[str, float | str] = field(default_factory=dict, hash=False)  # keywords in fastloss
    streams: int = 1  # tensors as large as the first argument that have to be read
    differentiated: int = 1  # so many arguments, the first ones
    size: Callable[[Shape], int] = math.prod  # elements of those arguments
    exact_function: Callable[..., Tensor] | None = None  # torch_function in less memory, for float64
    pairs: bool = False  # does torch make (B, N, N) of the arguments (B, N)?
    cold: bool = True  # are inputs to come from memory? Not where they are nothing beside the work on them

    def __str__(self) -> str:
        return self.name

    def shapes_on(self, device_type: str) -> tuple[Shape, ...]:
        return self.cuda_shapes if device_type == "cuda" else self.shapes

    @property
    def fused(self) -> Callable[..., Any]:
        return operator.attrgetter(self.function)(fastloss)
