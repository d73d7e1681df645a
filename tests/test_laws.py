"""The laws that every loss of the table obeys, on every backend that runs here."""

from __future__ import annotations

import pytest
import row_cases as cases
import torch
from support import BACKENDS, DTYPES, assert_close, generator, gradient_terms, to, value_and_grad

import fastloss

_NO_KERNELS = pytest.param("none", "cpu", marks=pytest.mark.skip("no kernels here"))
backends = pytest.mark.parametrize(("backend", "device"), BACKENDS or [_NO_KERNELS])
all_cases = pytest.mark.parametrize("case", cases.ALL, ids=str)


def inputs(case: cases.Case, dtype: torch.dtype, device: str = "cpu"):
    """(args, kwargs) in dtype on the device, and the same numbers in float64 on the CPU."""
    args, kwargs = case.make(generator(case.name))
    args, kwargs = to(args, device, dtype), {**to(kwargs, device, dtype), **case.options}
    return (args, kwargs), (to(args, "cpu", torch.float64), to(kwargs, "cpu", torch.float64))


@pytest.mark.parametrize("case", cases.ALL + cases.REFERENCE_ONLY, ids=str)
@pytest.mark.parametrize("reduction", cases.REDUCTIONS)
def test_reference_agrees_with_the_oracle(case, reduction):
    (args, kwargs), _ = inputs(case, torch.float64)
    with fastloss.backend("reference"):
        value, grad = value_and_grad(case.loss, args, {**kwargs, "reduction": reduction})
    expected, expected_grad = value_and_grad(case.oracle, args, {**kwargs, "reduction": reduction})
    terms = gradient_terms(args[0], reduction)  # of the log-sum too
    assert_close(value, expected, torch.float64, terms=terms)
    assert_close(grad, expected_grad, torch.float64, "gradient", terms)


@backends
@all_cases
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_kernels_agree_with_the_oracle(case, backend, device, dtype):
    (args, kwargs), (args64, kwargs64) = inputs(case, dtype, device)
    for reduction in case.reductions:
        upstream = torch.rand((), generator=generator(case.name + reduction)).double() + 0.5
        expected, expected_grad = value_and_grad(case.oracle, args64, {**kwargs64, "reduction": reduction})
        if reduction == "none":
            upstream = torch.randn(expected.shape, generator=generator(case.name), dtype=torch.float64)
        upstream = upstream.to(dtype).double()
        expected, expected_grad = value_and_grad(case.oracle, args64, {**kwargs64, "reduction": reduction}, upstream)
        with fastloss.backend(backend):
            value, grad = value_and_grad(case.loss, args, {**kwargs, "reduction": reduction}, upstream)
            with torch.no_grad():
                forward_only = case.loss(*args, **kwargs, reduction=reduction)
        assert value.dtype == grad.dtype == dtype
        terms = gradient_terms(args[0], reduction)  # of the log-sum too
        assert_close(value, expected, dtype, f"{reduction} value", terms)
        assert_close(forward_only, expected, dtype, f"{reduction} value without grad", terms)
        terms = gradient_terms(args[0], reduction, upstream.abs().max().item())
        assert_close(grad, expected_grad, dtype, f"{reduction} gradient", terms)


@backends
@pytest.mark.parametrize("case", cases.DIFFERENTIATED_TWICE, ids=str)
@pytest.mark.parametrize("reduction", ["none", "mean"])
def test_gradcheck_and_gradgradcheck(case, backend, device, reduction):
    (args, kwargs), _ = inputs(case, torch.float64, device)
    leaf = args[0].requires_grad_()
    with fastloss.backend(backend):

        def f(x):
            return case.loss(x, *args[1:], **kwargs, reduction=reduction)

        assert torch.autograd.gradcheck(f, (leaf,), fast_mode=True)
        assert torch.autograd.gradgradcheck(f, (leaf,), fast_mode=True)


@backends
@all_cases
def test_the_same_input_gives_the_same_bits(case, backend, device):
    (args, kwargs), _ = inputs(case, torch.float32, device)
    threads = torch.get_num_threads()
    seen = []
    with fastloss.backend(backend):
        try:
            for count in (2, 1, 3):
                torch.set_num_threads(count)
                seen.append(value_and_grad(case.loss, args, kwargs))
        finally:
            torch.set_num_threads(threads)
    for value, grad in seen[1:]:
        assert torch.equal(value, seen[0][0])
        assert torch.equal(grad, seen[0][1])


@backends
@all_cases
def test_arguments_are_left_alone(case, backend, device):
    (args, kwargs), _ = inputs(case, torch.float32, device)
    before = to(args, device), dict(kwargs)
    copies = tuple(a.clone() for a in args)
    with fastloss.backend(backend):
        value_and_grad(case.loss, args, kwargs)
    assert all(torch.equal(a, b) for a, b in zip(args, copies, strict=True))
    assert before[1].keys() == kwargs.keys()


@backends
@all_cases
def test_backward_again_and_with_create_graph(case, backend, device):
    """retain_graph: the second gradient equals the first, and the first is not touched by the second."""
    (args, kwargs), _ = inputs(case, torch.float32, device)
    for reduction in case.reductions:
        leaf = args[0].clone().requires_grad_()
        with fastloss.backend(backend):
            value = case.loss(leaf, *args[1:], **kwargs, reduction=reduction)
            ones = torch.ones_like(value)
            (first,) = torch.autograd.grad(value, leaf, ones * 2, retain_graph=True)
            kept = first.clone()
            (second,) = torch.autograd.grad(value, leaf, ones, retain_graph=True)
            (third,) = torch.autograd.grad(value, leaf, ones, create_graph=True)
        assert torch.equal(first, kept)
        assert first.data_ptr() != second.data_ptr()
        assert_close(first, 2 * second.double(), torch.float32)
        assert third.requires_grad
        assert_close(third, second.double(), torch.float32, terms=gradient_terms(leaf, reduction))


@backends
@all_cases
def test_func_transforms(case, backend, device):
    (args, kwargs), _ = inputs(case, torch.float64, device)
    x, rest = args[0], args[1:]
    terms = gradient_terms(x, "mean")
    with fastloss.backend(backend):

        def f(x, *rest):
            return case.loss(x, *rest, **kwargs)

        def g(x, *rest):
            return case.oracle(x, *rest, **kwargs)

        assert_close(torch.func.grad(f)(x, *rest), torch.func.grad(g)(x, *rest), torch.float64, "grad", terms)
        batch = torch.stack([x, 2 * x, x + 1])
        rests = tuple(torch.stack([r, r, r.flip(0) if r.dim() else r]) for r in rest)
        # the oracle in a loop: torch itself cannot vmap over all of these
        for axes, operands in [((0, *[0] * len(rest)), rests), ((0, *[None] * len(rest)), rest)]:
            entries = [tuple(r[i] for r in operands) if axes[-1] == 0 else operands for i in range(3)]
            loop = [value_and_grad(g, (batch[i], *entry), {}) for i, entry in enumerate(entries)]
            values, grads = (torch.stack(parts) for parts in zip(*loop, strict=True))
            mapped = torch.func.vmap(f, in_dims=axes)(batch, *operands)
            assert_close(mapped, values, torch.float64, f"vmap {axes}", terms)
            mapped = torch.func.vmap(torch.func.grad(f), in_dims=axes)(batch, *operands)
            assert_close(mapped, grads, torch.float64, f"vmap of grad {axes}", terms)


@all_cases
def test_forward_mode_is_right(case):
    (args, kwargs), _ = inputs(case, torch.float64)
    x, tangent = args[0], torch.randn_like(args[0])
    actual, expected = (
        torch.func.jvp(lambda x, h=h: h(x, *args[1:], **kwargs), (x,), (tangent,)) for h in (case.loss, case.oracle)
    )
    terms = gradient_terms(x, "mean")
    assert_close(actual[0], expected[0], torch.float64, terms=terms)
    assert_close(actual[1], expected[1], torch.float64, "tangent", tangent.abs().max().item())


@backends
@pytest.mark.parametrize("case", cases.DIFFERENTIATED_TWICE, ids=str)
def test_explicit_backends_refuse_forward_mode(case, backend, device):
    (args, kwargs), _ = inputs(case, torch.float64, device)
    with fastloss.backend(backend), pytest.raises(fastloss.BackendError, match="forward-mode"):
        torch.func.jvp(lambda x: case.loss(x, *args[1:], **kwargs), (args[0],), (args[0],))


@backends
@pytest.mark.parametrize("case", cases.REFERENCE_ONLY, ids=str)
def test_what_the_kernels_lack_is_said_and_answered(case, backend, device):
    (args, kwargs), _ = inputs(case, torch.float32, device)
    with (
        fastloss.backend(backend),
        pytest.raises(fastloss.BackendError, match="class probabilities and label smoothing"),
    ):
        case.loss(*args, **kwargs)
    assert fastloss.explain(case.loss, *args, **kwargs).backend == "reference"


@pytest.mark.slow(5)
@backends
@pytest.mark.parametrize("reduction", ["none", "mean"])
@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
@pytest.mark.parametrize("case", cases.COMPILED, ids=str)
def test_compile_fullgraph(case, backend, device, reduction, dynamic):
    torch._dynamo.reset()
    with fastloss.backend(backend):

        def f(*args, **kwargs):
            return case.loss(*args, **kwargs, reduction=reduction) * 2

        compiled = torch.compile(f, fullgraph=True, dynamic=dynamic)
        for name in (case.name, case.name + " again"):
            args, kwargs = case.make(generator(name))
            args, kwargs = to(args, device, torch.float32), {**to(kwargs, device, torch.float32), **case.options}
            if name.endswith("again") and dynamic:  # another number of rows
                args = tuple(torch.cat([a, a]) for a in args)
            value, grad = value_and_grad(compiled, args, kwargs)
            expected, expected_grad = value_and_grad(f, args, kwargs)
            assert_close(value, expected.double(), torch.float32)
            assert_close(grad, expected_grad.double(), torch.float32, "gradient")


@backends
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("case", cases.DIFFERENTIATED_TWICE, ids=str)
def test_autocast_as_torch(case, backend, device, dtype):
    """float32 losses of half logits, without a float32 copy of the logits; gradients in the dtype of the logits."""
    (args, kwargs), (args64, kwargs64) = inputs(case, dtype, device)
    expected, expected_grad = value_and_grad(case.oracle, args64, kwargs64)
    for name in (backend, "reference"):
        with torch.autocast(device, dtype), fastloss.backend(name):
            value, grad = value_and_grad(case.loss, args, kwargs)
        assert value.dtype == torch.float32
        assert grad.dtype == dtype
        assert_close(value, expected, torch.float32, f"{name} value")
        assert_close(grad, expected_grad, dtype, f"{name} gradient")
