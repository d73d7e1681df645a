"""The operators over pairs of vectors in torch, on the full matrix: what their second derivatives are taken of."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from fastloss.core.elementary import softplus
from fastloss.skeletons.triplets import semi_hard_losses


def _softmax_losses(
    query: Tensor, key: Tensor | None, own: Tensor | None, scale: Tensor, target: Tensor, dropped: Tensor | None,
    labels: Tensor | None, key_labels: Tensor | None,
) -> Tensor:  # fmt: skip
    z = scale * (query @ (query if key is None else key).t())
    out = torch.zeros_like(z, dtype=torch.bool)
    if labels is not None:
        out = labels[:, None] == (labels if key_labels is None else key_labels)
    if key is None:
        out = out | torch.eye(z.shape[0], dtype=torch.bool, device=z.device)
    if own is not None:
        z = torch.cat([z, scale * (query * own).sum(1, keepdim=True)], 1)
        out = F.pad(out, (0, 1))
    if dropped is not None:
        out = out | (torch.arange(z.shape[1], device=z.device) == dropped[:, None])
    z = z.masked_fill(out, -math.inf)
    return F.cross_entropy(z, target, reduction="none")


def _two_way_losses(query: Tensor, key: Tensor, scale: Tensor) -> Tensor:
    z = scale * (query @ key.t())
    return (z.logsumexp(1) + z.logsumexp(0)) / 2 - z.diagonal()


def _sigmoid_losses(query: Tensor, key: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    z = scale * (query @ key.t()) + bias
    sign = 2 * torch.eye(*z.shape, dtype=z.dtype, device=z.device) - 1
    return softplus(-sign * z).sum(1)


ORACLES: dict[str, Callable[..., Tensor]] = {
    "similarity_softmax": _softmax_losses,
    "similarity_two_way": _two_way_losses,
    "similarity_sigmoid": _sigmoid_losses,
    "similarity_semi_hard": semi_hard_losses,
}
"""The losses (N,) of each operator, in torch on the full matrix, from the same arguments."""
