"""What the autograd Functions of the skeletons share."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def transformed(upstream: Tensor) -> bool:
    """Does somebody differentiate or batch the backward that runs now, so that it has to consist of torch's operations?

    create_graph=True does the one, is_grads_batched=True (jacobian(vectorize=True)) the other.
    """
    batched = torch._C._functorch.is_legacy_batchedtensor(upstream) or torch._C._are_functorch_transforms_active()
    return batched or torch.is_grad_enabled()


def scaled(grad: Tensor, upstream: Tensor, operators: Any) -> Tensor:
    """grad, of which nobody else knows, times the upstream gradient of a scalar loss."""
    if not grad.is_cpu:
        operators.scale_(grad, upstream)  # reads the factor on the device
    elif type(upstream) is not Tensor or upstream.item() != 1.0:  # a FakeTensor has no value
        grad.mul_(upstream)
    return grad
