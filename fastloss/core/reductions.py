"""How the losses of elements become one number: reductions, masks, explicit denominators, sums over sequences.

For losses of shape (..., T), with T tokens in each sequence, m the mask (1 without one) and n(s) = sum_t m[s, t]:

===========================  =============================================================================
"none"                       m * loss, elementwise
"mean", "token-mean"         sum(m * loss) / normalizer;   normalizer is sum(m) unless given
"sum", "token-sum"           sum(m * loss)
"seq-mean-token-sum"         sum_s sum_t m * loss / normalizer;   normalizer is the number of sequences with n(s) > 0
"seq-mean-token-mean"        sum_s (sum_t m * loss) / n(s) / normalizer;   the same normalizer
"seq-mean-token-sum-norm"    "seq-mean-token-sum" / T
===========================  =============================================================================

An element with m = 0 is not there, whatever it holds. A denominator of 0, a given normalizer too, is taken as 1: a
batch that is empty or masked out altogether has the loss 0 and zero gradients, also if its normalizer was counted by
the caller, over several devices for one.

Masks and weights broadcast to the losses and never enlarge them: :func:`check_fit`.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

# Sizes are multiplied by math.prod: torch.Size.numel() makes a constant of a symbolic size, under torch.export for one.

AGGREGATIONS = (
    "none",
    "token-mean",
    "token-sum",
    "seq-mean-token-sum",
    "seq-mean-token-mean",
    "seq-mean-token-sum-norm",
)
_SAME = {"mean": "token-mean", "sum": "token-sum"}


class Weights(NamedTuple):
    """The loss is sum(factor * scale * m * loss); scale broadcasts to the losses."""

    factor: float
    scale: Tensor | None


def check_fit(
    losses: torch.Size, device: torch.device, normalizer: float | Tensor | None, **tensors: Tensor | None
) -> None:
    """Masks and weights, by name, have to broadcast to the losses; (N, 1) beside N losses would make N x N of them.

    Raises:
        ValueError: if one does not, or if there are several normalizers.
        TypeError: if one is no tensor.
    """
    for name, x in tensors.items():
        if x is None:
            continue
        if not isinstance(x, Tensor):
            raise TypeError(f"{name} must be a tensor, got {type(x).__name__}")
        if x.dim() > len(losses) or any(n not in (1, m) for n, m in zip(x.shape[::-1], losses[::-1], strict=False)):
            raise ValueError(f"{name} {tuple(x.shape)} does not broadcast to the losses, {tuple(losses)}")
        if x.device != device:
            raise ValueError(f"{name} is on {x.device}, the losses are on {device}")
    if isinstance(normalizer, Tensor):
        if normalizer.numel() != 1:
            raise ValueError(f"normalizer must be one number, got the shape {tuple(normalizer.shape)}")
        if normalizer.device != device and not normalizer.is_cpu:
            raise ValueError(f"normalizer is on {normalizer.device}, the losses are on {device}")


def _or_one(count: Tensor) -> Tensor:
    return torch.where(count == 0, 1, count)


def weights(how: str, shape: torch.Size, mask: Tensor | None, normalizer: float | Tensor | None) -> Weights:
    """How losses of this shape are weighted. Nothing is read back from the device.

    Raises:
        ValueError: for an unknown `how`, or a normalizer that `how` does not use.
    """
    how = _SAME.get(how, how)
    if how not in AGGREGATIONS:
        raise ValueError(f"{how!r} is not a valid aggregation; choose one of {', '.join((*AGGREGATIONS, *_SAME))}")
    if how in ("none", "token-sum"):
        if normalizer is not None:
            raise ValueError(f"a normalizer has no meaning with {how!r}")
        return Weights(1.0, None)
    factor, scale = 1.0, None
    if how == "token-mean":
        if normalizer is None:
            if mask is None:
                return Weights(1.0 / max(1, math.prod(shape)), None)
            repeats = math.prod(shape) / max(1, mask.numel())
            return (
                Weights(1.0 / repeats, _or_one(mask.sum(dtype=torch.float64)).reciprocal())
                if repeats
                else Weights(1.0, None)
            )
    else:
        sequences, length = math.prod(shape[:-1]), shape[-1] if shape else 1
        if mask is not None:
            tokens = mask.expand(shape).sum(-1, keepdim=True, dtype=torch.float64)  # (..., 1)
        if how == "seq-mean-token-mean":
            if mask is None:
                factor /= max(1, length)
            else:
                scale = _or_one(tokens).reciprocal()
        elif how == "seq-mean-token-sum-norm":
            factor /= max(1, length)
        if normalizer is None:
            if mask is None:
                return Weights(factor / max(1, sequences), scale)
            normalizer = _or_one((tokens > 0).sum())
    if isinstance(normalizer, Tensor):
        inverse = _or_one(normalizer.double().reshape(())).reciprocal()
        return Weights(factor, inverse if scale is None else scale * inverse)
    return Weights(factor / (normalizer or 1), scale)


def aggregate(losses: Tensor, how: str, mask: Tensor | None = None, normalizer: float | Tensor | None = None) -> Tensor:
    """The losses of elements, masked and reduced; see the head of this module. In torch, for the reference bodies."""
    dtype = losses.dtype
    if mask is not None:
        losses = torch.where(mask != 0, losses * mask.to(dtype), 0)
    factor, scale = weights(how, losses.shape, mask, normalizer)
    if how == "none":
        return losses
    if dtype in (torch.float16, torch.bfloat16):
        losses = losses.float()  # 1 / n does not fit a half
    if scale is not None:
        losses = losses * scale
    total = losses.sum()
    return (total if factor == 1.0 else total * factor).to(dtype)


def masked_mean(values: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean of a metric over the elements that the mask counts, detached; 0 if there are none."""
    return aggregate(values.detach(), "mean", mask)


def masked_min(values: Tensor, mask: Tensor | None = None) -> Tensor:
    """Least value that the mask counts, detached; inf if there is none."""
    values = values.detach()
    return _and(values if mask is None else torch.where(mask != 0, values, math.inf), math.inf).amin()


def masked_max(values: Tensor, mask: Tensor | None = None) -> Tensor:
    """Greatest value that the mask counts, detached; -inf if there is none."""
    values = values.detach()
    return _and(values if mask is None else torch.where(mask != 0, values, -math.inf), -math.inf).amax()


def _and(values: Tensor, value: float) -> Tensor:
    """The values and one more: torch has no extremum of nothing, and a size must not decide in a graph."""
    return torch.cat([values.reshape(-1), values.new_full((1,), value)])
