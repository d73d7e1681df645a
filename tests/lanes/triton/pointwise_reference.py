"""What the pointwise launchers should return, in plain float64 torch; and a loss that has everything."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
import triton
import triton.language as tl
from lanes.triton.kernels import losses, pointwise
from torch import Tensor

F32, F64, F16, BF16 = torch.float32, torch.float64, torch.float16, torch.bfloat16
DTYPES = (F32, F64, F16, BF16)  # the numbers of the operator's `dtype`


def huber(x: Sequence[Tensor], parameters: Sequence[float]) -> tuple[Tensor, list[Tensor]]:
    residual = (x[0] - x[1]).abs()
    delta = parameters[0]
    return torch.where(residual <= delta, residual**2 / 2, delta * (residual - delta / 2)), []


def everything(x: Sequence[Tensor], parameters: Sequence[float]) -> tuple[Tensor, list[Tensor]]:
    """Three operands, the last without a gradient; a metric of each kind; a parameter and a switch."""
    product = torch.sin(x[0]) * x[1]
    loss = parameters[0] * product + (x[2] * x[1] if parameters[1] else 0.0)
    return loss, [product, product, product - x[2], product + x[2]]


@triton.jit
def everything_helper(x0, x1, x2, factor, more):
    product = tl.sin(x0) * x1
    loss = factor * product
    by_second = factor * tl.sin(x0)
    if more is not None:
        loss += x2 * x1
        by_second += x2
    metrics = (product, product, product - x2, product + x2)
    return loss, (factor * tl.cos(x0) * x1, by_second, 0.0), metrics


@triton.jit
def everything_domain(x0, x1, x2):
    return x2 > -9.0


def install() -> None:
    """`everything` becomes a loss of the interpreted kernels."""
    everything = losses.Declared(
        everything_helper, lambda factor, more: (factor, more or None), everything_domain, "x2 must be above -9", 3,
        METRICS["everything"],
    )  # fmt: skip
    of_the_tree = pointwise.declared
    pointwise.declared = lambda loss: everything if loss == "everything" else of_the_tree(loss)


METRICS = {"huber_loss": (), "everything": ("mean", "part", "min", "max")}
FORMULAS: dict[str, Callable[..., tuple[Tensor, list[Tensor]]]] = {"huber_loss": huber, "everything": everything}


@dataclass
class Call:
    """The arguments of a launcher, and its results as float64 torch has them."""

    operands: Sequence[Tensor | float]
    loss: str = "huber_loss"
    parameters: Sequence[float] = (0.7,)
    weight: Tensor | None = None
    scale: Tensor | None = None
    masked: bool = False
    factor: float = 1.0
    wanted: tuple[int, ...] = (0, 1)
    tensors: list[Tensor] = field(init=False)

    def __post_init__(self) -> None:
        self.tensors = [x for x in self.operands if isinstance(x, Tensor)]
        self.shape = torch.broadcast_shapes(*(x.shape for x in self.tensors))
        self.wanted = tuple(k for k in self.wanted if isinstance(self.operands[k], Tensor))
        self.accumulator = F64 if any(x.dtype == F64 for x in self.tensors) else F32

    @property
    def arguments(self) -> tuple[object, ...]:
        """Of both launchers, without the upstream gradient."""
        constants = [0.0 if isinstance(x, Tensor) else float(x) for x in self.operands]
        present = sum(1 << k for k, x in enumerate(self.operands) if isinstance(x, Tensor))
        wanted = sum(1 << k for k in self.wanted)
        return (
            self.tensors, self.weight, self.scale, self.loss, constants, list(self.parameters), present, wanted,
            self.masked, self.factor,
        )  # fmt: skip

    def reference(self, upstream: Tensor | None = None) -> Reference:
        w = torch.ones(self.shape, dtype=F64) if self.weight is None else self.weight.double().expand(self.shape)
        counted = w != 0 if self.masked else torch.ones(self.shape, dtype=torch.bool)
        x = [torch.as_tensor(x, dtype=F64).expand(self.shape) for x in self.operands]
        x = [torch.where(counted, x, 0.5).requires_grad_() for x in x]
        loss, metrics = FORMULAS[self.loss](x, self.parameters)
        slopes = torch.autograd.grad(loss.sum(), [x[k] for k in self.wanted]) if self.wanted else []
        f = self.factor * w
        for more in (self.scale, upstream):
            f = f if more is None else f * more.double()
        losses, metrics = loss.detach(), [metric.detach() for metric in metrics]
        weighed = counted & (w != 0)
        reduced = []
        for metric, kind in zip(metrics, METRICS[self.loss], strict=True):
            if kind == "mean":
                total = (w * metric)[counted].sum()
                reduced.append(total / w[counted].sum() if w[counted].sum() else total * 0.0)
            elif kind == "part":
                reduced.append((f * metric)[counted].sum())
            else:
                extreme = torch.amin if kind == "min" else torch.amax
                neutral = torch.tensor(torch.inf if kind == "min" else -torch.inf, dtype=F64)
                reduced.append(extreme(torch.where(weighed, metric, neutral)))
        return Reference(
            torch.where(counted, f * losses, 0.0),
            [torch.where(counted, f * slope, 0.0) for slope in slopes],
            torch.stack(reduced) if reduced else torch.empty(0, dtype=F64),
        )


@dataclass
class Reference:
    losses: Tensor
    gradients: list[Tensor]
    metrics: Tensor


def tolerance(dtype: torch.dtype, accumulator: torch.dtype, scale: float) -> dict[str, float]:
    """Some roundings of the accumulator at the size of the terms, one of the dtype."""
    rounding = 16 * torch.finfo(accumulator).eps
    tiny = torch.finfo(dtype).smallest_normal * torch.finfo(dtype).eps
    return {"rtol": rounding + torch.finfo(dtype).eps / 2, "atol": rounding * scale + tiny}


def assert_close(actual: Tensor, expected: Tensor, accumulator: torch.dtype, scale: float | None = None) -> None:
    finite = expected[expected.isfinite()]
    size = float(finite.abs().max()) if finite.numel() else 0.0
    allowed = tolerance(actual.dtype, accumulator, size if scale is None else scale)
    torch.testing.assert_close(actual.double(), expected, equal_nan=True, **allowed)
