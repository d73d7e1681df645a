"""Whether this process's CUDA context is still of use."""

from __future__ import annotations

import torch


def is_alive() -> bool:
    """False after a trap or an illegal access: every later call fails, and only a new process helps."""
    if not torch.cuda.is_initialized():
        return True
    try:
        torch.cuda.synchronize()
    except RuntimeError:
        return False
    return True
