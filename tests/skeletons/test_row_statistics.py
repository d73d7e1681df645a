"""The row operators in steps, on the CPU kernels: statistics of rows and slices, merge, outputs, gradient."""

from __future__ import annotations

import ctypes
import math
from pathlib import Path

import pytest
import torch
from cases import CASES, Case
from skeletons import row_steps
from skeletons.row_steps import IGNORE, Call
from support import BACKENDS, DTYPES, generator, to

from fastloss.core.registry import BY_KERNEL
from fastloss.operators.row import NONE, SUM

ROOT = Path(__file__).resolve().parents[2]
OPERATORS = torch.ops.fastloss
needs_cpu = pytest.mark.skipif(("cpu", "cpu") not in BACKENDS, reason="no CPU kernels")
ROWS = [case for case in CASES if case.skeleton == "row" and case.fuses]
each_case = pytest.mark.parametrize("case", ROWS, ids=str)
each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)


def lowered(case: Case, dtype: torch.dtype) -> Call:
    """A case's call as the operators take it."""
    arguments = to(case.make(generator(str(case))), "cpu", dtype)
    call = BY_KERNEL[case.loss.__name__].lower((), {**arguments, **case.how("none")}, automatic=False)
    operands = call.operands
    return Call(operands.loss, list(operands.parameters), call.logits, operands.target, operands.weight)


def random_cuts(classes: int, name: str) -> list[int]:
    """Three slices or more, an empty one among them."""
    cuts = torch.randint(0, classes + 1, (3,), generator=generator(name)).tolist()
    return sorted([*cuts, cuts[0]])


@needs_cpu
@each_dtype
@each_case
def test_statistics_outputs_and_gradient_are_the_loss(case: Case, dtype: torch.dtype) -> None:
    row_steps.whole(OPERATORS, lowered(case, dtype))


@needs_cpu
@each_dtype
@each_case
def test_slices_merge_to_the_row(case: Case, dtype: torch.dtype) -> None:
    call = lowered(case, dtype)
    row_steps.slices(OPERATORS, call, random_cuts(call.logits.shape[1], str(case)))
    row_steps.one_slice_keeps_its_bits(OPERATORS, call)


@needs_cpu
@each_dtype
@pytest.mark.parametrize("case", [case for case in ROWS if len(case.shape) == 2], ids=str)
def test_a_row_has_its_bits_in_every_batch(case: Case, dtype: torch.dtype) -> None:
    row_steps.rows_alone(OPERATORS, lowered(case, dtype))


@needs_cpu
@each_dtype
@pytest.mark.parametrize("case", [case for case in ROWS if len(case.shape) == 2], ids=str)
def test_classes_that_do_not_adjoin(case: Case, dtype: torch.dtype) -> None:
    """In steps, and in one pass."""
    call = lowered(case, dtype)
    row_steps.classes_apart(OPERATORS, call)
    how = (call.weight, call.loss, call.parameters, IGNORE)
    found = []
    for logits, target in [
        (call.logits, call.target),
        (row_steps.apart(call.logits), row_steps.apart(call.target) if call.soft else call.target),
    ]:
        loss, gradient = OPERATORS.row_forward_backward(logits, target, *how, SUM)
        _, state = OPERATORS.row_forward(logits, target, *how, NONE)
        later = OPERATORS.row_backward(call.upstream()[0], logits, target, how[0], state, *how[1:])
        in_place = logits.clone() if logits.dim() == 2 else row_steps.apart(logits[..., 0])
        OPERATORS.row_forward_backward_(in_place, target, *how, SUM)
        found.append([loss, *(x.reshape(call.logits.shape) for x in (gradient, later, in_place))])
    for one, other, what in zip(*found, ("loss", "gradient", "backward", "in place"), strict=True):
        row_steps.assert_close(other, one, call.logits.dtype, row_steps.magnitude(call) * len(call.logits), what)


@needs_cpu
@pytest.mark.parametrize("loss", row_steps.PARAMETERS)
def test_classes_of_two_rows_that_do_not_adjoin(loss: str) -> None:
    row_steps.classes_apart(OPERATORS, row_steps.made(loss, (5, 37), torch.float32, generator(loss)))


@needs_cpu
@pytest.mark.parametrize("shape", [(300, 1000), (2, 300, 70)])
def test_any_number_of_threads(shape: tuple[int, ...]) -> None:
    x = torch.randn(shape, generator=generator("threads"))
    rows = x.numel() // shape[1]
    call = Call("cross_entropy", [0.1, 1e-3, 5.0, 1.3], x, torch.arange(rows) % shape[1])
    threads = torch.get_num_threads()
    results = []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            statistics = call.statistics(OPERATORS)
            outputs = call.outputs(OPERATORS, statistics)
            results.append((statistics, outputs, call.gradient(OPERATORS, call.upstream(), statistics)))
    finally:
        torch.set_num_threads(threads)
    for result in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], result, strict=True))


@needs_cpu
@each_dtype
@pytest.mark.parametrize("strided", [False, True], ids=["rows", "columns"])
def test_infinite_logits_and_nan(dtype: torch.dtype, strided: bool) -> None:
    """Rows: a slice of -inf, -inf everywhere, one +inf, one NaN, ignored ones with both."""
    infinity, nan = math.inf, math.nan
    x = torch.randn(6, 9, generator=generator("infinite")).to(dtype)
    x[0, 3:6], x[1], x[2, 4], x[3, 1], x[4, 2], x[5] = -infinity, -infinity, infinity, nan, nan, infinity
    target = torch.tensor([0, 0, 0, 0, IGNORE, IGNORE])
    if strided:
        x = x.t().contiguous()[None]
    call = Call("cross_entropy", [0.0, 0.0, 0.0, 1.0], x, target)
    row_steps.whole(OPERATORS, call)
    row_steps.slices(OPERATORS, call, [3, 6])
    statistics = call.statistics(OPERATORS)
    assert (statistics[:2, 1] == -infinity).all()
    assert (statistics[:2, 4:] == -infinity).all()
    assert (statistics[2:, 4:] == 0).all()


@needs_cpu
def test_a_slice_without_classes_and_a_call_without_rows() -> None:
    x = torch.randn(4, 7)
    call = Call("cross_entropy", [0.1, 0.0, 0.0, 1.0], x, torch.tensor([0, 3, 6, IGNORE]))
    empty = call.slice(7, 7)
    statistics = empty.statistics(OPERATORS)
    assert (statistics[:2] == -math.inf).all()
    assert (statistics[2:] == 0).all()
    assert empty.gradient(OPERATORS, call.upstream(), call.statistics(OPERATORS)).shape == (4, 0)
    for logits in (x[:0], x[:0, :, None], x[None, :, :0]):
        none = Call("cross_entropy", [0.1, 0.0, 0.0, 1.0], logits, torch.empty(0, dtype=torch.long))
        statistics = none.statistics(OPERATORS)
        assert statistics.shape == (6, 0)
        assert none.outputs(OPERATORS, statistics).shape == (1, 0)
        assert none.gradient(OPERATORS, statistics[:1], statistics).shape == logits.shape


@needs_cpu
def test_statistics_without_a_target() -> None:
    x = torch.randn(5, 40)
    for logits in (x, x.t().contiguous()[None]):
        statistics = Call("cross_entropy", [0.0, 0.0, 0.0, 1.0], logits).statistics(OPERATORS)
        torch.testing.assert_close(statistics[0], x.amax(1))
        torch.testing.assert_close(statistics[0] + statistics[1], x.logsumexp(1))
        assert (statistics[2:] == 0).all()


@needs_cpu
def test_a_common_offset_of_the_logits_costs_nothing() -> None:
    x = (torch.randn(3, 50, generator=generator("offset")) * 64).round() / 64  # exact after the shift
    results = []
    for offset in (0.0, 2.0**14):
        call = Call("cross_entropy", [0.1, 0.0, 0.0, 1.0], x + offset, torch.tensor([0, 20, 49]))
        parts = [call.slice(begin, end).statistics(OPERATORS) for begin, end in [(0, 13), (13, 50)]]
        merged = OPERATORS.row_merge(torch.stack(parts), call.loss, call.parameters)
        results.append((call.outputs(OPERATORS, merged), call.gradient(OPERATORS, call.upstream(), merged)))
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])


@needs_cpu
@pytest.mark.parametrize("shape", [(3, 4, 9), (3, 2, 9, 5)])
@pytest.mark.parametrize("soft", [False, True], ids=["index", "soft"])
def test_vmap_of_the_steps(shape: tuple[int, ...], soft: bool) -> None:
    """A batch of calls is one call of more rows."""
    x = torch.randn(shape, generator=generator("vmap"))
    rows = x[0].numel() // shape[2]
    target = x.softmax(2) if soft else torch.arange(3 * rows).view(3, rows) % shape[2]
    how = ("cross_entropy", [0.1, 1e-3, 5.0, 1.3], IGNORE)
    weight, upstream = torch.rand(shape[2]), torch.rand(3, 1, rows)

    def steps(x, target, upstream):
        statistics = OPERATORS.row_statistics(x, None, target, weight, *how, 0, shape[2])
        merged = OPERATORS.row_merge(statistics[None], *how[:2])
        outputs = OPERATORS.row_outputs(merged, target, *how, shape[2])
        gradient = OPERATORS.row_gradient(upstream, merged, x, None, target, weight, *how, 0, shape[2])
        return merged, outputs, gradient

    mapped = torch.vmap(steps)(x, target, upstream)
    alone = [torch.stack(parts) for parts in zip(*map(steps, x, target, upstream), strict=True)]
    for a, b in zip(mapped, alone, strict=True):
        torch.testing.assert_close(a, b)


@needs_cpu
def test_what_does_not_fit_is_refused() -> None:
    x, y = torch.randn(3, 7), torch.tensor([0, 6, 2])
    call = Call("cross_entropy", [0.0, 0.0, 0.0, 1.0], x, y)
    statistics, upstream = call.statistics(OPERATORS), call.upstream()
    with pytest.raises(IndexError, match="Target 7 is out of bounds"):
        Call(call.loss, call.parameters, x, y + 1).statistics(OPERATORS)
    Call(call.loss, call.parameters, x, y + 1, classes=8).statistics(OPERATORS)  # the class of another slice
    with pytest.raises(RuntimeError, match="no such loss"):
        Call("huber_loss", [1.0], x, y).statistics(OPERATORS)
    with pytest.raises(RuntimeError, match="wrong number of parameters"):
        Call(call.loss, [0.0], x, y).statistics(OPERATORS)
    with pytest.raises(RuntimeError, match="no second row"):
        Call(call.loss, call.parameters, x, y, second=x).statistics(OPERATORS)
    with pytest.raises(RuntimeError, match="one number for each row"):
        Call(call.loss, call.parameters, x, y[:2]).statistics(OPERATORS)
    for wrong in (statistics[:5], statistics.double(), statistics[:, :2], statistics.t().contiguous().t()):
        with pytest.raises(RuntimeError, match="the statistics must be"):
            call.gradient(OPERATORS, upstream, wrong)
    with pytest.raises(RuntimeError, match="the upstream gradient must be"):
        call.gradient(OPERATORS, upstream.view(-1), statistics)
    with pytest.raises(RuntimeError, match="expected \\(slices, k, rows\\)"):
        OPERATORS.row_merge(statistics, call.loss, call.parameters)


# ------------------------------------------------------------------------------------------ the losses of the tests


class Device(ctypes.Structure):
    _fields_ = [("parallel_for", ctypes.c_void_p), ("target_out_of_range", ctypes.c_int64)]


@needs_cpu
@each_dtype
@pytest.mark.parametrize("loss", row_steps.PARAMETERS)
def test_outputs_margins_and_two_rows(loss: str, dtype: torch.dtype) -> None:
    """Several outputs with a sum of the functor's own, a target's logit of its own, a second row of logits."""
    for shape in [(5, 37), (4, 4500), (2, 9, 21), (1, 1)]:
        call = row_steps.made(loss, shape, dtype, generator(f"{loss} {shape}"))
        row_steps.whole(OPERATORS, call)
        row_steps.slices(OPERATORS, call, random_cuts(shape[1], f"{loss} {shape}"))
        row_steps.one_slice_keeps_its_bits(OPERATORS, call)
        if len(shape) == 2:
            row_steps.rows_alone(OPERATORS, call)


@needs_cpu
def test_a_slice_of_infinite_logits_adds_nothing_to_sums_of_the_functors_own() -> None:
    for loss in ("log_softmax_and_entropy", "forward_kl", "reverse_kl"):
        for shape in [(5, 4500), (1, 30, 5)]:
            call = row_steps.made(loss, shape, torch.float32, generator(f"{loss} -inf"))
            finite = shape[1] // 3
            for logits in (call.logits, call.second):
                if logits is not None:
                    logits[:, finite:] = -math.inf
            row_steps.whole(OPERATORS, call)
            row_steps.slices(OPERATORS, call, [finite, finite + 2])


@needs_cpu
@each_dtype
@pytest.mark.parametrize("shape", [(4, 37), (3, 4500), (2, 21, 9)], ids=str)
@pytest.mark.parametrize("loss", row_steps.OF_BOTH_SOFTMAXES)
def test_classes_without_probability(loss: str, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    row_steps.classes_without_probability(OPERATORS, loss, shape, dtype)
