"""The row losses in steps in the interpreter: the laws of skeletons/row_steps.py; run by test_lanes.py."""

from __future__ import annotations

from lanes.triton import interpreter  # first: it repairs Triton before the kernels are imported  # isort: skip

import math
import zlib

import pytest
import torch
from lanes.triton.kernels import row
from skeletons import row_steps as laws
from skeletons.row_steps import IGNORE, Call

DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]
SHAPES = [(6, 37), (2, 5003), (2, 19, 21), (1, 1)]
OPTIONS = {"plain": [0.0, 0.0, 0.0, 1.0], "everything": [0.2, 1e-3, 8.0, 1.3], "focal": [2.5]}


def generator(*what: object) -> torch.Generator:
    seed = zlib.crc32(repr(what).encode())
    print(f"seed {seed}")
    return torch.Generator().manual_seed(seed)


def made(shape: tuple[int, ...], dtype: torch.dtype, options: str) -> Call:
    soft, random = options == "soft", generator(shape, dtype, options)
    rows, classes = math.prod(shape) // shape[1], shape[1]
    logits = (torch.randn(shape, generator=random) * 3).to(dtype)
    if soft:
        target = torch.softmax(torch.randn(shape, generator=random), 1).to(dtype)
    else:
        target = torch.randint(classes, (rows,), generator=random)
        target[0], target[-1] = classes - 1, 0
        target[1:-1:3] = IGNORE
    weight = torch.rand(classes, generator=random, dtype=torch.float64 if dtype == torch.float64 else torch.float32)
    loss = "softmax_focal_loss" if options == "focal" else "cross_entropy"
    return Call(loss, OPTIONS["everything" if soft else options], logits, target, weight + 0.5)


def check(call: Call) -> None:
    classes = call.logits.shape[1]
    laws.whole(row, call)
    laws.slices(row, call, [classes // 3, classes // 3, classes // 2])
    laws.one_slice_keeps_its_bits(row, call)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("options", [*OPTIONS, "soft"])
def test_steps_are_the_loss_in_triton(options: str, shape: tuple[int, ...]) -> None:
    for dtype in DTYPES:
        check(made(shape, dtype, options))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("loss", laws.PARAMETERS)
def test_outputs_margins_and_two_rows_in_triton(loss: str, shape: tuple[int, ...]) -> None:
    for dtype in DTYPES:
        check(laws.made(loss, shape, dtype, generator(loss, shape, dtype)))


@pytest.mark.parametrize("loss", laws.PARAMETERS)
def test_classes_that_do_not_adjoin_in_triton(loss: str) -> None:
    laws.classes_apart(row, laws.made(loss, (5, 37), torch.float32, generator(loss)))


@pytest.mark.parametrize("shape", [shape for shape in SHAPES if len(shape) == 2], ids=str)
def test_a_row_has_its_bits_in_every_batch_in_triton(shape: tuple[int, ...]) -> None:
    for loss in ("log_softmax_and_entropy", "jsd"):
        laws.rows_alone(row, laws.made(loss, shape, torch.float32, generator(shape)))


@pytest.mark.parametrize("shape", SHAPES[:3], ids=str)
@pytest.mark.parametrize("loss", laws.OF_BOTH_SOFTMAXES)
def test_classes_without_probability_in_triton(loss: str, shape: tuple[int, ...]) -> None:
    laws.classes_without_probability(row, loss, shape, torch.float32)


@pytest.mark.parametrize("shape", SHAPES[:3], ids=str)
def test_slices_of_infinite_logits_in_triton(shape: tuple[int, ...]) -> None:
    for loss in ("log_softmax_and_entropy", "forward_kl", "reverse_kl"):
        call = laws.made(loss, shape, torch.float32, generator(loss, "-inf"))
        finite = shape[1] // 3
        for logits in (call.logits, call.second):
            if logits is not None:
                logits[:, finite:] = -math.inf
        laws.whole(row, call)
        laws.slices(row, call, [finite, finite + 2])
    empty = call.slice(shape[1], shape[1]).statistics(row)
    assert (empty[:2] == -math.inf).all()
    assert (empty[2:6] == 0).all()


def test_programs_in_any_order() -> None:
    call = made((6, 37), torch.float32, "everything")
    first = call.statistics(row)
    with interpreter.shuffled(7):
        laws.same(call.statistics(row), first)
