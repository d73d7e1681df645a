"""The processes of test_programs.py: each case in a fork of a process that has imported much and called nothing.

    python programs.py KIND BACKEND FOLDER FAMILY...     # prints a line for each case that went wrong, then how many ran
    python programs.py load FOLDER                       # the programs that leave a process, where only torch is

An outcome is a list of tensors (what is returned, then the gradients), or the exception. It has to be the reference's in
eager mode, or, where torch refuses the reference's program as well, any exception.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import sys
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

warnings.simplefilter("ignore")
torch.set_num_threads(1)
DTYPE = torch.float64
HALF_OF_THE_DIGITS = torch.finfo(DTYPE).eps ** 0.5  # that the program is another one is to be seen, not its accuracy

Outcome = list[Tensor]


def differ(found: Outcome, expected: Outcome, numbers: bool = True) -> str | None:
    """How two outcomes differ; None: they do not. `numbers`: else only shapes, dtypes and strides count."""
    if len(found) != len(expected):
        return f"{len(found)} tensors, expected {len(expected)}"
    for place, (a, b) in enumerate(zip(found, expected, strict=True)):
        if a is None or a.shape != b.shape or a.dtype != b.dtype:
            return f"tensor {place}: {a if a is None else (a.shape, a.dtype)}, expected {b.shape, b.dtype}"
        finite = b.isfinite()
        scale = b[finite].abs().max().item() if numbers and finite.any() else 1.0
        tolerances = {"rtol": HALF_OF_THE_DIGITS, "atol": HALF_OF_THE_DIGITS * scale, "equal_nan": True}
        if numbers and not torch.allclose(a.to(b), b, **tolerances):
            return f"tensor {place}: {a.flatten()[:4].tolist()}, expected {b.flatten()[:4].tolist()}"
    return None


def flat(result: Any) -> list[Tensor]:
    """(loss, terms) -> [loss, *terms]"""
    return [result[0], *result[1].values()] if isinstance(result, tuple) else [result]


def differentiated(function: Callable[..., list[Tensor]], tensors: list[Tensor], wanted: list[int]) -> Outcome:
    """What a function returns, and the gradients of the sum of the first."""
    leaves = [x.detach().requires_grad_(k in wanted) for k, x in enumerate(tensors)]
    results = function(*leaves)
    gradients = torch.autograd.grad(results[0].sum(), [leaves[k] for k in wanted])
    return [*(x.detach() for x in results), *gradients]


class Trained(torch.nn.Module):
    """A loss of tensors that have passed a parameter each."""

    def __init__(self, function: Callable[..., Any], wanted: list[int]) -> None:
        super().__init__()
        self.function, self.wanted = function, wanted
        self.factors = torch.nn.ParameterList([torch.ones((), dtype=DTYPE) for _ in wanted])

    def forward(self, *tensors: Tensor) -> Any:
        passed = list(tensors)
        for factor, k in zip(self.factors, self.wanted, strict=True):
            passed[k] = passed[k] * factor
        return tuple(self.function(*passed))


def train(module: Any, tensors: list[Tensor]) -> Outcome:
    results = module(*tensors)
    results[0].sum().backward()
    return [*(x.detach() for x in results), *(x.grad for x in module.parameters())]


def load(folder: str) -> None:
    """Trains what was exported. Here is no fastloss."""
    assert not any(name.startswith("fastloss") for name in sys.modules)
    for path in sorted(Path(folder).glob("*.pickle")):
        kind, name, tensors, expected = pickle.loads(path.read_bytes())
        file = path.with_suffix(".pt2")
        try:
            module = torch.jit.load(file) if kind == "trace" else torch.export.load(file).module()
            wrong = differ(train(module, tensors), expected)
        except Exception as error:
            wrong = f"{type(error).__name__}: {str(error)[:200]}"
        if wrong:
            print(f"{name}, loaded: {wrong}")


# ------------------------------------------------------------------------------------------ one case, in its own process


def run(case: Any, kind: str, backend: str, folder: str) -> str | None:
    import fastloss  # noqa: PLC0415
    from support import generator  # noqa: PLC0415

    def made(shape: Any = None, dtype: torch.dtype = DTYPE, again: str = "") -> tuple[list[str], list[Tensor], dict]:
        arguments = case.make(generator(f"{case} {again}"), shape, dtype)
        tensors = {name: x for name, x in arguments.items() if isinstance(x, Tensor)}
        return list(tensors), list(tensors.values()), {k: x for k, x in arguments.items() if k not in tensors}

    names, tensors, numbers = made()
    wanted = [k for k, name in enumerate(names) if name in case.differentiable]
    terms = case.return_terms and kind not in ("vmap", "grad", "jacrev")

    def function(*values: Tensor) -> list[Tensor]:
        named = dict(zip(names, values, strict=True))
        return flat(case.call({**named, **numbers}, case.reduced, **({"return_terms": True} if terms else {})))

    def reference(values: list[Tensor]) -> Outcome:
        with fastloss.backend("reference"):
            return differentiated(function, values, wanted)

    def program() -> str | None:
        if kind in ("static", "dynamic"):
            compiled = torch.compile(function, backend="aot_eager", fullgraph=True, dynamic=kind == "dynamic")
            found = [(values, differentiated(compiled, values, wanted)) for values in inputs]
        elif kind in ("export", "strict", "trace"):
            module = Trained(function, wanted)
            file = Path(folder) / f"{os.getpid()}.pt2"
            if kind == "trace":
                torch.jit.trace(module, tuple(tensors), check_trace=False).save(file)
            else:
                torch.export.save(torch.export.export(module, tuple(tensors), strict=kind == "strict"), file)
            with fastloss.backend("reference"):
                expected = train(Trained(function, wanted), tensors)
            file.with_suffix(".pickle").write_bytes(pickle.dumps((kind, str(case), tensors, expected)))
            return None
        elif kind == "make_fx":
            from torch.fx.experimental.proxy_tensor import make_fx  # noqa: PLC0415

            found = []
            for mode in ("real", "fake", "symbolic"):
                traced = make_fx(lambda *values: differentiated(function, list(values), wanted), tracing_mode=mode)
                graph = traced(*tensors)
                found += [(values, graph(*values)) for values in inputs[:1]]
        elif kind == "aot":
            from functorch.compile import aot_function, nop  # noqa: PLC0415

            compiled = aot_function(lambda *values: tuple(function(*values)), nop)
            found = [(values, differentiated(compiled, values, wanted)) for values in inputs[:1]]
        elif kind in ("meta", "fake"):
            for dtype in case.dtypes:
                _, values, _ = made(dtype=dtype)
                mode = torch._subclasses.FakeTensorMode() if kind == "fake" else contextlib.nullcontext()
                with mode:
                    there = [mode.from_tensor(x) if kind == "fake" else x.to("meta") for x in values]
                    outcome = differentiated(function, there, wanted)
                # eager mode on the same backend: terms have the accumulator's dtype from a kernel, the body's from a body
                eager = differentiated(function, values, wanted) if kind == "fake" else reference(values)
                wrong = differ(outcome, eager, numbers=False)
                if wrong:
                    return f"{dtype}: {wrong}"
            return None
        elif kind == "vmap":
            stacked = [torch.stack([x, x]) if not x.is_floating_point() else torch.stack([x, y])
                       for x, y in zip(tensors, inputs[1][: len(tensors)], strict=True)]  # fmt: skip
            results = torch.func.vmap(lambda *values: function(*values)[0])(*stacked)
            with fastloss.backend("reference"):
                expected = [function(*(x[k] for x in stacked))[0] for k in range(2)]
            return differ([results], [torch.stack(expected)])
        else:  # grad, jacrev
            transform = getattr(torch.func, kind)
            found = []
            for values in inputs:
                gradients = transform(lambda *some: function(*some)[0], tuple(wanted))(*values)
                found.append((values, [reference(values)[0], *gradients]))
        return next(filter(None, (differ(outcome, reference(values)) for values, outcome in found)), None)

    inputs = [tensors, made(again="other numbers")[1]]
    if kind == "dynamic" and case.batched:
        inputs += [made(case.with_batch(case.shape[0] + 3))[1]]
    try:
        with fastloss.backend(backend):
            return program()
    except fastloss.BackendError:
        return None if backend != "auto" else traceback.format_exc()
    except Exception as error:
        trace = traceback.format_exc()
        try:
            with fastloss.backend("reference"):
                program()
        except Exception:  # torch refuses, too
            return None
        return trace if os.environ.get("PROGRAMS_TRACE") else f"{type(error).__name__}: {str(error)[-300:]}"


def main(kind: str, backend: str, folder: str, *families: str) -> None:
    sys.path.insert(0, str(Path(__file__).parents[1]))
    import torch._dynamo  # noqa: PLC0415
    import torch._functorch.aot_autograd  # noqa: PLC0415
    import torch.export  # noqa: PLC0415
    import torch.fx.experimental.proxy_tensor  # noqa: F401, PLC0415
    from cases import CASES, FUSED  # noqa: PLC0415

    cases = [case for case in (CASES if backend == "auto" else FUSED) if case.family in families]
    for case in cases:
        read, write = os.pipe()
        child = os.fork()
        if not child:
            try:
                wrong = run(case, kind, backend, folder) or ""
            except BaseException:
                wrong = traceback.format_exc()
            os.write(write, wrong.encode()[-4000:])
            os._exit(0)
        os.close(write)
        with os.fdopen(read) as pipe:
            wrong = pipe.read()
        if os.waitpid(child, 0)[1]:
            wrong = f"died {wrong}"
        if wrong:
            print(f"{case}: {wrong}".replace("\n", "\n    "), flush=True)
    print(len(cases), "cases", flush=True)


if __name__ == "__main__":
    load(sys.argv[2]) if sys.argv[1] == "load" else main(*sys.argv[1:])
