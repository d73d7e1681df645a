"""Laws of the row operators in steps (statistics, merge, outputs, gradient), whatever runs them.

A law takes `operators`: torch's (``torch.ops.fastloss``), or a library of csrc/problems/row.h through ctypes. The
reference is the loss's body, in float64.
"""

from __future__ import annotations

import ctypes
import dataclasses
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from support import tolerance
from torch import Tensor

from fastloss.core.arguments import DTYPES, accumulator_dtype
from fastloss.core.registry import BY_KERNEL
from fastloss.operators.row import NONE, RowOptions
from fastloss.skeletons.row_outputs import LEFT_OUT

IGNORE = -100


PARAMETERS: dict[str, list[float]] = {
    "log_softmax_of_index": [0.7, 5.0, 1.3],
    "log_softmax_and_entropy": [0.7, 0.0, 1.0],
    "log_softmax_and_more": [1.4, 6.0, 0.8],
    "forward_kl": [1.3],
    "reverse_kl": [0.8],
    "jsd": [1.3, 0.3],
    "skewed_forward_kl": [0.8, 0.1],
    "skewed_reverse_kl": [1.0, 0.6],
    "tvd": [1.2],
    "margin_softmax": [16.0, 1.2, 0.4, 0.1, 0.0, 1.0],
    "margin_softmax, shifted": [16.0, 1.0, 0.4, 0.1, 0.0, 1.0],
}
"""Of what has several outputs, own sums, a margin, a second row of logits (fastloss/skeletons/row_outputs.py)."""
OF_BOTH_SOFTMAXES = ("jsd", "skewed_forward_kl", "skewed_reverse_kl", "tvd")
OF_WHOLE_ROWS = ("log_softmax_and_more", *OF_BOTH_SOFTMAXES)
"""The rank looks at the target's logit, which only one slice has; expectations at the softmax."""


# ------------------------------------------------------------------------------------------ calls


@dataclasses.dataclass(frozen=True)
class Call:
    """A row loss of logits (rows, C) or (N, C, D), or of the slice `first` .. of `classes` of them."""

    loss: str
    parameters: list[float]
    logits: Tensor
    target: Tensor | None = None
    weight: Tensor | None = None
    second: Tensor | None = None
    first: int = 0
    classes: int = 0

    @property
    def sizes(self) -> tuple[int, int]:
        return BY_KERNEL[self.loss].outputs, BY_KERNEL[self.loss].statistics

    @property
    def rows(self) -> int:
        return self.logits.shape[0] * (self.logits.shape[2] if self.logits.dim() == 3 else 1)

    @property
    def soft(self) -> bool:
        return self.target is not None and self.target.is_floating_point()

    @property
    def ignored(self) -> Tensor:
        if self.target is None or self.soft:
            return torch.zeros(self.rows, dtype=torch.bool)
        return self.target == IGNORE

    def slice(self, begin: int, end: int) -> Call:
        def part(x: Tensor | None) -> Tensor | None:
            return None if x is None else x[:, begin:end]

        target = part(self.target) if self.soft else self.target
        weight = None if self.weight is None else self.weight[begin:end].contiguous()
        return dataclasses.replace(
            self, logits=self.logits[:, begin:end], target=target, weight=weight, second=part(self.second),
            first=begin, classes=self.logits.shape[1],
        )  # fmt: skip

    def row(self, row: int) -> Call:
        """One row of (rows, C) logits."""
        one = slice(row, row + 1)
        return dataclasses.replace(
            self, logits=self.logits[one], target=None if self.target is None else self.target[one],
            second=None if self.second is None else self.second[one],
        )  # fmt: skip

    def statistics(self, operators: Any) -> Tensor:
        return operators.row_statistics(
            self.logits, self.second, self.target, self.weight, self.loss, self.parameters, IGNORE, self.first,
            self.classes or self.logits.shape[1],
        )  # fmt: skip

    def outputs(self, operators: Any, statistics: Tensor) -> Tensor:
        classes = self.classes or self.logits.shape[1]
        return operators.row_outputs(statistics, self.target, self.loss, self.parameters, IGNORE, classes)

    def gradient(self, operators: Any, upstream: Tensor, statistics: Tensor) -> Tensor:
        return operators.row_gradient(
            upstream, statistics, self.logits, self.second, self.target, self.weight, self.loss, self.parameters,
            IGNORE, self.first, self.classes or self.logits.shape[1],
        )  # fmt: skip

    def upstream(self) -> Tensor:
        """Not the same for two outputs or two rows."""
        count = self.sizes[0] * self.rows
        steps = torch.arange(count, dtype=torch.float64, device=self.logits.device) * 0.618 % 1 + 0.5
        return steps.view(self.sizes[0], self.rows).to(accumulator_dtype(self.logits.dtype))

    def reference(self, upstream: Tensor) -> tuple[Tensor, Tensor]:
        """(outputs, gradient) by the body, in float64."""
        x = self.logits.detach().double().requires_grad_()
        if self.loss in PARAMETERS:
            declaration = BY_KERNEL[self.loss]
            second = None if self.second is None else _by_rows(self.second.double())
            target = None if self.target is None else self.target.where(self.target != IGNORE, LEFT_OUT)
            numbers = dict(zip(declaration.parameters, self.parameters, strict=True))
            values = declaration.signature.reference(_by_rows(x), target, second, **numbers)
            if self.weight is not None and self.target is not None:
                values = values * self.weight.double()[self.target.clamp(min=0)]
        else:
            target = self.target.double() if self.soft and self.target is not None else self.target
            assert target is not None
            operands = RowOptions(target, self.weight, self.loss, self.parameters, IGNORE, NONE)
            values = BY_KERNEL[self.loss].on_operands(operands, x).view(1, -1)
        (gradient,) = torch.autograd.grad(values, x, upstream.double())
        return values.detach(), gradient.masked_fill(self._spread(self.ignored), 0.0)

    def _spread(self, rows: Tensor) -> Tensor:
        """A mask of rows as one of logits."""
        if self.logits.dim() == 2:
            return rows[:, None]
        return rows.view(self.logits.shape[0], 1, self.logits.shape[2])


def _by_rows(x: Tensor) -> Tensor:
    return x if x.dim() == 2 else x.movedim(1, 2).flatten(0, 1)


def made(loss: str, shape: tuple[int, ...], dtype: torch.dtype, generator: torch.Generator) -> Call:
    """A call of one of PARAMETERS; every third row is ignored."""
    parameters, loss = PARAMETERS[loss], loss.partition(",")[0]
    rows, classes = math.prod(shape) // shape[1], shape[1]

    def normal() -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    if BY_KERNEL[loss].two_rows:
        return Call(loss, parameters, (normal() * 3).to(dtype), second=(normal() * 3).to(dtype))
    target = torch.randint(classes, (rows,), generator=generator)
    target[0], target[-1] = classes - 1, 0
    target[1:-1:3] = IGNORE
    if loss == "margin_softmax":
        weight = torch.rand(classes, generator=generator, dtype=torch.float64) + 0.5
        cosines = torch.tanh(normal()).mul(0.9).to(dtype)
        return Call(loss, parameters, cosines, target, weight.to(accumulator_dtype(dtype)))
    return Call(loss, parameters, (normal() * 3).to(dtype), target)


# ------------------------------------------------------------------------------------------ laws


def assert_close(actual: Tensor, expected: Tensor, dtype: torch.dtype, magnitude: float, what: str) -> None:
    """NaN and infinities in the same places; else the rounding of the result, and of numbers of this magnitude."""
    assert actual.shape == expected.shape, f"{what}: {tuple(actual.shape)}"
    bound = tolerance(dtype) * max(magnitude, 1.0)
    torch.testing.assert_close(
        actual.double(), expected.double(), rtol=tolerance(dtype), atol=bound, equal_nan=True,
        msg=lambda text: f"{what}: {text}",
    )  # fmt: skip


def magnitude(call: Call) -> float:
    """Of what the outputs and the gradient are differences of."""
    finite = call.logits[call.logits.isfinite()].double().abs()
    size = float(finite.max()) if finite.numel() else 1.0
    temperature = call.parameters[0] if call.loss in PARAMETERS else call.parameters[-1]
    factor = temperature if call.loss == "margin_softmax" else 1 / min(1.0, temperature or 1.0)  # there, a scale
    return 4 + 2 * size * max(factor, 1.0)


def whole(operators: Any, call: Call) -> None:
    """The three steps of whole rows are the loss and its gradient."""
    dtype, wide = call.logits.dtype, accumulator_dtype(call.logits.dtype)
    statistics, upstream = call.statistics(operators), call.upstream()
    assert statistics.shape == (call.sizes[1], call.rows)
    assert statistics.dtype == wide
    values, gradient = call.reference(upstream)
    assert_close(call.outputs(operators, statistics), values, wide, magnitude(call), "outputs")
    actual = call.gradient(operators, upstream, statistics)
    assert actual.dtype == dtype
    assert actual.is_contiguous()
    assert_close(actual, gradient, dtype, magnitude(call), "gradient")
    assert (actual.masked_select(call._spread(call.ignored)) == 0).all()


def slices(operators: Any, call: Call, cuts: Sequence[int]) -> None:
    """Statistics of slices, merged, are those of the row; and so are their gradients."""
    if call.loss in OF_WHOLE_ROWS:
        return
    wide, classes = accumulator_dtype(call.logits.dtype), call.logits.shape[1]
    bounds = [0, *cuts, classes]
    parts = [call.slice(begin, end) for begin, end in itertools.pairwise(bounds)]
    of_parts = torch.stack([part.statistics(operators) for part in parts])
    merged = operators.row_merge(of_parts, call.loss, call.parameters)
    assert torch.equal(merged[0], call.statistics(operators)[0]), "the largest of the largest is the largest"
    upstream = call.upstream()
    values, gradient = call.reference(upstream)
    assert_close(call.outputs(operators, merged), values, wide, magnitude(call), "outputs of merged statistics")
    gradients = torch.cat([part.gradient(operators, upstream, merged) for part in parts], 1)
    assert_close(gradients, gradient, call.logits.dtype, magnitude(call), "gradients of slices")


def one_slice_keeps_its_bits(operators: Any, call: Call) -> None:
    """Alone, or beside slices without classes."""
    statistics = call.statistics(operators)
    for parts in ([statistics], [call.slice(0, 0).statistics(operators), statistics]):
        merged = operators.row_merge(torch.stack(parts), call.loss, call.parameters)
        same(merged, statistics)


def rows_alone(operators: Any, call: Call) -> None:
    """A row has the same bits alone as in the batch."""
    statistics, upstream = call.statistics(operators), call.upstream()
    outputs = call.outputs(operators, statistics)
    gradient = call.gradient(operators, upstream, statistics)
    for row in range(call.rows):
        alone, one = call.row(row), slice(row, row + 1)
        known = alone.statistics(operators)
        same(known, statistics[:, one])
        same(alone.outputs(operators, known), outputs[:, one])
        same(alone.gradient(operators, upstream[:, one].contiguous(), known), gradient[one])


def classes_without_probability(operators: Any, loss: str, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    """Of OF_BOTH_SOFTMAXES, which are finite for any two: -inf in one row, in the other, in both; logits whose
    probability is 0 or no normal number; equal rows; rows left out. And what is NaN: a row of -inf alone, +inf, NaN."""
    call = made(loss, shape, dtype, torch.Generator().manual_seed(shape[1]))
    assert call.second is not None
    x, other = call.logits.clone(), call.second.clone()
    x[:, 1::7], other[:, 2::7] = -math.inf, -math.inf
    x[:, 3::7] = other[:, 3::7] = -math.inf
    whole(operators, dataclasses.replace(call, logits=x, second=other))

    steps = torch.linspace(-150, -80, len(range(1, shape[1], 2)), dtype=torch.float64).to(dtype)
    for share in (1e-4, 0.5, 0.9999):
        x, other = call.logits.clone(), call.second.clone()
        for far in (x, other):
            far[:, 1::2] = steps if x.dim() == 2 else steps[:, None]
        other[:, 1::4] = -1000.0
        parameters = [1.0, share][: len(call.parameters)]
        far = dataclasses.replace(call, parameters=parameters, logits=x, second=other)
        whole(operators, far)
        gradient = far.gradient(operators, far.upstream(), far.statistics(operators))
        assert gradient.isfinite().all()

    equal = dataclasses.replace(call, second=call.logits)
    statistics = equal.statistics(operators)
    gradient = equal.gradient(operators, equal.upstream(), statistics)
    for what in (equal.outputs(operators, statistics), gradient):
        bound = 0.0 if loss == "tvd" else 4 * tolerance(accumulator_dtype(dtype))
        assert what.abs().max() <= bound

    left_out = dataclasses.replace(call, target=torch.zeros(call.rows, dtype=torch.long))
    assert left_out.target is not None
    left_out.target[1::2] = IGNORE
    spread = left_out._spread(left_out.ignored)
    left_out = dataclasses.replace(
        left_out, logits=call.logits.masked_fill(spread, math.nan), second=call.second.masked_fill(spread, math.nan)
    )
    whole(operators, left_out)
    assert (left_out.statistics(operators)[8:, left_out.ignored] == 0).all()

    for value in (-math.inf, math.inf, math.nan):
        for spoilt in ("logits", "second"):
            x = getattr(call, spoilt).clone()
            x[0, slice(None) if value == -math.inf else 2] = value
            whole(operators, dataclasses.replace(call, **{spoilt: x}))


def apart(x: Tensor | None) -> Tensor | None:
    """Rows of numbers, (rows, C), as an (N, C, 1) whose classes have others between them."""
    if x is None or x.dim() != 2:
        return x
    wide = x.new_full((*x.shape, 3), math.nan)
    wide[..., 0] = x
    return wide[..., :1]


def classes_apart(operators: Any, call: Call) -> None:
    """The classes of an (N, C, 1) need not lie side by side."""
    target = apart(call.target) if call.soft else call.target
    whole(
        operators,
        dataclasses.replace(call, logits=apart(call.logits), second=apart(call.second), target=target),  # type: ignore
    )


def same(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True)


# ------------------------------------------------------------------------------------------ libraries


class Matrix(ctypes.Structure):
    _fields_ = [("data", ctypes.c_void_p), ("outer", ctypes.c_int64), ("step", ctypes.c_int64)]


class Problem(ctypes.Structure):
    """RowStepProblem of csrc/problems/row.h."""

    _fields_ = [
        ("step", ctypes.c_int),
        ("loss", ctypes.c_char_p),
        ("parameters", ctypes.POINTER(ctypes.c_double)),
        ("parameter_count", ctypes.c_int),
        ("dtype", ctypes.c_int),
        *((name, ctypes.c_int64) for name in ("rows", "slice_classes", "inner", "first_class", "classes")),
        ("ignore_index", ctypes.c_int64),
        *((name, Matrix) for name in ("logits", "second", "soft_target", "gradient")),
        *((name, ctypes.c_void_p) for name in ("index_target", "weight", "statistics", "slices")),
        ("slice_count", ctypes.c_int64),
        ("outputs", ctypes.c_void_p),
        ("upstream", ctypes.c_void_p),
    ]


STATISTICS, MERGE, OUTPUTS, GRADIENT = range(4)


def _matrix(x: Tensor | None) -> Matrix:
    return Matrix() if x is None else Matrix(x.data_ptr(), x.stride(0), 1 if x.shape[1] == 1 else x.stride(1))


class Library:
    """The operators of a library; `run(problem)` raises what it has to say of a call."""

    def __init__(self, run: Callable[[Problem], None]) -> None:
        self._run = run

    def _call(self, step: int, like: Tensor, loss: str, parameters: list[float]) -> Problem:
        numbers = (ctypes.c_double * len(parameters))(*parameters)
        problem = Problem(step=step, loss=loss.encode(), parameters=numbers, parameter_count=len(parameters))
        problem.dtype, problem.inner, problem.classes = DTYPES.index(like.dtype), 1, 1
        return problem

    def _numbers(self, count: int, problem: Problem, like: Tensor) -> Tensor:
        return torch.full((count, problem.rows), math.nan, dtype=accumulator_dtype(like.dtype))

    def _logits(self, p: Problem, logits, second, target, weight, ignore_index, first_class, classes) -> None:
        p.logits, p.second, p.slice_classes = _matrix(logits), _matrix(second), logits.shape[1]
        p.inner = logits.shape[2] if logits.dim() == 3 else 1
        p.rows = logits.shape[0] * p.inner
        p.ignore_index, p.first_class, p.classes = ignore_index, first_class, classes
        if target is not None and target.is_floating_point():
            p.soft_target = _matrix(target)
        elif target is not None:
            p.index_target = target.data_ptr()
        p.weight = None if weight is None else weight.data_ptr()

    def row_statistics(
        self, logits, second, target, weight, loss, parameters, ignore_index, first_class, classes
    ):  # fmt: skip
        p = self._call(STATISTICS, logits, loss, parameters)
        self._logits(p, logits, second, target, weight, ignore_index, first_class, classes)
        made = self._numbers(Call(loss, parameters, logits).sizes[1], p, logits)
        p.statistics = made.data_ptr()
        self._run(p)
        return made

    def row_merge(self, statistics, loss, parameters):
        p = self._call(MERGE, statistics, loss, parameters)
        p.slice_count, p.rows, p.slices = statistics.shape[0], statistics.shape[2], statistics.data_ptr()
        made = self._numbers(statistics.shape[1], p, statistics)
        p.statistics = made.data_ptr()
        self._run(p)
        return made

    def row_outputs(self, statistics, target, loss, parameters, ignore_index, classes):
        p = self._call(OUTPUTS, statistics, loss, parameters)
        p.rows, p.ignore_index, p.classes = statistics.shape[1], ignore_index, classes
        if target is not None and not target.is_floating_point():
            p.index_target = target.data_ptr()
        made = self._numbers(Call(loss, parameters, statistics).sizes[0], p, statistics)
        p.statistics, p.outputs = statistics.data_ptr(), made.data_ptr()
        self._run(p)
        return made

    def row_gradient(
        self, upstream, statistics, logits, second, target, weight, loss, parameters, ignore_index, first_class, classes
    ):  # fmt: skip
        p = self._call(GRADIENT, logits, loss, parameters)
        self._logits(p, logits, second, target, weight, ignore_index, first_class, classes)
        made = torch.full(logits.shape, math.nan, dtype=logits.dtype)
        p.upstream, p.statistics, p.gradient = upstream.data_ptr(), statistics.data_ptr(), _matrix(made)
        self._run(p)
        return made
