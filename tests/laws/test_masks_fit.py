"""Laws of masks, weights and normalizers: what is given beside the losses may broadcast to them, never enlarge them."""

from __future__ import annotations

import pytest
import torch
from cases import CASES, Case
from outcomes import WAYS, assert_same, described, is_torchs, outcome, shapes
from support import generator

import fastloss

MASKED = [
    case
    for case in CASES
    if (case.skeleton or case.composed) and "losses" in case.optional.values() and case.drop_in is None
]
TORCHS = [case for case in CASES if is_torchs(case) and {"losses", "exact", "classes"} & set(case.optional.values())]
NORMALIZED = [case for case in CASES if (case.skeleton or case.composed) and "normalizer" in case.optional]
OF_CLASSES = [case for case in CASES if case.skeleton and "classes" in case.optional.values() and case.drop_in is None]


def _beside(case: Case, name: str, shape: tuple[int, ...]):
    """(arguments, a tensor of the full shape of the losses)"""
    arguments = case.make(generator(f"{case} {name}"), shape, dtype=torch.float32)
    return arguments, case.make_optional(name, generator(f"{case} {name} beside"), arguments)


def _of_other_shapes(whole: torch.Tensor) -> list[torch.Tensor]:
    """Those that broadcast to the whole one, and those that do not."""
    first = whole.reshape(-1)[0]
    if not whole.dim():
        return [first, first.reshape(1), first.reshape(1, 1), whole.new_ones(2)]
    return [
        first.reshape(()),
        first.reshape(1),
        whole[:1],
        whole[..., :1],
        whole.unsqueeze(-1),
        whole.unsqueeze(0),
        torch.cat([whole, whole]),
        first.reshape((1,) * (whole.dim() + 1)),
        whole.new_ones(whole.shape[-1] + 1),
    ]


def _fits(tensor: torch.Tensor, whole: torch.Tensor) -> bool:
    try:
        return torch.broadcast_shapes(tensor.shape, whole.shape) == whole.shape
    except RuntimeError:
        return False


@pytest.mark.parametrize("case", MASKED, ids=str)
def test_masks_and_weights_never_enlarge_the_losses(case: Case):
    for name in (name for name, kind in case.optional.items() if kind == "losses"):
        for shape in shapes(case):
            arguments, whole = _beside(case, name, shape)
            for reduction in case.reductions:
                for tensor in _of_other_shapes(whole):
                    want = None
                    if not _fits(tensor, whole) and reduction != case.reduced:
                        continue  # it is refused before a reduction is looked at
                    if _fits(tensor, whole):
                        same = tensor.expand(whole.shape).contiguous()
                        want = outcome(case, "reference", {**arguments, name: same}, reduction)
                    for way in WAYS if case.fuses else WAYS[:2]:
                        got = outcome(case, way, {**arguments, name: tensor}, reduction)
                        what = f"{name} {tuple(tensor.shape)} beside {tuple(whole.shape)}, {reduction}, {way}"
                        if want is None:
                            assert described(got) == "raises ValueError", f"{what}: {got}"
                        else:
                            assert_same(got, want, what)


@pytest.mark.parametrize("case", TORCHS, ids=str)
def test_weights_of_drop_ins_are_what_torch_takes_at_every_size(case: Case):
    for name, kind in case.optional.items():
        for shape in shapes(case):
            arguments, whole = _beside(case, name, shape)
            for tensor in [whole, *_of_other_shapes(whole)]:
                want = outcome(case, "torch", {**arguments, name: tensor}, case.reduced)
                for way in WAYS if case.fuses else WAYS[:2]:
                    got = outcome(case, way, {**arguments, name: tensor}, case.reduced)
                    if isinstance(got[1], fastloss.BackendError):
                        continue  # an explicit backend may leave a call to torch, and says so
                    assert_same(got, want, f"{name} ({kind}) {tuple(tensor.shape)}, {shape}, {way}")


@pytest.mark.parametrize("case", OF_CLASSES, ids=str)
def test_class_weights_are_one_for_each_class(case: Case):
    (name,) = (name for name, kind in case.optional.items() if kind == "classes")
    for shape in shapes(case):
        arguments, whole = _beside(case, name, shape)
        for tensor in _of_other_shapes(whole):
            if tensor.shape == whole.shape:
                continue
            for way in WAYS if case.fuses else WAYS[:2]:
                result = outcome(case, way, {**arguments, name: tensor}, case.reduced)
                refused = isinstance(result[1], (RuntimeError, ValueError))
                assert refused and not isinstance(result[1], fastloss.BackendError), f"{tuple(tensor.shape)}, {way}"


@pytest.mark.parametrize("case", NORMALIZED, ids=str)
def test_a_normalizer_is_one_number(case: Case):
    for shape in shapes(case):
        arguments = case.make(generator(str(case)), shape, dtype=torch.float32)
        for number in (7.0, 0.0):  # 0 is taken as 1
            want = outcome(case, "reference", arguments, case.reduced, normalizer=number or 1.0)
            for normalizer in (number, *(torch.full(size, number) for size in ((), (1,), (1, 1)))):
                for way in WAYS if case.fuses else WAYS[:2]:
                    got = outcome(case, way, arguments, case.reduced, normalizer=normalizer)
                    assert_same(got, want, f"{normalizer}, {shape}, {way}")
        for normalizer in (torch.ones(2), torch.ones(0), torch.ones((), device="meta")):
            for way in WAYS if case.fuses else WAYS[:2]:
                result = outcome(case, way, arguments, case.reduced, normalizer=normalizer)
                assert described(result) == "raises ValueError", f"{normalizer}, {shape}, {way}: {result}"
