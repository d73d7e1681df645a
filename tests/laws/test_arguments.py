"""Laws of indices and labels: every integer dtype is read as what it is, or refused, on all backends and sizes."""

from __future__ import annotations

import pytest
import torch
from cases import CASES, Case
from outcomes import WAYS, assert_same, described, outcome, shapes
from support import generator, to
from torch import Tensor

import fastloss

INTEGERS = (torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool)
INDEXED = [case for case in CASES if case.indices and (case.skeleton or case.composed)]
CLASSES = [case for case in INDEXED if "target" in case.indices]
# Of losses that are made of others, by other names: the classes of tokens. Labels of embeddings are any numbers.
NAMES = ("labels", "shift_labels", "index", "teacher_index")
CHOSEN = [
    case
    for case in INDEXED
    if case.composed and set(NAMES) & set(case.indices) and case.differentiable[0] != "embeddings"
]
LABELS = {"hinge_loss": "target", "sigmoid_focal_loss": "targets", "alignment.kto_loss": "desirable"}
LABELED = [case for case in CASES if case.name in LABELS]


def _fitting(index: Tensor, dtype: torch.dtype) -> Tensor:
    """int64 numbers that the dtype holds."""
    if dtype == torch.bool:
        return index % 2
    limits = torch.iinfo(dtype)
    return torch.where(index < 0, index, index % 100).clamp(limits.min, limits.max)


def _replaced(value, function):
    return tuple(map(function, value)) if isinstance(value, tuple) else function(value)


@pytest.mark.parametrize("dtype", INTEGERS, ids=str)
@pytest.mark.parametrize("case", INDEXED, ids=str)
def test_indices_of_every_integer_dtype_are_those_of_int64_or_refused(case: Case, dtype: torch.dtype):
    for name in case.indices:
        kinds = set()
        for shape in shapes(case):
            arguments = case.make(generator(f"{case} {name}"), shape, dtype=torch.float32)
            index = _replaced(arguments[name], lambda x: _fitting(x, dtype))
            narrow = _replaced(index, lambda x: x.to(dtype))
            want = outcome(case, "reference", {**arguments, name: index}, case.reduced)
            for way in WAYS:
                got = outcome(case, way, {**arguments, name: narrow}, case.reduced)
                kinds.add(described(got).partition(" (")[0])
                if isinstance(got[0], str):
                    assert isinstance(got[1], (RuntimeError, ValueError, TypeError, IndexError)), got
                    assert not isinstance(got[1], fastloss.BackendError) or not case.fuses, got
                else:
                    assert_same(got, want, f"{name} of {dtype}, {way}, {shape}", case.magnitude)
        if case.fuses:
            assert len(kinds) == 1, f"{name} of {dtype}: {kinds}"


@pytest.mark.parametrize("wrong", ["count", "beyond", -1, -99, "largest"])
@pytest.mark.parametrize("case", CLASSES, ids=str)
def test_an_index_out_of_range_is_the_same_error_at_every_size(case: Case, wrong: str | int):
    for shape in shapes(case):
        arguments = case.make(generator(str(case)), shape, dtype=torch.float32)
        count = {"linear": "linear_weight", "similarity": "positive"}.get(case.skeleton)
        if count is None and arguments.get("weight") is not None and arguments["weight"].dim() > 1:
            count = "weight"  # a vector for each class
        if count:
            classes = arguments[count].shape[0]
        else:
            logits = arguments[case.differentiable[0]]
            classes = logits.shape[min(1, logits.dim() - 1)]
        value = {"count": classes, "beyond": classes + 1000, "largest": 2**62}.get(wrong, wrong)
        arguments["target"].view(-1)[-1] = value
        for way in WAYS if case.fuses else WAYS[:2]:
            for reduction in case.reductions:
                result = outcome(case, way, arguments, reduction)
                assert described(result) == "raises IndexError", f"{way}, {reduction}, {shape}: {result}"
                assert f"Target {value} is out of bounds" in str(result[1]), f"{way}, {reduction}, {shape}"


@pytest.mark.parametrize("wrong", [0, 1000, -1, -99], ids=["count", "beyond", "-1", "-99"])
@pytest.mark.parametrize("case", CHOSEN, ids=str)
def test_a_class_that_there_is_not_is_an_index_error(case: Case, wrong: int):
    """Whatever the argument is called, from logits and from hidden states: no class is taken from the other end."""
    arguments = case.make(generator(str(case)), dtype=torch.float32)
    weight = arguments.get("weight")
    classes = weight.shape[0] if weight is not None else arguments[case.differentiable[0]].shape[-1]
    for name in set(NAMES) & set(case.indices):
        if "shift_labels" in arguments and name == "labels":
            continue  # which stand in their place
        value = wrong if wrong < 0 else classes + wrong
        for way in WAYS[:2]:
            result = outcome(case, way, {**arguments, name: torch.full_like(arguments[name], value)}, case.reduced)
            assert described(result) == "raises IndexError", f"{name}, {way}: {result}"


@pytest.mark.parametrize("dtype", INTEGERS, ids=str)
@pytest.mark.parametrize("case", LABELED, ids=str)
def test_labels_of_every_integer_dtype_are_numbers(case: Case, dtype: torch.dtype):
    name = LABELS[case.name]
    for shape in shapes(case):
        arguments = case.make(generator(f"{case} {dtype}"), shape, dtype=torch.float32)
        labels = arguments[name].float().round()
        labels = labels.clamp(0, 1) if dtype in (torch.uint8, torch.bool) else labels
        case_of_rest = {key: value for key, value in arguments.items() if key != name}
        want = outcome(case, "reference", {**to(case_of_rest, "cpu"), name: labels}, case.reduced)
        for way in WAYS if case.fuses else WAYS[:2]:
            got = outcome(case, way, {**arguments, name: labels.to(dtype)}, case.reduced)
            want_here = (want[0], {key: g for key, g in want[1].items() if key != name})
            assert_same(got, want_here, f"{name} of {dtype}, {way}, {shape}")


@pytest.mark.parametrize("case", INDEXED, ids=str)
def test_floating_labels_are_refused(case: Case):
    for name in set(case.indices) - {"episodes"}:
        for shape in shapes(case):
            arguments = case.make(generator(str(case)), shape, dtype=torch.float32)
            arguments[name] = _replaced(arguments[name], lambda x: x.float())
            for way in WAYS:
                result = outcome(case, way, arguments, case.reduced)
                assert isinstance(result[1], (RuntimeError, ValueError)), f"{way}, {shape}: {result}"


@pytest.mark.parametrize("case", [case for case in CASES if case.masked and case.differentiable], ids=str)
def test_masks_of_every_dtype_count_alike(case: Case):
    arguments = case.make(generator(str(case)), dtype=torch.float32)
    mask = case.make_optional("mask", generator(f"mask {case}"), arguments)
    for way in WAYS if case.fuses else WAYS[:2]:
        want = outcome(case, way, arguments, case.reduced, mask=mask)
        for dtype in (*INTEGERS, torch.int64, torch.float16, torch.bfloat16, torch.float32, torch.float64):
            got = outcome(case, way, arguments, case.reduced, mask=mask.to(dtype))
            assert_same(got, want, f"a mask of {dtype}, {way}", max(1.0, case.magnitude))


@pytest.mark.parametrize("case", [case for case in CASES if case.drop_in is None and case.differentiable], ids=str)
def test_a_reduction_that_there_is_not_is_a_value_error(case: Case):
    if case.reduction_argument not in case.parameters:
        pytest.skip("the loss has its own mean")
    arguments = case.make(generator(str(case)), dtype=torch.float32)
    for way in WAYS[:2]:
        for wrong in ("MEAN", "average"):
            with fastloss.backend(way), pytest.raises(ValueError):  # noqa: PT011
                case.loss(**arguments, **{**case.how(case.reduced), case.reduction_argument: wrong})


def test_dtypes_that_do_not_fit_are_a_plain_error():
    query, queue = torch.randn(80, 8), torch.randn(90, 8)
    for way in WAYS:
        with fastloss.backend(way), pytest.raises(ValueError, match=r"key of torch\.float64"):
            fastloss.moco_loss(query, query.double(), queue)
