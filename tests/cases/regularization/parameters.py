"""Penalties on parameters, of one tensor; the oracles take norms, singular values and numpy's matrices."""

from __future__ import annotations

import torch
from torch import Tensor

from cases.case import Arguments, Case, Shape, normal


def _weight(generator: torch.Generator, shape: Shape) -> Arguments:
    return {"parameters": normal(generator, *shape)}


def _elastic(parameters, l1=1.0, l2=1.0) -> Tensor:
    return l1 * parameters.abs().sum() + l2 * (parameters**2).sum()


def _groups(parameters, sizes=True) -> Tensor:
    return sum((len(row) ** 0.5 if sizes else 1) * (row @ row).sqrt() for row in parameters)


def _spectral(parameters, bound=0.0) -> Tensor:
    # the root of the largest eigenvalue of the Gram matrix
    return torch.relu(torch.linalg.eigvalsh(parameters.T @ parameters)[-1].sqrt() - bound) ** 2 / 2


def _orthogonality(parameters, diagonal=True) -> Tensor:
    w = parameters if parameters.shape[0] <= parameters.shape[1] else parameters.T
    total = torch.zeros((), dtype=torch.float64)
    for i, a in enumerate(w):
        for j, b in enumerate(w):
            if i != j or diagonal:
                total = total + (a @ b - float(i == j)) ** 2
    return total


def _case(name: str, oracle, variant: str = "", twice: bool = True, shape=(4, 3), batched=True, **options) -> Case:
    return Case(
        f"regularization.{name}", _weight, shape, ("parameters",), variant=variant, options=options, oracle=oracle,
        reductions=("mean",), twice=twice, batched=batched,
    )  # fmt: skip


CASES = [
    _case("l1_penalty", lambda parameters: parameters.abs().sum(), twice=False),
    _case("l2_penalty", lambda parameters: (parameters**2).sum()),
    _case("elastic_net_penalty", _elastic, twice=False),
    _case("elastic_net_penalty", _elastic, "ridge", l1=0.0, l2=0.25),
    _case("group_lasso", _groups),
    _case("group_lasso", _groups, "without sizes", sizes=False),
    _case("spectral_norm_penalty", _spectral),
    _case("spectral_norm_penalty", _spectral, "bound", bound=0.5),
    # without rows the columns' products are all 0, and should be 1
    _case("orthogonality_penalty", _orthogonality, batched=False),
    _case("orthogonality_penalty", _orthogonality, "free norms", shape=(3, 5), diagonal=False),
]
