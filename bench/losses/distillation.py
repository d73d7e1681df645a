"""A student's softmax and a teacher's, as people write it with torch."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from ..loss import Arguments, Loss, Shape


def _logits(shape: Shape, dtype: torch.dtype, generator: torch.Generator) -> Arguments:
    student, teacher = (torch.randn(shape, generator=generator, device=generator.device, dtype=dtype) for _ in range(2))
    return student, teacher


def _distillation(student: Tensor, teacher: Tensor) -> Tensor:
    """Both over a temperature of 2, whose square is the factor."""
    log_s, log_t = F.log_softmax(student / 2, -1), F.log_softmax(teacher / 2, -1)
    return 4 * F.kl_div(log_s, log_t, log_target=True, reduction="batchmean")


def _jsd(student: Tensor, teacher: Tensor) -> Tensor:
    """Of equal shares, as TRL writes it."""
    log_s, log_t = F.log_softmax(student, -1), F.log_softmax(teacher, -1)
    log_m = torch.logsumexp(torch.stack([log_s, log_t]) - math.log(2), 0)
    return (_kl(log_m, log_t) + _kl(log_m, log_s)) / 2


def _kl(log_q: Tensor, log_p: Tensor) -> Tensor:
    return F.kl_div(log_q, log_p, log_target=True, reduction="batchmean")


LOSSES = (
    Loss(
        "distillation_loss",
        "distillation_loss",
        _distillation,
        _logits,
        shapes=((1024, 32000),),
        cuda_shapes=((8192, 32000),),
        streams=2,
    ),
    Loss(
        "generalized_jsd_loss",
        "generalized_jsd_loss",
        _jsd,
        _logits,
        shapes=((1024, 32000),),
        cuda_shapes=((8192, 32000),),
        streams=2,
    ),
)
