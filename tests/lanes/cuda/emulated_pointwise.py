"""The pointwise launchers of csrc/cuda on torch CPU tensors, and a reference that shares the functors alone."""

from __future__ import annotations

import ctypes
import dataclasses
import functools
from collections.abc import Callable, Sequence

import torch
from lanes.cuda import emulated
from lanes.cuda.emulated import H100, NAN
from torch import Tensor

BUILD = "pointwise"
FLOATS = [torch.float32, torch.float64, torch.float16, torch.bfloat16]
DTYPES = [*FLOATS, torch.bool, torch.uint8, torch.int32, torch.int64]
MEAN, TERM, MIN, MAX = range(4)  # kinds of metrics
MOST_OPERANDS, MOST_METRICS, MOST_DIMENSIONS = 8, 16, 8
Operand = Tensor | float


class TensorOfCall(ctypes.Structure):
    _fields_ = [
        ("data", ctypes.c_void_p),
        ("dtype", ctypes.c_int),
        ("stride", ctypes.c_longlong * MOST_DIMENSIONS),
    ]


class Call(ctypes.Structure):
    _fields_ = [
        ("loss", ctypes.c_char_p),
        ("parameters", ctypes.POINTER(ctypes.c_double)),
        ("parameter_count", ctypes.c_int),
        ("operand_count", ctypes.c_int),
        ("in_double", ctypes.c_int),
        ("masked", ctypes.c_int),
        ("measure", ctypes.c_int),
        ("dimensions", ctypes.c_int),
        ("size", ctypes.c_longlong * MOST_DIMENSIONS),
        ("operand", TensorOfCall * MOST_OPERANDS),
        ("constant", ctypes.c_double * MOST_OPERANDS),
        ("weight", TensorOfCall),
        ("scale", TensorOfCall),
        ("upstream", TensorOfCall),
        ("factor", ctypes.c_double),
        ("loss_elements", TensorOfCall),
        ("gradient", TensorOfCall * MOST_OPERANDS),
        ("reduced_loss", ctypes.c_void_p),
        ("metrics", ctypes.c_void_p),
        ("scratch", ctypes.c_void_p),
        ("launch_elements", ctypes.c_longlong),
    ]


class DescriptionOfLoss(ctypes.Structure):
    _fields_ = [
        ("operands", ctypes.c_int),
        ("parameters", ctypes.c_int),
        ("metrics", ctypes.c_int),
        ("kind", ctypes.c_int * MOST_METRICS),
        ("requirement", ctypes.c_char_p),
        ("raises_value_error", ctypes.c_int),
    ]


@functools.cache
def library() -> ctypes.CDLL:
    loaded = emulated.load(BUILD)
    loaded.fastloss_pointwise_scratch.restype = ctypes.c_longlong
    loaded.pointwise_names.restype = ctypes.c_char_p
    return loaded


@dataclasses.dataclass(frozen=True)
class Description:
    operands: int
    parameters: int
    kinds: tuple[int, ...]  # of the metrics
    requirement: str | None


@functools.cache
def describe(loss: str) -> Description:
    d = DescriptionOfLoss()
    assert library().fastloss_pointwise_describe(loss.encode(), ctypes.byref(d)), f"no such loss: {loss}"
    requirement = d.requirement.decode() if d.requirement else None
    return Description(d.operands, d.parameters, tuple(d.kind[: d.metrics]), requirement)


@dataclasses.dataclass
class Elements:
    """What a functor computes: everything of A, flattened in the order of the broadcast shape."""

    loss: Tensor  # (count,)
    derivative: Tensor  # (K, count)
    metric: Tensor  # (M, count)
    inside: Tensor  # (count,)


def empty_like_layout(shape: Sequence[int], like: Tensor | None, dtype: torch.dtype) -> Tensor:
    """Full of NaN, with the strides of `like`."""
    if like is None:
        return torch.full(tuple(shape), NAN, dtype=dtype)
    size = 1 + sum((n - 1) * s for n, s in zip(like.shape, like.stride(), strict=True))
    return torch.full((size,), NAN, dtype=dtype).as_strided(like.shape, like.stride())


@dataclasses.dataclass
class Result:
    loss: Tensor | None
    metrics: Tensor
    gradients: list[Tensor]

    def tensors(self) -> tuple[Tensor, ...]:
        return (*([] if self.loss is None else [self.loss]), self.metrics, *self.gradients)


@dataclasses.dataclass
class Problem:
    """A call of a pointwise operator."""

    loss: str
    operands: list[Operand]
    parameters: list[float]
    weight: Tensor | None = None
    scale: Tensor | None = None
    upstream: Tensor | None = None
    masked: bool = False
    factor: float = 1.0
    launch_elements: int = 0
    output_like: Tensor | None = None  # whose strides the outputs get

    @property
    def tensors(self) -> list[Tensor]:
        return [x for x in self.operands if isinstance(x, Tensor)]

    @property
    def shape(self) -> torch.Size:
        return torch.broadcast_shapes(*(x.shape for x in self.tensors))

    @property
    def accumulator(self) -> torch.dtype:
        return torch.float64 if any(x.dtype == torch.float64 for x in self.tensors) else torch.float32

    @property
    def wanted(self) -> list[int]:
        """The operands of floating point."""
        return [k for k, x in enumerate(self.operands) if isinstance(x, Tensor) and x.is_floating_point()]

    def described(self, tensor: Tensor | None) -> TensorOfCall:
        if tensor is None:
            return TensorOfCall()
        wide = tensor.expand(self.shape)
        strides = [0 if size == 1 else stride for size, stride in zip(wide.shape, wide.stride(), strict=True)]
        return TensorOfCall(tensor.data_ptr(), DTYPES.index(tensor.dtype), tuple(strides))

    def call(self) -> Call:
        call = Call()
        call.loss = self.loss.encode()
        call.parameters = (ctypes.c_double * max(1, len(self.parameters)))(*self.parameters)
        call.parameter_count, call.operand_count = len(self.parameters), len(self.operands)
        call.in_double = self.accumulator == torch.float64
        call.masked, call.factor, call.launch_elements = self.masked, self.factor, self.launch_elements
        call.dimensions = len(self.shape)
        call.size[: len(self.shape)] = list(self.shape)
        for k, operand in enumerate(self.operands):
            if isinstance(operand, Tensor):
                call.operand[k] = self.described(operand)
            else:
                call.constant[k] = operand
        call.weight, call.scale = self.described(self.weight), self.described(self.scale)
        call.upstream = self.described(self.upstream)
        return call

    def run(
        self,
        reduce: bool = False,
        measure: bool = False,
        gradients: bool = True,
        dtype: torch.dtype | None = None,
        change: Callable[[Call], None] | None = None,
    ) -> Result:
        """Losses, elementwise in `dtype` if it is given or the sum if `reduce`; metrics; gradients."""
        call, a = self.call(), self.accumulator
        result = Result(None, torch.full((len(describe(self.loss).kinds) if measure else 0,), NAN, dtype=a), [])
        if reduce:
            result.loss = torch.full((), NAN, dtype=a)
            call.reduced_loss = result.loss.data_ptr()
        elif dtype is not None:
            result.loss = empty_like_layout(self.shape, self.output_like, dtype)
            call.loss_elements = self.described(result.loss)
        call.measure, call.metrics = measure, result.metrics.data_ptr()
        for k in self.wanted if gradients else []:
            operand = self.operands[k]
            assert isinstance(operand, Tensor)
            result.gradients.append(empty_like_layout(self.shape, self.output_like, operand.dtype))
            call.gradient[k] = self.described(result.gradients[-1])
        if change is not None:
            change(call)
        scratch = torch.full((library().fastloss_pointwise_scratch(ctypes.byref(call)),), NAN, dtype=torch.float64)
        call.scratch = scratch.data_ptr()
        emulated.check(library(), library().fastloss_pointwise(ctypes.byref(call), ctypes.byref(H100)))
        return result

    # ---- the reference

    def flat(self, x: Operand | None) -> Tensor:
        """Broadcast, in A, (count,)."""
        x = 1.0 if x is None else x
        x = x if isinstance(x, Tensor) else torch.tensor(x, dtype=self.accumulator)
        return x.to(self.accumulator).expand(self.shape).flatten()

    @functools.cached_property
    def elements(self) -> Elements:
        a, count, what = self.accumulator, self.shape.numel(), describe(self.loss)
        operands = torch.stack([self.flat(x) for x in self.operands])
        kinds = len(what.kinds)
        e = Elements(*(torch.empty(*lead, count, dtype=a) for lead in ((), (len(operands),), (kinds,))),
                     torch.empty(count, dtype=torch.bool))  # fmt: skip
        pointers = (ctypes.c_void_p(x.data_ptr()) for x in (e.loss, e.derivative, e.metric, e.inside))
        parameters = (ctypes.c_double * max(1, len(self.parameters)))(*self.parameters)
        library().evaluate_pointwise(
            self.loss.encode(), int(a == torch.float64), ctypes.c_void_p(operands.data_ptr()), parameters,
            ctypes.c_longlong(count), *pointers,
        )  # fmt: skip
        return e

    @property
    def counted(self) -> Tensor:
        weight = self.flat(self.weight)
        return weight != 0 if self.masked and self.weight is not None else torch.ones_like(weight, dtype=torch.bool)

    @property
    def factors(self) -> Tensor:
        factor = torch.tensor(self.factor, dtype=self.accumulator)
        return factor * self.flat(self.scale) * self.flat(self.upstream) * self.flat(self.weight)

    def expected_losses(self) -> Tensor:
        return torch.where(self.counted, self.factors * self.elements.loss, 0)

    def expected_gradients(self) -> list[Tensor]:
        """(shape) each, rounded to the operand's dtype."""
        gradients = []
        for k in self.wanted:
            operand = self.operands[k]
            assert isinstance(operand, Tensor)
            gradient = torch.where(self.counted, self.factors * self.elements.derivative[k], 0)
            gradients.append(gradient.view(self.shape).to(operand.dtype))
        return gradients

    def expected_metrics(self) -> Tensor:
        """In float64."""
        weight = torch.where(self.counted, self.flat(self.weight), 0).double()
        factors, inside = self.factors.double(), weight != 0
        results = []
        for kind, metric in zip(describe(self.loss).kinds, self.elements.metric.double(), strict=True):
            if kind == MEAN:
                total = torch.where(self.counted, weight * metric, 0).sum()
                results.append(total / weight.sum() if weight.sum() != 0 else torch.tensor(0.0, dtype=torch.float64))
            elif kind == TERM:
                results.append(torch.where(self.counted, factors * metric, 0).sum())
            elif kind == MIN:
                results.append(torch.where(inside, metric, torch.inf).amin())
            else:
                results.append(torch.where(inside, metric, -torch.inf).amax())
        return torch.stack(results) if results else torch.zeros(0, dtype=torch.float64)

    # ---- comparisons

    def check_elements(self, dtype: torch.dtype | None = None) -> None:
        """Losses and gradients, bit by bit: both sides do the same operations on the same machine."""
        dtype = self.accumulator if dtype is None else dtype
        result = self.run(dtype=dtype)
        assert result.loss is not None
        assert_same(result.loss, self.expected_losses().view(self.shape).to(dtype))
        self.check_gradients(result)

    def check_gradients(self, result: Result) -> None:
        for actual, expected in zip(result.gradients, self.expected_gradients(), strict=True):
            assert_same(actual, expected)

    def check_sums(self) -> None:
        """The sum, metrics and gradients of one call; the sum alone; the metrics alone."""
        losses, expected = self.expected_losses().double(), self.expected_metrics()
        both, alone = self.run(True, True), self.run(True, gradients=False)
        assert both.loss is not None
        assert alone.loss is not None
        assert_same(both.loss, alone.loss)
        assert_same(both.metrics, self.run(measure=True, gradients=False).metrics)
        # The losses of a share are added in A, 8 at most; then in double.
        bound = 8 * torch.finfo(both.loss.dtype).eps * losses.abs().sum()
        assert_near(both.loss, losses.sum(), bound)
        weights, factors = self.flat(self.weight).double().abs(), self.factors.double().abs()
        for m, kind in enumerate(describe(self.loss).kinds):
            sizes = self.elements.metric[m].double().abs().nan_to_num(0, 0, 0)
            total = (factors * sizes).sum() if kind == TERM else (weights * sizes).sum() / weights.sum().clamp(min=1e-9)
            bound = 64 * torch.finfo(both.loss.dtype).eps * total if kind in (MEAN, TERM) else torch.tensor(0.0)
            assert_near(both.metrics[m], expected[m], bound)
        self.check_gradients(both)


def assert_same(actual: Tensor, expected: Tensor) -> None:
    assert (actual.shape, actual.dtype) == (expected.shape, expected.dtype)
    equal = (actual == expected) | (actual.isnan() & expected.isnan())
    wrong = (~equal).nonzero()
    assert len(wrong) == 0, f"{len(wrong)} of {equal.numel()} differ, the first at {wrong[0].tolist()}: " + (
        f"{actual[~equal][0]} and not {expected[~equal][0]}"
    )


def assert_near(actual: Tensor, expected: Tensor, bound: Tensor) -> None:
    a = actual.double()
    same = (a == expected) | (a.isnan() & expected.isnan()) | ((a - expected).abs() <= bound)
    assert same, f"{actual} and not {expected}, which is more than {bound} apart"


# ---- inputs

POSITIVE = 0.3


def parameters_of(loss: str) -> list[float]:
    return [POSITIVE + 0.1 * i for i in range(describe(loss).parameters)]


def values(shape: Sequence[int], dtype: torch.dtype, generator: torch.Generator) -> Tensor:
    """In (0, 1), where every loss is defined; 0 and 1 for integers."""
    if dtype.is_floating_point:
        return (torch.rand(tuple(shape), generator=generator, dtype=torch.float64) * 0.9 + 0.05).to(dtype)
    return torch.randint(0, 2, tuple(shape), generator=generator).to(dtype)
