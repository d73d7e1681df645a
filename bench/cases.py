"""What is measured: loss x shape x dtype x mode, and the bytes that each of them has to move."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

Shape = tuple[int, ...]
Arguments = tuple[Tensor, ...]  # of one call; the loss is differentiated by the first one

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}

# forward           the loss alone, under no_grad
# forward_backward  the loss, then torch.autograd.grad of it by the logits: what a model's backward pass starts with.
#                   No provider accumulates into an earlier gradient. Each allocates its own and pays for the page
#                   faults, and for freeing it, which is inside the timed region too, as a training step drops it.
#                   (The in-place variant, which allocates none, is a provider of its own.)
MODES = ("forward", "forward_backward")


@dataclass(frozen=True)
class Loss:
    """A loss with fixed options."""

    name: str  # in tables and for --loss
    function: str  # in fastloss
    torch_function: Callable[..., Tensor]  # (*arguments) -> 0-d: the same loss, written with torch alone
    make_arguments: Callable[[Shape, torch.dtype, torch.Generator], Arguments]
    shapes: tuple[Shape, ...]
    cuda_shapes: tuple[Shape, ...]  # on a GPU, whose caches and launch times ask for more
    options: Mapping[str, float] = field(default_factory=dict, hash=False)  # keywords in fastloss
    streams: int = 1  # tensors as large as the logits that have to be read

    def __str__(self) -> str:
        return self.name

    def shapes_on(self, device_type: str) -> tuple[Shape, ...]:
        return self.cuda_shapes if device_type == "cuda" else self.shapes


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
        """s, the bytes of the logits."""
        return torch.Size(self.shape).numel() * DTYPES[self.dtype].itemsize

    @property
    def bytes(self) -> int:
        """What no implementation can avoid: every large input is read once, the gradient is written once.

        One tensor of logits: s forward, 2 s forward and backward (one read, one write). Soft targets add s to both.
        Index targets and per-row results are left out: at most 8 bytes a row in, 4 out. An implementation that
        reads twice moves more than is counted here, and shows a lower GB/s for it.
        """
        return self.tensor_bytes * (self.loss.streams + (self.mode == "forward_backward"))

    def make_arguments(self, device: torch.device, seed: int) -> Arguments:
        """Random arguments, the same for the same seed; never zeros, which share pages and compress."""
        generator = torch.Generator(device).manual_seed(seed)
        return self.loss.make_arguments(self.shape, DTYPES[self.dtype], generator)


def _logits(shape: Shape, dtype: torch.dtype, generator: torch.Generator) -> Tensor:
    return torch.randn(shape, generator=generator, device=generator.device, dtype=dtype)


def _logits_and_index(shape: Shape, dtype: torch.dtype, generator: torch.Generator) -> Arguments:
    """(rows, C), (rows,), or (N, C, D), (N, D)"""
    target = torch.randint(shape[1], shape[:1] + shape[2:], generator=generator, device=generator.device)
    return _logits(shape, dtype, generator), target


def _logits_and_probabilities(shape: Shape, dtype: torch.dtype, generator: torch.Generator) -> Arguments:
    """(rows, C), (rows, C)"""
    target = torch.softmax(_logits(shape, dtype, generator), dim=1)
    return _logits(shape, dtype, generator), target


def _cross_entropy_z_loss(logits: Tensor, target: Tensor) -> Tensor:
    return F.cross_entropy(logits, target) + 1e-4 * torch.logsumexp(logits, dim=1).square().mean()


LOSSES = (
    Loss(
        "cross_entropy",
        "cross_entropy",
        F.cross_entropy,
        _logits_and_index,
        # A language model's vocabulary, the largest one in use, ImageNet, a small classifier with many rows, and a
        # call so small that nothing but its overhead counts.
        shapes=((1024, 32000), (512, 128256), (4096, 1000), (65536, 100), (8, 16)),
        # 4 to 40 times the L2 of an H100 (50 MB): two vocabularies, two lengths between, ImageNet, a small classifier,
        # pixels (classes that do not lie side by side). Last, overhead.
        cuda_shapes=(
            (4096, 128256),
            (8192, 32000),
            (32768, 8192),
            (65536, 4096),
            (131072, 1000),
            (1048576, 100),
            (16, 1000, 8192),
            (8, 16),
        ),
    ),
    Loss(
        "cross_entropy+smoothing",
        "cross_entropy",
        lambda logits, target: F.cross_entropy(logits, target, label_smoothing=0.1),
        _logits_and_index,
        shapes=((1024, 32000),),
        cuda_shapes=((8192, 32000),),
        options={"label_smoothing": 0.1},
    ),
    Loss(
        "cross_entropy+z_loss",
        "cross_entropy",
        _cross_entropy_z_loss,
        _logits_and_index,
        shapes=((1024, 32000),),
        cuda_shapes=((8192, 32000),),
        options={"z_loss": 1e-4},
    ),
    Loss(
        "cross_entropy+soft_target",
        "cross_entropy",
        F.cross_entropy,
        _logits_and_probabilities,
        shapes=((1024, 32000),),
        cuda_shapes=((8192, 32000),),
        streams=2,
    ),
)


def all_cases(device_type: str = "cpu") -> Iterator[Case]:
    for loss in LOSSES:
        for shape in loss.shapes_on(device_type):
            for dtype in DTYPES:
                for mode in MODES:
                    yield Case(loss, shape, dtype, mode)
