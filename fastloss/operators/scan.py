"""The operator of what runs over time: schema, shapes without data (meta), vmap rule.

``operands``: those that are tensors, of one shape, floating-point, of any dtypes; (steps, inner) or (steps,) with a
``time_dim`` of 0, (outer, steps) or (outer, steps, inner) with one of 1; strides as they come. Bit k of ``present`` is
set if operand k of the functor is a tensor; else ``constants[k]`` stands for it. The first one is.
``terminated``, ``truncated``, ``there``: boolean, of the same shape: after which steps an episode ends, and which steps
there are. ``starts``: (sequences + 1,) of int64, or None: where the sequences begin that the steps consist of, and the
end.
``reverse``: from the last step to the first. csrc/losses/contracts/scan.h says what a functor computes of a step. The
arithmetic is in float64 if an operand is, else in float32.
Returns ``outputs`` tensors of the shape of the first operand, in the dtype numbered ``output``, and in its layout if
that is dense.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fastloss.core.arguments import DTYPES
from fastloss.operators.pointwise import is_dense

MAX_OPERANDS = 6  # kMaxScanOperands in csrc

SCHEMAS = {
    "scan": "(Tensor[] operands, float[] constants, int present, Tensor? terminated, Tensor? truncated, Tensor? there, "
    "Tensor? starts, str loss, float[] parameters, int time_dim, bool reverse, int outputs, int output) -> Tensor[]",
}


class ScanOptions(NamedTuple):
    """What the operator takes after its operands, in its order."""

    constants: Sequence[float]
    present: int
    terminated: Tensor | None
    truncated: Tensor | None
    there: Tensor | None
    starts: Tensor | None
    loss: str
    parameters: Sequence[float]
    time_dim: int
    reverse: bool
    outputs: int
    output: int


def accumulator(operands: Sequence[Tensor]) -> torch.dtype:
    return torch.float64 if any(x.dtype == torch.float64 for x in operands) else torch.float32


def empty_outputs(operands: Sequence[Tensor], outputs: int, output: int) -> list[Tensor]:
    first, dtype = operands[0], DTYPES[output]
    if not is_dense(first):
        return [first.new_empty(first.shape, dtype=dtype) for _ in range(outputs)]
    shape, strides = first.shape, first.stride()
    return [torch.empty_strided(shape, strides, dtype=dtype, device=first.device) for _ in range(outputs)]


def _meta_scan(operands, *how):
    options = ScanOptions(*how)
    return empty_outputs(operands, options.outputs, options.output)


META: dict[str, Any] = {"scan": _meta_scan}


def vmap_rules(ops: Any) -> dict[str, Any]:
    def scan(info, in_dims, operands, *how):
        """Entry by entry: a batch of batches of sequences is no common thing."""

        def entry(x: Any, dim: Any, number: int) -> Any:
            return x.select(dim, number) if isinstance(dim, int) else x

        results = [
            ops.scan(
                [entry(x, dim, k) for x, dim in zip(operands, in_dims[0], strict=True)],
                *(entry(x, dim, k) for x, dim in zip(how, in_dims[1:], strict=True)),
            )
            for k in range(info.batch_size)
        ]
        outputs = [torch.stack(parts) for parts in zip(*results, strict=True)]
        return outputs, [0] * len(outputs)

    return {"scan": scan}
