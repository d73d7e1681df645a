"""What the autograd Functions of the skeletons share."""

from __future__ import annotations

from typing import Any

from torch import Tensor


def scaled(grad: Tensor, upstream: Tensor, operators: Any) -> Tensor:
    """grad, of which nobody else knows, times the upstream gradient of a scalar loss."""
    if not grad.is_cpu:
        operators.scale_(grad, upstream)  # reads the factor on the device
    elif upstream.item() != 1.0:
        grad.mul_(upstream)
    return grad
