"""Writes docs/losses: what each loss is, from its docstring; what its kernels take, asked of dispatch.

    python tools/loss_pages.py           # writes the pages
    python tools/loss_pages.py --check   # fails if the committed pages are others

Each call is made on CPU tensors and put to ``fastloss.explain`` under ``fastloss.backend("cpu")``. Dispatch lowers a
call before it looks for a backend, by the same rules for every device, so the answers hold for all kernels.
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
import re
import sys
import textwrap
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor

import fastloss
from fastloss.catalog import TORCH, LossInfo
from fastloss.core.arguments import SMALL_ON_CPU
from fastloss.core.docstrings import sections
from fastloss.core.reductions import AGGREGATIONS
from fastloss.core.registry import LOSSES

ROOT = Path(__file__).resolve().parent.parent
PAGES = ROOT / "docs" / "losses"
WIDTH = 120

Loss = Callable[..., Any]
Arguments = dict[str, Any]
Made = list[tuple[str, Arguments]]  # (what is tried, the arguments that do it)

# ------------------------------------------------------------------------------------------ calls

ROWS, COLUMNS = 60, 80
REDUCTIONS = ("none", "mean", "sum")


def real() -> Tensor:
    return torch.rand(ROWS, COLUMNS) * 0.8 + 0.1  # a probability, too


def scalar() -> Tensor:
    return torch.full((), 0.5)


def per_row() -> Tensor:
    return torch.rand(ROWS)


def per_class() -> Tensor:
    return torch.rand(COLUMNS)


# What the required arguments are that are not simply a floating-point tensor like `real`, by name or by loss and name.
REQUIRED: dict[str, Callable[[], Any]] = {
    "tau": lambda: 0.3,
    "n": lambda: 3,
    "labels": lambda: torch.arange(ROWS) // 2,
    "desirable": lambda: torch.ones(ROWS, COLUMNS, dtype=torch.bool),
    "iqn_loss.tau": real,
    "curl_loss.weight": lambda: torch.rand(COLUMNS, COLUMNS),
    "temporal_contrastive_loss.states": lambda: torch.rand(ROWS, 4, COLUMNS),  # (T, B, D)
    "cross_entropy.target": lambda: torch.zeros(ROWS, dtype=torch.int64),
    "softmax_focal_loss.target": lambda: torch.zeros(ROWS, dtype=torch.int64),
    "linear_cross_entropy.target": lambda: torch.zeros(ROWS, dtype=torch.int64),
}
MASKS = [("booleans", lambda: torch.ones(ROWS, COLUMNS, dtype=torch.bool)), ("weights", real),
         ("one that broadcasts", lambda: torch.ones(ROWS, 1))]  # fmt: skip
LEVELS = [("a number", lambda: 0.3),
          ("one for each quantile", lambda: {"tau": torch.rand(COLUMNS), "target": torch.rand(ROWS)})]  # fmt: skip
ROW_WEIGHTS = [("one for each row", per_row)]
CLASS_WEIGHTS = [("one for each class", per_class)]
HEAD_CLASSES = [("one for each class", per_row)]  # the weights of the layer are (ROWS, COLUMNS)
POLICY_TYPES = (
    "grpo", "bnpo", "dapo", "dr_grpo", "gspo", "gspo_token", "luspo", "gmpo", "cispo", "cispo_absolute", "sapo",
    "vespo", "dppo_tv", "dppo_kl", "gpg", "dro", "clip_cov", "kl_cov",
)  # fmt: skip
PAIR_TYPES = (
    "sigmoid", "hinge", "ipo", "robust", "exo_pair", "nca_pair", "apo_zero", "apo_down", "sppo_hard", "bco_pair",
    "discopop", "sft", "aot", "aot_unpaired",
)  # fmt: skip


def words(*values: str) -> list[tuple[str, Callable[[], Any]]]:
    return [(value, lambda value=value: value) for value in values]


def averaged(loss_type: str) -> Arguments:
    """Arguments of a type that divides by lengths."""
    return {"loss_type": loss_type, "chosen_lengths": real(), "rejected_lengths": real()}


# Values to be tried where the annotation does not say which; a dict has all the arguments that go together.
VALUES: dict[str, list[tuple[str, Callable[[], Any]]]] = {
    "mask": MASKS,
    "ignore_index": [("a class", lambda: 3)],
    "offset": [("a number", lambda: 2)],
    "time_dim": [("a number", lambda: 0)],
    "cu_seqlens": [("indices", lambda: torch.tensor([0, 20, ROWS]))],
    "episodes": [("indices", lambda: torch.zeros(ROWS, 4, dtype=torch.int64))],
    "weights": ROW_WEIGHTS,
    "kl_div.reduction": [(how, lambda how=how: how) for how in (*REDUCTIONS, "batchmean")],
    "dual_clip": [("a number", lambda: 3.0), ("a 0-d tensor", lambda: torch.full((), 3.0))],
    "quantile_loss.tau": LEVELS,
    "expectile_loss.tau": LEVELS,
    "ppo_loss.value_clip": [
        ("a number", lambda: {"value_clip": 0.3, "old_values": real()}),
        ("a 0-d tensor", lambda: {"value_clip": scalar(), "old_values": real()}),
    ],
    "grpo_loss.loss_type": words(*POLICY_TYPES),
    "grpo_loss.importance_sampling_level": words("token", "sequence"),
    "grpo_loss.beta": [("a number", lambda: {"beta": 0.3, "ref_logp": real()}),
                       ("a 0-d tensor", lambda: {"beta": scalar(), "ref_logp": real()})],
    "grpo_loss.entropy_coefficient": [("a number", lambda: {"entropy_coefficient": 0.3, "entropy": real()})],
    "grpo_loss.top_entropy_quantile": [("a number", lambda: {"top_entropy_quantile": 0.3, "entropy": real()})],
    "grpo_loss.cov_fraction": [("a number", lambda: {"cov_fraction": 0.3, "loss_type": "kl_cov"})],
    "grpo_loss.sequence_log_ratio": [("a tensor", lambda: {"sequence_log_ratio": real(), "loss_type": "gspo"})],
    "grpo_loss.selected": [("a tensor", lambda: {"selected": real() > 0.5, "loss_type": "kl_cov"})],
    "dpo_loss.loss_type": [
        *words(*PAIR_TYPES),
        *[(name, lambda name=name: averaged(name)) for name in ("ipo_norm", "sigmoid_norm")],
    ],
    "dpo_loss.f_divergence": words("reverse_kl", "forward_kl", "js", "alpha"),
    "dpo_loss.chosen_lengths": [("a tensor", lambda: averaged("ipo_norm"))],
    "dpo_loss.rejected_lengths": [("a tensor", lambda: averaged("ipo_norm"))],
    "quantile_huber_loss.mask": ROW_WEIGHTS,
    "iqn_loss.mask": ROW_WEIGHTS,
    "cross_entropy.weight": CLASS_WEIGHTS,
    "softmax_focal_loss.alpha": CLASS_WEIGHTS,
    "binary_cross_entropy_with_logits.pos_weight": CLASS_WEIGHTS,
    "linear_cross_entropy.linear_bias": HEAD_CLASSES,
    "linear_cross_entropy.weight": HEAD_CLASSES,
    "info_nce.target": [("indices", lambda: torch.arange(ROWS))],
    "info_nce.labels": [("two tensors", lambda: (torch.arange(ROWS) // 2, torch.arange(ROWS) // 2))],
    "temporal_contrastive_loss.predictions": [("a tensor", lambda: torch.rand(ROWS, 4, COLUMNS))],
    "gaussian_nll_loss.var": [("a number", lambda: 0.5), ("a tensor without the last dimension", per_row)],
    "sigmoid_focal_loss.normalizer": [("a number", lambda: 0.5), ("a 0-d tensor", scalar),
                                      ("positives", lambda: "positives")],
}  # fmt: skip


def annotated(loss: Loss, name: str) -> list[tuple[str, Callable[[], Any]]]:
    """Values of an argument, by its annotation and its docstring."""
    parameter = inspect.signature(loss).parameters[name]
    kinds = set(str(parameter.annotation).split(" | "))  # "Any" is how torch saves memory: nothing to try
    default = parameter.default
    values: list[tuple[str, Callable[[], Any]]] = []
    if "bool" in kinds:
        if "None" in kinds:
            return [("deprecated", lambda: False)]
        return [("on", lambda: True), ("off", lambda: False)]
    if "str" in kinds:
        declared = LOSSES.get(loss.__name__)
        variant = getattr(declared, "variant", None)
        known = {"reduction": REDUCTIONS, "aggregation": AGGREGATIONS, **dict([variant] if variant else [])}
        known |= {name: hyper.choices for name, hyper in getattr(declared, "parameters", {}).items() if hyper.choices}
        return words(*known[name])
    if "float" in kinds:
        values.append(("a number", lambda: 0.3 + (default if isinstance(default, (int, float)) else 0.0)))
    if default is not parameter.empty:
        if "Tensor" in kinds and "float" not in kinds:
            values.append(("a tensor", real))
        elif "float" in kinds:
            values.append(("a 0-d tensor", scalar))
    return values


def base(loss: Loss) -> Arguments:
    """The required arguments."""
    return {
        name: REQUIRED.get(f"{loss.__name__}.{name}", REQUIRED.get(name, real))()
        for name, parameter in inspect.signature(loss).parameters.items()
        if parameter.default is parameter.empty
    }


def floating(values: Arguments) -> list[str]:
    return [name for name, x in values.items() if isinstance(x, Tensor) and x.is_floating_point()]


def changed(values: Arguments, change: Callable[[Tensor], Tensor], only: Callable[[int], bool] | None = None):
    """The arguments with their floating-point tensors changed."""
    result = dict(values)
    for place, name in enumerate(floating(values)):
        if only is None or only(place):
            result[name] = change(values[name])
    return result


# ------------------------------------------------------------------------------------------ asking


def ask(loss: Loss, values: Arguments) -> str | None:
    """None if a kernel answers, else the reason why not."""
    with fastloss.backend("cpu"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            answer = fastloss.explain(loss, **values)
        except fastloss.BackendError as error:
            return str(error).split("cannot run this call: ", 1)[1]
        except ValueError:
            return "the loss itself refuses it"
    return None if answer.backend == "cpu" else re.sub(r"left to torch: |^.*cannot run this call: ", "", answer.reason)


def inside(transform: Callable[..., Any], loss: Loss, values: Arguments) -> str | None:
    """The answer to a call inside a transform of torch.func, which goes over the floating-point tensors."""
    names = floating(values)
    answers = []

    def function(*tensors: Tensor) -> Tensor:
        answers.append(ask(loss, {**values, **dict(zip(names, tensors, strict=True))}))
        return tensors[0].sum()

    transform(function)(*(values[name] for name in names))
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


def _compiled(loss: Loss, values: Arguments) -> str | None:
    with compiling():
        return ask(loss, values)


def _compiled_gradient(loss: Loss, values: Arguments) -> str | None:
    with compiling():
        return inside(torch.func.grad, loss, values)


CALLS: dict[str, Callable[[Loss, Arguments], str | None]] = {
    **{
        str(dtype).removeprefix("torch."): lambda f, a, dtype=dtype: ask(f, changed(a, lambda x: x.to(dtype)))
        for dtype in (torch.float64, torch.float32, torch.bfloat16, torch.float16)
    },
    "a bfloat16 input with float32 others": lambda f, a: ask(f, changed(a, lambda x: x.bfloat16(), lambda k: not k)),
    "integers": lambda f, a: ask(f, changed(a, lambda x: x.long())),
    "complex numbers": lambda f, a: ask(f, changed(a, lambda x: x.to(torch.complex64))),
    "transposed tensors": lambda f, a: ask(f, changed(a, lambda x: x.mT.contiguous().mT)),
    "strided tensors": lambda f, a: ask(f, changed(a, lambda x: x.repeat_interleave(2, -1)[..., ::2])),
    "expanded tensors": lambda f, a: ask(f, changed(a, lambda x: x[:1].expand_as(x))),
    "a second tensor that broadcasts": lambda f, a: ask(f, changed(a, lambda x: x[:1], lambda k: k == 1)),
    "no elements": lambda f, a: ask(f, {k: x[:0] if isinstance(x, Tensor) else x for k, x in a.items()}),
    "torch.func.vmap": lambda f, a: inside(over_the_first, f, a),
    "torch.func.grad": lambda f, a: inside(torch.func.grad, f, a),
    "forward mode (jvp)": lambda f, a: inside(forward_mode, f, a),
    "torch.compile": lambda f, a: _compiled(f, a),
    "torch.func.grad inside torch.compile": lambda f, a: _compiled_gradient(f, a),
}


def tried(loss: Loss) -> Iterator[tuple[str, str, str | None]]:
    """(argument, what it is, None or why a kernel does not take it) for every argument that has a choice."""
    parameters = inspect.signature(loss).parameters
    for name in parameters:
        required = False
        for label, make in VALUES.get(f"{loss.__name__}.{name}") or VALUES.get(name) or annotated(loss, name):
            value = make()
            given = {**base(loss), **(value if isinstance(value, dict) else {name: value})}
            answer = ask(loss, given)
            yield name, label, answer
            if isinstance(given[name], Tensor) and given[name].is_floating_point() and answer is None and not required:
                required = True
                given[name] = given[name].detach().requires_grad_()
                yield name, "with `requires_grad`", ask(loss, given)
    if "cross_entropy" in loss.__name__ or loss.__name__ == "softmax_focal_loss":
        given = base(loss)
        soft = torch.rand(ROWS, ROWS if "linear_weight" in given else COLUMNS).softmax(1)
        yield "target", "probabilities", ask(loss, {**given, "target": soft})
        yield "target", "probabilities with `requires_grad`", ask(loss, {**given, "target": soft.requires_grad_()})


def gradients(loss: Loss) -> Iterator[tuple[str, str | None]]:
    """What if a required floating-point tensor requires a gradient?"""
    given = base(loss)
    for name in floating(given):
        yield name, ask(loss, {**given, name: given[name].detach().requires_grad_()})


# ------------------------------------------------------------------------------------------ docstrings


def markdown(text: str) -> str:
    """A docstring's reStructuredText."""
    blocks: list[str] = []

    def kept(block: str) -> str:
        blocks.append(block)
        return f"\0{len(blocks) - 1}\0\n"

    def formula(match: re.Match[str]) -> str:
        return kept("```math\n" + textwrap.dedent(match[1]).strip() + "\n```\n\n")

    text = re.sub(r"^\.\. math::\n((?:\n|[ ]+.*\n)+)", formula, text + "\n", flags=re.MULTILINE)
    text = re.sub(r"^=+  =.*\n(?:.*\n)+?=+  =.*\n(?:.*\n)+?=+  =.*\n", _rows_of_a_table, text, flags=re.MULTILINE)
    text = re.sub(r":math:`([^`]*)`", lambda m: "$" + " ".join(m[1].split()) + "$", text)
    text = re.sub(r":\w+:`([^`]*)`", r"`\1`", text).replace("``", "`")
    return re.sub(r"\0(\d+)\0\n", lambda m: blocks[int(m[1])], text).strip()


def _rows_of_a_table(match: re.Match[str]) -> str:
    border, head, _, *rows = match[0].splitlines()[:-1]
    starts = [m.start() for m in re.finditer("=+", border)]
    ends = [*starts[1:], None]

    def cells(row: str) -> list[str]:
        return [
            re.sub(r":math:`[^`]*`|[|]", _without_bars, row[a:b].strip()) for a, b in zip(starts, ends, strict=True)
        ]

    return "\n".join([*table(cells(head), [cells(row) for row in rows]), ""])


def _without_bars(match: re.Match[str]) -> str:
    """A bar would end the cell of a table."""
    return match[0].replace(r"\|", r"\Vert ").replace("|", r"\vert ") if match[0] != "|" else r"\|"


def called(loss: Loss, public: str) -> str:
    """The loss with its arguments and their defaults."""
    shown, keywords = [], False
    for name, parameter in inspect.signature(loss).parameters.items():
        if parameter.kind is parameter.KEYWORD_ONLY and not keywords:
            shown.append("*")
            keywords = True
        shown.append(name if parameter.default is parameter.empty else f"{name}={parameter.default!r}")
    text = f"fastloss.{public}({', '.join(shown)})"
    return textwrap.fill(text, WIDTH, subsequent_indent="    ", break_on_hyphens=False)


# ------------------------------------------------------------------------------------------ the pages


def table(head: list[str], rows: list[list[str]]) -> list[str]:
    return ["| " + " | ".join(row) + " |" for row in [head, ["---"] * len(head), *rows]]


def because(answers: list[tuple[str, str | None]]) -> str:
    """What is left to torch, by the reason."""
    left: dict[str, list[str]] = {}
    for label, reason in answers:
        if reason is not None:
            left.setdefault(reason, []).append(label)
    return "; ".join(f"{', '.join(labels)} ({reason})" for reason, labels in left.items())


def options(loss: Loss) -> list[str]:
    """A line an argument."""
    found: dict[str, list[tuple[str, str | None]]] = {}
    for name, label, reason in tried(loss):
        found.setdefault(name, []).append((label, reason and reason.removeprefix(f"{name} is a tensor; ")))
    rows = [
        [f"`{name}`", ", ".join(label for label, reason in answers if reason is None), because(answers)]
        for name, answers in found.items()
    ]
    wanted = list(gradients(loss))
    rows.append(
        [
            "gradients of",
            ", ".join(f"`{name}`" for name, reason in wanted if reason is None),
            because([(f"`{name}`", reason) for name, reason in wanted]),
        ]
    )
    return table(["argument", "fused", "left to torch"], rows)


def answers_to_calls(losses: list[Loss]) -> dict[str, dict[str, str | None]]:
    return {call: {loss.__name__: put(loss, base(loss)) for loss in losses} for call, put in CALLS.items()}


def is_fused(info: LossInfo) -> bool:
    return "cpu" in info.backends


def of_loss(info: LossInfo, calls: dict[str, dict[str, str | None]]) -> list[str]:
    loss = info.function
    parts = sections(loss.__doc__)
    lines = [f"## {loss.__name__}", "", "```text", called(loss, info.name), "```", ""]
    lines += [markdown(parts[""]), ""]
    lines += [textwrap.fill(f"Source: {markdown(parts['Source'])}", WIDTH, break_on_hyphens=False), ""]
    if info.module is not None:
        lines += [f"Module: `fastloss.nn.{info.module}`.", ""]
    if not is_fused(info):
        return [*lines, "No kernels of its own: torch computes it, or the fused losses that it is made of.", ""]
    lines += [*options(loss), ""]
    exceptions = [
        (call, answers[loss.__name__])
        for call, answers in calls.items()
        if answers[loss.__name__] is not None and None in answers.values()
    ]
    if exceptions:
        lines += ["Left to torch besides:", "", *(f"- {call}: {reason}" for call, reason in exceptions), ""]
    return lines


INTRODUCTION = f"""# The losses

Generated by `python tools/loss_pages.py` from the docstrings, and from what dispatch answers; do not edit.

A page for each family: what a loss is, and, a line an argument, what the kernels take ("fused": one pass) and what they
leave to torch, with the reason. Where a backend was chosen explicitly, such a call raises `BackendError` with that
reason. `fastloss.explain(loss, ...)` says it of any call.

The automatic choice leaves inputs of up to {SMALL_ON_CPU} elements on the CPU to torch where torch has the loss: its
own kernels are quicker than the way to ours. Second derivatives (`create_graph=True`) and batched backward passes
(`is_grads_batched=True`) are those of the reference, on every backend. Subclasses of tensors that have a
`__torch_function__` or hold other tensors (DTensor) are torch's. TorchScript is not supported: script torch's own
losses. What theory calls a constant (old log-probabilities, advantages) may require a gradient, and gets none."""


def index(families: dict[str, list[LossInfo]], calls: dict[str, dict[str, str | None]]) -> list[str]:
    lines = [INTRODUCTION, ""]
    rows = [
        [f"[{family}]({family.replace('.', '/')}.md)", ", ".join(f"`{loss.function.__name__}`" for loss in losses)]
        for family, losses in families.items()
    ]
    lines += [*table(["family", "losses"], rows), "", "## What all of them take", ""]
    rows = []
    for call, answers in calls.items():
        left = [f"`{name}`" for name, reason in answers.items() if reason is not None]
        if not left:
            rows.append([call, "by every fused loss"])
        elif len(left) == len(answers):
            rows.append([call, "left to torch by every loss"])
        else:
            rows.append([call, f"by {len(answers) - len(left)} of {len(answers)}; see the pages"])
    lines += [*table(["call", "fused"], rows), ""]
    own = sorted(loss.name for loss in fastloss.losses() if loss.family == TORCH)
    lines += [
        "## Torch's own",
        "",
        "These are torch's functions themselves, under our names, and so are their Modules:",
    ]
    return [*lines, *(f"- `{name}`" for name in own), "- the Module `AdaptiveLogSoftmaxWithLoss`", ""]


def pages() -> dict[Path, str]:
    families: dict[str, list[LossInfo]] = {}
    for info in fastloss.losses():
        if info.family != TORCH:
            families.setdefault(info.family, []).append(info)
    calls = answers_to_calls([info.function for losses in families.values() for info in losses if is_fused(info)])
    written = {PAGES / "README.md": "\n".join(index(families, calls))}
    for family, losses in families.items():
        what = importlib.import_module(f"fastloss.losses.{family}").__doc__
        lines = [f"# {family}", "", f"{what} Generated by `python tools/loss_pages.py`; do not edit.", ""]
        for info in losses:
            lines += of_loss(info, calls)
        written[PAGES / f"{family.replace('.', '/')}.md"] = "\n".join(lines)
    return written


def main() -> int | str:
    written = pages()
    stale = sorted(set(PAGES.rglob("*.md")) - written.keys())
    if "--check" in sys.argv:
        different = [path for path, text in written.items() if not path.exists() or path.read_text() != text]
        names = ", ".join(str(path.relative_to(ROOT)) for path in [*different, *stale])
        return f"out of date: {names}; run python tools/loss_pages.py" if names else 0
    for path in stale:
        path.unlink()
    for path, text in written.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
