"""Preference losses, as people write them with torch."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from ..elements import loss, normal


def _dpo(chosen: Tensor, rejected: Tensor, reference_chosen: Tensor, reference_rejected: Tensor) -> Tensor:
    return -F.logsigmoid(0.1 * ((chosen - rejected) - (reference_chosen - reference_rejected))).mean()


LOSSES = (loss("dpo_loss", "alignment.dpo_loss", _dpo, normal(4), 4),)
