"""The laws that every pointwise loss obeys, over the table of pointwise_cases.py, on every backend of this machine."""

from __future__ import annotations

import itertools
import math
import warnings
import weakref
from typing import Any

import pointwise_cases
import pytest
import torch
from pointwise_case import Case
from support import BACKENDS, assert_close, generator, to
from torch import Tensor

import fastloss

pytestmark = pytest.mark.filterwarnings("ignore:Using a target size", "ignore:reduction. 'mean' divides")
CASES = pointwise_cases.ALL
all_cases = pytest.mark.parametrize("case", CASES, ids=str)
backends = pytest.mark.parametrize(("backend", "device"), BACKENDS, ids=[name for name, _ in BACKENDS])
if not BACKENDS:
    backends = pytest.mark.skip(reason="no kernels on this machine")
one_of_each = pytest.mark.parametrize("case", pointwise_cases.ONE_OF_EACH, ids=str)

Arguments = dict[str, Any]


def how(case: Case, reduction: str) -> Arguments:
    return {case.reduction_argument: reduction}


def reductions(case: Case) -> tuple[str, ...]:
    return case.reductions


def reduced(case: Case) -> str:
    return next(r for r in case.reductions if r != "none")


def compute(
    case: Case, tensors: Arguments, options: Arguments, upstream: Tensor | None = None
) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss and its gradients by the differentiable arguments that are tensors."""
    leaves = {
        name: tensors[name].detach().requires_grad_()
        for name in case.differentiable
        if isinstance(tensors.get(name), Tensor)
    }
    value = case.loss(**{**tensors, **leaves}, **options)
    if isinstance(value, tuple):
        value = value[0]
    gradients = torch.autograd.grad(
        value, list(leaves.values()), torch.ones_like(value) if upstream is None else upstream.to(value)
    )
    return value.detach(), dict(zip(leaves, gradients, strict=True))


def expected(case: Case, tensors: Arguments, options: Arguments, upstream: Tensor | None = None):
    """The reference body in float64."""
    with fastloss.backend("reference"):
        return compute(case, to(tensors, "cpu", torch.float64), to(options, "cpu", torch.float64), upstream)


def shape_of(tensors: Arguments) -> torch.Size:
    return torch.broadcast_shapes(*(x.shape for x in tensors.values() if isinstance(x, Tensor)))


def terms_of(case: Case, tensors: Arguments, options: Arguments, upstream: Tensor | None = None) -> dict[str, float]:
    """Of each gradient, the largest sum of magnitudes behind an entry: the gradient of a broadcast operand is a sum of
    rounded terms, in torch too, and they may cancel."""
    shape = shape_of(tensors)
    of_elements = {
        name: x.expand(shape) if name in case.differentiable and isinstance(x, Tensor) else x
        for name, x in tensors.items()
    }
    _, gradients64 = expected(case, of_elements, options, upstream)
    return {name: g.abs().sum_to_size(tensors[name].shape).max().item() for name, g in gradients64.items()}


@backends
@all_cases
def test_kernels_agree_with_the_reference(case, backend, device):
    random = generator(case.name)
    made = case.make(random)
    for dtype in case.dtypes:
        tensors = to(made, device, dtype)
        for reduction in reductions(case):
            options = {**case.options, **how(case, reduction)}
            value64, _ = expected(case, tensors, options)
            upstream = torch.randn(value64.shape, generator=random, dtype=torch.float64).to(dtype).double()
            value64, gradients64 = expected(case, tensors, options, upstream)
            terms = terms_of(case, tensors, options, upstream)
            with fastloss.backend(backend):
                value, gradients = compute(case, tensors, options, upstream.to(device))
                with torch.no_grad():
                    forward_only = case.loss(**tensors, **options)
            what = f"{dtype} {reduction}"
            assert value.dtype == dtype, what
            assert_close(value, value64, dtype, f"{what} value")
            assert_close(forward_only, value64, dtype, f"{what} value without gradients")
            for name, gradient in gradients.items():
                assert gradient.dtype == tensors[name].dtype, what
                size = max(terms[name], 4 * torch.finfo(dtype).tiny)  # small halves are coarse
                assert_close(gradient, gradients64[name], dtype, f"{what} gradient of {name}", size)


@backends
@pytest.mark.parametrize("case", [case for case in CASES if case.oracle], ids=str)
def test_reference_agrees_with_the_oracle(case, backend, device):
    made = case.make(generator(case.name))
    with fastloss.backend("reference"):
        value = case.loss(**made, **case.options, **how(case, "none"))
    assert_close(value, case.oracle(**made, **case.options), torch.float64)


@backends
@pytest.mark.parametrize("case", [case for case in CASES if case.derivative], ids=str)
@pytest.mark.parametrize("reduction", ["none", "reduced"])
def test_gradcheck_and_gradgradcheck(case, backend, device, reduction):
    made = to(case.make(generator(case.name)), device)
    names = [name for name in case.differentiable if isinstance(made.get(name), Tensor)]
    leaves = tuple(made[name].flatten()[:12].clone().requires_grad_() for name in names)
    rest = {}
    for name, value in made.items():
        if name not in names:
            rest[name] = value.flatten()[:12] if isinstance(value, Tensor) and value.dim() else value
    if any(made[name].shape != made[names[0]].shape for name in names):
        pytest.skip("the arguments have shapes of their own, checked by the kernels' law")
    options = {**case.options, **how(case, "none" if reduction == "none" else reduced(case))}

    def f(*leaves):
        return case.loss(**dict(zip(names, leaves, strict=True)), **rest, **options)

    with fastloss.backend(backend):
        assert torch.autograd.gradcheck(f, leaves, fast_mode=True)
        if case.twice:
            assert torch.autograd.gradgradcheck(f, leaves, fast_mode=True)


@backends
@one_of_each
def test_the_same_input_gives_the_same_bits(case, backend, device):
    tensors = to(case.make(generator(case.name)), device, torch.float32)
    tensors = {
        name: value.repeat(4000, *[1] * (value.dim() - 1)) if isinstance(value, Tensor) and value.dim() > 1 else value
        for name, value in tensors.items()
    }
    threads = torch.get_num_threads()
    seen = []
    with fastloss.backend(backend):
        try:
            for count in (2, 1, 3):
                torch.set_num_threads(count)
                seen.append(compute(case, tensors, {**case.options, **how(case, reduced(case))}))
        finally:
            torch.set_num_threads(threads)
    for value, gradients in seen[1:]:
        assert torch.equal(value, seen[0][0])
        assert all(torch.equal(gradient, seen[0][1][name]) for name, gradient in gradients.items())


def spread_out(x: Any) -> Any:
    """The same numbers at every third place, transposed."""
    if not isinstance(x, Tensor) or x.dim() < 2:
        return x
    storage = torch.zeros((*x.shape[:-2], 3 * x.shape[-1], x.shape[-2]), dtype=x.dtype, device=x.device)
    view = storage[..., ::3, :].transpose(-1, -2)
    return view.copy_(x)


@backends
@one_of_each
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_layouts(case, backend, device, dtype):
    tensors = to(case.make(generator(case.name)), device, dtype)
    layouts = {
        "all spread out": {name: spread_out(x) for name, x in tensors.items()},
        "one spread out": {**tensors, case.differentiable[0]: spread_out(tensors[case.differentiable[0]])},
        "transposed": {
            name: x.transpose(-1, -2).contiguous().transpose(-1, -2) if isinstance(x, Tensor) and x.dim() > 1 else x
            for name, x in tensors.items()
        },
    }
    for reduction in reductions(case)[:2]:
        options = {**case.options, **how(case, reduction)}
        with fastloss.backend(backend):
            plain, plain_gradients = compute(case, tensors, options)
            for what, arguments in layouts.items():
                value, gradients = compute(case, arguments, options)
                assert_close(value, plain, dtype, what)
                for name, gradient in gradients.items():
                    assert_close(gradient, plain_gradients[name], dtype, f"{what}: gradient of {name}")
                    x = arguments[name]
                    if what == "transposed" and x.shape == gradient.shape and x.dim() > 1:
                        assert gradient.stride() == x.stride()


LARGE = {
    "contiguous": lambda x: x,
    "transposed": lambda x: x.permute(2, 1, 0).contiguous().permute(2, 1, 0),
    "swapped": lambda x: x.transpose(0, 1).contiguous().transpose(0, 1),
    "one row": lambda x: x[:, :1],
    "one column": lambda x: x[..., :1],
    "every other": lambda x: torch.stack([x, -x], -1)[..., 0],
}

LARGE_DTYPES = {
    "float32": (torch.float32,) * 3,
    "bfloat16": (torch.bfloat16,) * 3,
    "float64": (torch.float64,) * 3,
    "mixed": (torch.bfloat16, torch.float64, torch.float32),
}


@backends
@pytest.mark.parametrize("dtypes", LARGE_DTYPES.values(), ids=LARGE_DTYPES)
@pytest.mark.parametrize("layout", LARGE)
def test_several_tiles_and_tasks(layout, dtypes, backend, device):
    """The CPU's kernels take 1024 elements at a time, and 32768 on a thread: one more here than two such shares."""
    random = generator(f"{layout} {dtypes}")
    shape = (37, 51, 41)
    made = {
        name: torch.randn(shape, generator=random).to(device, dtype)
        for name, dtype in zip(("values", "old_values", "returns"), dtypes, strict=True)
    }
    tensors = {**made, "returns": LARGE[layout](made["returns"])}
    mask = torch.rand(shape, generator=random).to(device) < 0.6
    upstream = torch.randn(shape, generator=random).to(device, torch.bfloat16)

    def run(tensors, mask, upstream):
        leaf = {"values": tensors["values"].clone().requires_grad_()}
        mean, terms = fastloss.rl.value_clip_loss(**{**tensors, **leaf}, clip=0.4, mask=mask, return_terms=True)
        elements = fastloss.rl.value_clip_loss(**{**tensors, **leaf}, clip=0.4, aggregation="none")
        wanted = ((mean, None), (elements, upstream.to(elements.dtype)))
        gradients = [torch.autograd.grad(x, leaf["values"], g)[0] for x, g in wanted]
        return [mean, *terms.values(), elements, *gradients]

    with fastloss.backend("reference"):
        exact = run(to(tensors, "cpu", torch.float64), mask.cpu(), upstream.cpu())
    with fastloss.backend(backend):
        found = run(tensors, mask, upstream)
    for value, value64 in zip(found, exact, strict=True):
        assert_close(value, value64, value.dtype)


@backends
@one_of_each
def test_broadcasting(case, backend, device):
    """Each tensor operand in turn as a row, a column and a single number; its gradient has its shape."""
    tensors = to(case.make(generator(case.name)), device, torch.float64)
    full = [name for name, x in tensors.items() if isinstance(x, Tensor) and x.dim() == 2]
    options = {**case.options, **how(case, reduced(case))}
    for name in full:
        x = tensors[name]
        for narrow in (x[0], x[:1], x[:, :1], x[0, 0]):
            arguments = {**tensors, name: narrow}
            try:
                value64, gradients64 = expected(case, arguments, options)
            except (RuntimeError, ValueError) as error:  # torch, or we, refuse this broadcast: so do the kernels
                with fastloss.backend(backend), pytest.raises(type(error)):
                    compute(case, arguments, options)
                continue
            if isinstance(case.loss.resolve((), {**arguments, **options})[1], str):
                continue  # left to torch, which may take shapes that the kernels' contract does not
            with fastloss.backend(backend):
                value, gradients = compute(case, arguments, options)
            assert_close(value, value64, torch.float64, name)
            terms = terms_of(case, arguments, options)
            for other, gradient in gradients.items():
                assert gradient.shape == arguments[other].shape
                what = f"gradient of {other}, {name} broadcast"
                assert_close(gradient, gradients64[other], torch.float64, what, terms[other])


@backends
@all_cases
def test_backward_again_and_with_create_graph(case, backend, device):
    tensors = to(case.make(generator(case.name)), device, torch.float32)
    for reduction in reductions(case)[:2]:
        leaves = {name: tensors[name].clone().requires_grad_() for name in case.differentiable if name in tensors}
        inputs = list(leaves.values())
        with fastloss.backend(backend):
            value = case.loss(**{**tensors, **leaves}, **case.options, **how(case, reduction))
            ones = torch.ones_like(value)
            first = torch.autograd.grad(value, inputs, ones * 2, retain_graph=True)
            kept = [g.clone() for g in first]
            second = torch.autograd.grad(value, inputs, ones, retain_graph=True)
            third = torch.autograd.grad(value, inputs, ones, create_graph=True)
        for f, k, s, t in zip(first, kept, second, third, strict=True):
            assert torch.equal(f, k)
            assert f.data_ptr() != s.data_ptr()
            assert_close(f, 2 * s.double(), torch.float32)
            assert_close(t, s.double(), torch.float32)


@backends
@all_cases
def test_arguments_are_left_alone(case, backend, device):
    tensors = to(case.make(generator(case.name)), device, torch.float32)
    copies = {name: x.clone() for name, x in tensors.items() if isinstance(x, Tensor)}
    with fastloss.backend(backend):
        compute(case, tensors, {**case.options, **how(case, reduced(case))})
    assert all(torch.equal(tensors[name], copy) for name, copy in copies.items())


@backends
@pytest.mark.parametrize("case", [case for case in CASES if case.masked], ids=str)
def test_masks(case, backend, device):
    """What is masked out is not there, NaN or not; the explicit denominator; nothing left at all."""
    made = case.make(generator(case.name))
    shape = shape_of(made)
    mask = torch.rand(shape, generator=generator("mask " + case.name)) < 0.6
    hidden = {}
    for name, x in made.items():
        floating = isinstance(x, Tensor) and x.is_floating_point() and x.shape == shape
        hidden[name] = torch.where(mask, x, math.nan) if floating and name != "mask" else x
    for dtype in (torch.float64, torch.float32):
        for reduction in reductions(case):
            for kind in (mask, mask.to(dtype) * 0.5):
                options = {**case.options, **how(case, reduction)}
                value64, gradients64 = expected(case, {**to(made, "cpu", dtype), "mask": kind}, options)
                with fastloss.backend(backend):
                    value, gradients = compute(case, {**to(hidden, device, dtype), "mask": kind.to(device)}, options)
                assert_close(value, value64, dtype, f"{reduction} value")
                for name, gradient in gradients.items():
                    assert_close(gradient, gradients64[name], dtype, f"{reduction} gradient of {name}")
                    if gradient.shape == shape:
                        assert (gradient[~mask.to(device)] == 0).all()
        for name in (backend, "reference"):
            with fastloss.backend(name):
                options = {**case.options, **how(case, reduced(case))}
                value, gradients = compute(case, {**to(hidden, device, dtype), "mask": torch.zeros_like(mask)}, options)
            assert value == 0
            assert all((gradient == 0).all() for gradient in gradients.values())
        if "mean" in reductions(case) or "token-mean" in reductions(case):
            tensors = to(made, device, dtype)
            total, mean = ("sum", "mean") if "mean" in reductions(case) else ("token-sum", "token-mean")
            with fastloss.backend(backend):
                whole, of_whole = compute(case, tensors, {**case.options, **how(case, total)})
                for normalizer in (7.0, torch.tensor(7.0, dtype=dtype, device=device)):
                    options = {**case.options, **how(case, mean), "normalizer": normalizer}
                    part, of_part = compute(case, tensors, options)
                    assert_close(part, whole.double() / 7, dtype)
                    for name, gradient in of_part.items():
                        assert_close(gradient, of_whole[name].double() / 7, dtype)


@backends
@pytest.mark.parametrize("case", pointwise_cases.WITH_TERMS, ids=str)
def test_terms(case, backend, device):
    made = case.make(generator(case.name))
    shape = shape_of(made)
    mask = torch.rand(shape, generator=generator("mask " + case.name)) < 0.6
    for mask_or_none, reduced in ((None, True), (mask, True), (mask, False)):
        options = {**case.options, "mask": mask_or_none, "return_terms": True}
        if not reduced:
            options[case.reduction_argument] = "none"
        for dtype in (torch.float64, torch.float32):
            tensors = to(made, device, dtype)
            with fastloss.backend("reference"):
                loss64, terms64 = case.loss(**to(tensors, "cpu", torch.float64), **options)
            leaf = {case.differentiable[0]: tensors[case.differentiable[0]].requires_grad_()}
            with fastloss.backend(backend):
                loss, terms = case.loss(**{**tensors, **leaf}, **options)
            assert_close(loss, loss64, dtype)
            assert terms.keys() == terms64.keys()
            for name, term in terms.items():
                assert not term.requires_grad
                assert term.shape == ()
                assert_close(term, terms64[name], dtype, name, 1.0)


@backends
@all_cases
def test_func_transforms(case, backend, device):
    tensors = to(case.make(generator(case.name)), device, torch.float64)
    name = case.differentiable[0]
    rest = {key: x for key, x in tensors.items() if key != name}
    options = {**case.options, **how(case, reduced(case))}

    def f(x):
        return case.loss(**{name: x}, **rest, **options)

    x = tensors[name]
    batch = torch.stack([x, 0.5 * x])
    with fastloss.backend("reference"):
        loop = [torch.func.grad_and_value(f)(entry) for entry in batch]
    gradients64, values64 = (torch.stack(parts) for parts in zip(*loop, strict=True))
    with fastloss.backend(backend):
        assert_close(torch.func.grad(f)(x), gradients64[0], torch.float64, "grad")
        assert_close(torch.func.vmap(f)(batch), values64, torch.float64, "vmap")
        assert_close(torch.func.vmap(torch.func.grad(f))(batch), gradients64, torch.float64, "vmap of grad")


@one_of_each
def test_forward_mode_is_right(case):
    tensors = case.make(generator(case.name))
    name = case.differentiable[0]
    tangent = torch.randn(tensors[name].shape, generator=generator("tangent"), dtype=torch.float64)
    rest = {key: x for key, x in tensors.items() if key != name}
    options = {**case.options, **how(case, reduced(case))}
    _, along = torch.func.jvp(lambda x: case.loss(**{name: x}, **rest, **options), (tensors[name],), (tangent,))
    _, gradients = expected(case, tensors, options)
    assert_close(along, (gradients[name] * tangent).sum(), torch.float64, "tangent", gradients[name].abs().sum().item())


@pytest.mark.slow(5)
@backends
@one_of_each
@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
def test_compile_fullgraph(case, backend, device, dynamic):
    torch._dynamo.reset()
    with fastloss.backend(backend):
        # A reduction with each: dynamo traces for a second.
        options = {**case.options, **how(case, reduced(case) if dynamic else reductions(case)[0])}

        def f(tensors):
            return case.loss(**tensors, **options) * 2

        compiled = torch.compile(f, fullgraph=True, dynamic=dynamic)
        tensors = to(case.make(generator(case.name)), device, torch.float32)
        leaves = {name: tensors[name].requires_grad_() for name in case.differentiable if name in tensors}
        value = compiled({**tensors, **leaves})
        plain = f({**tensors, **leaves})
        assert_close(value, plain.double(), torch.float32)
        for actual, wanted in zip(
            torch.autograd.grad(value.sum(), list(leaves.values())),
            torch.autograd.grad(plain.sum(), list(leaves.values())),
            strict=True,
        ):
            assert_close(actual, wanted.double(), torch.float32, "gradient")


def test_func_inside_compile_is_not_taken_for_a_constant():
    x, y = torch.randn(64, 128), torch.randn(64, 128)

    def f(x):
        return torch.func.grad(fastloss.log_cosh_loss)(x, y)

    assert_close(torch.compile(f, fullgraph=True)(x), f(x).double(), torch.float32)


@backends
@one_of_each
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_autocast(case, backend, device, dtype):
    if dtype not in case.dtypes:
        pytest.skip("not of this dtype")
    if case.loss is fastloss.gaussian_nll_loss and device == "cpu":
        pytest.skip("torch's autocast of the CPU leaves it in its dtype; contract/test_transforms.py compares")
    tensors = to(case.make(generator(case.name)), device, dtype)
    options = {**case.options, **how(case, reduced(case))}
    value64, gradients64 = expected(case, tensors, options)
    for name in (backend, "reference"):
        with torch.autocast(device, dtype), fastloss.backend(name), warnings.catch_warnings():
            value, gradients = compute(case, tensors, options)
        assert value.dtype == torch.float32
        assert_close(value, value64, torch.float32, f"{name} value")
        for argument, gradient in gradients.items():
            assert gradient.dtype == dtype
            assert_close(gradient, gradients64[argument], dtype, f"{name} gradient of {argument}")


@backends
@one_of_each
def test_operators_pass_opcheck(case, backend, device):
    tensors = to(case.make(generator(case.name)), device, torch.float32)
    leaves = {name: tensors[name].requires_grad_() for name in case.differentiable if name in tensors}
    with fastloss.backend(backend):
        _, call = case.loss.resolve((), {**tensors, **leaves, **case.options, **how(case, reduced(case))})
    assert not isinstance(call, str), call
    namespace = getattr(torch.ops, "fastloss_triton" if backend == "triton" else "fastloss")
    problem = call.plan.problem
    operands, *description = problem.operands([x.detach() for x in call.tensors], problem.wanted_operands)
    checks = ("test_schema", "test_faketensor")
    for once in (problem.reduced, False):
        arguments = (operands, *description, once, problem.measure, problem.dtype)
        torch.library.opcheck(namespace.pointwise, arguments, test_utils=checks)
    upstream = torch.randn(torch.broadcast_shapes(*(x.shape for x in operands)), device=device)
    torch.library.opcheck(namespace.pointwise_backward, (upstream, operands, *description), test_utils=checks)


@backends
@one_of_each
def test_operands_are_kept_by_torch_alone(case, backend, device):
    """Who offloads or recomputes what backward needs (saved_tensors_hooks, checkpoints) frees the operands for good."""
    tensors = to(case.make(generator(case.name)), device, torch.float32)
    leaves = {name: tensors[name].requires_grad_() for name in case.differentiable if name in tensors}
    copies = {name: leaf * 1 for name, leaf in leaves.items()}  # as a model's outputs: nobody else keeps them
    hooks = torch.autograd.graph.saved_tensors_hooks(lambda x: x.detach().cpu().numpy(), lambda x: torch.tensor(x))
    options = {**case.options, **how(case, reduced(case))}
    with fastloss.backend(backend):
        expected = torch.autograd.grad(case.loss(**{**tensors, **copies}, **options), list(leaves.values()))
        copies = {name: leaf * 1 for name, leaf in leaves.items()}
        kept = [weakref.ref(copy) for copy in copies.values()]
        with hooks:
            value = case.loss(**{**tensors, **copies}, **options)
        copies.clear()
        assert [reference() for reference in kept] == [None] * len(kept)
        gradients = torch.autograd.grad(value, list(leaves.values()))
    for gradient, wanted in zip(gradients, expected, strict=True):
        assert torch.equal(gradient, wanted)


@pytest.mark.parametrize("case", pointwise_cases.WITH_TERMS, ids=str)
def test_terms_under_transforms_are_the_references(case):
    tensors = case.make(generator(case.name))
    name = case.differentiable[0]
    rest = {key: x for key, x in tensors.items() if key != name}

    def f(x):
        return case.loss(**{name: x}, **rest, **case.options, return_terms=True)

    _, terms = torch.func.vmap(f)(torch.stack([tensors[name]] * 2))
    with fastloss.backend("reference"):
        _, expected = f(tensors[name])
    for term, values in terms.items():
        assert_close(values, expected[term].expand(2), torch.float64, term)


ENDS = (-math.inf, -1.0, 0.5, math.inf)
PAIR = {"policy_chosen_logps": ENDS, "policy_rejected_logps": ENDS, "reference_chosen_logps": (0.0,),
        "reference_rejected_logps": (0.0,)}  # fmt: skip
ADVANTAGE = {"logp": (-1.0,), "old_logp": (-1.2,), "advantages": (0.7,)}
SWITCHED_OFF = {
    "dpo": (fastloss.alignment.dpo_loss, PAIR, {}),
    "dpo robust": (fastloss.alignment.dpo_loss, PAIR, {"loss_type": "robust"}),
    "simpo": (fastloss.alignment.simpo_loss, {"chosen_avg_logps": ENDS, "rejected_avg_logps": ENDS}, {"gamma": 0.0}),
    "orpo": (fastloss.alignment.orpo_loss, {"chosen_avg_logps": ENDS[:2], "rejected_avg_logps": ENDS[:2]}, {}),
    "reward model": (fastloss.alignment.reward_model_loss, {"chosen_rewards": ENDS, "rejected_rewards": ENDS}, {}),
    "ppo, entropy": (fastloss.rl.ppo_loss, {**ADVANTAGE, "values": (1.0,), "returns": (0.5,), "entropy": ENDS}, {}),
    "ppo, value": (fastloss.rl.ppo_loss, {**ADVANTAGE, "values": ENDS, "returns": (0.5,)}, {"value_coefficient": 0.0}),
    "focal, alpha": (fastloss.sigmoid_focal_loss, {"inputs": ENDS, "targets": (0.0, 0.3, 1.0)}, {"alpha": -1.0}),
    "focal, gamma": (fastloss.sigmoid_focal_loss, {"inputs": ENDS, "targets": (0.0, 0.3, 1.0)}, {"gamma": 0.0}),
}


@backends
@pytest.mark.parametrize("name", SWITCHED_OFF)
def test_a_term_with_the_coefficient_0(name, backend, device):
    """0 * inf is NaN: if a term that is switched off is left out, or if it is not, then in body and kernels alike."""
    loss, ends, options = SWITCHED_OFF[name]
    columns = zip(*itertools.product(*ends.values()), strict=True)
    operands = {
        name: torch.tensor(column, device=device, requires_grad=True)
        for name, column in zip(ends, columns, strict=True)
    }
    how = {"aggregation" if loss is fastloss.rl.ppo_loss else "reduction": "none"}
    results = {}
    for chosen in ("reference", backend):
        with fastloss.backend(chosen):
            losses = loss(**operands, **options, **how)
        gradients = torch.autograd.grad(losses.sum(), list(operands.values()), allow_unused=True)
        results[chosen] = (losses.detach(), [g for g in gradients if g is not None])
    (losses, gradients), (expected, expected_gradients) = results[backend], results["reference"]
    torch.testing.assert_close(losses, expected, equal_nan=True)
    for gradient, right in zip(gradients, expected_gradients, strict=True):
        known = ~right.isnan()  # autograd makes more of them
        torch.testing.assert_close(gradient[known], right[known])
    if name in ("dpo", "dpo robust"):
        assert expected[-1].isnan()  # inf - inf
        assert expected.isfinite().sum() == 9  # with the five margins of inf


def test_every_loss_has_a_module():
    ours = [
        name for name in fastloss.nn.__all__ if hasattr(getattr(fastloss.nn, name), "function")
    ]  # the rest is torch's
    modules = {getattr(fastloss.nn, name).function: name for name in ours}
    for case in pointwise_cases.ONE_OF_EACH:
        assert case.loss in modules, f"no Module of {case.loss.__name__}"
        assert getattr(fastloss, modules[case.loss]) is getattr(fastloss.nn, modules[case.loss])
