"""Functions of numbers that torch does not have, or not to the last digit."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def softplus(x: Tensor) -> Tensor:
    """log(1 + e^x); torch's own is x from 20 on, which is 2e-9 off."""
    return F.softplus(x, threshold=40.0)


def log_sum(x: Tensor, where: Tensor, dim: int = 1) -> Tensor:
    """log sum exp of some of the numbers; -inf, a constant, of none."""
    some = where.any(dim, keepdim=True)
    total = x.masked_fill(~where & some, -math.inf).logsumexp(dim)
    return torch.where(some.squeeze(dim), total, -math.inf)
