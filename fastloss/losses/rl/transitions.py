"""What the losses of values and critics share: single steps of a batch, and what is predicted of them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fastloss.core.arguments import check_range
from fastloss.core.composite import present
from fastloss.core.metrics import Metrics
from fastloss.losses.regression import huber_loss, mse_loss

__all__: list[str] = []


def same_shape(shape: torch.Size, **tensors: Any) -> None:
    """A reward (N, 1) beside values (N,) would make N x N errors, silently: shapes are the same, or refused.

    Raises:
        ValueError: if one is not of this shape; what is no tensor, or a tensor of no dimension, is a number.
    """
    for name, x in tensors.items():
        if isinstance(x, Tensor) and x.dim() and x.shape != shape:
            raise ValueError(f"{name} must have the shape {tuple(shape)}, got {tuple(x.shape)}")


def checked_actions(actions: Tensor, shape: torch.Size, of: str) -> None:
    """
    Raises:
        ValueError: if they are no integers, one for each row of what is called `of`.
    """
    if actions.is_floating_point() or actions.shape != shape:
        raise ValueError(
            f"actions must be integers {tuple(shape)}, one for each of {of}; got {actions.dtype} {tuple(actions.shape)}"
        )


def chosen(values: Tensor, actions: Tensor) -> Tensor:
    """(..., A), (...) -> (...)

    Raises:
        IndexError: for an action that there is not (on a CPU).
    """
    actions = actions.long()
    check_range(actions, values.shape[-1], 0)
    return values.gather(-1, actions[..., None])[..., 0]


def errors(input: Tensor, target: Tensor, delta: float | None) -> Tensor:
    """Squared, or Huber's with a bend at delta; the target is a constant.

    Raises:
        ValueError: if delta is not positive.
    """
    if delta is not None and not delta > 0:
        raise ValueError(f"delta must be positive, got {delta}")
    dtype = torch.promote_types(input.dtype, target.dtype)
    input, target = input.to(dtype), target.detach().to(dtype)
    if delta is None:
        return mse_loss(input, target, reduction="none")
    return huber_loss(input, target, reduction="none", delta=delta)


def of_critics(shape: torch.Size, name: str, q_values: Tensor, beside: str) -> None:
    """
    Raises:
        ValueError: if there are not K values for each element of what is called `beside`.
    """
    if not q_values.dim() or q_values.shape[:-1] != shape:
        raise ValueError(f"{name} {tuple(q_values.shape)} must be (..., K) beside {beside} {tuple(shape)}")


def checked_alpha(alpha: float | Tensor) -> float | Tensor:
    """A constant.

    Raises:
        ValueError: if it is not one number.
    """
    if isinstance(alpha, Tensor) and alpha.numel() != 1:
        raise ValueError(f"alpha must be one number, got the shape {tuple(alpha.shape)}")
    return alpha.detach().reshape(()) if isinstance(alpha, Tensor) else alpha


def against(q_values: Tensor, target: Tensor, delta: float | None) -> tuple[Tensor, Metrics]:
    """(losses, terms) of critics (..., K) against one target (...)."""
    losses = errors(q_values, target[..., None].expand(q_values.shape), delta).sum(-1)
    return losses, {"q_value": q_values.sum(-1) / max(1, q_values.shape[-1]), "target": target}


class Transitions:
    """Rewards of single steps and whether they were the last; what is masked out is 0."""

    def __init__(
        self,
        rewards: Tensor,
        terminated: Tensor | None,
        gamma: float | Tensor,
        mask: Tensor | None,
        normalizer: float | Tensor | None,
    ) -> None:
        same_shape(rewards.shape, terminated=terminated, gamma=gamma)
        self.shape, self.mask, self.normalizer = rewards.shape, mask, normalizer
        (self.rewards,) = self.there(rewards)
        self.ended = None if terminated is None else self.there(terminated)[0] != 0
        self.gamma = self.there(gamma)[0] if isinstance(gamma, Tensor) else gamma

    def there(self, *operands: Tensor) -> tuple[Tensor, ...]:
        """Operands (..., any), one for each step, without those that the mask has taken out."""
        return present(self.shape, self.mask, self.normalizer, *operands)

    def target(self, next_values: Tensor) -> Tensor:
        """r + gamma v', a constant, for v' (...) or (..., any); where an episode has terminated v' is not looked at."""
        behind = [1] * (next_values.dim() - len(self.shape))

        def of_each(x: Any) -> Any:
            return x.reshape(*x.shape, *behind) if isinstance(x, Tensor) and x.dim() else x

        worth = of_each(self.gamma) * next_values
        if self.ended is not None:
            worth = torch.where(of_each(self.ended), 0, worth)
        return (of_each(self.rewards) + worth).detach()
