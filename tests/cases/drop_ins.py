"""The losses that torch has and that we fuse, with inputs of any shape: what the tests of the contract run over."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from support import generator
from torch import Tensor

import fastloss

LARGE = (60, 80)  # above the size up to which "auto" leaves a call to torch


@dataclass(frozen=True)
class DropIn:
    """A loss of torch's, and how its operands are made from normal random numbers, in the order of its arguments."""

    name: str
    kinds: tuple[tuple[str, str], ...]  # argument, kind
    differentiable: tuple[str, ...] = ("input", "target")
    options: tuple[tuple[str, Any], ...] = ()

    @property
    def ours(self) -> Callable[..., Tensor]:
        return getattr(fastloss, self.name)

    @property
    def torchs(self) -> Callable[..., Tensor]:
        return getattr(F, self.name)

    def __str__(self) -> str:
        return (
            self.name + "".join(f"-{key}" for key, _ in self.options) + ("-soft" if "soft" in str(self.kinds) else "")
        )

    def make(self, shape: tuple[int, ...] = LARGE, dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
        tensors = {}
        for name, kind in self.kinds:
            x = torch.randn(shape, generator=generator(f"{self} {name}"), dtype=torch.float64)
            x = _KINDS[kind](x)
            tensors[name] = x.to(dtype) if x.is_floating_point() else x
        return tensors


def _classes(x: Tensor) -> Tensor:
    """A class index for each row of (C), (N, C) or (N, C, d1, ...)."""
    return x.argmax(min(1, x.dim() - 1))


_KINDS: dict[str, Callable[[Tensor], Tensor]] = {
    "real": lambda x: x,
    "probability": lambda x: x.sigmoid(),
    "label": lambda x: (x > 0).to(x.dtype),
    "sign": lambda x: 2 * (x > 0).to(x.dtype) - 1,
    "positive": lambda x: x.exp(),
    "classes": _classes,
    "soft": lambda x: x.softmax(min(1, x.dim() - 1)),
}

_SIGNED = (("input", "real"), ("target", "sign"))
_REAL = (("input", "real"), ("target", "real"))
DROP_INS = [
    DropIn("cross_entropy", (("input", "real"), ("target", "classes")), ("input",)),
    DropIn("cross_entropy", (("input", "real"), ("target", "soft")), ("input",), (("label_smoothing", 0.1),)),
    DropIn("mse_loss", _REAL),
    DropIn("l1_loss", _REAL),
    DropIn("huber_loss", _REAL, options=(("delta", 0.7),)),
    DropIn("smooth_l1_loss", _REAL, options=(("beta", 0.7),)),
    DropIn("binary_cross_entropy", (("input", "probability"), ("target", "probability"))),
    DropIn("binary_cross_entropy_with_logits", (("input", "real"), ("target", "probability"))),
    DropIn("soft_margin_loss", _SIGNED, ("input",)),
    DropIn("hinge_embedding_loss", _SIGNED, ("input",)),
    DropIn("margin_ranking_loss", (("input1", "real"), ("input2", "real"), ("target", "sign")), ("input1", "input2")),
    DropIn("gaussian_nll_loss", (*_REAL, ("var", "positive")), ("input", "target", "var")),
    DropIn("poisson_nll_loss", (("input", "real"), ("target", "positive"))),
    DropIn("kl_div", (("input", "real"), ("target", "probability")), options=(("reduction", "batchmean"),)),
]
