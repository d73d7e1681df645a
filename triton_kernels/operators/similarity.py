"""Losses over pairs of vectors in Triton: the launchers of the operators (fastloss/operators/similarity.py).

The kernels do what takes all pairs: log-sum-exps of rows and the products of weights with vectors. What takes each
query once - its target, an own positive, the gradient of the scale - is torch's, O(N D).

Multiply-adds, with S = ceil(D / 256) slices of the outputs, each of which recomputes the similarities: N M D for the
sums of one direction, (S + 1) N M D for the gradient of one side. Softmax: (2 S + 3) N M D, with itself (S + 2); two
ways: (2 S + 4); up to 512 dimensions at most 8. Products are in tf32 where torch's own would be
(torch.backends.cuda.matmul), else in fp32 proper, with slices of 128 instead of 256. Searches for triplets are
fastloss/tiles/similarity.py, as on every backend.

The constants of the tiling come from registers and shared memory as compiled; nothing here has been measured on a GPU.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
from torch import Tensor

from fastloss.core.elementary import softplus

from ..kernels.similarity import gradient_kernel, sum_kernel
from ..losses.contrastive import softplus_pair
from ..memory import on_device

__all__ = [
    "similarity_sigmoid",
    "similarity_softmax",
    "similarity_two_way",
]

ROWS, COLUMNS, DEPTH = 64, 64, 32
OUTPUTS = 256  # elements of the gradient of ROWS vectors that a program accumulates in registers
# Without tensor cores products take more registers (with 64 columns 34 of them spilled on gfx942), and a double two.
SHRINK, DOUBLE = 2, 2

Result = tuple[Tensor, list[Tensor]]


def precision(a: Tensor) -> str:
    """As torch's own products of such vectors."""
    tf32 = a.dtype == torch.float32 and torch.version.hip is None and torch.backends.cuda.matmul.allow_tf32
    return "tf32" if tf32 else "ieee"


def tiling(a: Tensor) -> dict[str, object]:
    """The constants of a launch over vectors (N, D)."""
    kind = precision(a)
    shrink = (SHRINK if kind == "ieee" else 1) * (DOUBLE if a.dtype == torch.float64 else 1)
    double = DOUBLE if a.dtype == torch.float64 else 1
    return {"ROWS": ROWS // shrink, "COLUMNS": COLUMNS // shrink, "DEPTH": DEPTH // double, "PRECISION": kind}


def sums(
    a: Tensor, b: Tensor, bias: Tensor | None, pair: Any, alone: bool = False, dropped: Tensor | None = None,
    labels: tuple[Tensor, Tensor] | None = None,
) -> Tensor:  # fmt: skip
    """(rows of a,): see sum_kernel."""
    how = tiling(a)
    result = a.new_empty(a.shape[0])
    of_a, of_b = labels or (None, None)
    with on_device(a):
        sum_kernel[(triton.cdiv(a.shape[0], how["ROWS"]),)](
            a, b, bias, dropped, of_a, of_b, result, a.shape[0], b.shape[0], a.shape[1], a.stride(0), b.stride(0),
            PAIR=pair, ALONE=alone, **how, num_warps=4 if how["PRECISION"] == "tf32" else 8,
        )  # fmt: skip
    return result


def weighted(
    a: Tensor, b: Tensor, bias: Tensor | None, pair: Any, rows: tuple[Tensor | None, Tensor | None] = (None, None),
    columns: tuple[Tensor | None, Tensor | None] = (None, None), alone: bool = False,
    dropped: tuple[Tensor | None, Tensor | None] = (None, None), labels: tuple[Tensor, Tensor] | None = None,
    weight_sum: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """(rows of a, D): see gradient_kernel; `rows` and `columns` are (shift, factor)."""
    how = tiling(a)
    size, width = a.shape
    outputs = min(OUTPUTS, max(16, triton.next_power_of_2(width)))
    if how["PRECISION"] == "ieee":
        outputs = min(outputs, OUTPUTS // SHRINK // (DOUBLE if a.dtype == torch.float64 else 1))
    gradient = a.new_empty(size, width)
    of_a, of_b = labels or (None, None)
    with on_device(a):
        gradient_kernel[(triton.cdiv(size, how["ROWS"]), triton.cdiv(width, outputs))](
            a, b, bias, *dropped, of_a, of_b, rows[0], columns[0], rows[1], columns[1], gradient, weight_sum,
            size, b.shape[0], width, a.stride(0), b.stride(0), gradient.stride(0),
            PAIR=pair, ALONE=alone, OUTPUTS=outputs, **how, num_warps=8,
        )  # fmt: skip
    return gradient


def dots(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum(1)


def chosen(wanted: int, *gradients: Tensor | None) -> list[Tensor]:
    return [x for k, x in enumerate(gradients) if x is not None and wanted >> k & 1]


def rowwise(*tensors: Tensor) -> tuple[Tensor, ...]:
    """With the elements of a vector side by side."""
    return tuple(x if x.stride(1) == 1 or x.shape[1] == 1 else x.contiguous() for x in tensors)


def similarity_softmax(
    query: Tensor, key: Tensor | None, own: Tensor | None, scale: Tensor, target: Tensor, dropped: Tensor | None,
    labels: Tensor | None, key_labels: Tensor | None, upstream: Tensor | None, wanted: int,
) -> Result:  # fmt: skip
    alone = key is None
    query, key = rowwise(query, query if key is None else key)
    scaled = query * scale
    count = key.shape[0]
    dropped = None if dropped is None else dropped.contiguous()
    both = None
    if labels is not None:
        both = labels.contiguous(), (labels if key_labels is None else key_labels).contiguous()
    log_sum = sums(scaled, key, None, None, alone, dropped, both)
    counted = target >= 0
    place = target.clamp(min=0)
    at_key = place < count
    in_keys = place.clamp(max=count - 1)
    positive = dots(scaled, key[in_keys])
    own_logit = None
    if own is not None:
        own_logit = dots(scaled, own)
        positive = torch.where(at_key, positive, own_logit)
        if dropped is not None:
            own_logit = own_logit.masked_fill(dropped == count, float("-inf"))
        log_sum = torch.logaddexp(log_sum, own_logit)
    losses = (log_sum - positive).where(counted, 0)
    if not wanted:
        return losses, []
    factor = counted.to(query.dtype) if upstream is None else upstream.where(counted, 0)
    of_key_target = factor.where(at_key, 0)
    of_scaled = of_key = of_own = of_scale = None
    flipped = None if both is None else (both[1], both[0])
    if alone:
        # W is symmetric: it holds what each pair is to both of its vectors
        gradient = weighted(query * scale, key, None, None, (log_sum, factor), (log_sum, factor), True,
                            (dropped, dropped), both)  # fmt: skip
        gradient -= of_key_target[:, None] * key[in_keys]
        pull = torch.zeros_like(gradient).index_put_((in_keys,), of_key_target[:, None] * query, accumulate=True)
        gradient -= pull
        of_scale = dots(query, gradient).sum() / 2
        of_query = gradient * scale
        if own is not None and own_logit is not None:
            raise NotImplementedError("an own positive beside the vectors themselves")
        return losses.sum(), chosen(wanted, of_query, None, None, of_scale)
    if wanted & 0b1001:
        of_scaled = weighted(scaled, key, None, None, (log_sum, factor), dropped=(dropped, None), labels=both)
        of_scaled -= of_key_target[:, None] * key[in_keys]
    if wanted & 0b0010:
        of_key = weighted(key, scaled, None, None, columns=(log_sum, factor), dropped=(None, dropped), labels=flipped)
        of_key.index_put_((in_keys,), -of_key_target[:, None] * scaled, accumulate=True)
    if own is not None and own_logit is not None:
        slope = factor * torch.exp(own_logit - log_sum) - factor.where(~at_key, 0)
        if of_scaled is not None:
            of_scaled += slope[:, None] * own
        of_own = slope[:, None] * scaled
    if of_scaled is not None:
        of_scale = dots(query, of_scaled).sum()
        of_scaled = of_scaled * scale
    return losses.sum(), chosen(wanted, of_scaled, of_key, of_own, of_scale)


def similarity_two_way(query: Tensor, key: Tensor, scale: Tensor, upstream: Tensor | None, wanted: int) -> Result:
    query, key = rowwise(query, key)
    scaled = query * scale
    rows, columns = sums(scaled, key, None, None), sums(key, scaled, None, None)
    losses = (rows + columns) / 2 - dots(scaled, key)
    if not wanted:
        return losses, []
    factor = (torch.ones_like(losses) if upstream is None else upstream) / 2
    of_scaled = of_key = of_scale = None
    if wanted & 0b101:
        of_scaled = weighted(scaled, key, None, None, (rows, factor), (columns, factor))
        of_scaled -= 2 * factor[:, None] * key
        of_scale = dots(query, of_scaled).sum()
        of_scaled = of_scaled * scale
    if wanted & 0b010:
        of_key = weighted(key, scaled, None, None, (columns, factor), (rows, factor))
        of_key -= 2 * factor[:, None] * scaled
    return losses.sum(), chosen(wanted, of_scaled, of_key, of_scale)


def similarity_sigmoid(
    query: Tensor, key: Tensor, scale: Tensor, bias: Tensor, upstream: Tensor | None, wanted: int
) -> Result:
    query, key = rowwise(query, key)
    scaled = query * scale
    size = query.shape[0]
    own = key[:size]  # the keys that belong to the queries
    same = dots(scaled, own) + bias
    losses = sums(scaled, key, bias, softplus_pair, alone=True) + softplus(-same)
    if not wanted:
        return losses, []
    factor = torch.ones_like(losses) if upstream is None else upstream.contiguous()
    pull = -torch.sigmoid(-same) * factor
    weight_sum = torch.empty_like(losses)
    of_scaled = weighted(scaled, key, bias, softplus_pair, (None, factor), alone=True, weight_sum=weight_sum)
    of_scaled += pull[:, None] * own
    of_key = None
    if wanted & 0b0010:
        of_key = weighted(key, scaled, bias, softplus_pair, columns=(None, factor), alone=True)
        of_key[:size] += pull[:, None] * scaled
    of_scale, of_bias = dots(query, of_scaled).sum(), (weight_sum + pull).sum()
    return losses.sum(), chosen(wanted, of_scaled * scale, of_key, of_scale, of_bias)
