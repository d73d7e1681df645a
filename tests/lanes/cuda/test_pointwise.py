"""The pointwise kernels of csrc/cuda on the emulator: every loss, dtype and layout, bit by bit against the functors."""

from __future__ import annotations

import ctypes
import dataclasses
import mmap
import re
import zlib
from collections.abc import Callable

import pytest
import torch
from lanes.cuda import cuda_build, emulated
from lanes.cuda import emulated_pointwise as pointwise
from lanes.cuda.emulated import NAN
from lanes.cuda.emulated_pointwise import (
    DTYPES,
    FLOATS,
    Call,
    Problem,
    assert_same,
    describe,
    library,
    parameters_of,
    values,
)
from torch import Tensor

pytestmark = [
    pytest.mark.lane("CUDA C++ on the emulator, pointwise"),
    pytest.mark.builds(pointwise.BUILD, emulated.LANE),
    emulated.needed,
]
HUBER, PPO = "huber_loss", "ppo_loss"
BCE, LOGITS = "binary_cross_entropy", "binary_cross_entropy_with_logits"
SHAPE = (3, 700)  # 2100 elements: 262 packs and 4 more, three blocks


def generator_of(*key: object) -> torch.Generator:
    seed = zlib.crc32(repr(key).encode())
    print(f"seed {seed}")
    return torch.Generator().manual_seed(seed)


def problem(
    loss: str = HUBER,
    shape: tuple[int, ...] = SHAPE,
    dtype: torch.dtype = torch.float32,
    weight: bool = False,
    scale: bool = False,
) -> Problem:
    generator = generator_of(loss, shape, dtype)
    operands: list[pointwise.Operand] = [values(shape, dtype, generator) for _ in range(describe(loss).operands)]
    if loss == "orpo_loss":  # log-probabilities
        operands = [-x for x in operands]
    p = Problem(loss, operands, parameters_of(loss), factor=0.37)
    if weight:
        p.weight = values(shape, dtype, generator)
    if scale:
        p.scale = values((), torch.float32, generator)  # so that all stays in one line, and comes in packs
    return p


def mixed(p: Problem) -> Problem:
    """Operands of different dtypes, the first of bfloat16."""
    dtypes = [torch.bfloat16, torch.float32, torch.float16]
    p.operands = [x.to(dtypes[k % 3]) for k, x in enumerate(p.tensors)]
    return p


# ---- every loss


def all_losses() -> list[str]:
    """The table's names, read from the sources: the library is not built yet when pytest collects."""
    names = []
    for header in sorted((cuda_build.ROOT / "csrc/losses").rglob("*.h")):
        for family, table in re.findall(
            r"#define FASTLOSS_POINTWISE_([a-z_]+)\(LOSS\)(.*?)\n\n", header.read_text(), re.S
        ):
            if emulated.LANE == "plain" or family in cuda_build.SANITIZED:
                names += re.findall(r"LOSS\((\w+),", table)
    return names


@pytest.mark.skipif(emulated.LANE != "plain", reason="the lane has some of the losses")
def test_table_is_complete() -> None:
    assert sorted(all_losses()) == sorted(library().pointwise_names().decode().split())
    assert len(all_losses()) >= 40


@pytest.mark.parametrize("kind", ["float32", "mixed", "float64"])
@pytest.mark.parametrize("loss", all_losses())
def test_every_pointwise_loss(loss: str, kind: str) -> None:
    p = problem(loss, dtype=torch.float64 if kind == "float64" else torch.float32, weight=True, scale=True)
    p = mixed(p) if kind == "mixed" else p
    assert p.elements.loss.isfinite().all()
    p.check_elements()
    p.check_sums()


@pytest.mark.parametrize("loss", [PPO, "ppo_clip_loss", LOGITS, HUBER])
@pytest.mark.parametrize("shape", [SHAPE, (3, 2000)])
def test_schedules(loss: str, shape: tuple[int, ...]) -> None:
    p = problem(loss, shape, weight=True)
    first: list[Tensor] = []
    for schedule in emulated.COMPARED_SCHEDULES:
        emulated.set_schedule(schedule, pointwise.BUILD)
        results = [*p.run(True, True).tensors(), *p.run(dtype=torch.float32).tensors()]
        first = first or results
        for a, b in zip(first, results, strict=True):
            assert_same(a, b)
    emulated.set_schedule((0, 0), pointwise.BUILD)


# ---- dtypes


@pytest.mark.parametrize("target", DTYPES)
@pytest.mark.parametrize("dtype", FLOATS)
def test_pointwise_dtypes(dtype: torch.dtype, target: torch.dtype) -> None:
    """Of two operands and a weight; the losses in every dtype."""
    generator = generator_of(dtype, target)
    for shape in ((2, 1030), (64,), (9,)):
        p = Problem(HUBER, [values(shape, dtype, generator), values(shape, target, generator)], [0.3])
        for weight in DTYPES if shape == (64,) else [target]:
            p.weight = values(shape, weight, generator)
            p.check_elements(FLOATS[(DTYPES.index(weight) + 1) % 4])
        p.check_sums()


def test_wide_numbers() -> None:
    """Integers keep their value, rounded once to the accumulator."""
    target = torch.tensor([255, 7], dtype=torch.uint8)
    Problem(HUBER, [torch.tensor([0.5, 1e3]), target], [2.0]).check_elements()
    for dtype, number in ((torch.int32, -(2**31)), (torch.int64, 2**40 + 12345), (torch.int64, -(2**53) - 1)):
        for floats in (torch.float32, torch.float64):
            Problem("mse_loss", [torch.tensor([0.5, 1e3], dtype=floats), torch.tensor([number, 3], dtype=dtype)],
                    []).check_elements()  # fmt: skip


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("upstream", FLOATS)
def test_backward(upstream: torch.dtype, dtype: torch.dtype) -> None:
    generator = generator_of(dtype, upstream)
    p = dataclasses.replace(problem(HUBER, dtype=dtype, weight=True, scale=True), masked=True)
    p.upstream = values(SHAPE, upstream, generator)
    p.check_gradients(p.run())
    p.upstream = values((700,), upstream, generator)
    p.check_gradients(p.run())


# ---- layouts


def layouts() -> dict[str, Callable[[Tensor], Tensor]]:
    """What is done to a contiguous (6, 8, 10, 12) tensor."""
    return {
        "contiguous": lambda x: x,
        "channels_last": lambda x: x.contiguous(memory_format=torch.channels_last),
        "reversed": lambda x: x.permute(3, 2, 1, 0).contiguous().permute(3, 2, 1, 0),
        "sliced": lambda x: emulated.placed(x, 0, 4),
        "sliced_odd": lambda x: emulated.placed(x, 0, 5),
        "misaligned": lambda x: emulated.placed(x, 1, 0),
        "misaligned_by_half": lambda x: emulated.placed(x, 4, 0),
        "every_other": lambda x: torch.stack([x, x + 1], -1)[..., 0],
        "last_broadcast": lambda x: x[..., :1],
        "first_broadcast": lambda x: x[0],
        "middle_broadcast": lambda x: x[:, :1, :, :],
        "two_broadcast": lambda x: x[:, :, :1, :1],
        "single": lambda x: x[0, 0, 0, 0],
        "expanded": lambda x: x[:, :, :, :1].expand(x.shape),
        "overlapping": lambda x: torch.cat([x.flatten(), x.flatten()]).as_strided(x.shape, (50, 20, 3, 1)),
    }


@pytest.mark.parametrize("whole", ["contiguous", "channels_last", "misaligned"])
@pytest.mark.parametrize("layout", list(layouts()))
def test_pointwise_layouts(layout: str, whole: str) -> None:
    """One operand in each layout beside another; the same of the weight and of the upstream gradient."""
    generator = generator_of(layout, whole)
    for dtype, other in ((torch.float32, torch.float32), (torch.bfloat16, torch.uint8), (torch.float64, torch.int64)):
        for last in (8, 12, 3):  # lines of one pack, of no whole number of packs, of less than one
            shape = (6, 8, 10, last)
            first = layouts()[whole](values(shape, dtype, generator))
            second = layouts()[layout](values(shape, other, generator))
            p = Problem(HUBER, [first, second], [0.3], factor=0.7)
            p.output_like = first if first.stride() == layouts()["channels_last"](torch.empty(shape)).stride() else None
            p.check_elements()
            p.weight, p.upstream = second, layouts()[layout](values(shape, torch.float16, generator))
            p.check_elements(torch.bfloat16)
        p.check_sums()


@pytest.mark.parametrize(
    ("layout", "packed"),
    [
        ("contiguous", True),
        ("channels_last", False),  # beside a contiguous one: no order suits both
        ("sliced", True),
        ("sliced_odd", False),
        ("misaligned", False),
        ("last_broadcast", True),
        ("every_other", False),
    ],
)
def test_what_comes_in_packs(layout: str, packed: bool) -> None:
    """A thread takes 8 elements in packs and 4 otherwise, so there are half as many blocks, and partial sums."""
    shape, generator = (6, 8, 10, 128), generator_of(layout)
    first, second = (values(shape, torch.float32, generator) for _ in range(2))
    call = Problem(HUBER, [first, layouts()[layout](second)], [0.3]).call()
    assert blocks(call) == first.numel() // (256 * (8 if packed else 4))


def test_a_line_comes_in_packs_but_for_its_end() -> None:
    generator = generator_of("line")
    p = Problem(HUBER, [values((4100,), torch.float32, generator) for _ in range(2)], [0.3])
    assert blocks(p.call()) == 2 + 1


@pytest.mark.parametrize(
    "dtypes", [(torch.float32,) * 2, (torch.bfloat16,) * 2, (torch.float32, torch.bfloat16)], ids=str
)
def test_pointwise_accesses_of_a_warp_are_one_stretch(dtypes: tuple[torch.dtype, torch.dtype]) -> None:
    """Every byte of every sector that is moved is used: what no value shows, and a GPU only by being slow."""
    generator = generator_of("stretch", dtypes)
    p = Problem(HUBER, [values((2, 2048), dtype, generator) for dtype in dtypes], [0.3])
    packs = [x for x in p.tensors if x.dtype == dtypes[0]]  # halves beside floats come 8 bytes at a time

    def run() -> list[Tensor]:
        gradients = p.run().gradients
        return [*packs, *(g for g in gradients if g.dtype == dtypes[0])]

    found = emulated.accesses_of_warps(pointwise.BUILD, run)
    assert len(found) == sum(2 * x.nbytes // 512 for x in packs)
    for addresses in found:
        assert addresses == list(range(addresses[0], addresses[0] + 512, 16))


def blocks(call: Call) -> int:
    """Of all launches, by the partial sums: of the loss and of the weights."""
    return int(library().fastloss_pointwise_scratch(ctypes.byref(call))) // 2


def test_as_many_dimensions_as_there_can_be() -> None:
    """None of them merges with another."""
    shape, generator = (2,) * 8, generator_of("dimensions")
    first = values(shape, torch.float32, generator).permute(7, 5, 3, 1, 0, 2, 4, 6)
    p = Problem(HUBER, [first, values(shape, torch.bfloat16, generator)], [0.3])
    p.check_elements()
    p.check_sums()


SHAPES = [
    (),
    (1,),
    (1, 1, 1),
    (7,),
    (8,),
    (9,),
    (2047,),
    (2048,),
    (2049,),
    (5, 1),
    (1, 5),
    (2,) * 8,
    (3, 1, 2, 1, 2, 1, 3, 8),
]


@pytest.mark.parametrize("shape", SHAPES)
def test_shapes(shape: tuple[int, ...]) -> None:
    for dtype in (torch.float32, torch.bfloat16, torch.float64):
        for loss in (HUBER, PPO):
            p = problem(loss, shape, dtype)
            p.check_elements()
            p.check_sums()


@pytest.mark.parametrize("loss", [HUBER, LOGITS, PPO])
def test_numbers_for_operands(loss: str) -> None:
    """Any operand may be a number, as long as one is a tensor; gradients are of the tensors."""
    full = problem(loss)
    for k in range(len(full.operands)):
        p = dataclasses.replace(full, operands=[x if i != k else 0.25 for i, x in enumerate(full.operands)])
        p.check_elements()
    p = dataclasses.replace(full, operands=[full.operands[0], *[0.5] * (len(full.operands) - 1)])
    p.check_elements()
    p.check_sums()


def test_outer_product() -> None:
    """No operand has the call's shape."""
    generator = generator_of("outer")
    for rows, columns in ((5, 7), (33, 64), (64, 33)):
        p = Problem(
            HUBER, [values((rows, 1), torch.float32, generator), values((columns,), torch.float16, generator)], [0.3]
        )
        p.check_elements()
        p.check_sums()


# ---- weights and masks


@pytest.mark.parametrize("dtype", [torch.bool, torch.float32, torch.uint8, torch.bfloat16, torch.int64])
@pytest.mark.parametrize("loss", [PPO, HUBER, BCE, "value_clip_loss"])
def test_what_is_masked_is_not_there(loss: str, dtype: torch.dtype) -> None:
    p = dataclasses.replace(problem(loss), masked=True)
    p.weight = values(SHAPE, dtype, generator_of(loss, dtype))
    clean = p.run(True, True)
    out = p.weight == 0 if dtype in (torch.bool, torch.uint8, torch.int64) else torch.rand(SHAPE) < 0.5
    p.weight = torch.where(out, torch.zeros((), dtype=dtype), p.weight)
    for k, garbage in zip(range(len(p.operands)), [NAN, float("inf"), -float("inf"), NAN] * 2, strict=False):
        p.operands[k] = torch.where(out, garbage, p.tensors[k])
    p.upstream = torch.where(out, NAN, torch.ones(SHAPE))
    p.check_elements()
    p.upstream = None
    p.check_sums()
    for gradient in p.run().gradients:
        assert (gradient[out] == 0).all()
    assert p.run(True).loss is not None
    assert p.run(True).loss.isfinite()  # type: ignore[union-attr]
    if dtype == torch.bool:
        assert_same(clean.loss, p.run(True).loss)  # type: ignore[arg-type]


def test_everything_masked() -> None:
    p = dataclasses.replace(problem(PPO), masked=True, weight=torch.zeros(SHAPE, dtype=torch.bool))
    p.operands = [torch.full(SHAPE, NAN) for _ in p.operands]
    for shape in (SHAPE, (5,)):
        p.operands, p.weight = [x[..., : shape[-1]] for x in p.tensors], torch.zeros(shape, dtype=torch.bool)
        result = p.run(True, True)
        assert result.loss == 0
        infinite = {pointwise.MIN: float("inf"), pointwise.MAX: -float("inf")}
        assert result.metrics.tolist() == [infinite.get(kind, 0.0) for kind in describe(PPO).kinds]
        assert all((gradient == 0).all() for gradient in result.gradients)


def test_weight_0_without_a_mask() -> None:
    """A product with 0 keeps NaN; least and greatest do not see it."""
    p = problem(PPO)
    p.weight = torch.ones(SHAPE)
    p.weight[1, 5], p.weight[2, 699] = 0, 0
    p.operands[0] = p.tensors[0].clone()
    p.tensors[0][1, 5] = NAN
    p.check_elements()
    result = p.run(True, True)
    assert result.loss is not None
    assert result.loss.isnan()
    least = [m for m, kind in enumerate(describe(PPO).kinds) if kind in (pointwise.MIN, pointwise.MAX)]
    assert result.metrics[least].isfinite().all()


def test_nan_and_infinity_reach_the_metrics() -> None:
    p = problem(PPO)
    p.operands[0] = p.tensors[0].clone()
    p.tensors[0][2, 3] = NAN
    p.check_elements()
    assert p.run(True, True).metrics.isnan().any()
    p.check_sums()


# ---- domains


@pytest.mark.parametrize("place", [0, 700, 2095, 2096, 2099])  # in packs, and among the elements after them
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_outside_of_the_domain(dtype: torch.dtype, place: int) -> None:
    requirement = describe(BCE).requirement
    assert requirement is not None
    p = problem(BCE, dtype=dtype)
    p.run(True)
    p.operands[0] = p.tensors[0].clone()
    p.tensors[0].view(-1)[place] = 1.5
    for reduce in (True, False):
        with pytest.raises(emulated.EmulatorError, match="trap: " + requirement):
            p.run(reduce)
    p.weight = torch.ones(SHAPE)
    p.weight.view(-1)[place] = 0
    with pytest.raises(emulated.EmulatorError, match="trap: "):
        p.run(True)
    p.masked = True
    p.check_elements()


@pytest.mark.parametrize("loss", all_losses())
def test_values_outside_of_every_domain_trap(loss: str) -> None:
    requirement = describe(loss).requirement
    p = problem(loss, (70,))
    p.operands = [torch.full((70,), -1.5) for _ in p.operands]
    if requirement is None:
        p.run(True)
    else:
        with pytest.raises(emulated.EmulatorError, match="trap: "):
            p.run(True)


# ---- size


@pytest.mark.parametrize("most", [1, 7, 64, 700, 1000])
@pytest.mark.parametrize("layout", ["contiguous", "last_broadcast", "channels_last", "first_broadcast", "misaligned"])
def test_several_launches(layout: str, most: int) -> None:
    """What 2^31 elements need, with a smaller limit."""
    generator = generator_of(layout, most)
    shape = (3, 4, 2, 5 if most == 1 else 24)
    first, second = values(shape, torch.float32, generator), values(shape, torch.bfloat16, generator)
    whole = Problem(HUBER, [first, layouts()[layout](second)], [0.3])
    parts = dataclasses.replace(whole, launch_elements=most)
    before = library().emulator_launches()
    parts.check_elements()
    assert library().emulator_launches() - before >= first.numel() // most
    parts.check_sums()
    for a, b in zip(parts.run(dtype=torch.float32).tensors(), whole.run(dtype=torch.float32).tensors(), strict=True):
        assert_same(a, b)
    measured = dataclasses.replace(problem(PPO, (40, 11)), launch_elements=most * 10)
    measured.check_sums()


def mapped(shape: tuple[int, ...], strides: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """On address space of which only the touched pages exist."""
    elements = 1 + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
    no_reserve = 0x4000  # MAP_NORESERVE of Linux
    memory = mmap.mmap(-1, dtype.itemsize * elements, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | no_reserve)
    return torch.frombuffer(memory, dtype=dtype).as_strided(shape, strides)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("shape", "strides"),
    [((3, 300), (1_500_000_007, 1)), ((3, 304), (1_500_000_008, 1)), ((2, 3, 5), (1_500_000_007, 700_000_001, 1))],
)
def test_pointwise_offsets_beyond_2_31(shape: tuple[int, ...], strides: tuple[int, ...], dtype: torch.dtype) -> None:
    generator = generator_of(shape, dtype)
    far = mapped(shape, strides, dtype).copy_(values(shape, dtype, generator))
    p = Problem(HUBER, [far, values(shape, dtype, generator)], [0.3])
    p.check_elements()
    p.check_sums()
    output = mapped(shape, strides, dtype)  # a gradient that far apart

    def point_at_output(call: Call) -> None:
        call.gradient[0] = p.described(output)

    p.run(change=point_at_output)
    assert_same(output, p.expected_gradients()[0])


@pytest.mark.skipif(emulated.LANE != "plain", reason="a million threads")
@pytest.mark.parametrize("dtype", [torch.float32, torch.int64])
def test_more_chunks_than_blocks(dtype: torch.dtype) -> None:
    """4096 blocks take several chunks each; float sums of so many numbers would be off in the fifth digit."""
    count = 4096 * 2048 + 12_345 if dtype == torch.float32 else 4096 * 1024 + 12_345
    x = torch.rand(count, generator=generator_of(dtype))
    p = Problem("mse_loss", [x, torch.ones(count, dtype=dtype)], [])
    result = p.run(True)
    assert result.loss is not None
    assert abs(result.loss.double() / p.expected_losses().double().sum() - 1) < 2 * torch.finfo(torch.float32).eps
    assert_same(result.gradients[0], p.expected_gradients()[0])


# ---- calls that are refused, and a bound that is bent


@pytest.mark.parametrize(
    ("field", "value", "status"), [("loss", b"no_such_loss", -1), ("parameter_count", 3, -2), ("operand_count", 3, -5)]
)
def test_unknown_pointwise_calls_are_refused(field: str, value: object, status: int) -> None:
    p = problem(HUBER, (5,))
    call = p.call()
    setattr(call, field, value)
    launches = library().emulator_launches()
    reference = emulated.ctypes.byref
    assert library().fastloss_pointwise(reference(call), reference(emulated.H100)) == status
    assert library().emulator_launches() == launches
    assert not library().fastloss_pointwise_describe(b"no_such_loss", reference(pointwise.DescriptionOfLoss()))


@pytest.mark.planted
@pytest.mark.skipif(emulated.LANE != "asan", reason="undefined behaviour: only the asan lane may run it")
@pytest.mark.parametrize("more", [1, 8], ids=["an_element", "a_pack"])
def test_a_bent_bound_is_noticed(more: int, capfd: pytest.CaptureFixture[str]) -> None:
    """A call that claims more elements than there are. (AddressSanitizer reports a place in the program once.)"""
    p = problem(HUBER, (64,))

    def bend(call: Call) -> None:
        call.size[0] = 64 + more

    p.run(True)
    assert "AddressSanitizer" not in capfd.readouterr().err
    with pytest.raises(emulated.EmulatorError):
        p.run(True, change=bend)
    report = capfd.readouterr().err
    assert "heap-buffer-overflow" in report
    assert "READ of size" in report
    assert "WRITE of size" in report
