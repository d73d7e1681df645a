"""The table of the losses over pairs: inputs, options, an independent oracle. test_pairs.py has the laws for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

import fastloss


@dataclass(frozen=True)
class Case:
    """A loss with options, and shapes for its inputs."""

    name: str
    loss: Callable[..., Tensor]
    rows: tuple[int, ...] = (5,)
    sources: int = 19
    targets: int = 23
    levels: str = "of rows"  # tau is (*, N); "shared": (N); "midpoints": left out
    options: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def __str__(self) -> str:
        return self.name

    @property
    def kappa(self) -> float:
        return self.options.get("kappa", 1.0)

    def make(self, generator: torch.Generator) -> dict[str, Tensor]:
        """Tensors by argument name, in float64; the errors are on both sides of 0 and of kappa."""
        shape = (*self.rows, self.sources)
        made = {
            "quantiles": torch.randn(shape, generator=generator, dtype=torch.float64),
            "target_quantiles": 2 * torch.randn((*self.rows, self.targets), generator=generator, dtype=torch.float64),
        }
        if self.levels != "midpoints":
            shape = shape if self.levels == "of rows" else shape[-1:]
            made["tau"] = torch.rand(shape, generator=generator, dtype=torch.float64)
        return made

    def oracle(self, quantiles: Tensor, target_quantiles: Tensor, tau: Tensor | None = None) -> Tensor:
        """The losses of the rows, by loops over the pairs and the formulas of the papers."""
        if tau is None:
            tau = torch.tensor([(2 * i + 1) / (2 * self.sources) for i in range(self.sources)], dtype=torch.float64)
        source, target, levels = (
            np.broadcast_to(x.numpy(), (*self.rows, x.shape[-1])).reshape(-1, x.shape[-1])
            for x in (quantiles, target_quantiles, tau)
        )
        divisor = self.kappa if self.loss is fastloss.rl.iqn_loss and self.kappa > 0 else 1.0
        losses = []
        for s, t, levels_of_row in zip(source, target, levels, strict=True):
            loss = 0.0
            for theta, level in zip(s, levels_of_row, strict=True):
                for u in t - theta:
                    size = abs(u)
                    small = 0.5 * u * u if self.kappa > 0 else size
                    huber = small if size <= self.kappa or self.kappa == 0 else self.kappa * (size - 0.5 * self.kappa)
                    loss += abs(level - (u < 0)) * huber / divisor / len(t)
            losses.append(loss)
        return torch.tensor(losses, dtype=torch.float64).reshape(self.rows)


_QR, _IQN = fastloss.rl.quantile_huber_loss, fastloss.rl.iqn_loss

ALL = [
    Case("quantile_huber_loss", _QR, levels="midpoints"),
    Case("quantile_huber_loss, kappa 0.3, rows of two dimensions", _QR, (2, 3), options={"kappa": 0.3}),
    Case("quantile_huber_loss, kappa 0, shared levels", _QR, levels="shared", options={"kappa": 0.0}),
    Case("quantile_huber_loss, one row", _QR, (), 40, 9, "shared"),
    Case("iqn_loss", _IQN, (3,), 8, 8),
    Case("iqn_loss, kappa 0.25", _IQN, (4,), 33, 70, options={"kappa": 0.25}),
    Case("iqn_loss, kappa 0, shared levels", _IQN, levels="shared", options={"kappa": 0.0}),
]
ONE_OF_EACH = [next(case for case in ALL if case.loss is loss) for loss in (_QR, _IQN)]
