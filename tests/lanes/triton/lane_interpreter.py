"""The values of the Triton kernels, in the interpreter on the CPU; run by test_lanes.py in a process of its own."""

from __future__ import annotations

from lanes.triton import interpreter  # first: it repairs Triton before the kernels are imported  # isort: skip

import math
import random
from itertools import product

import numpy as np
import pytest
import torch
import triton
import triton.language as tl
from lanes.triton.kernels import coefficients, row, sums
from lanes.triton.kernels import math as device_math
from lanes.triton.kernels import scale as scaling
from lanes.triton.reference import MEAN, NONE, SUM, Options, gradient, reduced, row_losses, state
from torch import Tensor

IGNORE = -100
pytestmark = pytest.mark.filterwarnings("ignore:All-NaN slice encountered")

DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]

# One shape for each kernel and way through it. fp32 rows of more than 8192 classes stream, fp64 rows of more than 4096.
SHAPES = {
    "resident, a few classes": (37, 10),
    "resident, aligned": (5, 264),
    "resident, edges": (5, 523),
    "streaming, aligned": (2, 8320),
    "streaming, edges, several tiles": (2, 17003),
    "strided, aligned": (2, 7, 48),
    "strided, odd": (3, 19, 13),
    "strided, several blocks": (1, 5, 1100),
}
PLAIN = Options()
EVERYTHING = Options(smoothing=0.1, z_loss=1e-2, softcap=5.0, temperature=1.7)
OPTIONS = {
    "plain": PLAIN,
    "smoothing": Options(smoothing=0.2),
    "z_loss": Options(z_loss=1e-2),
    "softcap": Options(softcap=3.0),
    "temperature": Options(temperature=0.6),
    "everything": EVERYTHING,
}


def accumulator(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def make(shape: tuple[int, ...], dtype: torch.dtype, soft: bool, weighted: bool, seed: int):
    """(logits, target, weight); an index target ignores every third row, whose logits are NaN."""
    print(f"seed {seed}")
    generator = torch.Generator().manual_seed(seed)
    classes, rows = shape[1], math.prod(shape) // shape[1]
    logits = (3 * torch.randn(shape, generator=generator)).to(dtype)
    weight = (0.5 + torch.rand(classes, generator=generator)).to(accumulator(dtype)) if weighted else None
    if soft:
        return logits, torch.randn(shape, generator=generator).softmax(1).to(dtype), weight
    target = torch.randint(classes, (rows,), generator=generator)
    target[1::3] = IGNORE
    by_row = logits.movedim(1, -1).reshape(rows, classes)
    by_row[1::3] = math.nan
    return by_row.reshape(shape[:1] + shape[2:] + (classes,)).movedim(-1, 1).contiguous(), target, weight


def double(*tensors: Tensor | None) -> list[Tensor | None]:
    return [t.double() if t is not None and t.is_floating_point() else t for t in tensors]


def assert_close(actual: Tensor, expected: Tensor, accumulate: torch.dtype, scale: float = 1.0) -> None:
    """Within some roundings of the accumulator at the size of the terms, and one rounding of each side's dtype."""
    rounding = 64 * torch.finfo(accumulate).eps
    rounded = [torch.finfo(side.dtype) for side in (actual, expected) if side.dtype != torch.float64]
    torch.testing.assert_close(
        actual.double(), expected.double(), rtol=rounding + sum(side.eps for side in rounded) / 2,
        atol=rounding * scale + sum(side.smallest_normal * side.eps for side in rounded), equal_nan=True,
    )  # fmt: skip


def zero_ignored(logits: Tensor, target: Tensor) -> Tensor:
    """The reference cannot see NaN where a row is ignored."""
    if target.is_floating_point():
        return logits
    ignored = (target == IGNORE).reshape(logits.shape[:1] + logits.shape[2:]).unsqueeze(1)
    return torch.where(ignored, 0.0, logits)


def check_everything(logits: Tensor, target: Tensor, weight: Tensor | None, options: Options) -> None:
    """All launchers against the reference, and against each other bit by bit."""
    arguments = (target, weight, options.loss, options.parameters, IGNORE)
    accumulate = accumulator(logits.dtype)
    x, soft, w = double(zero_ignored(logits, target), target, weight)
    losses, weights = row_losses(x, soft, w, options, IGNORE)
    scale = 1 + float(x.abs().max()) / options.temperature

    loss, kept = row.row_forward(logits, *arguments, NONE)
    assert loss.dtype == kept.dtype == accumulate
    assert_close(loss, losses, accumulate, scale)
    counted = weights > 0
    assert_close(kept, torch.where(counted, state(x, options), 0.0), accumulate, scale)
    assert (loss[~counted] == 0).all()
    assert (kept[:, ~counted] == 0).all()

    upstream = torch.linspace(-1, 2, losses.numel(), dtype=torch.float64)
    slopes = row.row_backward(upstream.to(accumulate), logits, target, weight, kept, *arguments[2:])
    assert slopes.is_contiguous()
    assert slopes.dtype == logits.dtype
    assert slopes.shape == logits.shape
    expected = gradient(x, soft, w, options, IGNORE, upstream)
    assert_close(slopes, expected, accumulate, float(expected.abs().max()))

    for reduction in (MEAN, SUM) if logits.dtype == torch.float32 else (MEAN,):
        denominator = weights.sum() if reduction == MEAN else 1.0
        forward, again = row.row_forward(logits, *arguments, reduction)
        loss, slopes = row.row_forward_backward(logits, *arguments, reduction)
        overwritten = logits.clone(memory_format=torch.preserve_format)
        loss_ = row.row_forward_backward_(overwritten, *arguments, reduction)
        assert loss.shape == ()
        assert loss.dtype == accumulate
        assert loss.equal(forward)
        assert loss.equal(loss_)
        assert again.equal(kept)
        assert overwritten.equal(slopes)
        assert slopes.is_contiguous()
        assert_close(loss, reduced(losses, weights, reduction), accumulate, scale)
        expected = gradient(x, soft, w, options, IGNORE, torch.ones_like(losses)) / denominator
        assert_close(slopes, expected, accumulate, float(expected.abs().max()))
        by_row = slopes.movedim(1, -1).reshape(losses.numel(), -1)
        assert (by_row[~counted] == 0).all()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("soft", [False, True], ids=["index", "soft"])
def test_values(shape, dtype, soft):
    if dtype in (torch.float32, torch.bfloat16):
        check_everything(*make(shape, dtype, soft, weighted=False, seed=1), PLAIN)
    check_everything(*make(shape, dtype, soft, weighted=True, seed=2), EVERYTHING)


@pytest.mark.parametrize("shape", [(7, 131), (2, 8500), (2, 7, 24)], ids=["resident", "streaming", "strided"])
@pytest.mark.parametrize("option", ["smoothing", "z_loss", "softcap", "temperature"])
@pytest.mark.parametrize("soft", [False, True], ids=["index", "soft"])
@pytest.mark.parametrize("weighted", [False, True], ids=["unweighted", "weighted"])
def test_each_option(shape, option, soft, weighted):
    check_everything(*make(shape, torch.float32, soft, weighted, seed=3), OPTIONS[option])


@pytest.mark.parametrize("shape", [(7, 131), (2, 8501), (2, 7, 24)], ids=["resident", "streaming", "strided"])
@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0])
def test_focal(shape, gamma):
    check_everything(*make(shape, torch.float32, False, gamma != 1.0, seed=4), Options(gamma=gamma))


def test_focal_of_one_class():
    """The program has four positions, of which the last one would be read behind the logits."""
    check_everything(*make((1, 1, 3), torch.float32, False, False, seed=4), Options(gamma=2.0))


@pytest.mark.parametrize("gamma", [0.5, 2.0])
def test_focal_of_an_impossible_label(gamma):
    """Its probability is 0 and the logarithm -inf: the slope has to be that of the limit, not of 0 * inf."""
    logits, options = torch.tensor([[0.0, -math.inf, 1.0]]), Options(gamma=gamma)
    arguments = (logits, torch.tensor([1]), None, options.loss, options.parameters, IGNORE)
    loss, slopes = row.row_forward_backward(*arguments, SUM)
    assert loss == math.inf
    assert_close(slopes, logits.double().softmax(1) - torch.tensor([[0.0, 1.0, 0.0]]), torch.float32)


# ---------------------------------------------------------------------------------------------------------- layouts


def embed(tensor: Tensor, storage_offset: int, strides: tuple[int, ...]) -> Tensor:
    """The tensor with these strides in a storage that is NaN everywhere else."""
    extent = storage_offset + sum((n - 1) * s for n, s in zip(tensor.shape, strides, strict=True)) + 1
    view = torch.full((extent + 5,), math.nan, dtype=tensor.dtype).as_strided(tensor.shape, strides, storage_offset)
    return view.copy_(tensor)


@pytest.mark.parametrize("options", [PLAIN, Options(gamma=2.0)], ids=["cross-entropy", "focal"])
@pytest.mark.parametrize("classes", [131, 8501])
def test_labels_at_the_ends_of_a_row(classes, options):
    """Before the first whole packet, and after the last one: each label in a row of each alignment."""
    logits, _, _ = make((1, classes), torch.float32, False, False, seed=6)
    labels = torch.tensor([0, 1, classes - 2, classes - 1]).repeat_interleave(4)
    check_everything(logits.repeat(16, 1), labels, None, options)


LAYOUTS = {
    "padded rows, aligned": ((5, 523), 0, (528, 1)),
    "padded rows, every alignment": ((9, 523), 0, (525, 1)),
    "one element in": ((5, 523), 1, (523, 1)),
    "one element in, aligned otherwise": ((5, 512), 3, (512, 1)),
    "a few classes, padded": ((37, 10), 1, (13, 1)),
    "streaming, padded rows": ((2, 8501), 0, (8507, 1)),
    "streaming, one element in": ((2, 8320), 1, (8320, 1)),
    "strided, padded": ((2, 5, 16), 0, (128, 24, 1)),
    "strided, odd": ((2, 5, 16), 3, (131, 17, 1)),
    "strided, classes outermost": ((3, 5, 16), 0, (16, 48, 1)),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("soft", [False, True], ids=["index", "soft"])
def test_layouts_of_row_kernels(layout, dtype, soft):
    shape, offset, strides = LAYOUTS[layout]
    logits, target, weight = make(shape, dtype, soft, weighted=True, seed=4)
    plain = row.row_forward_backward(logits, target, weight, "cross_entropy", EVERYTHING.parameters, IGNORE, MEAN)
    view = embed(logits, offset, strides)
    arguments = (target, weight, "cross_entropy", EVERYTHING.parameters, IGNORE)
    accumulate, scale = accumulator(dtype), float(plain[1].abs().max())

    loss, slopes = row.row_forward_backward(view, *arguments, MEAN)
    assert slopes.is_contiguous()
    assert_close(loss, plain[0], accumulate, 10.0)
    assert_close(slopes, plain[1], accumulate, scale)
    loss, kept = row.row_forward(view, *arguments, NONE)
    upstream = torch.ones_like(loss) / (row_losses(*double(logits, target, weight), EVERYTHING, IGNORE)[1].sum())
    assert_close(row.row_backward(upstream, view, target, weight, kept, *arguments[2:]), plain[1], accumulate, scale)

    row.row_forward_backward_(view, *arguments, MEAN)
    assert view.equal(slopes)
    storage = torch.empty(0, dtype=dtype).set_(view.untyped_storage())
    outside = torch.ones_like(storage, dtype=torch.bool)
    outside.as_strided(shape, strides, offset).fill_(False)
    assert storage[outside].isnan().all()  # nothing between the rows was written


@pytest.mark.parametrize("shape", [(9, 523), (2, 8501), (2, 5, 16)], ids=["resident", "streaming", "strided"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_soft_target_with_strides_of_its_own(shape, dtype):
    logits, target, _ = make(shape, dtype, soft=True, weighted=False, seed=5)
    strides = (shape[1] + 4, 1) if len(shape) == 2 else (shape[2], shape[0] * shape[2] + 3, 1)
    plain = row.row_forward_backward(logits, target, None, "cross_entropy", PLAIN.parameters, IGNORE, SUM)
    other = row.row_forward_backward(
        logits, embed(target, 1, strides), None, "cross_entropy", PLAIN.parameters, IGNORE, SUM
    )
    assert_close(other[0], plain[0], torch.float32, 10.0)
    assert_close(other[1], plain[1], torch.float32)


@pytest.mark.parametrize(
    ("shape", "strides"), [((6, 9, 1), (9, 1, 5)), ((6, 1), (1, 7)), ((2, 1, 8), (8, 3, 1))], ids=str
)
def test_the_stride_of_a_single_element_means_nothing(shape, strides):
    logits, target, weight = make(shape, torch.float32, soft=False, weighted=True, seed=14)
    arguments = (target, weight, "cross_entropy", EVERYTHING.parameters, IGNORE, MEAN)
    loss, slopes = row.row_forward_backward(logits, *arguments)
    view = embed(logits, 0, strides)
    assert row.row_forward_backward_(view, *arguments).equal(loss)
    assert view.equal(slopes)
    scaling.scale_(view, torch.tensor(0.5))
    assert view.equal(slopes * 0.5)


def test_rows_that_share_their_logits():
    """A row stride of 0, as expand() makes it."""
    logits, target = torch.randn(1, 300).expand(4, 300), torch.tensor([0, 299, IGNORE, 7])
    loss, _ = row.row_forward(logits, target, None, "cross_entropy", PLAIN.parameters, IGNORE, NONE)
    assert_close(loss, row_losses(logits.double(), target, None, PLAIN, IGNORE)[0], torch.float32, 10.0)


@pytest.mark.parametrize("shape", [(3, 16), (1, 3, 16)], ids=["rows", "classes"])
def test_offsets_beyond_32_bits_of_row_kernels(shape):
    """3 * 2^30 elements apart, in memory that is reserved and hardly touched."""
    step = 2**30 + 8
    torch.utils.deterministic.fill_uninitialized_memory = False
    try:
        storage = torch.empty(2 * step + 16, dtype=torch.float16)
    finally:
        torch.utils.deterministic.fill_uninitialized_memory = True
    view = storage.as_strided(shape, (step, 1) if len(shape) == 2 else (0, step, 1))
    logits, target, _ = make(shape, torch.float16, soft=False, weighted=False, seed=6)
    view.copy_(logits)
    arguments = (target, None, "cross_entropy", PLAIN.parameters, IGNORE, SUM)
    loss, slopes = row.row_forward_backward(logits, *arguments)
    assert row.row_forward_backward_(view, *arguments).equal(loss)
    assert view.equal(slopes)


# --------------------------------------------------------------------------------------------------- special values

INF, NAN = math.inf, math.nan
SPECIAL = {
    "nan": {3: NAN},
    "inf": {3: INF},
    "-inf": {3: -INF, -1: -INF},
    "-inf at the target": {0: -INF},
    "all -inf": None,
    "first half -inf": slice(0, 0.5),
    "last half -inf": slice(0.5, 1.0),
    "large offset": 1e4,
    "masked with the least number": {3: "least", -1: "least"},
}


@pytest.mark.parametrize("shape", [(2, 12), (2, 523), (2, 8501), (2, 9, 3)], ids=str)
@pytest.mark.parametrize("what", SPECIAL)
@pytest.mark.parametrize("kind", ["index", "smoothing", "soft"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_special_values_as_torch_in_triton(shape, what, kind, dtype):
    logits, target, _ = make(shape, dtype, soft=kind == "soft", weighted=False, seed=7)
    logits = torch.nan_to_num(logits)
    if kind == "soft":
        target.select(1, 3).zero_()  # 0 * -inf is NaN
    else:
        target = torch.zeros_like(target)
    values, first = SPECIAL[what], logits[0]
    if isinstance(values, dict):
        for column, value in values.items():
            first[column] = torch.finfo(dtype).min / 8 if value == "least" else value  # torch sums, and overflows
    elif isinstance(values, slice):
        first[int(values.start * shape[1]) : int(values.stop * shape[1])] = -INF
    elif values is None:
        first.fill_(-INF)
    else:
        logits += values
    options = Options(smoothing=0.1) if kind == "smoothing" else PLAIN
    x, t, _ = double(logits, target, None)
    arguments = (target, None, "cross_entropy", options.parameters, IGNORE)
    losses, _ = row_losses(x, t, None, options, IGNORE)

    loss, kept = row.row_forward(logits, *arguments, NONE)
    infinite = losses.isinf() | losses.isnan()
    least = losses.abs() > 1e30  # a mean over the least number: right to a relative error only
    assert loss[infinite].equal(losses[infinite].to(dtype)) or torch.equal(loss.isnan(), losses.isnan())
    fine = ~infinite & ~least
    assert_close(loss[fine], losses[fine], dtype, 30.0)
    assert_close(loss[least], losses[least].to(dtype), dtype)

    expected = gradient(x, t, None, options, IGNORE, torch.ones_like(losses))
    ours = row.row_backward(torch.ones_like(loss), logits, target, None, kept, *arguments[2:])
    one_pass = row.row_forward_backward(logits, *arguments, SUM)[1]
    for slopes in (ours, one_pass):
        assert_close(slopes, expected, dtype, 4.0)
        assert ((slopes == 0) | ~((logits == -INF) & (expected == 0))).all()  # p = 0 exactly


@pytest.mark.parametrize("shape", [(4, 12), (4, 523), (2, 8501), (2, 9, 2)], ids=str)
def test_every_row_ignored(shape):
    logits = torch.full(shape, math.nan)
    target = torch.full((math.prod(shape) // shape[1],), IGNORE)
    loss, slopes = row.row_forward_backward(logits, target, None, "cross_entropy", PLAIN.parameters, IGNORE, MEAN)
    assert loss.isnan()
    assert (slopes == 0).all()
    total, kept = row.row_forward(logits, target, None, "cross_entropy", EVERYTHING.parameters, IGNORE, SUM)
    assert total == 0
    assert (kept == 0).all()


@pytest.mark.parametrize("ignore_index", [-1, 0, 4, 2**40])
@pytest.mark.parametrize("shape", [(6, 12), (2, 8501), (2, 9, 3)], ids=str)
def test_ignore_index(shape, ignore_index):
    logits, target, weight = make(shape, torch.float32, soft=False, weighted=True, seed=8)
    logits, target = torch.nan_to_num(logits), target.clamp(min=0)
    target[0], target[-1] = ignore_index, 4
    losses, weights = row_losses(logits.double(), target, weight.double(), PLAIN, ignore_index)
    loss, _ = row.row_forward(logits, target, weight, "cross_entropy", PLAIN.parameters, ignore_index, MEAN)
    assert_close(loss, reduced(losses, weights, MEAN), torch.float32, 10.0)


@pytest.mark.parametrize("shape", [(6, 12), (2, 8501), (2, 9, 3)], ids=str)
@pytest.mark.parametrize("wrong", [-1, "classes", 2**32, -(2**62)])
def test_target_out_of_range_traps_before_any_access(shape, wrong):
    logits, target, weight = make(shape, torch.float32, soft=False, weighted=True, seed=9)
    target[-1] = shape[1] if wrong == "classes" else wrong
    for reduction in (MEAN, SUM):
        with pytest.raises(Exception, match="index target outside"):
            row.row_forward_backward(logits, target, weight, "cross_entropy", PLAIN.parameters, IGNORE, reduction)


@pytest.mark.parametrize("shape", [(6, 12), (2, 8501), (2, 9, 3)], ids=str)
def test_target_out_of_range_is_nan_without_asserts(shape, monkeypatch):
    monkeypatch.setattr(interpreter.Builder, "create_assert", lambda *_: None)
    logits, target, weight = make(shape, torch.float32, soft=False, weighted=True, seed=9)
    target[0] = 2**32
    for class_weight in (weight, None):
        arguments = (target, class_weight, "cross_entropy", PLAIN.parameters, IGNORE)
        loss, _ = row.row_forward(logits, *arguments, NONE)
        assert loss[0].isnan()
        assert loss[1:].isfinite().all()
        slopes = row.row_forward_backward(logits, *arguments, SUM)[1].movedim(1, -1).reshape(len(target), -1)
        assert slopes[0].isnan().all()
        assert slopes[1:].isfinite().all()


# ----------------------------------------------------------------------------------------- determinism, traffic, rest


@pytest.mark.parametrize("shape", [(300, 10), (5, 523), (4, 8501), (3, 5, 600)], ids=str)
def test_order_of_the_programs_changes_no_bit(shape):
    logits, target, weight = make(shape, torch.float32, soft=False, weighted=True, seed=10)
    arguments = (logits, target, weight, "cross_entropy", EVERYTHING.parameters, IGNORE, MEAN)
    loss, slopes = row.row_forward_backward(*arguments)
    for seed in (1, 2):
        with interpreter.shuffled(seed):
            again, slopes_again = row.row_forward_backward(*arguments)
        assert again.equal(loss)
        assert slopes_again.equal(slopes)


@pytest.mark.parametrize(
    ("shape", "soft", "reads"),
    [((16, 1000), False, 1), ((16, 1000), True, 1), ((3, 4999), False, 1), ((3, 4999), True, 1),
     ((2, 20001), False, 2), ((2, 20001), True, 2), ((2, 500, 40), False, 2), ((2, 500, 40), True, 2)],
    ids=str,
)  # fmt: skip
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_requested_bytes(shape, soft, reads, dtype):
    """forward reads s = the bytes of the logits once; with the gradient `reads` times; each gradient is written once.
    (Between 0.999 and 1.05 times: the edges of a row stay in registers, targets and losses come on top.)"""
    logits, target, _ = make(shape, dtype, soft, weighted=False, seed=11)
    if not soft:
        target = target.clamp(min=0)
    s = logits.numel() * logits.element_size() * (2 if soft else 1)
    written = logits.numel() * logits.element_size()
    arguments = (target, None, "cross_entropy", EVERYTHING.parameters, IGNORE)
    with interpreter.counted_bytes() as bytes_:
        loss, kept = row.row_forward(logits, *arguments, NONE)
    assert s <= bytes_.loaded <= 1.05 * s
    assert bytes_.stored == 3 * loss.numel() * loss.element_size()
    with interpreter.counted_bytes() as bytes_:
        row.row_forward_backward(logits, *arguments, SUM)
    assert 0.999 * reads * s <= bytes_.loaded <= 1.05 * reads * s
    assert written <= bytes_.stored <= 1.05 * written
    masses = written if soft and reads == 2 else 0  # the sum of the targets first
    with interpreter.counted_bytes() as bytes_:
        row.row_backward(torch.ones_like(loss), logits, target, None, kept, *arguments[2:])
    assert 0.999 * (s + masses) <= bytes_.loaded <= 1.05 * (s + masses)
    assert bytes_.stored == written


def test_ignored_rows_of_a_large_vocabulary_are_not_read():
    logits, target = torch.full((3, 20001), math.nan), torch.full((3,), IGNORE)
    with interpreter.counted_bytes() as bytes_:
        row.row_forward_backward(logits, target, None, "cross_entropy", PLAIN.parameters, IGNORE, SUM)
    assert bytes_.loaded < 1000
    assert bytes_.stored >= logits.numel() * 4


@pytest.mark.parametrize("count", [1, 1023, 4096, 4097, 20000])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_sums(count, dtype):
    generator = torch.Generator().manual_seed(count)
    values = torch.randn(count, generator=generator).to(dtype)
    tolerance = 8 * torch.finfo(dtype).eps * float(values.abs().sum())
    assert abs(sums.sum_rows(values, None).double() - values.double().sum()) <= tolerance
    halved = sums.sum_rows(values, torch.tensor(2.0, dtype=dtype))
    assert halved.equal(sums.sum_rows(values, None) / 2)
    target = torch.randint(7, (count,), generator=generator)
    weight = torch.rand(7, generator=generator).to(dtype)
    total = sums.sum_target_weights(target, weight, 7, 3, dtype)
    expected = torch.where(target == 3, 0.0, weight.double()[target]).sum()
    assert abs(total.double() - expected) <= 8 * torch.finfo(dtype).eps * count
    assert sums.sum_target_weights(target, None, 7, 3, dtype) == (target != 3).sum()


@pytest.mark.parametrize(
    ("shape", "strides"),
    [((5,), None), ((9000,), None), ((3, 5, 7), None), ((3, 100), (107, 1)), ((2, 5000), (5008, 1)),
     ((2, 3, 40), (200, 64, 1)), ((2, 3, 16), (16, 32, 1))],
    ids=str,
)  # fmt: skip
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_scale_in_triton(shape, strides, dtype):
    values = torch.randn(shape, generator=torch.Generator().manual_seed(12)).to(dtype)
    tensor = values.clone() if strides is None else embed(values, 0, strides)
    for factor in (0.3, 1.0, -2.0, math.nan):
        before = tensor.clone()
        with interpreter.counted_bytes() as bytes_:
            scaling.scale_(tensor, torch.tensor(factor, dtype=accumulator(dtype)))
        rounded = torch.tensor(factor, dtype=accumulator(dtype))
        torch.testing.assert_close(
            tensor, (before.to(rounded.dtype) * rounded).to(dtype), rtol=0, atol=0, equal_nan=True
        )
        assert bytes_.stored == (0 if factor == 1.0 else tensor.numel() * tensor.element_size())
    storage = torch.empty(0, dtype=dtype).set_(tensor.untyped_storage())
    assert storage.isnan().all()  # the padding was NaN and stayed so, as everything times NaN


@triton.jit
def tanh_kernel(x, y, count, BLOCK: tl.constexpr):
    index = tl.arange(0, BLOCK)
    tl.store(y + index, device_math.tanh(tl.load(x + index, mask=index < count, other=0.0)), mask=index < count)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_tanh(dtype):
    positive = np.geomspace(1e-30, 40, 4000)
    x = torch.tensor(np.concatenate([-positive, [0.0, -0.0, INF, -INF, NAN], positive])).to(dtype)
    y = torch.empty_like(x)
    tanh_kernel[(1,)](x, y, x.numel(), BLOCK=triton.next_power_of_2(x.numel()))
    torch.testing.assert_close(
        y.double(), torch.tanh(x.double()), rtol=4 * torch.finfo(dtype).eps, atol=0, equal_nan=True
    )
    assert y[:4000].equal(-y[-4000:])  # odd


@triton.jit
def numbers_kernel(numbers, output):
    for k in tl.static_range(len(numbers)):
        tl.store(output + k, coefficients.number(numbers[k], tl.float64))


def test_a_double_survives_the_trip():
    random_numbers = random.Random(13)
    numbers = [0.0, -0.0, 1 / 3, -0.1, 1e-30, 2.0**-149, 5e-324, 1e300, -INF]
    numbers += [random_numbers.uniform(-100, 100) for _ in range(20)]
    output = torch.empty(len(numbers), dtype=torch.float64)
    numbers_kernel[(1,)](coefficients.kernel_numbers(tuple(numbers), torch.float64), output)
    assert output.equal(torch.tensor(numbers, dtype=torch.float64))


def test_what_the_kernels_cannot_read_is_refused():
    for shape, strides in product([(3, 4)], [(1, 3)]):
        logits = torch.randn(12).as_strided(shape, strides)
        with pytest.raises(ValueError, match="stride 1"):
            row.row_forward(logits, torch.zeros(3, dtype=torch.long), None, "cross_entropy", PLAIN.parameters, -100, 0)
        with pytest.raises(ValueError, match="stride 1"):
            scaling.scale_(logits, torch.tensor(2.0))
