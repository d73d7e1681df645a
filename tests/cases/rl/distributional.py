"""The losses of distributions of returns, over all pairs of a source and a target quantile."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cases.case import MASKED, Arguments, Build, Case, Shape, normal


def _quantiles(levels: str) -> Build:
    """Errors on both sides of 0 and of kappa. levels: "of rows", tau is (*, N); "shared": (N); "midpoints": none."""

    def make(generator: torch.Generator, shape: Shape) -> Arguments:
        *rows, sources, targets = shape
        made = {
            "quantiles": normal(generator, *rows, sources),
            "target_quantiles": normal(generator, *rows, targets, scale=2.0),
        }
        if levels != "midpoints":
            of_rows = (*rows, sources) if levels == "of rows" else (sources,)
            made["tau"] = torch.rand(of_rows, generator=generator, dtype=torch.float64)
        return made

    return make


def _oracle(relative: bool) -> Callable[..., Tensor]:
    def losses(quantiles: Tensor, target_quantiles: Tensor, tau: Tensor | None = None, kappa: float = 1.0) -> Tensor:
        """The losses of the rows, by loops over the pairs and the formulas of the papers."""
        rows, sources = quantiles.shape[:-1], quantiles.shape[-1]
        if tau is None:
            tau = torch.tensor([(2 * i + 1) / (2 * sources) for i in range(sources)], dtype=torch.float64)
        source, target, levels = (
            np.broadcast_to(x.numpy(), (*rows, x.shape[-1])).reshape(-1, x.shape[-1])
            for x in (quantiles.detach(), target_quantiles, tau)
        )
        divisor = kappa if relative and kappa > 0 else 1.0
        losses = []
        for s, t, levels_of_row in zip(source, target, levels, strict=True):
            loss = 0.0
            for theta, level in zip(s, levels_of_row, strict=True):
                for u in t - theta:
                    size = abs(u)
                    small = 0.5 * u * u if kappa > 0 else size
                    huber = small if size <= kappa or kappa == 0 else kappa * (size - 0.5 * kappa)
                    loss += abs(level - (u < 0)) * huber / divisor / len(t)
            losses.append(loss)
        return torch.tensor(losses, dtype=torch.float64).reshape(rows)

    return losses


def _case(name: str, variant: str, levels: str = "of rows", shape: Shape = (5, 19, 23), **options: Any) -> Case:
    return Case(
        f"rl.{name}", _quantiles(levels), shape, ("quantiles",), "outer", variant, options,
        oracle=_oracle(name == "iqn_loss"), optional={"weights": "losses", **MASKED}, domain={"tau": (0.0, 1.0)},
        batched=len(shape) > 2, twice=options.get("kappa", 1.0) > 0,
    )  # fmt: skip


CASES = [
    _case("quantile_huber_loss", "", "midpoints"),
    _case("quantile_huber_loss", "kappa 0.3, rows of two dimensions", shape=(2, 3, 19, 23), kappa=0.3),
    _case("quantile_huber_loss", "kappa 0, shared levels", "shared", kappa=0.0),
    _case("quantile_huber_loss", "one row", "shared", (40, 9)),
    _case("iqn_loss", "", shape=(3, 8, 8)),
    _case("iqn_loss", "kappa 0.25", shape=(4, 33, 70), kappa=0.25),
    _case("iqn_loss", "kappa 0, shared levels", "shared", kappa=0.0),
]
