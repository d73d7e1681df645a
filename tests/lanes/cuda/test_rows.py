"""The row kernels of csrc/cuda, on the emulator, against torch in float64; bitwise the same in every schedule."""

from __future__ import annotations

import dataclasses
import functools
import mmap
import zlib
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from lanes.cuda import emulated
from lanes.cuda.emulated import (
    A100,
    CLUSTERS,
    DTYPES,
    H100,
    IGNORE,
    MEAN,
    NONE,
    RTX_4090,
    SUM,
    TWO_READS,
    Device,
    Problem,
)

pytestmark = [
    pytest.mark.lane("CUDA C++ on the emulator, rows"),
    pytest.mark.builds("kernels", emulated.LANE),
    emulated.needed,
]
DEVICES = {"H100": H100, "A100": A100, "RTX_4090": RTX_4090, "clusters": CLUSTERS, "two_reads": TWO_READS}
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "smoothing": {"smoothing": 0.1},
    "z_loss": {"z_loss": 1e-2},
    "softcap": {"softcap": 5.0, "temperature": 0.7},
    "temperature": {"temperature": 1.7, "z_loss": 1e-2},  # a factor of the exponent
    "temperature_everywhere": {"temperature": 0.6, "smoothing": 0.2, "z_loss": 1e-2, "weight": True},
    "weight": {"weight": True},
    "soft": {"soft": True},
    "everything": {"smoothing": 0.2, "z_loss": 1e-3, "softcap": 8.0, "temperature": 1.3, "weight": True},
    "soft_everything": {
        "soft": True, "smoothing": 0.2, "z_loss": 1e-3, "softcap": 8.0, "temperature": 1.3, "weight": True,
    },
    "focal": {"gamma": 2.5, "weight": True},
}  # fmt: skip


def problem(
    shape: tuple[int, ...],
    dtype: torch.dtype,
    options: str = "plain",
    device: Device = H100,
    offset: int = 0,
    padding: int = 0,
    ignore: bool = True,
) -> Problem:
    """A random problem; every third row of an index target is ignored. The seed is a function of the arguments."""
    seed = zlib.crc32(repr((shape, dtype, options, offset, padding)).encode())
    print(f"seed {seed}")
    generator = torch.Generator().manual_seed(seed)
    chosen = dict(OPTIONS[options])
    classes, rows = shape[1], torch.Size(shape).numel() // shape[1]
    logits = emulated.placed((torch.randn(shape, generator=generator) * 3).to(dtype), offset, padding)
    if chosen.pop("soft", False):
        soft = torch.softmax(torch.randn(shape, generator=generator) * 2, 1).to(dtype)
        target = emulated.placed(soft, offset + 3, padding)  # never aligned as the logits are
    else:
        target = torch.randint(0, classes, (rows,), generator=generator)
        target[0], target[-1] = classes - 1, 0
        if ignore:
            target[1::3] = IGNORE
    weight = None
    if chosen.pop("weight", False):
        weight = torch.rand(classes, generator=generator, dtype=emulated.accumulator(dtype)) + 0.5
    return Problem(logits, target, weight, device=device, **chosen)


def check(p: Problem) -> None:
    """Every operator and reduction on a problem."""
    upstream = torch.rand(p.rows, generator=torch.Generator().manual_seed(p.rows)) + 0.5
    upstream = upstream.to(emulated.accumulator(p.logits.dtype))
    row_loss, _ = p.reference(NONE)
    size = 1 + row_loss.abs().max()
    grain = float(p.logits.double().abs().max()) * 4 + 8  # what an exponent is rounded at, and the sums' length

    def forward() -> tuple[torch.Tensor, ...]:
        loss, state = p.forward(NONE, with_state=True)
        return loss, state, p.forward(MEAN)[0], p.forward(SUM)[0], p.backward(upstream, state)

    loss, _, mean, total, gradient = emulated.same_bits_in_all_schedules(forward)
    emulated.assert_close(loss, row_loss, size)
    emulated.assert_close(mean, p.reference(MEAN)[0], size)
    emulated.assert_close(total, p.reference(SUM)[0], size * p.rows)
    emulated.assert_close(gradient, p.reference(NONE, upstream)[1], grain * upstream.max())
    for reduction in (MEAN, SUM):
        expected_loss, expected = p.reference(reduction)
        share = size * p.rows if reduction == SUM else size
        scale = grain if reduction == SUM else grain / p.rows * 4
        for run in (p.fused, p.fused_in_place):
            fused_loss, fused = emulated.same_bits_in_all_schedules(functools.partial(run, reduction))
            emulated.assert_close(fused_loss, expected_loss, share)
            emulated.assert_close(fused, expected, scale)
            ignored = torch.zeros(p.rows, dtype=torch.bool) if p.soft else p.target == IGNORE
            assert (emulated.by_rows(fused)[ignored] == 0).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("rows", "classes"), [(70, 1), (70, 5), (9, 8), (12, 33), (20, 100), (3, 1000), (3, 1024)])
def test_short_rows(dtype: torch.dtype, rows: int, classes: int) -> None:
    check(problem((rows, classes), dtype))


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_options_on_short_rows(dtype: torch.dtype, options: str) -> None:
    check(problem((7, 130), dtype, options, offset=1, padding=2))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_long_rows(dtype: torch.dtype, options: str, device: str) -> None:
    check(problem((4, 2051), dtype, options, DEVICES[device], offset=1, padding=3))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("offset", "padding"), [(0, 0), (0, 5), (1, 0), (7, 1), (3, 13)])
@pytest.mark.parametrize("classes", [77, 1025, 4096])
def test_alignment(classes: int, offset: int, padding: int, device: str) -> None:
    check(problem((3, classes), torch.bfloat16, "plain", DEVICES[device], offset, padding))


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(2, 19, 37), (1, 255, 5)])  # 255: the last of a group is just missing
def test_class_stride(shape: tuple[int, ...], dtype: torch.dtype, options: str) -> None:
    check(problem(shape, dtype, options, padding=3))


def test_class_axis_last_in_memory() -> None:
    p = problem((3, 21, 8), torch.float32, "smoothing")
    check(dataclasses.replace(p, logits=p.logits[:, ::2, :], weight=None, target=p.target.clamp(max=10)))
    check(problem((5, 40, 1), torch.bfloat16, "soft"))  # (N, C, 1) is as good as (N, C)
    check(problem((5, 1, 6), torch.float32))


@pytest.mark.parametrize("device", ["H100", "A100", "RTX_4090"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_vocabulary(dtype: torch.dtype, device: str) -> None:
    check(problem((1, 50257), dtype, device=DEVICES[device], ignore=False))


def test_row_is_the_same_in_every_batch() -> None:
    """The kernel is chosen by the row's length only."""
    p = problem((40, 3000), torch.float32, device=CLUSTERS)
    whole, _ = p.forward(NONE)
    for row in (0, 17, 39):
        alone = dataclasses.replace(p, logits=p.logits[row : row + 1], target=p.target[row : row + 1])
        assert torch.equal(alone.forward(NONE)[0], whole[row : row + 1])


@pytest.mark.parametrize(
    ("shape", "device"), [((3, 300), H100), ((3, 2000), H100), ((3, 2000), CLUSTERS), ((1, 300, 3), H100)]
)
def test_common_offset_costs_nothing(shape: tuple[int, ...], device: Device) -> None:
    p = problem(shape, torch.float32, device=device, ignore=False)
    logits = (p.logits * 64).round() / 64  # exact after the shift
    near, far = (dataclasses.replace(p, logits=logits + offset) for offset in (0.0, 2.0**14))
    assert torch.equal(near.forward(NONE)[0], far.forward(NONE)[0])
    assert torch.equal(near.fused(MEAN)[1], far.fused(MEAN)[1])


SPECIAL_SHAPES = [((6, 40), H100), ((6, 1500), H100), ((6, 1500), CLUSTERS), ((6, 1500), TWO_READS), ((1, 40, 6), H100)]


@pytest.mark.parametrize("options", ["plain", "smoothing", "soft"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("shape", "device"), SPECIAL_SHAPES)
def test_special_values_of_rows(shape: tuple[int, ...], device: Device, dtype: torch.dtype, options: str) -> None:
    """Rows: all -inf, many -inf, one NaN, one +inf, an ignored one with both, the lowest finite number."""
    p = problem(shape, dtype, options, device, ignore=False)
    rows = p.logits if len(shape) == 2 else p.logits[0].T
    infinity = float("inf")
    rows[0] = -infinity
    rows[1, 5:30] = -infinity
    rows[2, 7], rows[3, 7] = NAN_VALUE, infinity
    rows[4, 3], rows[4, 7] = NAN_VALUE, infinity
    rows[5, 1:] = torch.finfo(dtype).min
    if not p.soft:
        p.target[1], p.target[4], p.target[5] = 2, IGNORE, 0
    else:
        target = p.target if len(shape) == 2 else p.target[0].T
        target[5] = 0
        target[5, 0] = 1
    if options == "smoothing":
        rows[5, 1:] = -50
    size = 64.0 if dtype != torch.float64 else 1e4
    loss, state = p.forward(NONE, with_state=True)
    emulated.assert_close(loss, p.reference(NONE)[0], size)
    gradient = p.reference(SUM)[1]
    emulated.assert_close(p.fused(SUM)[1], gradient, size)
    emulated.assert_close(p.backward(torch.ones_like(loss), state), gradient, size)
    if not p.soft:
        assert loss[4] == 0
        assert (state[:, 4] == 0).all()


NAN_VALUE = emulated.NAN


@pytest.mark.parametrize("options", ["smoothing", "soft"])
@pytest.mark.parametrize(("shape", "device"), SPECIAL_SHAPES)
def test_largest_finite_logits(shape: tuple[int, ...], device: Device, options: str) -> None:
    """The way from the lowest finite number, where the running maximum begins, to 2e38 is longer than float's range."""
    p = problem(shape, torch.float32, options, device, ignore=False)
    p.logits.fill_(2e38)
    emulated.assert_close(p.forward(NONE)[0], p.reference(NONE)[0], 10)
    emulated.assert_close(p.fused(SUM)[1], p.reference(SUM)[1], 10)


def test_everything_ignored() -> None:
    p = problem((4, 50), torch.float32)
    p.target.fill_(IGNORE)
    p.logits.fill_(NAN_VALUE)
    assert p.forward(MEAN)[0].isnan()
    assert p.forward(SUM)[0] == 0
    for reduction in (MEAN, SUM):
        assert (p.fused(reduction)[1] == 0).all()


@pytest.mark.parametrize("reduction", [NONE, MEAN])
@pytest.mark.parametrize("bad", [-1, "C", 2**40, -(2**63)])
@pytest.mark.parametrize(
    ("shape", "device"),
    [((6, 40), H100), ((6, 1500), H100), ((6, 1500), CLUSTERS), ((6, 1500), TWO_READS), ((2, 40, 3), H100)],
)
def test_bad_target_traps(shape: tuple[int, ...], device: Device, bad: int | str, reduction: int) -> None:
    p = problem(shape, torch.bfloat16, "weight", device)
    p.target[3] = shape[1] if bad == "C" else int(bad)
    message = "trap: fastloss: index target is neither a class nor ignore_index"
    with pytest.raises(emulated.EmulatorError, match=message):
        p.forward(reduction)
    with pytest.raises(emulated.EmulatorError, match=message):
        p.fused(SUM)
    with pytest.raises(emulated.EmulatorError, match=message):
        p.backward(torch.ones(p.rows), torch.zeros(2, p.rows))


@pytest.mark.parametrize("rows", [16384, 16385, 100_003])
def test_reduction_of_many_rows(rows: int) -> None:
    """Float sums of 1e5 losses would be off in the fifth digit; these are rounded once."""
    p = problem((rows, 2), torch.float32)
    assert abs(p.forward(SUM)[0].double() / p.reference(SUM)[0] - 1) < 2 * torch.finfo(torch.float32).eps
    assert abs(p.forward(MEAN)[0].double() / p.reference(MEAN)[0] - 1) < 2 * torch.finfo(torch.float32).eps


def mapped(shape: tuple[int, ...], strides: tuple[int, ...]) -> torch.Tensor:
    """A bfloat16 tensor on address space of which only the touched pages exist."""
    elements = 1 + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
    no_reserve = 0x4000  # MAP_NORESERVE of Linux
    memory = mmap.mmap(-1, 2 * elements, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | no_reserve)
    return torch.frombuffer(memory, dtype=torch.bfloat16).as_strided(shape, strides)


@pytest.mark.parametrize("device", [H100, CLUSTERS])
@pytest.mark.parametrize(
    ("shape", "strides"),
    [((3, 300), (1_500_000_007, 1)), ((3, 1500), (1_500_000_007, 1)), ((2, 3, 5), (1_500_000_007, 700_000_001, 1))],
)
def test_offsets_beyond_2_31(shape: tuple[int, ...], strides: tuple[int, ...], device: Device) -> None:
    values = problem(shape, torch.bfloat16, "smoothing", device)
    logits = mapped(shape, strides).copy_(values.logits)
    p = dataclasses.replace(values, logits=logits)
    loss, gradient = p.fused(MEAN)
    emulated.assert_close(loss, p.reference(MEAN)[0], 10)
    p.forward(MEAN, gradient=logits)  # in place: the gradient's offsets pass 2^31 too
    assert torch.equal(logits, gradient)


@pytest.mark.parametrize(("field", "value"), [("loss", b"no_such_loss"), ("parameter_count", 3), ("dtype", 9)])
def test_unknown_calls_are_refused(field: str, value: object) -> None:
    p = problem((2, 5), torch.float32)
    call = p.call()
    setattr(call, field, value)
    library = emulated.load("kernels")
    launches = library.emulator_launches()
    assert library.fastloss_row(emulated.ctypes.byref(call), emulated.ctypes.byref(p.device)) < 0
    assert library.emulator_launches() == launches


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("shape", "offset", "padding"),
    [((3, 1000), 0, 0), ((3, 1000), 1, 3), ((1, 9000), 3, 0), ((2, 7, 300), 0, 5), ((2, 7, 300), 0, 0)],
)
def test_scale(shape: tuple[int, ...], offset: int, padding: int, dtype: torch.dtype) -> None:
    for factor in (0.3, 1.0, float("nan")):
        x = problem(shape, dtype, offset=offset, padding=padding).logits
        surroundings = torch.ones(x.untyped_storage().nbytes() // x.element_size(), dtype=torch.bool)
        surroundings.as_strided(x.shape, x.stride(), x.storage_offset()).fill_(False)
        expected = (x.to(emulated.accumulator(dtype)) * factor).to(dtype) if factor != 1 else x.clone()
        emulated.scale(x, torch.tensor(factor, dtype=emulated.accumulator(dtype)))
        assert torch.equal(x.nan_to_num(nan=7.0), expected.nan_to_num(nan=7.0))
        storage = x.as_strided((len(surroundings),), (1,), 0)
        assert storage[surroundings].isnan().all()  # what placed() put around the tensor


@pytest.mark.parametrize("factor_dtype", DTYPES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_scale_by_a_factor_of_another_dtype(dtype: torch.dtype, factor_dtype: torch.dtype) -> None:
    """The upstream gradient of a float64 loss is float64, beside gradients of float32 operands."""
    x = problem((3, 100), dtype).logits
    expected = (x.to(emulated.accumulator(dtype)) * 0.375).to(dtype)
    emulated.scale(x, torch.tensor(0.375, dtype=factor_dtype))
    assert torch.equal(x, expected)


@pytest.mark.parametrize("field", ["dtype", "factor_dtype"])
def test_scale_refuses_an_unknown_dtype(field: str) -> None:
    library, x, factor = emulated.load("kernels"), torch.ones(2, 5), torch.tensor(2.0)
    call = emulated.scale_call(x, factor)
    setattr(call, field, 9)
    launches = library.emulator_launches()
    assert library.fastloss_scale(emulated.ctypes.byref(call), emulated.ctypes.byref(H100)) < 0
    assert library.emulator_launches() == launches


# ---- more than a launch can do


@pytest.mark.parametrize("grid", [1, 2, 3])
@pytest.mark.parametrize(
    ("shape", "lesser"), [((70, 33), H100), ((5, 1500), H100), ((5, 1500), CLUSTERS), ((3, 20, 37), H100)]
)
def test_several_launches_of_rows(shape: tuple[int, ...], lesser: Device, grid: int) -> None:
    """What 2^31 blocks need, with a smaller grid: the same bits."""
    whole = problem(shape, torch.float32, "smoothing", lesser)
    blocks = grid * 4 if lesser is CLUSTERS else grid
    fields = {name: getattr(lesser, name) for name, _ in Device._fields_} | {"grid_blocks": blocks}
    parts = dataclasses.replace(whole, device=Device(**fields))
    library = emulated.load("kernels")

    def launches(p: Problem) -> int:
        before = library.emulator_launches()
        p.fused(MEAN)
        return library.emulator_launches() - before

    assert launches(parts) > launches(whole)
    loss, state = parts.forward(NONE, with_state=True)
    assert torch.equal(loss, whole.forward(NONE)[0])
    assert torch.equal(parts.fused(MEAN)[1], whole.fused(MEAN)[1])
    upstream = torch.rand(whole.rows, generator=torch.Generator().manual_seed(grid))
    assert torch.equal(parts.backward(upstream, state), whole.backward(upstream, state))


@pytest.mark.parametrize("rows", [2**31 + 3, 2**32 + 5])
@pytest.mark.parametrize(
    ("classes", "inner", "device", "per_block"), [(2000, 1, H100, 1), (2000, 1, CLUSTERS, 1 / 8), (5, 7, H100, 32)]
)
def test_more_rows_than_a_grid_has_blocks(
    rows: int, classes: int, inner: int, device: Device, per_block: float
) -> None:
    """Each row has a block, or a share of one: nothing runs, the launches are counted."""
    rows *= inner if inner > 1 else 1
    rows = rows * 32 if inner > 1 else rows
    p = problem((2, classes, inner) if inner > 1 else (2, classes), torch.float32, device=device, ignore=False)
    call, gradient, library = p.call(), torch.empty_like(p.logits), emulated.load("kernels")
    losses = torch.empty(2 * inner)
    call.rows, call.gradient, call.row_loss = rows, emulated.matrix(gradient), losses.data_ptr()
    library.emulator_rehearse(1)
    try:
        status = library.fastloss_row(emulated.ctypes.byref(call), emulated.ctypes.byref(device))
    finally:
        blocks = library.emulator_rehearse(0)
    emulated.check(library, status)
    assert blocks == -(-rows // per_block)


# ---- a slice of a GPU


@pytest.fixture
def without_clusters() -> Iterator[None]:
    library = emulated.load("kernels")
    library.emulator_set_largest_cluster(1)
    yield
    library.emulator_set_largest_cluster(8)


@pytest.mark.usefixtures("without_clusters")
@pytest.mark.parametrize("options", ["plain", "soft_everything"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_are_read_twice_where_no_cluster_runs(dtype: torch.dtype, options: str) -> None:
    p = problem((4, 2051), dtype, options, CLUSTERS, offset=1, padding=3)
    library = emulated.load("kernels")
    p.fused(NONE)
    assert library.emulator_last_shape().contents[3] == 1
    check(p)
