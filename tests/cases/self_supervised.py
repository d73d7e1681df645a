"""The losses of self-supervised learning that are compositions of torch's operations."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from cases.case import Arguments, Case, Shape, normal


def _views(generator: torch.Generator, shape: Shape) -> Arguments:
    return {"z_a": normal(generator, *shape), "z_b": normal(generator, *shape)}


def vicreg_oracle(z_a: Tensor, z_b: Tensor) -> Tensor:
    """main_vicreg.py of facebookresearch/vicreg, as lightly has it."""

    def spread(z: Tensor) -> Tensor:
        return F.relu(1 - torch.sqrt(z.var(0) + 0.0001)).mean()

    def off_diagonal(z: Tensor) -> Tensor:
        covariance = torch.cov(z.T).reshape(z.shape[1], z.shape[1])
        return covariance[~torch.eye(len(covariance), dtype=torch.bool)].pow(2).sum() / len(covariance)

    invariance = F.mse_loss(z_a, z_b)
    return 25 * invariance + 25 * (spread(z_a) + spread(z_b)) / 2 + off_diagonal(z_a) + off_diagonal(z_b)


CASES = [
    # the squares on the diagonal, about 1 each, are subtracted again
    Case("vicreg_loss", _views, (20, 12), ("z_a", "z_b"), oracle=vicreg_oracle, reductions=("mean",), magnitude=4.0),
]
