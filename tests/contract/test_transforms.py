"""The contract beyond values: layouts, autograd, autocast, torch.func, torch.compile, export, fake tensors, subclasses,
threads, fork. Each drop-in does what torch's function does, while a kernel of ours answers where one can."""

from __future__ import annotations

import contextlib
import itertools
import pickle
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from cases.drop_ins import DROP_INS, LARGE, DropIn
from support import BACKENDS
from torch import Tensor
from torch._subclasses import FakeTensorMode
from torch._subclasses.fake_tensor import DataDependentOutputException
from torch.overrides import TorchFunctionMode
from torch.testing._internal.two_tensor import TwoTensor

import fastloss

KERNELS = [name for name, device in BACKENDS if device == "cpu"]
if not KERNELS:
    pytest.skip("no kernels run on CPU tensors here", allow_module_level=True)
backends = pytest.mark.parametrize("backend", ["auto", *KERNELS])
drop_ins = pytest.mark.parametrize("loss", DROP_INS, ids=str)


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def derivative(
    function: Callable[..., Tensor], loss: DropIn, tensors: dict[str, Any], wants: tuple[str, ...], **options: Any
) -> tuple[Tensor, ...]:
    """The value, and the gradients of `wants`; layouts of the tensors are kept."""
    leaves = {name: x.detach().requires_grad_(name in wants) for name, x in tensors.items()}
    value = function(*leaves.values(), **{**dict(loss.options), **options})
    upstream = torch.linspace(0.5, 1.5, max(1, value.numel())).reshape(value.shape) if value.numel() else value.detach()
    gradients = torch.autograd.grad(value, [leaves[name] for name in wants], upstream.to(value)) if wants else ()
    return value.detach(), *gradients


def assert_equal(ours: Any, torchs: Any, **tolerances: Any) -> None:
    torch.testing.assert_close(ours, torchs, equal_nan=True, **tolerances)


def fused(loss: DropIn, tensors: dict[str, Any], **options: Any) -> bool:
    answer = fastloss.explain(loss.ours, *tensors.values(), **{**dict(loss.options), **options})
    return answer.backend != "reference"


# ------------------------------------------------------------------------------------------ layouts

LAYOUTS: dict[str, Callable[[DropIn], dict[str, Tensor]]] = {
    "transposed": lambda loss: {k: _reordered(x) for k, x in loss.make().items()},
    "strided": lambda loss: {k: x.repeat_interleave(3, -1)[..., 1::3] for k, x in loss.make().items()},
    "backwards in one": lambda loss: {k: x[2:] for k, x in loss.make((62, 80)).items()},
    "expanded rows": lambda loss: {k: x.expand(60, *x.shape[1:]) for k, x in loss.make((1, 80)).items()},
    "channels last": lambda loss: {
        k: x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x
        for k, x in loss.make((5, 16, 8, 8)).items()
    },
    "five dimensions": lambda loss: loss.make((2, 7, 3, 11, 13)),
    "one dimension": lambda loss: loss.make((4800,)),
}


def _reordered(x: Tensor) -> Tensor:
    return x.t().contiguous().t() if x.dim() == 2 else x


@backends
@drop_ins
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("reduction", ["none", "sum"])
def test_layouts_as_torch(loss, layout, reduction, backend):
    tensors = LAYOUTS[layout](loss)
    expected = derivative(loss.torchs, loss, tensors, loss.differentiable, reduction=reduction)
    with fastloss.backend(backend):
        assert fused(loss, tensors, reduction=reduction)
        ours = derivative(loss.ours, loss, tensors, loss.differentiable, reduction=reduction)
    assert_equal(ours, expected)


@drop_ins
@pytest.mark.parametrize("shape", [(), (1,), (0,), (0, 3), (3, 0), (1, 1, 1)], ids=str)
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_tiny_and_empty(loss, shape, reduction):
    """The same value, or the same exception."""
    if loss.name == "cross_entropy" and shape in ((), (3, 0), (0,)):
        tensors = {
            "input": torch.zeros(shape),
            "target": torch.zeros((3,) if shape == (3, 0) else (), dtype=torch.long),
        }
    else:
        tensors = loss.make(shape)

    def attempt(function: Callable[..., Tensor]) -> Any:
        try:
            return derivative(function, loss, tensors, loss.differentiable, reduction=reduction)
        except Exception as error:
            return type(error), str(error)

    ours, expected = attempt(loss.ours), attempt(loss.torchs)
    if isinstance(expected[0], type):
        assert ours == expected
    else:
        assert_equal(ours, expected)


@pytest.mark.parametrize("name", ["mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss"])
@pytest.mark.parametrize(
    "dtype", [torch.int64, torch.int32, torch.uint8, torch.bool, torch.complex64, torch.complex128]
)
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_dtypes_without_kernels(name, dtype, reduction):
    """Complex numbers where torch takes them; integers: torch's result or torch's exception."""
    x, t = (torch.randn(LARGE, dtype=torch.complex128).mul(3).to(dtype) for _ in range(2))

    def attempt(function: Callable[..., Tensor]) -> Any:
        try:
            if not dtype.is_complex:
                return function(x, t, reduction=reduction)
            leaf = x.clone().requires_grad_()
            value = function(leaf, t, reduction=reduction)
            (gradient,) = torch.autograd.grad(value, leaf, torch.ones_like(value))
            return value.detach(), gradient
        except Exception as error:
            return type(error), str(error)

    assert_same_attempt(attempt(getattr(fastloss, name)), attempt(getattr(F, name)))


@pytest.mark.parametrize("loss", [x for x in DROP_INS if x.name != "cross_entropy"], ids=str)
def test_dtype_of_the_loss(loss):
    """Any two dtypes, of tensors with dimensions and of 0-d ones: the dtype of torch's loss, or the same exception."""
    dtypes = (torch.float64, torch.float32, torch.bfloat16, torch.float16, torch.int64, torch.uint8, torch.bool)
    large = {name: x.abs() for name, x in loss.make().items()}
    for first, last in itertools.product(dtypes, dtypes):
        for small in (None, *large):
            if small == "var":
                continue
            tensors = {name: (x if name != small else x[0, 0]).to(first) for name, x in large.items()}
            name = "target" if "var" in tensors else list(tensors)[-1]
            tensors[name] = tensors[name].to(last)
            answers: list[Any] = []
            for function in (loss.ours, loss.torchs):
                try:
                    answers.append(function(*tensors.values(), reduction="sum").dtype)
                except Exception as error:
                    answers.append(type(error))
            assert answers[0] == answers[1], (first, last, small)


def assert_same_attempt(ours: Any, torchs: Any) -> None:
    if isinstance(torchs, tuple) and isinstance(torchs[0], type):
        assert ours == torchs
    else:
        assert_equal(ours, torchs)


# ------------------------------------------------------------------------------------------ autograd


@backends
@drop_ins
def test_outside_autograd(loss, backend):
    tensors = {k: x.requires_grad_(k in loss.differentiable) for k, x in loss.make().items()}
    expected = derivative(loss.torchs, loss, tensors, ())[0]
    with fastloss.backend(backend):
        with torch.no_grad():
            value = loss.ours(*tensors.values(), **dict(loss.options))
            assert not value.requires_grad and value.grad_fn is None
            assert_equal(value, expected)
        with torch.inference_mode():
            value = loss.ours(*tensors.values(), **dict(loss.options))
            assert value.is_inference()
            assert_equal(value, expected)
            inference = {k: x.clone() for k, x in tensors.items()}
            assert_equal(loss.ours(*inference.values(), **dict(loss.options)), expected)
        detached = {k: x.detach() for k, x in tensors.items()}
        assert not loss.ours(*detached.values(), **dict(loss.options)).requires_grad


@backends
@drop_ins
def test_each_operand_alone_may_want_a_gradient(loss, backend):
    tensors = loss.make()
    for name in loss.differentiable:
        for reduction in ("none", "sum"):
            expected = derivative(loss.torchs, loss, tensors, (name,), reduction=reduction)
            with fastloss.backend(backend):
                assert_equal(derivative(loss.ours, loss, tensors, (name,), reduction=reduction), expected)


WEIGHTED = [
    ("mse_loss", "weight", LARGE),
    ("l1_loss", "weight", LARGE),
    ("huber_loss", "weight", LARGE),
    ("binary_cross_entropy", "weight", LARGE),
    ("binary_cross_entropy_with_logits", "weight", LARGE),
    ("binary_cross_entropy_with_logits", "pos_weight", LARGE[1:]),
    ("cross_entropy", "weight", LARGE[1:]),
]


@pytest.mark.parametrize(("name", "weight", "shape"), WEIGHTED)
def test_a_weight_that_wants_a_gradient(name, weight, shape):
    """As torch: its gradient, or its exception."""
    loss = next(x for x in DROP_INS if x.name == name)
    tensors = loss.make()
    w = torch.rand(shape, dtype=torch.float64) + 0.1

    def attempt(function: Callable[..., Tensor]) -> Any:
        leaf, x = w.clone().requires_grad_(), tensors["input"].clone().requires_grad_()
        try:
            value = function(x, tensors["target"], **{weight: leaf})
            return value.detach(), *torch.autograd.grad(value, [x, leaf], allow_unused=True)
        except Exception as error:
            return type(error), str(error)

    assert_same_attempt(attempt(loss.ours), attempt(loss.torchs))


def test_soft_targets_that_want_a_gradient():
    loss = DROP_INS[1]
    tensors = loss.make()
    both = ("input", "target")
    assert_equal(derivative(loss.ours, loss, tensors, both), derivative(loss.torchs, loss, tensors, both))


@backends
@drop_ins
def test_batched_gradients(loss, backend):
    """is_grads_batched, as in a vectorised jacobian."""
    tensors = loss.make((6, 900))
    name = loss.differentiable[0]
    for reduction in ("none", "sum"):
        results = []
        for function in (loss.ours, loss.torchs):
            leaves = {k: x.clone().requires_grad_(k == name) for k, x in tensors.items()}
            with fastloss.backend(backend):
                value = function(*leaves.values(), **{**dict(loss.options), "reduction": reduction})
            upstream = torch.linspace(0.5, 1.5, 3 * value.numel(), dtype=torch.float64).reshape(3, *value.shape)
            results.append(torch.autograd.grad(value, leaves[name], upstream, is_grads_batched=True)[0])
        assert_equal(*results)


@drop_ins
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_autocast_as_torch(loss, dtype):
    """Dtypes of values and gradients under autocast: torch's rules."""
    tensors = loss.make(dtype=dtype)
    results = []
    for function in (loss.ours, loss.torchs):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            try:
                results.append(derivative(function, loss, tensors, loss.differentiable))
            except RuntimeError as error:  # binary_cross_entropy refuses autocast
                results.append((type(error), str(error)))
    if isinstance(results[1][0], type):
        assert results[0] == results[1] or (results[0] is DataDependentOutputException and isinstance(results[1], list))
        return
    assert [x.dtype for x in results[0]] == [x.dtype for x in results[1]]
    for ours, torchs in zip(*results, strict=True):
        coarse = torch.finfo(min(dtype, ours.dtype, key=lambda d: -torch.finfo(d).eps)).eps
        scale = torchs.abs().max().item()
        assert_equal(ours, torchs, rtol=4 * coarse, atol=4 * coarse * scale)


# ------------------------------------------------------------------------------------------ torch.func


def bound(loss: DropIn, function: Callable[..., Tensor], **options: Any) -> Callable[..., Tensor]:
    return lambda *tensors: function(*tensors, **{**dict(loss.options), **options})


@backends
@drop_ins
def test_func(loss, backend):
    """torch.func's transforms: torch's results, or on an explicit backend the refusal of forward mode."""
    tensors = tuple(loss.make((9, 600)).values())
    small = tuple(loss.make((2, 3)).values())
    tangent = torch.linspace(-1, 1, tensors[0].numel(), dtype=torch.float64).reshape(tensors[0].shape)

    def jvp(f: Any) -> Any:
        return torch.func.jvp(lambda x: f(x, *tensors[1:]), (tensors[0],), (tangent,))

    def vjp(f: Any) -> Any:
        value, pullback = torch.func.vjp(lambda x: f(x, *tensors[1:]), tensors[0])
        return value, pullback(torch.full_like(value, 0.7))[0]

    def per_sample(f: Any) -> Any:
        return torch.func.vmap(lambda x, *rest: f(x, *rest))(*tensors)

    def per_sample_gradient(f: Any) -> Any:
        return torch.func.vmap(torch.func.grad(f))(*tensors)

    def one_batched(f: Any) -> Any:
        return torch.func.vmap(f, in_dims=(0, *[None] * (len(tensors) - 1)))(
            torch.stack([tensors[0], tensors[0].roll(1, 0)]), *tensors[1:]
        )

    transforms: dict[str, Callable[[Any], Any]] = {
        "grad": lambda f: torch.func.grad(f)(*tensors),
        "grad_and_value": lambda f: torch.func.grad_and_value(f)(*tensors),
        "vjp": vjp,
        "jvp": jvp,
        "vmap": per_sample,
        "vmap of one operand": one_batched,
        "vmap(grad)": per_sample_gradient,
        "hessian": lambda f: torch.func.hessian(f)(*small),
        "jacrev(jacrev)": lambda f: torch.func.jacrev(torch.func.jacrev(f))(*small),
        "grad(grad)": lambda f: torch.func.grad(lambda x: torch.func.grad(f)(x, *tensors[1:]).square().sum())(
            tensors[0]
        ),
    }
    options = {"reduction": "sum"}
    for name, transform in transforms.items():
        expected, failure = None, ""
        try:
            expected = transform(bound(loss, loss.torchs, **options))
        except (RuntimeError, NotImplementedError) as error:
            failure = str(
                error
            )  # torch has no forward derivative of some backwards, and no vmap over a look at the data
        assert not failure or "forward AD" in failure or "data-dependent" in failure, (name, failure)
        with fastloss.backend(backend):
            try:
                ours = transform(bound(loss, loss.ours, **options))
            except fastloss.BackendError:
                assert backend != "auto" and name in ("jvp", "hessian"), name
                continue
            except (RuntimeError, NotImplementedError):
                assert expected is None, name
                continue
        if expected is not None:
            assert_equal(ours, expected)


@drop_ins
def test_forward_mode(loss):
    """The tangent is torch's, and not zero."""
    tensors = loss.make()
    first = tensors[loss.differentiable[0]]
    tangent = torch.linspace(-1, 2, first.numel(), dtype=first.dtype).reshape(first.shape)
    results = []
    for function in (loss.ours, loss.torchs):
        with torch.autograd.forward_ad.dual_level():
            first, *rest = tensors.values()
            dual = torch.autograd.forward_ad.make_dual(first, tangent)
            value = function(dual, *rest, **dict(loss.options))
            results.append(torch.autograd.forward_ad.unpack_dual(value).tangent)
    assert results[0] is not None and results[0].count_nonzero()
    assert_equal(*results)


# ------------------------------------------------------------------------------------------ compile, export, fakes

COMPILED = [
    x for x in DROP_INS if x.name in ("cross_entropy", "mse_loss", "binary_cross_entropy_with_logits", "kl_div")
]


@pytest.mark.parametrize("loss", COMPILED, ids=str)
def test_compile_with_dynamic_shapes(loss):
    """fullgraph; one compilation serves all shapes; values and gradients are torch's."""
    torch._dynamo.reset()
    graphs: list[str] = []
    known = 0

    def backend(graph: Any, inputs: Any) -> Any:
        graphs.append(graph.code)
        return torch._dynamo.lookup_backend("aot_eager")(graph, inputs)

    compiled = torch.compile(bound(loss, loss.ours), backend=backend, fullgraph=True, dynamic=True)
    for shape in ((60, 80), (70, 90), (120, 75)):
        tensors = loss.make(shape)
        expected = derivative(loss.torchs, loss, tensors, loss.differentiable)
        leaves = {name: x.requires_grad_(name in loss.differentiable) for name, x in tensors.items()}
        value = compiled(*leaves.values())
        gradients = torch.autograd.grad(
            value, [leaves[name] for name in loss.differentiable], torch.full_like(value, 0.5)
        )
        assert_equal((value.detach(), *gradients), expected)
        known = known or len(graphs)
    assert len(graphs) == known, "a graph for each shape"
    assert all("autograd_function_apply" in code for code in graphs)


@pytest.mark.parametrize("strict", [False, True], ids=["non-strict", "strict"])
@pytest.mark.parametrize("loss", COMPILED, ids=str)
def test_export(loss, strict):
    """With a dynamic batch; the program runs with other batches, and is made of torch's operators."""

    class Model(torch.nn.Module):
        def forward(self, *tensors: Tensor) -> Tensor:
            return loss.ours(*tensors, **dict(loss.options))

    tensors = tuple(loss.make().values())
    batch = torch.export.Dim("batch", min=10)
    shapes = {"tensors": tuple({0: batch} for _ in tensors)}
    program = torch.export.export(Model(), tensors, dynamic_shapes=shapes, strict=strict)
    assert "fastloss" not in program.graph_module.code
    for n in (60, 131):
        others = tuple(loss.make((n, 80)).values())
        assert_equal(program.module()(*others), loss.torchs(*others, **dict(loss.options)))


@drop_ins
@pytest.mark.parametrize("kind", ["meta", "fake"])
@pytest.mark.parametrize("reduction", ["none", "mean"])
def test_tensors_without_data(loss, kind, reduction):
    """Shapes, dtypes, devices and strides of values and gradients."""
    tensors = loss.make(dtype=torch.bfloat16)
    results: list[Any] = []
    for function in (loss.torchs, loss.ours):
        mode = FakeTensorMode()
        with contextlib.nullcontext() if kind == "meta" else mode:
            there = {
                k: x.to("meta") if kind == "meta" else mode.from_tensor(x, static_shapes=True)
                for k, x in tensors.items()
            }
            try:
                values = derivative(function, loss, there, loss.differentiable, reduction=reduction)
            except Exception as error:
                results.append(type(error))  # torch's gaussian_nll_loss looks at the variance
                continue
        results.append([(x.shape, x.dtype, x.device, x.stride()) for x in values])
    refused = results[0] in (DataDependentOutputException, RuntimeError)  # and ours looks only where there is data
    assert results[0] == results[1] or (refused and loss.name == "gaussian_nll_loss" and isinstance(results[1], list))


# ------------------------------------------------------------------------------------------ subclasses and modes


class Plain(Tensor):
    """A subclass with the default __torch_function__: results are of the subclass."""


class Table(Tensor):
    """A subclass that knows torch's functions by identity, and refuses all else, attributes included."""

    known: dict[Any, Callable[..., Any]] = {}  # noqa: RUF012

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func not in cls.known:
            return NotImplemented
        return cls.known[func](*args, **(kwargs or {}))


class Duck:
    """No tensor at all."""

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return "duck", func, args, kwargs or {}


@drop_ins
@pytest.mark.parametrize("patched", [False, True])
@pytest.mark.parametrize("shape", [(3, 4), LARGE], ids=str)
def test_subclasses(loss, shape, patched):
    """Whoever has a __torch_function__ gets torch's function, as from torch, also while ours stands in its place."""
    tensors = loss.make(shape)
    options = dict(loss.options)
    torchs = loss.torchs
    expected = torchs(*tensors.values(), **options)
    with fastloss.patched() if patched else contextlib.nullcontext():
        plain = [x.as_subclass(Plain) for x in tensors.values()]
        value = loss.ours(*plain, **options)
        assert type(value) is Plain
        assert_equal(value.as_subclass(Tensor), expected)
        Table.known = {torchs: lambda *args, **kwargs: ("table", len(args), kwargs)}
        only_last = [*list(tensors.values())[:-1], plain[-1].as_subclass(Table)]
        assert loss.ours(*only_last, **options) == ("table", len(only_last), options)
        kind, function, args, kwargs = loss.ours(Duck(), *plain[1:], **options)
        assert kind == "duck" and function is torchs and len(args) == len(plain) and kwargs == options
        by_name = dict(zip(tensors, [Duck()] * len(tensors), strict=True))
        assert loss.ours(**by_name)[1] is torchs
        assert str(fastloss.explain(loss.ours, *plain, **options)).startswith(
            "reference: an argument has a __torch_func"
        )
        with fastloss.backend(KERNELS[0]), pytest.raises(fastloss.BackendError, match="__torch_function__"):
            loss.ours(*plain, **options)


def test_subclasses_and_extras():
    """What torch's function does not take goes to the subclass as a call of ours."""
    x, t = torch.randn(90, 60), torch.randint(60, (90,))
    duck = fastloss.cross_entropy(Duck(), t, z_loss=0.1)
    assert duck[1] is fastloss.cross_entropy and duck[3] == {"z_loss": 0.1}
    assert fastloss.log_cosh_loss(Duck(), t)[1] is fastloss.log_cosh_loss
    value = fastloss.cross_entropy(x.as_subclass(Plain), t, z_loss=0.1)
    assert type(value) is Plain
    assert_equal(value.as_subclass(Tensor), fastloss.cross_entropy(x, t, z_loss=0.1))


@drop_ins
def test_wrapper_subclasses(loss):
    """Subclasses that hold tensors and work by __torch_dispatch__ (DTensor is one): no kernel sees through them."""
    tensors = loss.make()
    wrapped = [TwoTensor(x, x.clone()) for x in tensors.values()]
    try:
        expected = loss.torchs(*wrapped, **dict(loss.options))
    except Exception as error:
        with pytest.raises(type(error)):
            loss.ours(*wrapped, **dict(loss.options))
        return
    value = loss.ours(*wrapped, **dict(loss.options))
    assert type(value) is TwoTensor
    assert_equal(value.b, expected.b)
    assert not fused(loss, dict(zip(tensors, wrapped, strict=True)))


@drop_ins
def test_parameters_and_modes(loss):
    """nn.Parameter does not answer for itself, and neither a mode nor a default device leaves the kernels."""

    class Watching(TorchFunctionMode):
        seen = 0

        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            Watching.seen += 1
            return func(*args, **(kwargs or {}))

    tensors = loss.make()
    expected = loss.torchs(*tensors.values(), **dict(loss.options))
    first = next(iter(tensors))
    tensors[first] = torch.nn.Parameter(tensors[first])
    assert fused(loss, tensors)
    for mode in (torch.device("cpu"), Watching()):
        with mode:
            assert fused(loss, tensors)
            value = loss.ours(*tensors.values(), **dict(loss.options))
        assert_equal(value.detach(), expected)
        value.backward()
    assert Watching.seen


# ------------------------------------------------------------------------------------------ processes and threads


def test_functions_pickle_by_name():
    for name in fastloss.functional.__all__:
        function = getattr(fastloss.functional, name)
        assert pickle.loads(pickle.dumps(function)) is function


def test_threads_at_once():
    """Several threads at once, each with a backend of its own, over all losses: the same bits as in one thread."""
    cases = [(loss, loss.make()) for loss in DROP_INS]
    expected = [derivative(loss.ours, loss, tensors, loss.differentiable) for loss, tensors in cases]
    wrong: list[Any] = []
    start = threading.Barrier(4)

    def work(backend: str) -> None:
        start.wait()
        for _ in range(5):
            for (loss, tensors), values in zip(cases, expected, strict=True):
                with fastloss.backend(backend):
                    answer = fastloss.explain(loss.ours, *tensors.values(), **dict(loss.options)).backend
                    got = derivative(loss.ours, loss, tensors, loss.differentiable)
                if backend != "auto" and answer != backend:
                    wrong.append((loss, backend, answer))
                if backend != "reference" and not all(map(torch.equal, got, values)):
                    wrong.append((loss, "other bits"))

    threads = [threading.Thread(target=work, args=(b,)) for b in ("auto", KERNELS[0], "reference", "auto")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


FORK = """
import os, torch, fastloss
x = torch.randn(512, 300, requires_grad=True)
t = torch.randint(300, (512,))
{parent}
child = os.fork()
if child == 0:
    {child}
    fastloss.cross_entropy(x, t).backward()
    fastloss.huber_loss(x, x.detach().roll(1)).backward()
    os._exit(0 if x.grad.isfinite().all() else 1)
status = os.waitpid(child, 0)[1]
fastloss.cross_entropy(x, t).backward()
print("fine" if status == 0 else status)
"""


@pytest.mark.parametrize(
    ("parent", "child"),
    [
        ("", ""),
        # as torch.utils.data does it: OpenMP's threads do not survive a fork, so the child takes one
        ("fastloss.cross_entropy(x, t).backward(); x.grad = None", "torch.set_num_threads(1)"),
    ],
    ids=["before the first loss", "after it"],
)
def test_fork_after_import(parent, child):
    run = subprocess.run(
        [sys.executable, "-c", FORK.format(parent=parent, child=child)], capture_output=True, text=True, timeout=60
    )
    assert run.stdout.strip() == "fine", run.stdout + run.stderr
