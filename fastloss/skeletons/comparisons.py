"""Losses over the similarities of all pairs: what is compared with what, and the reference on the full matrix.

A loss describes itself as one of the classes here (:class:`SoftmaxComparison`, :class:`TwoWayComparison`,
:class:`SigmoidComparison`). Its ``reference`` is the formula in torch, on the whole similarity matrix: the reference
backend, and the oracle of the kernels. Those (:mod:`fastloss.skeletons.similarity`) take the same description and never
build the matrix.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from fastloss.core.arguments import differentiation_refused, leaves
from fastloss.core.autograd import Gradients, differentiate, gradient_wanted
from fastloss.core.dtypes import widened
from fastloss.tiles.similarity import row_dots

IGNORED = -100  # the target of a query that does not count
NORM_EPS = 1e-12


class UnitProblem(NamedTuple):
    """F.normalize of one tensor (N, D), with a gradient that takes no temporary as large as that; torch's own backward
    takes several, most of the memory of a loss that does not store the similarities."""

    wanted: tuple[int, ...]
    differentiable: tuple[int, ...] = (0,)
    outputs: int = 1
    early: bool = False
    reduced: bool = False

    def forward(self, namespace: str, tensors: Sequence[Tensor], early: bool) -> tuple[tuple[Tensor], Gradients]:
        (x,) = tensors
        norm = row_dots(x, x).sqrt().clamp(min=NORM_EPS)[:, None]
        return (x / norm,), (norm,)

    def gradients(
        self, namespace: str, tensors: Sequence[Tensor], state: Sequence[Tensor], upstream: Tensor
    ) -> Gradients:
        (x,), (norm,) = tensors, state
        along = (row_dots(x, upstream)[:, None] / norm / -norm).where(norm > NORM_EPS, 0)
        return (torch.addcmul(upstream, x, along).div_(norm),)

    def reference(self, tensors: Sequence[Tensor]) -> Tensor:
        return F.normalize(tensors[0], dim=-1, eps=NORM_EPS)


def unit(x: Tensor, normalize: bool) -> Tensor:
    """x (N, D), or its rows on the unit sphere; the vector 0 stays 0."""
    if not normalize:
        return x
    if torch.compiler.is_compiling() or leaves() or differentiation_refused():
        return F.normalize(x, dim=-1, eps=NORM_EPS)
    return differentiate(UnitProblem((0,) if gradient_wanted(x) else ()), "", (x,))  # torch's own operators


def scale_of(temperature: float | Tensor, like: Tensor) -> Tensor:
    """1 / temperature, 0-d, in the dtype and on the device of a tensor."""
    if isinstance(temperature, Tensor):
        return multiplier(temperature, like, "temperature").reciprocal()
    if not temperature > 0:
        raise ValueError(f"temperature must be positive, got {temperature}")
    return torch.full((), 1 / temperature, dtype=like.dtype, device=like.device)


def multiplier(value: float | Tensor, like: Tensor, name: str) -> Tensor:
    """A number or a tensor of one number, 0-d, in the dtype and on the device of another tensor."""
    if not isinstance(value, Tensor):
        return torch.full((), float(value), dtype=like.dtype, device=like.device)
    if value.numel() != 1:
        raise ValueError(f"{name} must be a number or a tensor of one number, got the shape {tuple(value.shape)}")
    return value.reshape(()).to(like.device, like.dtype)


def check_matrix(x: Tensor, name: str, columns: int | None = None, rows: int | None = None) -> None:
    if x.dim() != 2 or (columns is not None and x.shape[1] != columns) or (rows is not None and x.shape[0] != rows):
        expected = f"({'N' if rows is None else rows}, {'D' if columns is None else columns})"
        raise ValueError(f"{name} must have the shape {expected}, got {tuple(x.shape)}")
    if not x.is_floating_point():
        raise ValueError(f"{name} must be floating-point, got {x.dtype}")


def checked_indices(x: Tensor, name: str, size: int) -> Tensor:
    """Indices or labels (size,) of any integer dtype or bool, as the int64 that the operators read them as."""
    if not isinstance(x, Tensor):
        raise ValueError(f"{name} must be a tensor of ({size},) integers, got {type(x).__name__}")
    if x.shape != (size,) or x.is_floating_point() or x.is_complex():
        raise ValueError(f"{name} must be ({size},) integers, got {tuple(x.shape)} of {x.dtype}")
    return x.long()


def one_precision(**tensors: Tensor) -> tuple[Tensor, ...]:
    """The tensors, halves in float32; products take one dtype.

    Raises:
        ValueError: if some are float64 and others are not.
    """
    wide = widened(*tensors.values())
    if len({x.dtype for x in wide}) > 1:
        found = ", ".join(f"{name} of {x.dtype}" for name, x in tensors.items())
        raise ValueError(f"all of them must be float64, or none, got {found}")
    return wide


def check_reduction(reduction: str) -> None:
    if reduction not in ("none", "mean", "sum"):
        raise ValueError(f"{reduction!r} is not a valid value for reduction; choose none, mean or sum")


def reduced(losses: Tensor, counted: Tensor | None, reduction: str) -> Tensor:
    """The losses of the queries, those that do not count being 0; the mean of none is 0."""
    if reduction == "none":
        return losses
    total = losses.sum()
    return total if reduction == "sum" else total / denominator(losses.shape[0], counted)


def denominator(size: int, counted: Tensor | None) -> Any:
    return max(1, size) if counted is None else counted.sum().clamp(min=1)


class SoftmaxComparison(NamedTuple):
    r"""Each query is to find its positive keys among all keys.

    With :math:`z_{ij} = s\,\langle q_i, k_j\rangle`, :math:`A_i` all columns but the query itself, :math:`P_i` the
    positives in it, and the target distribution t, uniform over the positives, smoothed by e over :math:`A_i`,

    .. math:: \ell_i = \log\sum_{j\in A_i} \exp z_{ij} - \sum_{j\in A_i} \bigl((1-e)\,t_{ij} + e/|A_i|\bigr) z_{ij}.

    Decoupled: the positives are left out of the sum of exponentials. A query without positives, or with nothing in that
    sum, does not count.
    """

    query: Tensor  # (N, D)
    key: Tensor  # (M, D)
    scale: Tensor  # s, 0-d
    own: Tensor | None = None  # (N, D), one more column: z[i, M] = s <q_i, own_i>
    target: Tensor | None = None  # (N,), the positive column; None: as the labels say
    labels: tuple[Tensor, Tensor] | None = None  # (N,), (M,): the keys with the label of the query are positive
    exclude_self: bool = False  # query i is key i
    decoupled: bool = False
    label_smoothing: float = 0.0

    def similarities(self) -> Tensor:
        """(N, M), or (N, M + 1) with `own`"""
        z = self.scale * (self.query @ self.key.t())
        if self.own is None:
            return z
        return torch.cat([z, self.scale * (self.query * self.own).sum(1, keepdim=True)], 1)

    def reference(self, reduction: str) -> Tensor:
        z = self.similarities()
        rows = torch.arange(z.shape[0], device=z.device)
        columns = torch.arange(z.shape[1], device=z.device)
        allowed = torch.ones_like(z, dtype=torch.bool)
        if self.exclude_self:
            allowed = columns != rows[:, None]
        if self.labels is None:
            assert self.target is not None
            counts = self.target != IGNORED
            # gathered, so that an index out of range is an error on a device too, and nothing waits for it
            target = columns.gather(0, self.target.where(counts, 0)) if len(columns) else self.target
            positive = (columns == target[:, None]) & counts[:, None]
        else:
            positive = (self.labels[0][:, None] == self.labels[1]) & allowed
        in_sum = allowed & ~positive if self.decoupled else allowed
        counted = positive.any(1) & in_sum.any(1)
        target = positive.to(z.dtype) / positive.sum(1, keepdim=True).clamp(min=1)
        if self.label_smoothing:
            uniform = allowed.to(z.dtype) / allowed.sum(1, keepdim=True).clamp(min=1)
            target = (1 - self.label_smoothing) * target + self.label_smoothing * uniform
        in_sum = in_sum | ~counted[:, None]  # the sum of nothing would have NaN for its gradient
        losses = z.masked_fill(~in_sum, -math.inf).logsumexp(1) - (target * z).sum(1)
        return reduced(losses.where(counted, 0), counted, reduction)


class TwoWayComparison(NamedTuple):
    """Each query is to find the key of its number among all keys, and each key the query of its number: the mean of the
    losses of both directions (:class:`SoftmaxComparison`), by number."""

    query: Tensor  # (N, D)
    key: Tensor  # (N, D)
    scale: Tensor  # 0-d
    label_smoothing: float = 0.0

    def reference(self, reduction: str) -> Tensor:
        z = self.scale * (self.query @ self.key.t())
        target = torch.arange(z.shape[0], device=z.device)
        losses = [
            F.cross_entropy(logits, target, reduction="none", label_smoothing=self.label_smoothing)
            for logits in (z, z.t())
        ]
        return reduced((losses[0] + losses[1]) / 2, None, reduction)


class SigmoidComparison(NamedTuple):
    """Each pair is to be told from the others: query i and key i belong together, no others do. There may be more keys
    than queries, which then belong to none.

    loss_i = sum_j -log sigmoid(y_ij (s <q_i, k_j> + b)) with y_ij = 1 on the diagonal and -1 elsewhere.
    """

    query: Tensor  # (N, D)
    key: Tensor  # (M, D), M >= N
    scale: Tensor  # s, 0-d
    bias: Tensor  # b, 0-d

    def reference(self, reduction: str) -> Tensor:
        z = self.scale * (self.query @ self.key.t()) + self.bias
        sign = 2 * torch.eye(*z.shape, dtype=z.dtype, device=z.device) - 1
        return reduced(-F.logsigmoid(sign * z).sum(1), None, reduction)
