"""The row losses in plain torch, in float64: what the kernels are compared with. Shapes as in the operators."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

NONE, MEAN, SUM = 0, 1, 2


@dataclass(frozen=True)
class Options:
    smoothing: float = 0.0
    z_loss: float = 0.0
    softcap: float = 0.0
    temperature: float = 1.0
    gamma: float | None = None  # a focal loss, else cross-entropy

    @property
    def loss(self) -> str:
        return "cross_entropy" if self.gamma is None else "softmax_focal_loss"

    @property
    def parameters(self) -> list[float]:
        if self.gamma is not None:
            return [self.gamma]
        return [self.smoothing, self.z_loss, self.softcap, self.temperature]


def logits_that_enter(x: Tensor, options: Options) -> Tensor:
    z = options.softcap * torch.tanh(x / options.softcap) if options.softcap else x
    return z / options.temperature


def row_losses(
    x: Tensor, target: Tensor, weight: Tensor | None, options: Options, ignore_index: int
) -> tuple[Tensor, Tensor]:
    """(losses, what each row adds to the denominator of the mean), both (rows,); x: float64 (rows, C) or (N, C, D).

    An index target is (rows,) and a soft one has the shape of x.
    """
    z = logits_that_enter(x, options)
    soft = target.is_floating_point()
    if not soft:
        target = target.reshape(x.shape[:1] + x.shape[2:])
    if options.gamma is None:
        loss = F.cross_entropy(
            z, target, weight, ignore_index=ignore_index, reduction="none", label_smoothing=options.smoothing
        ).reshape(-1)
    else:
        log_p = F.log_softmax(z, 1)
        terms = (1 - log_p.exp()) ** options.gamma * log_p
        loss = F.nll_loss(terms, target, weight, ignore_index=ignore_index, reduction="none").reshape(-1)
    target = target.reshape(-1) if not soft else target
    counted = torch.ones_like(loss, dtype=torch.bool) if soft else target != ignore_index
    row_weight = torch.ones_like(loss)
    if weight is not None and not soft:
        row_weight = weight[torch.where(counted, target, 0)]
    if options.z_loss:
        lse = torch.logsumexp(z, 1).reshape(-1)
        loss = loss + torch.where(counted, options.z_loss * row_weight * lse**2, 0.0)
    return torch.where(counted, loss, 0.0), torch.where(counted, row_weight, 0.0)


def state(x: Tensor, options: Options) -> Tensor:
    """(2, rows): the largest logit and log(sum(exp(z - largest)))."""
    z = logits_that_enter(x, options)
    top = z.amax(1)
    return torch.stack([top.reshape(-1), torch.logsumexp(z - top.unsqueeze(1), 1).reshape(-1)])


def reduced(losses: Tensor, weights: Tensor, reduction: int) -> Tensor:
    if reduction == NONE:
        return losses
    return losses.sum() / weights.sum() if reduction == MEAN else losses.sum()


def gradient(
    x: Tensor, target: Tensor, weight: Tensor | None, options: Options, ignore_index: int, row_grad: Tensor
) -> Tensor:
    """d(sum(row_grad * losses))/dx"""
    x = x.detach().requires_grad_()
    losses, _ = row_losses(x, target, weight, options, ignore_index)
    return torch.autograd.grad((losses * row_grad).sum(), x)[0]
