"""Writes docs/support.md: which calls of which loss the kernels answer, asked of the dispatch itself.

    python tools/support_table.py           # writes the page
    python tools/support_table.py --check   # fails if the committed page is another

Each call is made on CPU tensors and put to ``fastloss.explain`` under ``fastloss.backend("cpu")``. Dispatch lowers a
call before it looks for a backend, by the same rules for every device, so the answers hold for all kernels.
"""

from __future__ import annotations

import contextlib
import inspect
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor

import fastloss
from fastloss.core import backends
from fastloss.core.arguments import SMALL_ON_CPU
from fastloss.core.reductions import AGGREGATIONS

PAGE = Path(__file__).resolve().parent.parent / "docs" / "support.md"
FUSED = "●"

Arguments = dict[str, Any]
Answers = dict[str, str | None]  # None: a kernel answers; else the reason why not

# ------------------------------------------------------------------------------------------ calls

ROWS, COLUMNS = 60, 80


def real() -> Tensor:
    return torch.rand(ROWS, COLUMNS) * 0.8 + 0.1  # a probability, too


# What the required arguments are that are not simply a floating-point tensor like `real`
REQUIRED: dict[str, Callable[[], Any]] = {
    "tau": lambda: 0.3,
    "labels": lambda: torch.arange(ROWS) // 2,
    "desirable": lambda: torch.ones(ROWS, COLUMNS, dtype=torch.bool),
}
REQUIRED_OF: dict[tuple[str, str], Callable[[], Any]] = {
    ("iqn_loss", "tau"): real,
    ("curl_loss", "weight"): lambda: torch.rand(COLUMNS, COLUMNS),
    ("temporal_contrastive_loss", "states"): lambda: torch.rand(ROWS, 4, COLUMNS),  # (T, B, D)
}
CLASSES = ("cross_entropy", "softmax_focal_loss", "linear_cross_entropy")


def scalar() -> Tensor:
    return torch.full((), 0.5)


# Values to be tried of every optional argument: a label, and the value (or all arguments that go with it).
REDUCTIONS = [(how, lambda how=how: how) for how in ("none", "mean", "sum")]
NUMBER = [("number", lambda: 0.5)]
NUMBER_OR_TENSOR = [*NUMBER, ("tensor", scalar)]
ELEMENTWISE = [("tensor", real)]
FLAG = [("", lambda: True), ("", lambda: False)]
PER_CLASS = [("(C)", lambda: torch.rand(COLUMNS))]
PER_ROW = [("tensor", lambda: torch.rand(ROWS))]
OPTIONS: dict[str, list[tuple[str, Callable[[], Any]]]] = {
    "reduction": REDUCTIONS,
    "aggregation": [(how, lambda how=how: how) for how in AGGREGATIONS],
    "mask": [
        ("bool", lambda: torch.ones(ROWS, COLUMNS, dtype=torch.bool)),
        ("weights", real),
        ("broadcast", lambda: torch.ones(ROWS, 1)),
    ],
    "normalizer": NUMBER_OR_TENSOR,
    "inplace": FLAG,
    "return_terms": FLAG,
    "full": FLAG,
    "log_input": FLAG,
    "log_target": FLAG,
    "accumulate_float32": FLAG,
    "soft_margin": FLAG,
    "normalize": FLAG,
    "decoupled": FLAG,
    "predictions": ELEMENTWISE,
    "episodes": [("indices", lambda: torch.zeros(ROWS, 4, dtype=torch.int64))],
    "offset": [("number", lambda: 2)],
    "time_dim": [("number", lambda: 0)],
    "weights": PER_ROW,
    "squared": FLAG,
    "ignore_index": [("a class", lambda: 3)],
    "entropy": ELEMENTWISE,
    "old_values": ELEMENTWISE,
    "kl": [("number", lambda: 0.5), ("tensor", scalar)],
    "margin": NUMBER_OR_TENSOR,
    "tau": [("number", lambda: 0.3), ("(Q)", lambda: {"tau": torch.rand(COLUMNS), "target": torch.rand(ROWS)})],
    "scale": [("number", lambda: 0.5)],
    "var": [("number", lambda: 0.5), ("without the last dimension", lambda: torch.rand(ROWS))],
    "loss_type": [],
    "kind": [],
    "size_average": [("deprecated", lambda: False)],
    "reduce": [("deprecated", lambda: False)],
}
for _name in (
    "label_smoothing",
    "z_loss",
    "softcap",
    "temperature",
    "delta",
    "beta",
    "gamma",
    "alpha",
    "eps",
    "clip",
    "clip_high",
    "dual_clip",
    "value_clip",
    "log_ratio_clamp",
    "value_coefficient",
    "entropy_coefficient",
    "center_coefficient",
    "sft_coefficient",
    "crossing_penalty",
    "desirable_weight",
    "undesirable_weight",
    "kappa",
    "logit_scale",
    "logit_bias",
):
    OPTIONS[_name] = NUMBER_OR_TENSOR
SPECIAL: dict[tuple[str, str], list[tuple[str, Callable[[], Any]]]] = {
    ("ppo_clip_loss", "dual_clip"): [("number", lambda: 3.0)],
    ("ppo_loss", "dual_clip"): [("number", lambda: 3.0)],
    ("kl_div", "reduction"): [*REDUCTIONS, ("batchmean", lambda: "batchmean")],
    ("cross_entropy", "weight"): PER_CLASS,
    ("binary_cross_entropy_with_logits", "pos_weight"): PER_CLASS,
    ("softmax_focal_loss", "alpha"): PER_CLASS,
    ("linear_cross_entropy", "linear_bias"): PER_ROW,  # the weights of the layer are (ROWS, COLUMNS)
    ("linear_cross_entropy", "weight"): PER_ROW,
    ("linear_cross_entropy", "options"): [],  # how torch saves memory
    ("quantile_huber_loss", "tau"): ELEMENTWISE,
    ("quantile_huber_loss", "mask"): PER_ROW,
    ("iqn_loss", "mask"): PER_ROW,
    ("info_nce", "negatives"): ELEMENTWISE,
    ("info_nce", "target"): [("indices", lambda: torch.arange(ROWS))],
    ("info_nce", "labels"): [("two tensors", lambda: (torch.arange(ROWS) // 2, torch.arange(ROWS) // 2))],
    ("batch_hard_triplet_loss", "margin"): NUMBER,
    ("semi_hard_triplet_loss", "margin"): NUMBER,
    ("curl_loss", "weight"): [],
    ("temporal_contrastive_loss", "states"): [],
    ("temporal_contrastive_loss", "predictions"): [("tensor", lambda: torch.rand(ROWS, 4, COLUMNS))],
    ("iqn_loss", "tau"): [],
    ("sigmoid_focal_loss", "normalizer"): [*NUMBER_OR_TENSOR, ("positives", lambda: "positives")],
    ("margin_ranking_loss", "margin"): NUMBER,
    ("hinge_embedding_loss", "margin"): NUMBER,
    ("hinge_loss", "margin"): NUMBER,
    ("reward_model_loss", "margin"): [*NUMBER, *ELEMENTWISE],
    ("kto_loss", "kl"): [*NUMBER, *ELEMENTWISE],
}


def losses() -> dict[str, Callable[..., Any]]:
    """Every fused loss, by the name under which users find it."""
    found = {}
    for prefix, module in (("", fastloss.functional), ("rl.", fastloss.rl), ("alignment.", fastloss.alignment)):
        for name in sorted(module.__all__):
            if hasattr(getattr(module, name), "plan"):
                found[prefix + name] = getattr(module, name)
    return found


def base(loss: Callable[..., Any]) -> Arguments:
    """The required arguments."""
    arguments: Arguments = {}
    for name, parameter in inspect.signature(loss).parameters.items():
        if parameter.default is parameter.empty:
            arguments[name] = REQUIRED_OF.get((loss.__name__, name), REQUIRED.get(name, real))()
    if loss.__name__ in CLASSES:
        arguments["target"] = torch.zeros(ROWS, dtype=torch.int64)
    return arguments


def tensors(arguments: Arguments) -> list[str]:
    return [name for name, x in arguments.items() if isinstance(x, Tensor)]


def floating(arguments: Arguments) -> list[str]:
    return [name for name in tensors(arguments) if arguments[name].is_floating_point()]


def changed(arguments: Arguments, change: Callable[[Tensor], Tensor], only: Callable[[str, int], bool] | None = None):
    """The arguments with their floating-point tensors changed."""
    result = dict(arguments)
    for place, name in enumerate(floating(arguments)):
        if only is None or only(name, place):
            result[name] = change(arguments[name])
    return result


# ------------------------------------------------------------------------------------------ asking


def ask(loss: Callable[..., Any], arguments: Arguments) -> str | None:
    """None if a kernel answers, else the reason why not."""
    with fastloss.backend("cpu"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            answer = fastloss.explain(loss, **arguments)
        except fastloss.BackendError as error:
            return str(error).split("cannot run this call: ", 1)[1]
        except ValueError:
            return "the loss itself refuses it"
    return None if answer.backend == "cpu" else answer.reason.removeprefix("left to torch: ")


def inside(transform: Callable[..., Any], loss: Callable[..., Any], arguments: Arguments) -> str | None:
    """The answer to a call inside a transform of torch.func, which goes over the floating-point tensors."""
    names = floating(arguments)
    answers = []

    def function(*values: Tensor) -> Tensor:
        answers.append(ask(loss, {**arguments, **dict(zip(names, values, strict=True))}))
        return values[0].sum()

    transform(function)(*(arguments[name] for name in names))
    return answers[0]


def forward_mode(function: Callable[..., Tensor]) -> Callable[..., Any]:
    return lambda *values: torch.func.jvp(function, values, values)


def over_the_first(function: Callable[..., Tensor]) -> Callable[..., Any]:
    def call(*values: Tensor) -> Any:
        stacked = torch.stack([values[0], values[0]])
        return torch.func.vmap(function, in_dims=(0, *[None] * (len(values) - 1)))(stacked, *values[1:])

    return call


@contextlib.contextmanager
def compiling() -> Iterator[None]:
    with mock.patch("torch.compiler.is_compiling", return_value=True):
        yield


CASES: dict[str, Callable[[Callable[..., Any], Arguments, str], str | None]] = {
    **{
        str(dtype).removeprefix("torch."): lambda f, a, dtype=dtype: ask(f, changed(a, lambda x: x.to(dtype)))
        for dtype in (torch.float64, torch.float32, torch.bfloat16, torch.float16)
    },
    "bfloat16 input alone": lambda f, a: ask(f, changed(a, lambda x: x.bfloat16(), lambda _, place: not place)),
    "integers": lambda f, a: ask(f, changed(a, lambda x: x.long())),
    "complex": lambda f, a: ask(f, changed(a, lambda x: x.to(torch.complex64))),
    "transposed": lambda f, a: ask(f, changed(a, lambda x: x.mT.contiguous().mT)),
    "strided": lambda f, a: ask(f, changed(a, lambda x: x.repeat_interleave(2, -1)[..., ::2])),
    "expanded": lambda f, a: ask(f, changed(a, lambda x: x[:1].expand_as(x))),
    "broadcast": lambda f, a: ask(f, changed(a, lambda x: x[:1], lambda _, place: place == 1)),
    "empty": lambda f, a: ask(f, {k: x[:0] if isinstance(x, Tensor) else x for k, x in a.items()}),
    "vmap": lambda f, a: inside(over_the_first, f, a),
    "func.grad": lambda f, a: inside(torch.func.grad, f, a),
    "jvp": lambda f, a: inside(forward_mode, f, a),
    "compile": lambda f, a: _compiled(f, a),
    "compile(func.grad)": lambda f, a: _compiled_gradient(f, a),
}


def _compiled(loss: Callable[..., Any], arguments: Arguments) -> str | None:
    with compiling():
        return ask(loss, arguments)


def _compiled_gradient(loss: Callable[..., Any], arguments: Arguments) -> str | None:
    with compiling():
        return inside(torch.func.grad, loss, arguments)


def gradients(loss: Callable[..., Any], arguments: Arguments) -> Answers:
    """For each floating-point tensor: what if it requires a gradient?"""
    return {
        name: ask(loss, {**arguments, name: arguments[name].detach().requires_grad_()}) for name in floating(arguments)
    }


def options(loss: Callable[..., Any]) -> Iterator[tuple[str, str, str | None]]:
    """(argument, kind of value, answer) for every optional argument, and for tensors among them with a gradient."""
    parameters = inspect.signature(loss).parameters
    for name, parameter in parameters.items():
        if name in ("loss_type", "kind"):
            continue  # names of formulas, each of which is a kernel
        values = SPECIAL.get((loss.__name__, name), OPTIONS.get(name))
        if name in ("weight", "pos_weight") and values is None:
            values = ELEMENTWISE
        if values is None:
            if parameter.default is parameter.empty:
                continue
            raise SystemExit(f"tools/support_table.py knows no value for {name} of {loss.__name__}")
        for label, make in values:
            value = make()
            arguments = {**base(loss), **(value if isinstance(value, dict) else {name: value})}
            if name == "normalizer" and "reduction" in parameters:
                arguments["reduction"] = "mean"
            answer = ask(loss, arguments)
            yield name, label, answer
            if isinstance(value, Tensor) and value.is_floating_point() and answer is None:
                arguments[name] = value.detach().requires_grad_()
                yield name, f"{label} that requires a gradient", ask(loss, arguments)
    if loss.__name__ in CLASSES:
        arguments = base(loss)
        classes = ROWS if "linear_weight" in arguments else COLUMNS
        soft = torch.rand(ROWS, classes).softmax(1)
        yield "target", "probabilities", ask(loss, {**arguments, "target": soft})
        soft = soft.detach().requires_grad_()
        yield "target", "probabilities that require a gradient", ask(loss, {**arguments, "target": soft})


# ------------------------------------------------------------------------------------------ the page


def options_of(loss: Callable[..., Any]) -> tuple[str, dict[str, list[str]]]:
    """What the kernels answer, as text; and what they leave to torch, by the reason."""
    fused: dict[str, list[str]] = {}
    left: dict[str, list[str]] = {}
    for name, label, answer in options(loss):
        if answer is None:
            labels = fused.setdefault(name, [])
            if label and label not in labels:
                labels.append(label)
        else:
            left.setdefault(answer.replace(f"{name} is", "it is"), []).append(f"`{name}` {label}".strip())
    wants = gradients(loss, base(loss))
    for name, answer in wants.items():
        if answer is not None:
            left.setdefault(answer, []).append(f"gradient of `{name}`")
    texts = [f"`{name}`" + (f" ({', '.join(labels)})" if labels else "") for name, labels in fused.items()]
    of = [f"`{name}`" for name, answer in wants.items() if answer is None]
    return ", ".join([*texts, f"gradients of {', '.join(of)}"]), left


def _table(head: list[str], rows: list[list[str]]) -> list[str]:
    return [
        "| " + " | ".join(row) + " |"
        for row in [head, ["---" if len(name) > 20 or name == "loss" else ":-:" for name in head], *rows]
    ]


def page() -> str:
    cases = {name: {case: put(loss, base(loss)) for case, put in CASES.items()} for name, loss in losses().items()}
    reasons: dict[str, int] = {}

    def cell(answer: str | None) -> str:
        return FUSED if answer is None else str(reasons.setdefault(answer, len(reasons) + 1))

    groups: dict[tuple[str, ...], list[str]] = {}
    for name, answers in cases.items():
        groups.setdefault(tuple(map(cell, answers.values())), []).append(f"`{name}`")
    lines = [
        "# Which calls are fused",
        "",
        "Generated by `python tools/support_table.py` from the dispatch itself; do not edit.",
        "",
        f"{FUSED}: one kernel pass answers. A number: the reference, torch, answers, for the reason below; an explicit",
        "backend raises `BackendError` with that reason. `fastloss.explain(loss, ...)` says it of any call.",
        "",
        "| tensors on | backends, in the order of the automatic choice |",
        "| --- | --- |",
        *(f"| {device} | {', '.join(f'`{name}`' for name in names)} |" for device, names in backends.AUTOMATIC.items()),
        "",
        f"The automatic choice leaves inputs of up to {SMALL_ON_CPU} elements on the CPU to torch where torch has the",
        "loss: its own kernels are quicker than the way to ours.",
        "",
        "## Dtypes, layouts, transforms",
        "",
        *_table(["loss", *CASES], [[", ".join(names), *cells] for cells, names in groups.items()]),
        "",
        "Second derivatives (`create_graph=True`) and batched backward passes (`is_grads_batched=True`) are those of",
        "the reference, on every backend. Subclasses of tensors that have a `__torch_function__` or hold other tensors",
        "(DTensor) are torch's. TorchScript is not supported: script torch's own losses.",
        "",
    ]
    rows = []
    for name, loss in losses().items():
        fused, left = options_of(loss)
        texts = [f"{', '.join(labels)} ({cell(reason)})" for reason, labels in left.items()]
        rows.append([f"`{name}`", fused, "; ".join(texts) or "-"])
    lines += [
        "## Options and gradients",
        "",
        "What theory calls a constant (old log-probabilities, advantages) may require a gradient, and gets none.",
        "",
    ]
    lines += [*_table(["loss", FUSED, "left to torch"], rows), ""]
    lines += ["## Reasons", "", *(f"{number}. {reason}" for reason, number in reasons.items()), ""]
    own = sorted(n for n in fastloss.functional.__all__ if getattr(torch.nn.functional, n, 0) is getattr(fastloss, n))
    lines += [
        "## Torch's own",
        "",
        "These are torch's functions themselves, under our names, and so are their Modules:",
    ]
    lines += [", ".join(f"`{name}`" for name in own) + ", and the Module `AdaptiveLogSoftmaxWithLoss`.", ""]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    text = page()
    if "--check" in sys.argv:
        sys.exit(0 if PAGE.read_text() == text else "docs/support.md is out of date: run python tools/support_table.py")
    PAGE.write_text(text)
