"""What is measured: loss x shape x dtype x mode, and the bytes that each of them has to move."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from .loss import Arguments, Loss, Shape
from .losses import LOSSES

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}

# forward           the loss alone, under no_grad
# forward_backward  the loss, then torch.autograd.grad of it by the logits: what a model's backward pass starts with.
#                   No provider accumulates into an earlier gradient. Each allocates its own and pays for the page
#                   faults, and for freeing it, which is inside the timed region too, as a training step drops it.
#                   (The in-place variant, which allocates none, is a provider of its own.)
MODES = ("forward", "forward_backward")


@dataclass(frozen=True)
class Case:
    loss: Loss
    shape: Shape
    dtype: str
    mode: str

    @property
    def shape_name(self) -> str:
        return "x".join(map(str, self.shape))

    def __str__(self) -> str:
        return f"{self.loss.name} {self.shape_name} {self.dtype} {self.mode}"

    @property
    def tensor_bytes(self) -> int:
        """s, the bytes of the arguments that are differentiated."""
        return self.loss.size(self.shape) * DTYPES[self.dtype].itemsize

    @property
    def footprint(self) -> int:
        """Bytes that torch's way touches; what decides whether a case is larger than a cache."""
        return self.tensor_bytes * (self.shape[-1] if self.loss.pairs else 1)

    @property
    def bytes(self) -> int:
        """What no implementation can avoid: every large input is read once, the gradient is written once.

        One tensor of logits: s forward, 2 s forward and backward (one read, one write). Further streams add s to both.
        Index targets and per-row results are left out: at most 8 bytes a row in, 4 out. An implementation that
        reads twice moves more than is counted here, and shows a lower GB/s for it.
        """
        return self.tensor_bytes * (self.loss.streams + (self.mode == "forward_backward"))

    def make_arguments(self, device: torch.device, seed: int) -> Arguments:
        """Random arguments, the same for the same seed; never zeros, which share pages and compress."""
        generator = torch.Generator(device).manual_seed(seed)
        return self.loss.make_arguments(self.shape, DTYPES[self.dtype], generator)


def all_cases(device_type: str = "cpu") -> Iterator[Case]:
    for loss in LOSSES:
        for shape in loss.shapes_on(device_type):
            for dtype in DTYPES:
                for mode in MODES:
                    yield Case(loss, shape, dtype, mode)
