"""The row losses in steps (csrc/cuda/row/statistics.cu) on the emulator: the laws of skeletons/row_steps.py."""

from __future__ import annotations

import ctypes
import dataclasses
import zlib

import pytest
import torch
from lanes.cuda import emulated
from lanes.cuda.emulated import DTYPES, H100, IGNORE, TWO_READS, Device
from skeletons import row_steps
from skeletons.row_steps import Call, Library, Problem

pytestmark = [
    pytest.mark.lane("CUDA C++ on the emulator, rows in steps"),
    pytest.mark.builds("kernels", emulated.LANE),
    emulated.needed,
]
# lanes of a warp; a block; classes a stride apart, and rows of two blocks of threads
SHAPES = [(6, 37), (3, 1500), (2, 7, 91), (1, 1)]
OPTIONS = {
    "plain": [0.0, 0.0, 0.0, 1.0],
    "everything": [0.2, 1e-3, 8.0, 1.3],
    "focal": [2.5],
}


def operators(device: Device = H100) -> Library:
    library = emulated.load("kernels")

    def run(problem: Problem) -> None:
        emulated.check(library, library.fastloss_row_step(ctypes.byref(problem), ctypes.byref(device)))

    return Library(run)


def generator(*what: object) -> torch.Generator:
    seed = zlib.crc32(repr(what).encode())
    print(f"seed {seed}")
    return torch.Generator().manual_seed(seed)


def made(shape: tuple[int, ...], dtype: torch.dtype, options: str, soft: bool = False, weighted: bool = True) -> Call:
    """A call of a public loss; the logits of (rows, C) are the first classes of longer, misaligned rows."""
    random = generator(shape, dtype, options, soft)
    rows, classes = torch.Size(shape).numel() // shape[1], shape[1]
    logits = emulated.placed((torch.randn(shape, generator=random) * 3).to(dtype), 1, 3)
    if soft:
        target = emulated.placed(torch.softmax(torch.randn(shape, generator=random), 1).to(dtype), 2, 5)
    else:
        target = torch.randint(classes, (rows,), generator=random)
        target[0], target[-1] = classes - 1, 0
        target[1:-1:3] = IGNORE
    wide = emulated.accumulator(dtype)
    weight = torch.rand(classes, generator=random, dtype=wide) + 0.5 if weighted else None
    loss = "softmax_focal_loss" if options == "focal" else "cross_entropy"
    return Call(loss, OPTIONS[options], logits, target, weight)


def check(call: Call, device: Device = H100) -> None:
    classes = call.logits.shape[1]
    row_steps.whole(operators(device), call)
    row_steps.slices(operators(device), call, [classes // 3, classes // 3, classes // 2])
    row_steps.one_slice_keeps_its_bits(operators(device), call)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("options", [*OPTIONS, "soft"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_steps_are_the_loss_in_cuda(dtype: torch.dtype, options: str, shape: tuple[int, ...]) -> None:
    soft = options == "soft"
    check(made(shape, dtype, "everything" if soft else options, soft), TWO_READS if len(shape) == 2 else H100)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("loss", row_steps.PARAMETERS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_outputs_margins_and_two_rows_in_cuda(dtype: torch.dtype, loss: str, shape: tuple[int, ...]) -> None:
    check(row_steps.made(loss, shape, dtype, generator(loss, shape, dtype)))


@pytest.mark.parametrize("loss", row_steps.PARAMETERS)
def test_classes_that_do_not_adjoin_in_cuda(loss: str) -> None:
    row_steps.classes_apart(operators(), row_steps.made(loss, (5, 37), torch.float32, generator(loss)))


@pytest.mark.parametrize("shape", [shape for shape in SHAPES if len(shape) == 2], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_row_has_its_bits_in_every_batch_in_cuda(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    for loss in ("log_softmax_and_entropy", "jsd"):
        row_steps.rows_alone(operators(), row_steps.made(loss, shape, dtype, generator(shape)))


@pytest.mark.parametrize("shape", SHAPES[:3], ids=str)
@pytest.mark.parametrize("loss", row_steps.OF_BOTH_SOFTMAXES)
def test_classes_without_probability_in_cuda(loss: str, shape: tuple[int, ...]) -> None:
    for dtype in (torch.float32, torch.bfloat16):
        row_steps.classes_without_probability(operators(), loss, shape, dtype)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("loss", ["cross_entropy", "log_softmax_and_more", "forward_kl", "jsd"])
def test_the_same_bits_in_every_schedule(loss: str, shape: tuple[int, ...]) -> None:
    call = made(shape, torch.float32, "everything") if loss == "cross_entropy" else None
    call = call or row_steps.made(loss, shape, torch.float32, generator(loss, shape))

    def run() -> tuple[torch.Tensor, ...]:
        statistics = call.statistics(operators())
        merged = operators().row_merge(torch.stack([statistics, statistics]), call.loss, call.parameters)
        return statistics, merged, call.gradient(operators(), call.upstream(), statistics)

    emulated.same_bits_in_all_schedules(run)


@pytest.mark.parametrize("shape", SHAPES[:3], ids=str)
def test_slices_of_infinite_logits_in_cuda(shape: tuple[int, ...]) -> None:
    for loss in ("log_softmax_and_entropy", "forward_kl", "reverse_kl"):
        call = row_steps.made(loss, shape, torch.float32, generator(loss, "-inf"))
        finite = shape[1] // 3
        for logits in (call.logits, call.second):
            if logits is not None:
                logits[:, finite:] = -float("inf")
        row_steps.whole(operators(), call)
        row_steps.slices(operators(), call, [finite, finite + 2])
    statistics = call.slice(finite, shape[1]).statistics(operators())
    assert (statistics[:2] == -float("inf")).all()
    empty = call.slice(shape[1], shape[1]).statistics(operators())
    assert (empty[:2] == -float("inf")).all()
    assert (empty[2:6] == 0).all()


@pytest.mark.parametrize("shape", SHAPES[:3], ids=str)
def test_a_bad_target_traps(shape: tuple[int, ...]) -> None:
    call = made(shape, torch.bfloat16, "plain")
    assert call.target is not None
    known = call.statistics(operators())
    call.target[0] = shape[1]
    for step in (lambda: call.statistics(operators()), lambda: call.gradient(operators(), call.upstream(), known)):
        with pytest.raises(emulated.EmulatorError, match="index target is neither a class nor ignore_index"):
            step()
    dataclasses.replace(call, classes=shape[1] + 1).statistics(operators())  # the class of another slice
