"""The losses over classes: cross-entropy from logits and from hidden states, softmax focal loss."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cases.case import Arguments, Build, Case, Shape, normal, uniform

# ------------------------------------------------------------------------------------------ oracles


def cross_entropy_oracle(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    softcap: float | None = None,
    temperature: float = 1.0,
) -> Tensor:
    """From the definition: explicit target distribution q, explicit log-softmax."""
    dim = 0 if input.dim() == 1 else 1
    if z_loss == 0 and not softcap and temperature == 1:
        return F.cross_entropy(input, target, weight, None, ignore_index, None, reduction, label_smoothing)
    z = input if not softcap else (input / softcap).tanh() * softcap
    z = (z / temperature).movedim(dim, -1)
    classes = z.shape[-1]
    w = z.new_ones(classes) if weight is None else weight
    if target.is_floating_point():
        counted = torch.ones(z.shape[:-1], dtype=torch.bool, device=z.device)
        hard, row_weight = target.movedim(dim, -1), counted.to(z.dtype)
    else:
        counted = target != ignore_index
        index = target.where(counted, 0)
        hard, row_weight = (index[..., None] == torch.arange(classes, device=z.device)).to(z.dtype), w[index] * counted
    q = w * ((1 - label_smoothing) * hard + label_smoothing / classes)
    lse = z.logsumexp(-1)
    rows = -(q * (z - lse[..., None])).sum(-1) + z_loss * row_weight * lse**2
    rows = rows.where(counted, 0.0)
    if reduction == "none":
        return rows
    return rows.sum() / (row_weight.sum() if reduction == "mean" else 1.0)


def softmax_focal_oracle(
    input: Tensor,
    target: Tensor,
    alpha: Tensor | None = None,
    gamma: float = 2.0,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Tensor:
    """From the definition: explicit probabilities, explicit target distribution."""
    x = input.movedim(0 if input.dim() == 1 else 1, -1)
    classes = x.shape[-1]
    w = x.new_ones(classes) if alpha is None else alpha
    if target.shape == input.shape:
        hard = target.movedim(0 if input.dim() == 1 else 1, -1)
        counted = torch.ones(x.shape[:-1], dtype=torch.bool, device=x.device)
        row_weight = counted.to(x.dtype)
    else:
        counted = target != ignore_index
        index = target.where(counted, 0)
        hard, row_weight = (index[..., None] == torch.arange(classes, device=x.device)).to(x.dtype), w[index] * counted
    q = w * ((1 - label_smoothing) * hard + label_smoothing / classes)
    p = x.softmax(-1)
    rows = (q * (1 - p) ** gamma * -p.log()).sum(-1) * counted
    if reduction == "none":
        return rows
    return rows.sum() / (row_weight.sum() if reduction == "mean" else 1.0)


def linear_cross_entropy_oracle(
    input: Tensor, linear_weight: Tensor, target: Tensor, linear_bias: Tensor | None = None, **more: Any
) -> Tensor:
    bias = None if linear_bias is None else linear_bias.flatten()
    logits = F.linear(input, linear_weight.flatten(0, -2), bias)
    return cross_entropy_oracle(logits.view(*input.shape[:-1], *linear_weight.shape[:-1]), target, **more)


# ------------------------------------------------------------------------------------------ from logits


def targets(generator: torch.Generator, shape: Shape, soft: bool, weighted: bool, weight: str) -> Arguments:
    """Targets, and class weights if there are any, of logits of this shape."""
    classes = shape[0] if len(shape) == 1 else shape[1]
    batch = shape[:1] + shape[2:] if len(shape) > 1 else ()
    if soft:
        target = normal(generator, *shape).softmax(0 if len(shape) == 1 else 1)
    else:
        target = torch.randint(classes, batch, generator=generator)
        hidden = torch.rand(batch, generator=generator) < 0.3
        if target.numel():
            target.view(-1)[0], target.view(-1)[-1] = classes - 1, 0  # the ends of a row are where kernels differ
            hidden.view(-1)[0], hidden.view(-1)[-1] = False, False  # and the mean is a number
        target = target.masked_fill(hidden, -100)
    return {"target": target, **({weight: uniform(generator, 0.1, 1.1, classes)} if weighted else {})}


def _logits(soft: bool = False, weighted: bool = False, weight: str = "weight") -> Build:
    def make(generator: torch.Generator, shape: Shape) -> Arguments:
        return {"input": normal(generator, *shape, scale=3.0), **targets(generator, shape, soft, weighted, weight)}

    return make


OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "smoothing": {"label_smoothing": 0.1},
    "z_loss": {"z_loss": 1e-2},
    "softcap": {"softcap": 5.0},
    "temperature": {"temperature": 1.7},
    "everything": {"label_smoothing": 0.2, "z_loss": 1e-3, "softcap": 8.0, "temperature": 0.7},
}
TARGETS: dict[str, dict[str, bool]] = {
    "index": {},
    "index-weighted": {"weighted": True},
    "soft": {"soft": True},
    "soft-weighted": {"soft": True, "weighted": True},
}


def _what(target: str) -> dict[str, Any]:
    """What the case says of its targets."""
    soft = "soft" in target
    return {"indices": () if soft else ("target",), "domain": {"target": (0.0, 1.0)} if soft else {}}


def _cross_entropy(shape: Shape, target: str, options: str) -> Case:
    optional = {} if "weighted" in target else {"weight": "classes"}
    return Case(
        "cross_entropy", _logits(**TARGETS[target]), shape, ("input",), "row",
        f"{target}, {options}, {'x'.join(map(str, shape))}", OPTIONS[options], optional=optional,
        oracle=cross_entropy_oracle, magnitude=1.0, batched=len(shape) > 1, **_what(target),
    )  # fmt: skip


CROSS_ENTROPY = [
    # every option with every kind of target, on a row with a tail and on a spatial shape
    *[_cross_entropy(shape, t, o) for shape in [(7, 37), (2, 5, 21)] for t in TARGETS for o in OPTIONS],
    # sizes around the widths of vectors (4, 8, 16), chunks (2048) and blocks, and degenerate ones
    *[
        _cross_entropy(shape, "index", "plain")
        for shape in [(5,), (1, 1), (3, 2), (9, 4), (5, 16), (4, 64), (3, 129), (3, 2048), (2, 2049), (2, 5003)]
    ],
    *[_cross_entropy((2, 4500), t, "everything") for t in TARGETS],
    *[_cross_entropy((3,), t, "everything") for t in ("index", "soft")],
    *[_cross_entropy(shape, "soft", "smoothing") for shape in [(2, 3, 1), (2, 3, 4, 5), (1, 2, 200), (2, 300, 3)]],
    *[_cross_entropy(shape, "index-weighted", "plain") for shape in [(2, 3, 1), (2, 3, 4, 5), (1, 2, 200)]],
]


def _softmax_focal(shape: Shape, target: str, fuses: bool = True, **options: Any) -> Case:
    variant = ", ".join([target, *(f"{k} {v}" for k, v in options.items()), "x".join(map(str, shape))])
    return Case(
        "softmax_focal_loss", _logits(**TARGETS[target], weight="alpha"), shape, ("input",), "row", variant, options,
        optional={} if "weighted" in target else {"alpha": "classes"}, oracle=softmax_focal_oracle, magnitude=1.0,
        batched=len(shape) > 1, fuses=fuses, **_what(target),
    )  # fmt: skip


SOFTMAX_FOCAL = [
    *[_softmax_focal((7, 37), "index-weighted", gamma=gamma) for gamma in (0.0, 0.5, 1.0, 2.0, 3.5)],
    *[_softmax_focal((2, 5, 21), "index-weighted", gamma=gamma) for gamma in (0.5, 2.0)],
    *[_softmax_focal(shape, "index") for shape in [(5,), (9, 4), (3, 2048), (2, 5003), (2, 300, 3)]],
    # what the kernels leave to the reference
    *[_softmax_focal((7, 37), target, False, label_smoothing=0.1) for target in TARGETS],
    *[_softmax_focal(shape, "soft-weighted", False, gamma=0.5) for shape in [(2, 5, 21), (4,)]],
]

# ------------------------------------------------------------------------------------------ from hidden states


def _hidden_states(soft: bool = False, weighted: bool = False, bias: bool = True) -> Build:
    """The shape: rows, features, classes, positions; without a batch of rows: features, classes."""

    def make(generator: torch.Generator, shape: Shape) -> Arguments:
        rows, (features, classes, *positions) = ((), shape) if len(shape) == 2 else (shape[:1], shape[1:])
        made = {
            "input": normal(generator, *rows, features),
            "linear_weight": normal(generator, classes, *positions, features),
            **({"linear_bias": normal(generator, classes, *positions)} if bias else {}),
        }
        return {**made, **targets(generator, (*rows, classes, *positions), soft, weighted, "weight")}

    return make


def _linear(target: str, options: str = "plain", shape: Shape = (25, 12, 37), bias: bool = True) -> Case:
    variant = [target, options, *([] if bias else ["no bias"]), "x".join(map(str, shape))]
    return Case(
        "linear_cross_entropy", _hidden_states(**TARGETS[target], bias=bias), shape,
        ("input", "linear_weight", *(["linear_bias"] if bias else [])), "linear", ", ".join(variant), OPTIONS[options],
        optional={} if "weighted" in target else {"weight": "classes"}, oracle=linear_cross_entropy_oracle,
        magnitude=8.0, batched=len(shape) > 2, **_what(target),
    )  # fmt: skip


LINEAR = [
    *[_linear(target, options) for target in TARGETS for options in OPTIONS],
    *[_linear("index", shape=(rows, 12, 37)) for rows in (1, 6, 7, 8, 14, 15)],  # chunks have 7 rows
    *[_linear(target, shape=(5, 12, 37, *out)) for target in ("index-weighted", "soft") for out in [(3,), (2, 4)]],
    *[_linear(target, shape=(12, 37)) for target in ("index", "soft")],
    _linear("index", bias=False),
]

CASES = [*CROSS_ENTROPY, *SOFTMAX_FOCAL, *LINEAR]
