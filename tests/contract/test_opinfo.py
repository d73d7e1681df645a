"""The contract: torch's own test data for losses, through fastloss, on every backend that runs here.

OpInfo (torch.testing._internal.common_methods_invocations.op_db): sample inputs, reference inputs, error inputs,
gradcheck, gradgradcheck, forward mode. ModuleInfo (common_modules.module_db): inputs and errors of the loss Modules.

"auto" is the automatic choice without its rule that tiny inputs are torch's: all of torch's samples are tiny. An
explicit backend computes a sample or raises BackendError; that is counted, and must be so where "auto" leaves the
sample to the reference. The table at the end says what answered.
"""

from __future__ import annotations

import copy
import itertools
import pickle
import re
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from contract.table import CONTRACT
from support import BACKENDS, SEED, assert_close
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_map

import fastloss
from fastloss.core import arguments, torch_losses
from fastloss.skeletons import linear

pytest.importorskip("expecttest", reason="torch.testing._internal imports it")

from torch.testing._internal.common_methods_invocations import op_db
from torch.testing._internal.common_modules import ModuleErrorEnum, module_db

PREFIX = "nn.functional."
LOSSES = {name for name in fastloss.functional.__all__ if hasattr(F, name)}
OPS = [op for op in op_db if op.name.removeprefix(PREFIX) in LOSSES and op.name.startswith(PREFIX)]
MODULES = [info for info in module_db if hasattr(fastloss.nn, info.module_cls.__name__)]
LANES = [("auto", device) for device in sorted({device for _, device in BACKENDS} | {"cpu"})] + BACKENDS
DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16, torch.complex64, torch.int64, torch.uint8)

FUSED = ("cpu", "cuda", "triton")

every_op = pytest.mark.parametrize("op", OPS, ids=lambda op: op.formatted_name.removeprefix("nn_functional_"))
lanes = pytest.mark.parametrize(("backend", "device"), LANES)


def dtypes_of(backend: str, device: str) -> tuple[torch.dtype, ...]:
    """All; but one where "auto" takes the same kernels, and has run over all."""
    x = torch.zeros(100, 100, device=device)
    return (torch.float32,) if fastloss.explain(fastloss.log_cosh_loss, x, x).backend == backend else DTYPES


def in_turn(samples: Iterable[Any], place: int, dtypes: int) -> list[Any]:
    """All samples; where torch has more than 100, each in one of the dtypes, in turn: those of the dtype at `place`."""
    samples = list(samples)
    return samples if len(samples) <= 100 else samples[place::dtypes]


@pytest.fixture(autouse=True)
def _setting(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for module in (arguments, linear):
        monkeypatch.setattr(module, "SMALL_ON_CPU", -1)
    torch.manual_seed(SEED)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # test_drop_ins.py compares the warnings
        yield


@pytest.fixture
def count(request: pytest.FixtureRequest) -> Iterator[Counter[tuple[str, str]]]:
    """How many samples of a loss fall into a column of the table."""
    counter: Counter[tuple[str, str]] = Counter()
    yield counter
    request.node.user_properties += [(CONTRACT, (*key, number)) for key, number in counter.items()]


def ours_of(op: Any) -> Callable[..., Tensor]:
    name = op.name.removeprefix(PREFIX)
    assert op.op is getattr(F, name), f"{op.name}: torch tests something else than its function"
    return getattr(fastloss.functional, name)


def samples_of(op: Any, device: str, dtype: torch.dtype) -> list[Any]:
    """The sample inputs, some of which want gradients, then the reference inputs, if they are others."""
    wants = dtype.is_floating_point or dtype.is_complex
    more = op.reference_inputs(device, dtype) if op.reference_inputs_func else ()
    return [*op.sample_inputs(device, dtype, requires_grad=wants), *more]


# ------------------------------------------------------------------------------------------ values and gradients


def outcome(function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """(value, gradients of all leaves); or the exception."""
    leaves: list[Tensor] = []

    def fresh(x: Any) -> Any:
        if not isinstance(x, Tensor):
            return x
        y = x.detach().clone(memory_format=torch.preserve_format).requires_grad_(x.requires_grad)
        leaves.append(y)
        return y

    args, kwargs = tree_map(fresh, args), tree_map(fresh, kwargs)
    try:
        value = function(*args, **kwargs)
        wanted = [x for x in leaves if x.requires_grad]
        wanted += function.parameters() if isinstance(function, torch.nn.Module) else []
        gradients: tuple[Tensor | None, ...] = ()
        if wanted and value.requires_grad:
            upstream = torch.linspace(0.5, 1.5, max(1, value.numel()), dtype=torch.float64)[: value.numel()]
            upstream = upstream.reshape(value.shape).to(value)
            gradients = torch.autograd.grad(value, wanted, upstream, allow_unused=True)
        return value.detach(), value.requires_grad, gradients
    except Exception as error:
        return error


def identical(a: Tensor | None, b: Tensor | None) -> bool:
    if a is None or b is None:
        return a is b
    return a.dtype == b.dtype and a.shape == b.shape and bool(((a == b) | ((a != a) & (b != b))).all())


def widest(x: Any) -> Any:
    if isinstance(x, Tensor) and x.dtype in (torch.bfloat16, torch.float16, torch.float32):
        return x.detach().double().requires_grad_(x.requires_grad)
    return x


def assert_same(
    ours: Any, torchs: Any, function: Callable[..., Any], args: Any, kwargs: Any, dtype: torch.dtype
) -> None:
    """As torch's: to the bit, or as near to torch's in float64 as the dtype allows."""
    if isinstance(torchs, Exception):
        assert type(ours) is type(torchs), f"torch raises {torchs!r}, ours gives {ours!r}"
        return
    assert not isinstance(ours, Exception), f"ours raises {ours!r}"
    assert ours[0].dtype == torchs[0].dtype and ours[0].shape == torchs[0].shape
    assert ours[1] == torchs[1], "requires_grad of the loss"
    mine, theirs = [ours[0], *ours[2]], [torchs[0], *torchs[2]]
    assert [x is None for x in mine] == [x is None for x in theirs], "which gradients there are"
    if all(map(identical, mine, theirs)):
        return
    assert dtype.is_floating_point, "only rounding may differ"
    kwargs = {name: x for name, x in kwargs.items() if name != "options"}  # how linear_cross_entropy saves memory
    wide = outcome(function, tree_map(widest, args), tree_map(widest, kwargs))
    for a, b, expected in zip(mine, theirs, [wide[0], *wide[2]], strict=True):
        if a is not None:
            assert a.dtype == b.dtype and a.shape == b.shape
            assert a.layout == b.layout and (a.stride() == b.stride() or 1 in a.shape or a.numel() == 0 or a is mine[0])
            assert_close(a, expected, dtype, terms=1.0)


@lanes
@every_op
def test_samples(op, backend, device, count):
    ours, name = ours_of(op), op.formatted_name.removeprefix("nn_functional_")
    if ours is op.op:
        count[name, "torch's own"] += len(samples_of(op, device, torch.float32))
        return
    tried = 0
    dtypes = [dtype for dtype in dtypes_of(backend, device) if dtype in op.supported_dtypes(device)]
    for place, dtype in enumerate(dtypes):
        for sample in in_turn(samples_of(op, device, dtype), place, len(dtypes)):
            args, kwargs = (sample.input, *sample.args), sample.kwargs
            torchs = outcome(op.op, args, kwargs)
            tried += 1
            with fastloss.backend(backend):
                try:
                    answered = fastloss.explain(ours, *args, **kwargs).backend
                except fastloss.BackendError:
                    answered = f"not on {backend}"
                mine = outcome(ours, args, kwargs)
            if backend != "auto" and isinstance(mine, fastloss.BackendError):
                answered = f"not on {backend}"
                with fastloss.backend("auto"):
                    assert fastloss.explain(ours, *args, **kwargs).backend == "reference"
            else:
                assert_same(mine, torchs, op.op, args, kwargs, dtype)
            count[name, f"auto: {answered.replace('reference', 'torch')}" if backend == "auto" else answered] += 1
    assert tried
    if hasattr(torch_losses, op.name.removeprefix(PREFIX)):
        assert any(count[name, key] for key in (backend, *(f"auto: {kernel}" for kernel in FUSED))), (
            "no kernel answered"
        )


@lanes
@every_op
def test_errors_of_torchs_samples(op, backend, device, count):
    """Torch's exceptions, with torch's messages."""
    if op.error_inputs_func is None:
        return  # torch has none; the table shows a dash
    ours = ours_of(op)
    for case in op.error_inputs(device):
        sample = case.sample_input
        with fastloss.backend(backend), pytest.raises(case.error_type) as caught:
            ours(sample.input, *sample.args, **sample.kwargs)
        # an explicit backend may say first that it does not compute the case
        if not isinstance(caught.value, fastloss.BackendError):
            assert re.search(case.error_regex, str(caught.value)), str(caught.value)
        count[op.formatted_name.removeprefix("nn_functional_"), "errors"] += 1


# ------------------------------------------------------------------------------------------ derivatives


def smooth_samples(op: Any, device: str) -> list[Any]:
    """Small samples with a leaf that wants a gradient; at most 12, of different arguments."""
    chosen: dict[Any, Any] = {}
    for sample in op.sample_inputs(device, torch.float64, requires_grad=True):
        leaves = [x for x in tree_flatten(((sample.input, *sample.args), sample.kwargs))[0] if isinstance(x, Tensor)]
        if any(x.requires_grad for x in leaves) and max(x.numel() for x in leaves) <= 150:
            options = {k: v for k, v in sample.kwargs.items() if not isinstance(v, Tensor)}
            chosen.setdefault((repr(sorted(options.items())), tuple(x.dim() for x in leaves)), sample)
    return list(chosen.values())[:12]


def differentiable(function: Callable[..., Any], sample: Any) -> tuple[Callable[..., Any], tuple[Tensor, ...]]:
    """The function of those of the sample's tensors that want a gradient, and these."""
    flat, structure = tree_flatten(((sample.input, *sample.args), sample.kwargs))
    places = [i for i, x in enumerate(flat) if isinstance(x, Tensor) and x.requires_grad]

    def of_leaves(*leaves: Tensor) -> Any:
        values = list(flat)
        for place, leaf in zip(places, leaves, strict=True):
            values[place] = leaf
        args, kwargs = torch.utils._pytree.tree_unflatten(values, structure)
        return sample.output_process_fn_grad(function(*args, **kwargs))

    return of_leaves, tuple(flat[i] for i in places)


@lanes
@every_op
def test_derivatives(op, backend, device, count):
    """gradcheck and gradgradcheck of torch, with forward mode and batched gradients, where torch's own passes them."""
    if not hasattr(torch_losses, op.name.removeprefix(PREFIX)):
        return  # torch's own function
    ours, name = ours_of(op), op.formatted_name.removeprefix("nn_functional_")
    checked = 0
    for sample in smooth_samples(op, device):
        function, leaves = differentiable(ours, sample)
        with fastloss.backend(backend):
            try:
                function(*leaves)
            except fastloss.BackendError:
                continue
            forward = backend == "auto"  # an explicit backend refuses forward mode
            common = {"fast_mode": True, "nondet_tol": op.gradcheck_nondet_tol}
            assert torch.autograd.gradcheck(
                function,
                leaves,
                check_forward_ad=forward and op.supports_forward_ad,
                check_batched_grad=op.check_batched_grad,
                **common,
            )
            if op.supports_gradgrad:
                assert torch.autograd.gradgradcheck(function, leaves, **common)
            if forward and op.supports_fwgrad_bwgrad:
                assert torch.autograd.gradgradcheck(
                    function,
                    leaves,
                    check_fwd_over_rev=True,
                    check_rev_over_rev=False,
                    check_undefined_grad=False,
                    **common,
                )
            checked += 1
    assert checked or backend != "auto"
    count[name, "gradchecks"] += checked


# ------------------------------------------------------------------------------------------ Modules


@pytest.mark.parametrize("info", MODULES, ids=lambda info: info.module_cls.__name__)
@pytest.mark.parametrize(("backend", "device"), [lane for lane in LANES if dtypes_of(*lane) == DTYPES])
def test_modules_of_torchs_samples(info, backend, device, count):
    """Values, gradients, repr, state, pickle and deepcopy of a Module, made and called with ModuleInfo's inputs."""
    name = info.module_cls.__name__
    kind = getattr(fastloss.nn, name)
    if kind is info.module_cls:
        count[name, "torch's own"] += 1
        return
    copies: list[Callable[[Any], Any]] = [lambda module: module, copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))]
    for place, dtype in enumerate(DTYPES[:2]):
        cases = info.module_inputs_func(info, device=device, dtype=dtype, requires_grad=True, training=True)
        for case, copied in zip(in_turn(cases, place, 2), itertools.cycle(copies), strict=False):
            make, call = case.constructor_input, case.forward_input
            torchs = info.module_cls(*make.args, **make.kwargs).to(device, dtype)
            mine = kind(*make.args, **make.kwargs).to(device, dtype)
            mine.load_state_dict(torchs.state_dict())
            assert repr(mine) == repr(torchs)
            expected = outcome(torchs, call.args, call.kwargs)
            with fastloss.backend(backend):
                got = outcome(copied(mine), call.args, call.kwargs)
            if backend != "auto" and isinstance(got, fastloss.BackendError):
                count[name, f"not on {backend}"] += 1
                continue
            assert_same(got, expected, torchs.double(), call.args, call.kwargs, dtype)
            count[name, f"Module, {backend}"] += 1


@pytest.mark.parametrize(
    "info", [i for i in MODULES if i.module_error_inputs_func], ids=lambda info: info.module_cls.__name__
)
def test_errors_of_modules(info, count):
    kind = getattr(fastloss.nn, info.module_cls.__name__)
    for case in info.module_error_inputs_func(
        info, device="cpu", dtype=torch.float32, requires_grad=False, training=True
    ):
        make, call = case.module_error_input.constructor_input, case.module_error_input.forward_input
        if case.error_on == ModuleErrorEnum.CONSTRUCTION_ERROR:
            with pytest.raises(case.error_type, match=case.error_regex):
                kind(*make.args, **make.kwargs)
        else:
            module = kind(*make.args, **make.kwargs)
            with pytest.raises(case.error_type, match=case.error_regex):
                module(*call.args, **call.kwargs)
        count[info.module_cls.__name__, "errors"] += 1
