"""The derivative of a model by its input, as a part of a loss: it is differentiated again."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from fastloss.core.dtypes import widened


def pulled_back(model: Callable[[Tensor], Tensor], x: Tensor, cotangent: Tensor) -> tuple[Tensor, Tensor]:
    """(model(x), J'v) for the Jacobian J of the model at x and v, `cotangent`; differentiable by the parameters.

    By torch.autograd.grad, which lets a model have buffers that change (running means, power iterations); inside
    torch.func and torch.compile by torch.func.vjp, the one that works there.
    """
    if torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active():
        value, back = torch.func.vjp(model, x)  # type: ignore[misc]
        return value, back(cotangent.to(value.dtype).expand_as(value))[0]
    twice = torch.is_grad_enabled()
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        value = model(x)
        cotangent = cotangent.to(value.dtype).expand_as(value)
        (gradient,) = torch.autograd.grad(value, x, cotangent, create_graph=twice, materialize_grads=True)
    return value if twice else value.detach(), gradient


def input_gradient(model: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """The derivative of ``model(x).sum()`` by x, in float32 at least."""
    (gradient,) = widened(pulled_back(model, x, x.new_ones(()))[1])
    return gradient


def norms(vectors: Tensor) -> Tensor:
    """(N,), the Euclidean norms of what is behind the first dimension; at 0, where one has no derivative, the gradient
    is 0."""
    square = vectors.flatten(1).square().sum(1)
    nonzero = square != 0  # of a NaN, too
    return torch.where(nonzero, torch.where(nonzero, square, 1).sqrt(), 0)
