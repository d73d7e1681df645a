"""Losses in programs: what laws/test_programs.py runs, in a process where nothing was called before.

    python -m programs NAME [FILTER]        from tests/; FASTLOSS_TEST_SEED repeats a run

A program takes calls of losses as a function of their tensors (:class:`Together`), transforms or records it, runs the
result on tensors of other values, and gives losses, terms and gradients by name. What recording costs is paid once for
many calls: those that are recorded together are the first ones of their process all the same, each of its loss.
"""

from __future__ import annotations

import io
import itertools
import json
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from cases import FUSED, ONE_OF_EACH, Case
from outcomes import shapes
from support import SEED, generator, tolerance
from torch import Tensor
from torch._subclasses import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._pytree import keystr, tree_flatten, tree_flatten_with_path, tree_leaves, tree_unflatten

import fastloss

UPSTREAM = 0.7
TOGETHER = 24  # calls that are recorded at a time
# The bodies of these look at their data, which no recording survives, and torch's own no FakeTensor: each for itself.
LOOK_AT_DATA = ("gaussian_nll_loss", "laplace_nll_loss")

Named = dict[str, Any]


class Call:
    """A case with a reduction, optional tensors and `return_terms`, as a function of its tensors."""

    def __init__(self, case: Case, reduction: str, optional: Sequence[str] = (), terms: bool = False) -> None:
        self.case, self.optional = case, optional
        self.options = {**case.how(reduction), **({"return_terms": True} if terms else {})}
        self.name = f"{case} [{', '.join([reduction, *optional, *(['terms'] if terms else [])])}]"
        self.loss, self.shape = case.loss, shapes(case)[-1]
        values, self.structure = tree_flatten(self.arguments("names", self.shape))
        self.values = [(True, None) if isinstance(x, Tensor) else (False, x) for x in values]
        made = tree_flatten_with_path(self.arguments("names", self.shape))[0]
        self.names = [keystr(path)[2:].replace("']", "") for path, x in made if isinstance(x, Tensor)]
        self.leaves = [place for place, name in enumerate(self.names) if name in case.differentiable]

    def arguments(self, seed: str, shape: tuple[int, ...]) -> Named:
        random = generator(f"{self.case} {seed}")
        arguments = self.case.make(random, shape, dtype=torch.float32)
        for name in self.optional:
            arguments[name] = self.case.make_optional(name, random, arguments)
        return arguments

    def make(self, seed: str, batch: int | None = None) -> list[Tensor]:
        shape = self.shape if batch is None or not self.case.batched else (batch, *self.shape[1:])
        return [x for x in tree_leaves(self.arguments(seed, shape)) if isinstance(x, Tensor)]

    def __call__(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """(loss, terms)"""
        rest = iter(tensors)
        values = [next(rest) if tensor else x for tensor, x in self.values]
        result = self.loss(**tree_unflatten(values, self.structure), **self.options)
        return (result[0], *result[1].values()) if isinstance(result, tuple) else (result,)


class Together:
    """Several calls as one function, of all their tensors one after the other."""

    def __init__(self, calls: Sequence[Call]) -> None:
        self.calls = calls
        self.counts = [len(call.names) for call in calls]
        ends = [sum(self.counts[: k + 1]) for k in range(len(calls))]
        self.slices = [slice(end - count, end) for end, count in zip(ends, self.counts, strict=True)]
        self.leaves = [
            part.start + place for call, part in zip(calls, self.slices, strict=True) for place in call.leaves
        ]

    def make(self, seed: str, batch: int | None = None) -> list[Tensor]:
        return [x for call in self.calls for x in call.make(seed, batch)]

    def __call__(self, *tensors: Tensor) -> tuple[tuple[Tensor, ...], ...]:
        """(loss, terms) of each call"""
        return tuple(call(*tensors[part]) for call, part in zip(self.calls, self.slices, strict=True))

    def with_gradients(self, *tensors: Tensor) -> tuple[tuple[Tensor, ...], ...]:
        """((loss, terms) of each call, the gradients of all)"""
        return self.trained(self, tensors)

    def trained(self, function: Callable[..., Any], tensors: Sequence[Tensor]) -> tuple[tuple[Tensor, ...], ...]:
        leaves = [x.detach().requires_grad_(place in self.leaves) for place, x in enumerate(tensors)]
        results = function(*leaves)
        losses = [result[0] for result in results]
        gradients = torch.autograd.grad(
            losses,
            [leaves[place] for place in self.leaves],
            [torch.full_like(loss, UPSTREAM) for loss in losses],
            allow_unused=True,
        )
        return *results, gradients

    def named(self, results: Sequence[Sequence[Any]]) -> Named:
        """What `with_gradients` gives, by the names of calls and arguments."""
        *values, gradients = results
        found: Named = {}
        gradients = iter(gradients)
        for call, value in zip(self.calls, values, strict=True):
            for number, x in enumerate(value):
                found[f"{call.name}: {f'term {number}' if number else 'loss'}"] = x
            for place in call.leaves:
                found[f"{call.name}: gradient of {call.names[place]}"] = next(gradients)
        return found

    def train(self, function: Callable[..., Any], seed: str = "run", batch: int | None = None) -> Named:
        return self.named(self.trained(function, self.make(seed, batch)))


# ------------------------------------------------------------------------------------------ the programs

PROGRAMS: dict[str, Callable[[Together], Named]] = {}
RECORDED: set[str] = set()  # those that take many calls at once
FEW: set[str] = set()  # those that nearly do what another one does


def program(name: str, recorded: bool, few: bool = False) -> Callable[[Any], Any]:
    def register(function: Callable[..., Named]) -> Callable[..., Named]:
        PROGRAMS[name] = function
        if recorded:
            RECORDED.add(name)
        if few:
            FEW.add(name)
        return function

    return register


@program("compile", recorded=True)
def _compile(calls: Together) -> Named:
    torch._dynamo.reset()
    return calls.train(torch.compile(calls, fullgraph=True, dynamic=False, backend="aot_eager"))


@program("compile, dynamic shapes", recorded=True, few=True)
def _compile_dynamic(calls: Together) -> Named:
    torch._dynamo.reset()
    compiled = torch.compile(calls, fullgraph=True, dynamic=True, backend="aot_eager")
    calls.train(compiled, "first", 97)
    return calls.train(compiled)


def _exported(calls: Together, strict: bool) -> Named:
    class Model(torch.nn.Module):
        def forward(self, *tensors: Tensor) -> Any:
            return calls(*tensors)

    leaves = [x.requires_grad_(place in calls.leaves) for place, x in enumerate(calls.make("recorded"))]
    program = torch.export.export(Model(), tuple(leaves), strict=strict)
    assert "fastloss" not in program.graph_module.code
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    return calls.train(torch.export.load(file).module())


@program("export", recorded=True)
def _export(calls: Together) -> Named:
    return _exported(calls, strict=False)


@program("export, strict", recorded=True, few=True)
def _export_strict(calls: Together) -> Named:
    return _exported(calls, strict=True)


@program("jit.trace", recorded=True)
def _trace(calls: Together) -> Named:
    traced = torch.jit.trace(lambda *tensors: calls(*tensors), tuple(calls.make("recorded")), check_trace=False)
    assert "fastloss::" not in str(traced.graph)
    file = io.BytesIO()
    torch.jit.save(traced, file)
    file.seek(0)
    return calls.train(torch.jit.load(file))


def _made(calls: Together, mode: str) -> Named:
    graph = make_fx(calls.with_gradients, tracing_mode=mode)(*calls.make("recorded"))
    return calls.named(graph(*calls.make("run")))


@program("make_fx, real", recorded=True)
def _real(calls: Together) -> Named:
    return _made(calls, "real")


@program("make_fx, symbolic", recorded=True)
def _symbolic(calls: Together) -> Named:
    return _made(calls, "symbolic")


@program("aot_function", recorded=True, few=True)
def _aot(calls: Together) -> Named:
    from functorch.compile import aot_function, nop

    compiled = aot_function(calls, fw_compiler=nop, bw_compiler=nop)
    calls.train(compiled, "recorded")
    return calls.train(compiled)


def described(found: Named) -> Named:
    """Shape, dtype and device: what tensors without data have."""
    return {name: x if x is None else (tuple(x.shape), x.dtype, x.device.type) for name, x in found.items()}


@program("FakeTensor", recorded=False)
def _fake_tensors(calls: Together) -> Named:
    mode = FakeTensorMode()
    with mode:
        tensors = [mode.from_tensor(x, static_shapes=True) for x in calls.make("run")]
        return described(calls.named(calls.with_gradients(*tensors)))


@program("meta", recorded=False)
def _meta(calls: Together) -> Named:
    found = calls.named(calls.with_gradients(*(x.to("meta") for x in calls.make("run"))))
    return {name: x if x is None else (*x[:2], "cpu") for name, x in described(found).items()}


def _by_func(calls: Together, *tensors: Tensor) -> tuple[tuple[Tensor, ...], ...]:
    """`with_gradients` by torch.func.grad."""

    def total(*leaves: Tensor) -> tuple[Tensor, Any]:
        mine = list(tensors)
        for place, leaf in zip(calls.leaves, leaves, strict=True):
            mine[place] = leaf
        results = calls(*mine)
        return sum((result[0] * UPSTREAM).sum() for result in results), results

    places = tuple(range(len(calls.leaves)))
    gradients, results = torch.func.grad(total, places, has_aux=True)(*(tensors[place] for place in calls.leaves))
    return *results, gradients


@program("func.grad", recorded=False)
def _func_grad(calls: Together) -> Named:
    return calls.named(_by_func(calls, *calls.make("run")))


@program("make_fx of func.grad", recorded=True, few=True)
def _made_of_func(calls: Together) -> Named:
    graph = make_fx(lambda *tensors: _by_func(calls, *tensors))(*calls.make("recorded"))
    return calls.named(graph(*calls.make("run")))


@program("functionalize of func.grad", recorded=False)
def _functionalize(calls: Together) -> Named:
    results = torch.func.functionalize(lambda *tensors: _by_func(calls, *tensors))(*calls.make("run"))
    return calls.named(results)


def _stacked(calls: Together) -> list[Tensor]:
    return [torch.stack(entries) for entries in zip(calls.make("run"), calls.make("second"), strict=True)]


@program("vmap of func.grad", recorded=False)
def _vmap(calls: Together) -> Named:
    results = torch.func.vmap(lambda *tensors: _by_func(calls, *tensors))(*_stacked(calls))
    return calls.named([[x[0] for x in part] for part in results])


@program("grad of vmap", recorded=False)
def _grad_of_vmap(calls: Together) -> Named:
    results = calls.trained(torch.func.vmap(calls), _stacked(calls))
    return calls.named([[x[0] for x in part] for part in results])


@program("jacrev", recorded=False)
def _jacrev(calls: Together) -> Named:
    """Of a few elements: upstream gradients in batches."""
    tensors = calls.make("run")

    def losses(*leaves: Tensor) -> Tensor:
        mine = list(tensors)
        for place, leaf in zip(calls.leaves, leaves, strict=True):
            mine[place] = leaf
        return torch.cat([result[0].flatten()[:3] for result in calls(*mine)])

    places = tuple(range(len(calls.leaves)))
    jacobians = torch.func.jacrev(losses, places)(*(tensors[place] for place in calls.leaves))
    return {f"{calls.calls[0].name}: by leaf {place}": x for place, x in enumerate(jacobians)}


# ------------------------------------------------------------------------------------------ the law


def expected(calls: Together, name: str) -> Named:
    """By the reference, in eager mode."""
    with fastloss.backend("reference"):
        if name == "jacrev":
            return PROGRAMS[name](calls)
        found = calls.named(calls.with_gradients(*calls.make("run")))
    return described(found) if name in ("FakeTensor", "meta") else found


def _differs(found: Any, right: Any, magnitude: float) -> bool:
    if not isinstance(found, Tensor) or not isinstance(right, Tensor):
        return found is not right if found is None or right is None else found != right
    if found.shape != right.shape or found.dtype != right.dtype:
        return True
    finite = right[right.isfinite()].abs()
    scale = max(magnitude, finite.max().item() if finite.numel() else 0.0)
    allowed = 4 * tolerance(right.dtype)
    return not torch.allclose(found, right, allowed, allowed * scale, equal_nan=True)


def violations(name: str, calls: Sequence[Call]) -> list[str]:
    """What the program makes of these calls that is neither right nor a refusal of the reference too."""
    together = Together(calls)
    try:
        found = PROGRAMS[name](together)
    except Exception as error:
        if len(calls) > 1:  # which of them?
            return [text for call in calls for text in violations(name, [call])] or [
                f"{calls[0].name} and others: {error}"
            ]
        try:
            with fastloss.backend("reference"):
                PROGRAMS[name](together)
        except Exception:
            return []
        return [f"{calls[0].name}: {type(error).__name__}: {str(error)[:400]}"]
    right = expected(together, name)
    magnitude = {call.name: call.case.magnitude for call in calls}

    def size(what: str) -> float:
        """Terms are means of numbers of either sign, of the size of 1 (as in laws/test_metrics.py)."""
        of_case = magnitude[what.split("]: ")[0] + "]"]
        return max(1.0, of_case) if "]: term " in what else of_case

    return [
        f"{what}: {found.get(what)}, expected {x}"
        for what, x in right.items()
        if _differs(found.get(what), x, size(what))
    ]


def of_case(case: Case) -> Iterator[Call]:
    """Reduced, with all its optional tensors and its terms; as it is where it has these; not reduced."""
    more = tuple(case.optional) if case.reduced not in ("sum", "token-sum") else ()
    yield Call(case, case.reduced, more, case.return_terms)
    if more or case.return_terms:
        yield Call(case, case.reduced)
    if "none" in case.reductions:
        yield Call(case, "none")


def calls_of(name: str) -> list[Call]:
    """Of every loss; recorded ones, which are dear, with most options at once, or, if another program does nearly the
    same, those of one loss of every skeleton."""
    # of the losses that are made of others one: what they are made of is here, or torch's
    ours = [
        case for case in ONE_OF_EACH if case.family != "unfused" and (not case.composed or case.name == "vicreg_loss")
    ]
    soft = {case.name: case for case in FUSED if case.variant.startswith("soft")}
    first = {case.skeleton: case for case in reversed(ours)}
    if name in FEW:
        return [call for case in first.values() for call in itertools.islice(of_case(case), 1)]
    cases = [*ours, *soft.values(), *(case for case in FUSED if case.skeleton == "similarity" and case not in ours)]
    calls = {call.name: call for case in cases for call in itertools.islice(of_case(case), 1)}
    return list({**calls, **{call.name: call for case in first.values() for call in of_case(case)}}.values())


def main(name: str, only: str = "") -> None:
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    calls = [call for call in calls_of(name) if only in call.name]
    alone = [call for call in calls if call.case.name in LOOK_AT_DATA or name not in RECORDED]
    rest = [call for call in calls if call not in alone]
    groups = [rest[k : k + TOGETHER] for k in range(0, len(rest), TOGETHER)] + [[call] for call in alone]
    found = [text for group in groups for text in violations(name, group)]
    print(json.dumps({"calls": len(calls), "violations": found, "seed": SEED}))


if __name__ == "__main__":
    main(*sys.argv[1:])
