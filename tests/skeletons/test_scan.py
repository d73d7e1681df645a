"""Recurrences over time: published vectors, loops, and the laws of what gives tensors of the shape of its arguments."""

from __future__ import annotations

import dataclasses
import importlib.util
import math
import sys
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from cases import RETURNS, Case, one_of_each
from cases.case import Arguments
from cases.rl.returns import by_loops
from support import BACKENDS, DTYPES, SEED, assert_close, each_backend, generator, to
from torch import Tensor

import fastloss
from fastloss import rl

SCANS = [case for case in RETURNS if case.skeleton]
EACH = one_of_each(SCANS)
DIFFERENTIABLE = [case for case in RETURNS if case.differentiable]
WAYS = ["reference", "auto", *(name for name, device in BACKENDS if device == "cpu")]
INTERPRETED = ("triton", "cpu") in BACKENDS
every_way = pytest.mark.parametrize("way", WAYS)


def outputs(case: Case, arguments: Arguments) -> tuple[Tensor, ...]:
    found = case.call(arguments, "none")
    return found if isinstance(found, tuple) else (found,)


def same_bits(x: tuple[Tensor, ...], y: tuple[Tensor, ...]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(x, y, strict=True))


def along(arguments: Arguments, change: Any) -> Arguments:
    """The arguments with what has the shape of the first one changed."""
    shape = next(iter(arguments.values())).shape
    return {k: change(x) if isinstance(x, Tensor) and x.shape == shape else x for k, x in arguments.items()}


# ------------------------------------------------------------------------------------------ values


@every_way
def test_published_vectors_of_rlax_for_returns(way: str):
    rewards, values = torch.tensor([0, 0, 1, 0, -0.5]), torch.tensor([1.0, 4, -3, -2, -1, -1])
    with fastloss.backend(way):
        advantages, returns = rl.gae(rewards, values[:-1], values[1:], gamma=0.99, lambda_=0.7)
        expected = torch.tensor([-0.676979, -5.248167, 2.4846, 0.6704, -0.49])
        torch.testing.assert_close(advantages, expected, rtol=0, atol=5e-5)  # of four digits
        torch.testing.assert_close(returns, advantages + values[:-1])
        rewards, next_values = torch.tensor([1.0, 0, -1, 0, 1]), torch.tensor([3.0, 1, 5, -5, 3])
        discounts = torch.tensor([0.5, 0.9, 1, 0.5, 0.8])
        mixed = rl.lambda_returns(rewards, next_values, gamma=discounts, lambda_=0.75)
        torch.testing.assert_close(mixed, torch.tensor([1.646055, 0.722813, 0.7375, 0.65, 3.4]), rtol=0, atol=2e-6)
        if way in ("reference", "auto"):
            found = rl.n_step_returns(rewards, next_values, n=3, gamma=discounts)
            torch.testing.assert_close(found, torch.tensor([2.8, -3.15, 0.7, 1.7, 3.4]))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", RETURNS, ids=str)
def test_values_by_loops_over_time(case: Case, dtype: torch.dtype):
    arguments = case.make(generator(str(case)), dtype=dtype)
    expected = by_loops(case, to(arguments, "cpu", torch.float64))
    for way in WAYS if case.skeleton else WAYS[:2]:
        with fastloss.backend(way):
            found = outputs(case, arguments)
        for x, right in zip(found, expected, strict=True):
            assert x.dtype == dtype
            assert_close(x, right, dtype, way)


@each_backend
@pytest.mark.parametrize("time_dim", [0, 1])
@pytest.mark.parametrize(("steps", "count"), [(1, 1), (2, 700), (257, 3), (300, 17), (256, 9), (5, 33), (70, 1030)])
def test_sizes_of_blocks_and_chunks(backend, device, time_dim, steps, count):
    """Of 256 steps, 128 columns, 16 rows, vectors of 1, 4, 8 or 16 sequences; with flags and without."""
    if INTERPRETED and steps * count > 200:
        pytest.skip("takes seconds in the interpreter")
    random = generator(f"{steps} {count}")
    case = next(case for case in SCANS if case.name == "rl.gae")
    made = case.make(random, (steps, count), device=device)
    mask = torch.rand((steps, count), generator=random) < 0.8
    for flags in ((), ("terminated",), ("truncated", "mask")):
        given = {
            name: x for name, x in {**made, "mask": mask.to(device)}.items() if x.is_floating_point() or name in flags
        }
        with fastloss.backend("reference"):
            expected = rl.gae(**given)
        turned = {name: x.movedim(0, time_dim).contiguous() for name, x in given.items()}
        for dtype in (torch.float32, torch.bfloat16, torch.float64):
            with fastloss.backend(backend):
                found = rl.gae(**to(turned, device, dtype), time_dim=time_dim)
            with fastloss.backend("reference"):
                expected = rl.gae(**to(to(given, device, dtype), device, torch.float64))
            for x, right in zip(found, expected, strict=True):
                assert_close(x.movedim(time_dim, 0), right, dtype, f"{flags}, {dtype}", 4.0)


@pytest.mark.parametrize("way", ["reference", "auto"])
def test_n_steps_of_every_number(way: str):
    """Up to more than there are."""
    case = next(case for case in RETURNS if case.name == "rl.n_step_returns" and case.variant == "everything")
    arguments = case.make(generator("n"))
    for n in (1, 2, 3, 5, 8, 9, 40):
        other = dataclasses.replace(case, options={**case.options, "n": n})
        with fastloss.backend(way):
            assert_close(outputs(other, arguments)[0], by_loops(other, arguments)[0], torch.float64, str(n))
    with pytest.raises(ValueError, match="n must be at least 1"):
        rl.n_step_returns(torch.zeros(3), torch.zeros(3), n=0)


def test_advantages_are_errors_against_the_lambda_returns():
    rewards, values, next_values = torch.randn(3, 9, 4, generator=generator("identity"), dtype=torch.float64)
    options = {"gamma": 0.9, "lambda_": 0.8}
    advantages, returns = rl.gae(rewards, values, next_values, **options)
    values = values.clone()
    values[1:] = next_values[:-1]  # the values of the states between
    advantages, returns = rl.gae(rewards, values, next_values, **options)
    torch.testing.assert_close(rl.td_lambda(rewards, values, next_values, **options), advantages)
    torch.testing.assert_close(rl.q_lambda(rewards, values, next_values, **options), returns)
    ones = torch.ones_like(rewards)
    targets, _ = rl.vtrace(rewards, values, next_values, ones, **options)
    torch.testing.assert_close(targets, returns)


@every_way
@pytest.mark.parametrize("masked", [False, True])
def test_normalized_advantages(way: str, masked: bool):
    random = generator(f"normalize {masked}")
    rewards, values, next_values = 30 * torch.randn(3, 40, 6, generator=random)
    mask = torch.rand(40, 6, generator=random) < 0.6 if masked else None
    with fastloss.backend(way):
        plain, returns = rl.gae(rewards, values, next_values, mask=mask)
        found, same = rl.gae(rewards, values, next_values, mask=mask, normalize=True)
        counted = plain[mask] if masked else plain
        expected = (plain - counted.mean()) / (counted.std() + 1e-8)
        expected = torch.where(mask, expected, 0) if masked else expected
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(same, returns, rtol=0, atol=0)
        halves, _ = rl.gae(*(x.half() for x in (rewards, values, next_values)), normalize=True)
        assert halves.dtype == torch.float16 and halves.isfinite().all()
        lone, _ = rl.gae(torch.ones(1), torch.zeros(1), torch.zeros(1), normalize=True)
        assert lone == 0


# ------------------------------------------------------------------------------------------ what is not looked at


@every_way
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_is_not_there_is_not_looked_at(way: str, bad: float):
    """Steps that the mask takes out; values of states behind the end of an episode; other trajectories."""
    for case in SCANS if way != "auto" else EACH:
        arguments = case.make(generator(str(case)), dtype=torch.float32)
        if "mask" in arguments:
            names = [name for name, x in arguments.items() if isinstance(x, Tensor) and x.is_floating_point()]
            hidden = {name: torch.where(arguments["mask"], arguments[name], bad) for name in names}
            with fastloss.backend(way):
                found, plain = outputs(case, {**arguments, **hidden}), outputs(case, arguments)
            assert same_bits(found, plain), case
            assert all((x[~arguments["mask"]] == 0).all() for x in found)
        if "terminated" in arguments:
            values = torch.where(arguments["terminated"], bad, arguments["next_values"])
            with fastloss.backend(way):
                found, plain = outputs(case, {**arguments, "next_values": values}), outputs(case, arguments)
            assert same_bits(found, plain), case


@every_way
def test_nothing_passes_the_end_of_a_trajectory(way: str):
    for name in ("terminated", "truncated"):
        rewards, values, next_values = torch.randn(3, 20, 9, generator=generator(name))
        ended = torch.zeros(20, 9, dtype=torch.bool)
        ended[10] = True
        rewards[11:] = math.nan
        with fastloss.backend(way):
            for x in rl.gae(rewards, values, next_values, **{name: ended}):
                assert x[:11].isfinite().all() and x[11:].isnan().all()
            scanned = rl.linear_scan(rewards, (~ended).float())
            assert scanned[:11].isfinite().all() and scanned[11:].isnan().all()


# ------------------------------------------------------------------------------------------ layouts, batches, threads


@each_backend
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("case", EACH, ids=str)
def test_layouts_of_trajectories(case: Case, backend, device, dtype):
    """In every layout the same numbers, on a CPU the same bits; the results lie as the first argument does."""
    arguments = case.make(generator(str(case)), (13, 37), dtype, device)
    with fastloss.backend(backend):
        plain = outputs(case, arguments)
        for change in (
            lambda x: x.t().contiguous().t(),
            lambda x: x.repeat_interleave(2, 0)[::2],
            lambda x: x.repeat_interleave(2, 1)[:, ::2],
            lambda x: x.t().repeat_interleave(3, 0)[::3].t(),
        ):
            found = outputs(case, along(arguments, change))
            for x, right in zip(found, plain, strict=True):
                assert torch.equal(x, right) if backend == "cpu" else True
                assert_close(x, right.double(), dtype)
        turned = case.loss(**along(arguments, lambda x: x.t().contiguous()), **case.options, time_dim=1)
        turned = turned if isinstance(turned, tuple) else (turned,)
        for x, right in zip(turned, plain, strict=True):
            assert x.is_contiguous()
            assert torch.equal(x.t(), right) if backend == "cpu" else True
            assert_close(x.t(), right.double(), dtype)
        deep = case.loss(**along(arguments, lambda x: x.view(13, 1, 37).expand(13, 2, 37)), **case.options)
        deep = deep if isinstance(deep, tuple) else (deep,)
        assert same_bits(tuple(x[:, 1] for x in deep), plain) or backend != "cpu"


@each_backend
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("time_dim", [0, 1])
def test_a_sequence_has_the_same_bits_in_every_batch_and_for_any_threads(backend, device, dtype, time_dim):
    case = next(case for case in SCANS if case.name == "rl.gae")
    made = case.make(generator("batches"), (24, 37) if INTERPRETED else (150, 1500), dtype, device)
    made = {name: x.movedim(0, time_dim).contiguous() for name, x in made.items()}
    threads = torch.get_num_threads()
    with fastloss.backend(backend):
        whole = rl.gae(**made, time_dim=time_dim)
        for first, count in ((0, 1), (3, 2), (7, 9), (11, 26)):
            part = {name: x.narrow(1 - time_dim, first, count).contiguous() for name, x in made.items()}
            found = rl.gae(**part, time_dim=time_dim)
            assert same_bits(found, tuple(x.narrow(1 - time_dim, first, count) for x in whole)), (first, count)
        try:
            for number in (1, 3):
                torch.set_num_threads(number)
                assert same_bits(rl.gae(**made, time_dim=time_dim), whole)
        finally:
            torch.set_num_threads(threads)


@each_backend
def test_packed_sequences_are_those_of_a_batch(backend, device):
    random = generator("packed")
    lengths = [5, 0, 40 if INTERPRETED else 340, 1, 17, 2, 33, 9, 9, 20]
    bounds = torch.tensor([0, *lengths]).cumsum(0)
    made = torch.randn(3, sum(lengths), 2, generator=random).to(device)
    with fastloss.backend(backend):
        for columns in (made, made[..., 0]):
            found = rl.gae(*columns, cu_seqlens=bounds.to(device, torch.int32))
            for begin, end in zip(bounds.tolist(), bounds.tolist()[1:], strict=False):
                if begin == end:
                    continue
                one = rl.gae(*(x[begin:end] for x in columns))
                for x, right in zip(found, one, strict=True):
                    assert_close(x[begin:end], right.double(), torch.float32)
                    assert torch.equal(x[begin:end], right) or backend != "cpu"


@every_way
def test_empty_batches_of_trajectories(way: str):
    for shape in ((0, 3), (4, 0), (0,)):
        x = torch.zeros(shape)
        with fastloss.backend(way):
            assert [y.shape for y in rl.gae(x, x, x, normalize=True)] == [x.shape] * 2
            assert rl.linear_scan(x, 0.5).shape == x.shape
            assert rl.discounted_returns(x).shape == x.shape
            assert rl.n_step_returns(x, x, n=2).shape == x.shape


@each_backend
@pytest.mark.parametrize("case", EACH, ids=str)
def test_arguments_of_a_scan_are_left_alone(case: Case, backend, device):
    arguments = case.make(generator(str(case)), dtype=torch.float32, device=device)
    before = {name: x.clone() for name, x in arguments.items()}
    with fastloss.backend(backend):
        assert fastloss.explain(case.loss, **arguments, **case.options).backend == backend
        outputs(case, arguments)
        first, again = outputs(case, arguments), outputs(case, arguments)  # a remembered call
    assert same_bits(first, again) and not any(a.data_ptr() == b.data_ptr() for a, b in zip(first, again, strict=True))
    assert all(torch.equal(arguments[name], x) for name, x in before.items())


# ------------------------------------------------------------------------------------------ derivatives, transforms


@every_way
@pytest.mark.parametrize("case", DIFFERENTIABLE, ids=str)
def test_gradcheck_of_returns(case: Case, way: str):
    if case.skeleton is None and way not in ("reference", "auto"):
        pytest.skip("no kernels of its own")
    shape = {1: (7,), 2: (5, 3), 3: (2, 4, 2)}[len(case.shape)]
    made = case.make(generator(str(case)), shape)
    leaves = tuple(made[name].requires_grad_() for name in case.differentiable)

    def f(*leaves: Tensor) -> Tensor:
        return case.call({**made, **dict(zip(case.differentiable, leaves, strict=True))}, "none")

    with fastloss.backend(way):
        assert torch.autograd.gradcheck(f, leaves, fast_mode=True)
        if case.name != "rl.td_lambda":
            assert torch.autograd.gradgradcheck(f, leaves, fast_mode=True)


@each_backend
@pytest.mark.parametrize("time_dim", [0, 1])
def test_the_adjoint_of_a_scan(backend, device, time_dim):
    """In float32 and halves, of broadcast coefficients, a number, both ways; against the reference in float64."""
    random = generator("adjoint")
    inputs = torch.randn(9, 7, generator=random)
    for coefficients in (torch.rand(9, 7, generator=random), torch.rand(7, generator=random), 0.75):
        for dtype in (torch.float32, torch.bfloat16):
            for reverse in (True, False):
                given = to((inputs, coefficients), device, dtype)
                found, expected = [], []
                for way, x in ((backend, given), ("reference", to(given, device, torch.float64))):
                    leaves = [y.clone().requires_grad_() for y in x if isinstance(y, Tensor)]
                    arguments = [*leaves, coefficients][:2]
                    with fastloss.backend(way):
                        y = rl.linear_scan(*arguments, reverse=reverse, time_dim=time_dim)
                        upstream = torch.linspace(-1, 2, y.numel(), device=device).view_as(y).to(dtype).to(y.dtype)
                        (found if way == backend else expected).extend([y, *torch.autograd.grad(y, leaves, upstream)])
                for x, right in zip(found, expected, strict=True):
                    assert x.dtype == dtype
                    assert_close(x, right, dtype)


@every_way
def test_targets_are_constants(way: str):
    for case in one_of_each([case for case in RETURNS if not case.differentiable]):
        made = case.make(generator(str(case)), dtype=torch.float32)
        leaves = {name: x.requires_grad_() if x.is_floating_point() else x for name, x in made.items()}
        with fastloss.backend(way):
            assert not any(x.requires_grad for x in outputs(case, leaves)), case


@each_backend
@pytest.mark.slow(2)
@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
@pytest.mark.parametrize("case", EACH, ids=str)
def test_compiled_scans(case: Case, backend, device, dynamic):
    torch._dynamo.reset()

    def f(arguments: Arguments) -> Any:
        return case.loss(**arguments, **case.options)

    with fastloss.backend(backend):
        compiled = torch.compile(f, fullgraph=True, dynamic=dynamic, backend="aot_eager")
        for shape in ((9, 12), (14, 20))[: 1 + dynamic]:
            arguments = case.make(generator(str(shape)), shape, torch.float32, device)
            leaves = {name: arguments[name].requires_grad_() for name in case.differentiable}
            found, plain = compiled({**arguments, **leaves}), f({**arguments, **leaves})
            found, plain = (x if isinstance(x, tuple) else (x,) for x in (found, plain))
            for x, right in zip(found, plain, strict=True):
                assert_close(x, right.double(), torch.float32)
            if leaves:
                gradients = [torch.autograd.grad(x[0].square().sum(), list(leaves.values())) for x in (found, plain)]
                for x, right in zip(*gradients, strict=True):
                    assert_close(x, right.double(), torch.float32)


@each_backend
def test_scans_under_torch_func(backend, device):
    rewards, values, next_values = torch.randn(3, 4, 9, 5, generator=generator("vmap"), dtype=torch.float64).to(device)
    ended = torch.rand(4, 9, 5, generator=generator("ended")).to(device) < 0.2
    with fastloss.backend(backend):
        found = torch.func.vmap(rl.gae)(rewards, values, next_values, ended)
        shared = torch.func.vmap(rl.gae, in_dims=(0, None, None))(rewards, values[0], next_values[0])
        for k in range(4):
            for x, right in zip(found, rl.gae(rewards[k], values[k], next_values[k], ended[k]), strict=True):
                torch.testing.assert_close(x[k], right)
            for x, right in zip(shared, rl.gae(rewards[k], values[0], next_values[0]), strict=True):
                torch.testing.assert_close(x[k], right)

        def total(x: Tensor) -> Tensor:
            return (rl.lambda_returns(x, next_values[0]) * values[0]).sum()

        leaf = rewards[0].clone().requires_grad_()
        (plain,) = torch.autograd.grad(total(leaf), leaf)
        torch.testing.assert_close(torch.func.grad(total)(rewards[0]), plain)
        each = torch.func.vmap(torch.func.grad(total))(rewards)
        torch.testing.assert_close(each[0], plain)


# ------------------------------------------------------------------------------------------ errors


@every_way
def test_arguments_that_do_not_fit_are_refused(way: str):
    x, y = torch.zeros(4, 3), torch.zeros(3, 4)
    with fastloss.backend(way):
        for call, match in (
            (lambda: rl.gae(x, y, x), "values must have the shape of the rewards"),
            (lambda: rl.gae(x, x, x, torch.zeros(4)), "terminated .* does not broadcast"),
            (lambda: rl.gae(x, x, x, time_dim=2), "time_dim must be a dimension"),
            (lambda: rl.gae(x, x, x, cu_seqlens=torch.tensor([0, 5])), "cu_seqlens must rise from 0"),
            (lambda: rl.gae(x, x, x, cu_seqlens=torch.tensor([0, 3, 2, 4])), "cu_seqlens must rise from 0"),
            (lambda: rl.gae(x, x, x, cu_seqlens=torch.tensor([1, 4])), "cu_seqlens must rise from 0"),
            (lambda: rl.gae(x, x, x, cu_seqlens=torch.tensor([0, 4]), time_dim=1), "time_dim 0"),
            (lambda: rl.vtrace(x, x, x, x, rho_bar=-1.0), "rho_bar must be at least 0"),
            (lambda: rl.retrace(x, x, x, x, c_bar=-1.0), "c_bar must be at least 0"),
        ):
            with pytest.raises(ValueError, match=match):
                call()


@each_backend
def test_flags_and_masks_of_other_dtypes(backend, device):
    """As gymnasium and buffers have them: booleans, bytes, 0.0 and 1.0; of a column for all of its row."""
    rewards, values, next_values = torch.randn(3, 8, 5, generator=generator("flags")).to(device)
    ended = torch.rand(8, 1, generator=generator("ended")).to(device) < 0.3
    with fastloss.backend(backend):
        plain = rl.gae(rewards, values, next_values, ended.expand(8, 5).contiguous(), mask=~ended.expand(8, 5))
        for dtype in (torch.bool, torch.uint8, torch.float32, torch.int64):
            other = ended.to(dtype)
            assert same_bits(rl.gae(rewards, values, next_values, other, mask=(~ended).to(dtype)), plain), SEED


# ------------------------------------------------------------------------------------------ other libraries


def test_torchrl_has_the_same_advantages():
    functional = pytest.importorskip("torchrl.objectives.value.functional")
    random = generator("torchrl")
    values, next_values, rewards = torch.randn(3, 5, 40, 1, generator=random, dtype=torch.float64)
    terminated, truncated = (torch.rand(5, 40, 1, generator=random) < 0.1 for _ in range(2))
    done = terminated | truncated
    expected = functional.generalized_advantage_estimate(0.97, 0.9, values, next_values, rewards, done, terminated)
    found = rl.gae(rewards, values, next_values, terminated, truncated, gamma=0.97, lambda_=0.9, time_dim=1)
    for x, right in zip(found, expected, strict=True):
        torch.testing.assert_close(x, right, rtol=1e-5, atol=2e-6)  # it has gamma and lambda in float32


def test_rlax_has_the_same_targets(monkeypatch: pytest.MonkeyPatch):
    if importlib.util.find_spec("rlax") is None:
        pytest.skip("rlax is not installed")
    for name in ("distrax", "tensorflow_probability"):  # of no use here, and they ask jax for what it has no more
        monkeypatch.setitem(sys.modules, name, mock.MagicMock())
    rlax = importlib.import_module("rlax")
    random = generator("rlax")
    rewards, values, next_values, ratios = torch.rand(4, 30, generator=random)
    values, ratios = torch.cat([values[:1], next_values[:-1]]), 2 * ratios
    discounts = 0.9 * (torch.rand(30, generator=random) > 0.2)
    ours: dict[str, Any] = {"gamma": discounts, "lambda_": 0.8}
    r, v, w, rho, d = (x.numpy() for x in (rewards, values, next_values, ratios, discounts))
    right = rlax.vtrace_td_error_and_advantage(v, w, r, d, rho, 0.8)
    trace = 0.8 * ratios.clamp(max=1)[1:].numpy()
    every = torch.cat([values, next_values[-1:]]).numpy()
    targets, advantages = rl.vtrace(rewards, values, next_values, ratios, **ours)
    for found, expected in (
        (targets - values, right.errors),
        (advantages, right.pg_advantage),
        (
            rl.retrace(rewards, values, next_values, ratios, **ours),
            rlax.general_off_policy_returns_from_q_and_v(v[1:], w, r, d, trace),
        ),
        (
            rl.gae(rewards, values, next_values, **ours)[0],
            rlax.truncated_generalized_advantage_estimation(r, d, 0.8, every),
        ),
        (rl.lambda_returns(rewards, next_values, **ours), rlax.lambda_returns(r, d, w, 0.8)),
        (rl.td_lambda(rewards, values, next_values, **ours), rlax.td_lambda(v, r, d, w, np.float32(0.8))),
        (rl.n_step_returns(rewards, next_values, n=4, gamma=discounts), rlax.n_step_bootstrapped_returns(r, d, w, 4)),
        (rl.discounted_returns(rewards, gamma=discounts), rlax.discounted_returns(r, d, np.float32(0))),
    ):
        torch.testing.assert_close(found, torch.tensor(np.array(expected)), rtol=1e-5, atol=1e-6)
