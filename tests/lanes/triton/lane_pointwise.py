"""The pointwise kernels, in the interpreter on the CPU: layouts, dtypes, masks, sums. Run by test_lanes.py.

The losses are huber_loss and `everything`, which exists here only; the others are in lane_pointwise_losses.py.
"""

from __future__ import annotations

from lanes.triton import interpreter  # first: it repairs Triton before the kernels are imported  # isort: skip

import math
import random
from itertools import product

import pytest
import torch
from lanes.triton.kernels import pointwise
from lanes.triton.pointwise_reference import BF16, DTYPES, F16, F32, F64, Call, assert_close, install
from torch import Tensor

install()
pytestmark = pytest.mark.filterwarnings("ignore:All-NaN slice encountered", "ignore:invalid value")

HUBER = {"loss": "huber_loss", "parameters": (0.7,)}
EVERYTHING = {"loss": "everything", "parameters": (0.3, 1.0)}


def normal(*shape: int, dtype: torch.dtype = F32, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def check(call: Call, upstream: Tensor | None = None) -> None:
    """Both launchers, reduced and not, against float64 torch; dtypes, shapes and strides."""
    expected = call.reference()
    size = float(expected.losses[expected.losses.isfinite()].abs().sum())
    loss, metrics, gradients = pointwise.pointwise(*call.arguments, True, True, 0)
    assert loss.shape == ()
    assert loss.dtype == metrics.dtype == call.accumulator
    assert_close(loss, expected.losses.sum(), call.accumulator, size)
    assert_close(metrics, expected.metrics, call.accumulator)
    check_gradients(call, gradients, expected.gradients)

    code = 1 if call.accumulator == F64 else DTYPES.index(call.tensors[0].dtype) if has_float(call) else 0
    losses, none, again = pointwise.pointwise(*call.arguments, False, False, code)
    assert none.shape == (0,)
    assert losses.dtype == DTYPES[code]
    assert losses.stride() == strides_of(call, next((x for x in call.tensors if keeps_layout(x, call.shape)), None))
    assert_close(losses, expected.losses, call.accumulator)
    for first, second in zip(gradients, again, strict=True):
        torch.testing.assert_close(first, second, rtol=0, atol=0, equal_nan=True)

    if upstream is None:
        upstream = normal(*call.shape, seed=9)
    slopes = pointwise.pointwise_backward(upstream, *call.arguments)
    check_gradients(call, slopes, call.reference(upstream).gradients)


def has_float(call: Call) -> bool:
    return call.tensors[0].dtype in DTYPES


def keeps_layout(tensor: Tensor, shape: torch.Size) -> bool:
    return tensor.shape == shape and pointwise.is_dense(tensor)


def strides_of(call: Call, like: Tensor | None) -> tuple[int, ...]:
    return torch.empty(call.shape).stride() if like is None else like.stride()


def check_gradients(call: Call, gradients: list[Tensor], expected: list[Tensor]) -> None:
    assert len(gradients) == len(call.wanted)
    for k, gradient, wanted in zip(call.wanted, gradients, expected, strict=True):
        operand = call.operands[k]
        assert isinstance(operand, Tensor)
        assert gradient.dtype == operand.dtype
        assert gradient.shape == call.shape
        assert gradient.stride() == strides_of(call, operand if keeps_layout(operand, call.shape) else None)
        assert_close(gradient, wanted, call.accumulator)


# ------------------------------------------------------------------------------------------ one dense order


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("count", [1, 3, 517, 2051, 4096])
def test_sizes_of_pointwise_kernels(count, dtype):
    check(Call([normal(count, dtype=dtype), normal(count, dtype=dtype, seed=1)], **HUBER))
    operands = [normal(count, dtype=dtype, seed=seed) for seed in range(3)]
    check(Call(operands, **EVERYTHING, weight=normal(count, seed=3) > 0, masked=True, factor=0.3))


MIXES = [(BF16, F32), (F32, BF16), (F32, F64), (F16, F64), (BF16, F16), (F16, torch.int64), (F32, torch.int32),
         (F64, torch.uint8), (BF16, torch.bool), (torch.bool, F32), (torch.int64, torch.uint8, F16)]  # fmt: skip


@pytest.mark.parametrize("dtypes", MIXES, ids=str)
def test_mixed_dtypes_of_pointwise_kernels(dtypes):
    operands = [(3 * normal(1003, seed=seed)).abs().to(dtype) for seed, dtype in enumerate(dtypes)]
    wanted = tuple(k for k, dtype in enumerate(dtypes) if dtype.is_floating_point and k < 2)
    loss = HUBER if len(dtypes) == 2 else EVERYTHING
    check(Call(operands, **loss, wanted=wanted))
    check(Call([x[1:] for x in operands], **loss, wanted=wanted))  # no longer aligned


@pytest.mark.parametrize("number", [0, 1], ids=["first", "second"])
@pytest.mark.parametrize("dtype", [F64, F32], ids=str)
def test_an_operand_that_is_a_number(number, dtype):
    operands: list[Tensor | float] = [normal(37, dtype=dtype), normal(37, dtype=dtype)]
    operands[number] = 0.1
    check(Call(operands, **HUBER, factor=1 / 3))


def test_which_gradients():
    operands = [normal(100, seed=seed) for seed in range(3)]
    for wanted in ((), (0,), (1,), (0, 1)):
        check(Call(operands, **EVERYTHING, wanted=wanted))


# ------------------------------------------------------------------------------------------ layouts


def embedded(shape: tuple[int, ...], strides: tuple[int, ...], offset: int, dtype: torch.dtype, seed: int) -> Tensor:
    """Random numbers with these strides in a storage that is NaN everywhere else."""
    extent = offset + sum((n - 1) * s for n, s in zip(shape, strides, strict=True)) + 1
    reached = torch.arange(extent).as_strided(shape, strides, offset).flatten()
    storage = torch.full((extent + 5,), math.nan, dtype=dtype)
    storage[reached] = normal(extent, dtype=dtype, seed=seed)[reached]
    return storage.as_strided(shape, strides, offset)


LAYOUTS = {
    "both transposed": ((9, 70), [(1, 9), (1, 9)], 0),
    "one transposed": ((70, 90), [(90, 1), (1, 70)], 0),
    "the other transposed": ((70, 9), [(1, 70), (9, 1)], 0),
    "channels last": ((2, 5, 6, 7), [(210, 1, 35, 5), (210, 1, 35, 5)], 0),
    "channels last and not": ((2, 5, 6, 7), [(210, 1, 35, 5), (210, 42, 7, 1)], 0),
    "padded rows, aligned": ((5, 520), [(528, 1), (528, 1)], 0),
    "padded rows, odd": ((5, 523), [(525, 1), (530, 1)], 0),
    "padded rows of one, a few columns": ((300, 5), [(7, 1), (5, 1)], 0),
    "four columns": ((500, 4), [(8, 1), (4, 1)], 0),
    "one element in": ((4001,), [(1,), (1,)], 1),
    "one element in, rows": ((3, 520), [(528, 1), (520, 1)], 1),
    "every second": ((1003,), [(2,), (1,)], 0),
    "every second of rows": ((11, 101), [(202, 2), (101, 1)], 3),
    "all strided": ((11, 101), [(302, 2), (302, 3)], 0),
    "rows that share their elements": ((6, 300), [(0, 1), (300, 1)], 0),
    "rows that overlap": ((6, 300), [(7, 1), (300, 1)], 0),
    "columns that share their element": ((300, 6), [(1, 0), (6, 1)], 0),
    "five dimensions": ((3, 2, 4, 3, 5), [(400, 180, 44, 11, 2), (120, 60, 15, 5, 1)], 2),
    "eight dimensions": ((2,) * 8, [tuple(3**k for k in range(8)), tuple(5 * 3 ** (7 - k) for k in range(8))], 0),
    "sizes of one": ((1, 40, 1, 30), [(7, 31, 3, 1), (1200, 30, 9, 1)], 0),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [F32, BF16], ids=str)
def test_layouts_of_pointwise_kernels(layout, dtype):
    shape, strides, offset = LAYOUTS[layout]
    operands = [embedded(shape, steps, offset, dtype, seed) for seed, steps in enumerate(strides)]
    upstream = normal(*shape[::-1], seed=5).permute(*range(len(shape) - 1, -1, -1))
    check(Call(operands, **HUBER), upstream)


BROADCASTS = {
    "a row": [(40, 130), (130,)],
    "a column": [(40, 130), (40, 1)],
    "an outer product": [(40, 1), (1, 130)],
    "a scalar": [(40, 130), ()],
    "a single element": [(1, 1), (40, 130)],
    "channels": [(3, 5, 6, 8), (5, 1, 1)],
    "the middle": [(30, 1, 70), (30, 4, 70)],
    "three ways": [(20, 1, 8), (1, 6, 8), (20, 6, 1)],
    "scalars": [(), ()],
    "a scalar and one element": [(), (1, 1, 1)],
}


@pytest.mark.parametrize("shapes", BROADCASTS.values(), ids=BROADCASTS)
@pytest.mark.parametrize("dtype", [F32, BF16], ids=str)
def test_broadcasting_of_pointwise_kernels(shapes, dtype):
    operands = [normal(*shape, dtype=dtype, seed=seed) for seed, shape in enumerate(shapes)]
    check(Call(operands, **(HUBER if len(shapes) == 2 else EVERYTHING)), torch.tensor(0.3))


def test_merging_keeps_every_address():
    """The Python of csrc/layout.h: the same tuples of addresses, in any order, from no more dimensions."""
    chance = random.Random(4)
    for _ in range(300):
        dims = chance.randint(0, 5)
        shape = [chance.choice((1, 2, 3, 4)) for _ in range(dims)]
        strides = []
        for _ in range(chance.randint(1, 3)):
            steps, step = [0] * dims, 1
            for d in chance.sample(range(dims), dims):
                steps[d] = chance.choice((0, step, step, step, 2 * step))
                step *= shape[d]
            strides.append(tuple(steps))
        sizes, merged = pointwise.merged(shape, strides)
        assert len(sizes) <= sum(n > 1 for n in shape)
        assert set(addresses(sizes, merged)) == set(addresses(shape, strides))


def addresses(shape, strides) -> list[tuple[int, ...]]:
    indices = product(*(range(n) for n in shape))
    return [tuple(sum(i * s for i, s in zip(index, steps, strict=True)) for steps in strides) for index in indices]


def test_what_merges():
    assert pointwise.merged((4, 5), [(5, 1), (5, 1)]) == ((20,), ((1,), (1,)))
    assert pointwise.merged((4, 5), [(1, 4), (1, 4)]) == ((20,), ((1,), (1,)))
    assert pointwise.merged((4, 5), [(5, 1), (0, 1)]) == ((4, 5), ((5, 1), (0, 1)))
    assert pointwise.merged((2, 3, 4), [(12, 4, 1), (0, 1, 0)]) == ((2, 3, 4), ((12, 4, 1), (0, 1, 0)))
    assert pointwise.merged((2, 3, 4), [(12, 4, 1), (1, 0, 0)]) == ((2, 12), ((12, 1), (1, 0)))
    assert pointwise.merged((1, 1), [(7, 3)]) == ((), ((),))


def test_offsets_beyond_32_bits_of_pointwise_kernels():
    """3 * 2^30 elements apart, in memory that is reserved and hardly touched."""
    step = 2**30 + 8
    torch.utils.deterministic.fill_uninitialized_memory = False
    try:
        storage = torch.empty(2 * step + 16, dtype=F16)
    finally:
        torch.utils.deterministic.fill_uninitialized_memory = True
    far = 2**31 // 15 + 1
    for shape, strides in (((3, 16), (step, 1)), ((3, 16), (1, far)), ((16,), (far,))):
        view = storage.as_strided(shape, strides).copy_(normal(*shape, dtype=F16))
        check(Call([view, normal(*shape, dtype=F16, seed=1)], **HUBER))


def test_the_plan_of_more_than_2_31_elements():
    count = 2**31 + 4098
    torch.utils.deterministic.fill_uninitialized_memory = False
    try:
        operands = [torch.empty(count, dtype=torch.uint8), torch.tensor(1.0, dtype=F16)]
    finally:
        torch.utils.deterministic.fill_uninitialized_memory = True
    how = pointwise.tiling(torch.Size([count]), operands, 4)
    assert (how.rows, how.columns, how.packet, how.access) == (1, count, 4, (1 + 8 * 4, 0))


def test_the_plan_of_a_tile():
    """A tile of 1024 elements: of one row, or of 16 where a tensor strides over the columns."""
    padded, transposed = torch.empty(500, 1028)[:, :1024], torch.empty(1024, 500).t()
    for operands, tile in (([padded, padded], (1, 1024)), ([padded, transposed], (16, 64))):
        how = pointwise.tiling(torch.Size([500, 1024]), operands, 4)
        assert (how.rows, how.columns) == (500, 1024)
        assert (how.tile_rows, how.packets * how.packet) == tile


# ------------------------------------------------------------------------------------------ weights, masks, sums

WEIGHTS = {
    "a mask": lambda shape: normal(*shape, seed=7) > 0,
    "a mask of rows": lambda shape: normal(shape[0], 1, seed=7) > 0,
    "a mask of columns": lambda shape: normal(shape[1], seed=7) > 0,
    "bytes": lambda shape: torch.randint(0, 3, shape, generator=torch.Generator().manual_seed(7)).to(torch.uint8),
    "numbers": lambda shape: normal(*shape, seed=7).clamp(min=0),
    "halves": lambda shape: normal(*shape, seed=7, dtype=F16).clamp(min=0),
    "doubles": lambda shape: normal(*shape, seed=7, dtype=F64).clamp(min=0),
    "nothing": lambda shape: torch.zeros(shape),
    "transposed": lambda shape: (normal(*shape[::-1], seed=7) > 0).t(),
}


@pytest.mark.parametrize("weight", WEIGHTS.values(), ids=WEIGHTS)
@pytest.mark.parametrize("dtype", [F32, BF16, F64], ids=str)
def test_masks_and_what_is_behind_them(weight, dtype):
    shape = (13, 131)
    operands = [normal(*shape, dtype=dtype, seed=seed) for seed in range(3)]
    weight = weight(shape)
    hidden = (weight == 0).expand(shape)
    for k, rubbish in enumerate((math.nan, math.inf, -math.inf)):
        operands[k][hidden] = rubbish  # -inf is outside the domain of `everything`
    check(Call(operands, **EVERYTHING, weight=weight, masked=True, factor=0.3, scale=normal(13, 1).abs()))


def test_a_weight_that_does_not_mask():
    operands = [normal(500), normal(500, seed=1)]
    operands[0][3] = math.nan
    weight = normal(500, seed=2)
    weight[3] = 0.0
    call = Call(operands, **HUBER, weight=weight)
    losses, _, gradients = pointwise.pointwise(*call.arguments, False, False, 0)
    assert losses.isnan().nonzero().tolist() == [[3]]
    assert gradients[0].isnan().nonzero().tolist() == [[3]]
    operands[0][3] = 0.0
    check(call)


def test_extremes_are_of_what_has_a_weight():
    """Without a mask too. The greatest of all elements is in one half or in the other, and so is the least."""
    operands = [normal(500, seed=seed) for seed in range(3)]
    half = (torch.arange(500) % 2).double()
    for weight in (half, 1 - half):
        check(Call(operands, **EVERYTHING, weight=weight))


@pytest.mark.parametrize("scale", [(), (23, 1), (131,), (23, 131)], ids=str)
def test_scales(scale):
    operands = [normal(23, 131, dtype=BF16), normal(23, 131, seed=1)]
    check(Call(operands, **HUBER, scale=normal(*scale, seed=2), factor=2.0))
    check(Call(operands, **HUBER, scale=normal(*scale, seed=2, dtype=F64)))


def test_nan_reaches_every_sum():
    operands = [normal(5000, seed=seed) for seed in range(3)]
    operands[0][4321] = math.nan
    loss, metrics, _ = pointwise.pointwise(*Call(operands, **EVERYTHING).arguments, True, True, 0)
    assert loss.isnan()
    assert metrics.isnan().all()


def test_no_metrics_unless_asked():
    operands = [normal(50, seed=seed) for seed in range(3)]
    assert pointwise.pointwise(*Call(operands, **EVERYTHING).arguments, True, False, 0)[1].shape == (0,)


@pytest.mark.parametrize("masked", [False, True])
def test_domain_of_pointwise_kernels(masked):
    operands = [normal(50, seed=seed) for seed in range(3)]
    operands[2][7] = -10.0
    weight = torch.ones(50)
    weight[7] = 0.0
    call = Call(operands, **EVERYTHING, weight=weight, masked=masked)
    if masked:
        check(call)
    else:
        with pytest.raises(Exception, match="x2 must be above -9"):
            pointwise.pointwise(*call.arguments, True, False, 0)


@pytest.mark.parametrize("shape", [(9011,), (31, 201)], ids=str)
def test_programs_of_several_tiles(shape, monkeypatch):
    operands = [normal(*shape, seed=seed) for seed in range(3)]
    operands[2] = operands[2][..., :1]
    call = Call(operands, **EVERYTHING, weight=normal(*shape, seed=4) > 0, masked=True)
    check(call)
    monkeypatch.setattr(pointwise, "PROGRAMS", 3)
    check(call)


def test_the_order_of_the_programs_does_not_matter():
    call = Call([normal(9001, seed=seed) for seed in range(3)], **EVERYTHING)
    first = pointwise.pointwise(*call.arguments, True, True, 0)
    with interpreter.shuffled(5):
        second = pointwise.pointwise(*call.arguments, True, True, 0)
    assert first[0].equal(second[0])
    assert first[1].equal(second[1])
    assert all(a.equal(b) for a, b in zip(first[2], second[2], strict=True))


def test_a_sum_of_many_is_as_good_as_its_terms():
    count = 100_000
    operands = [torch.full((count,), 0.1), torch.zeros(count)]
    loss, _, _ = pointwise.pointwise(*Call(operands, **HUBER).arguments, True, False, 0)
    exact = count * float(torch.tensor(0.1)) ** 2 / 2
    assert abs(loss.double() / exact - 1) < 4 * torch.finfo(F32).eps


# ------------------------------------------------------------------------------------------ bytes


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("count", [8192, 9001])
def test_everything_is_read_once_and_written_once(dtype, count):
    operands = [normal(count, dtype=dtype, seed=seed) for seed in range(3)]
    mask = normal(count, seed=3) > 0
    call = Call(operands, **EVERYTHING, weight=mask, masked=True)
    read, written = count * (3 * dtype.itemsize + 1), 2 * count * dtype.itemsize
    with interpreter.counted_bytes() as bytes_:
        pointwise.pointwise(*call.arguments, True, True, 0)
    assert read <= bytes_.loaded <= 1.05 * read
    assert written <= bytes_.stored <= 1.05 * written
    upstream = torch.ones(count)
    with interpreter.counted_bytes() as bytes_:
        pointwise.pointwise_backward(upstream, *call.arguments)
    assert bytes_.loaded == read + 4 * count
    assert bytes_.stored == written


def test_what_broadcasts_is_not_read_for_every_element():
    count = 16 * 1024
    operands = [normal(16, 1024), normal(1024, seed=1), normal(16, 1, seed=2)]
    with interpreter.counted_bytes() as bytes_:
        pointwise.pointwise(*Call(operands, **EVERYTHING, wanted=()).arguments, True, False, 0)
    assert bytes_.loaded <= 4 * count * 2.05  # the row again for every tile, of one row here; from a cache
    operands[1] = torch.tensor(0.5)
    with interpreter.counted_bytes() as bytes_:
        pointwise.pointwise(*Call(operands, **EVERYTHING, wanted=()).arguments, True, False, 0)
    assert 4 * count <= bytes_.loaded <= 4 * count * 1.05
