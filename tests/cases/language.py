"""The losses that language models are trained with."""

from __future__ import annotations

import itertools

import torch
import torch.nn.functional as F
from torch import Tensor

from cases.case import Arguments, Case, Shape, normal

CLASSES = 11
SHAPE = (2, 7, CLASSES)  # sequences, tokens, classes; of hidden states: features


def _labels(generator: torch.Generator, shape: Shape) -> Tensor:
    labels = torch.randint(CLASSES, shape[:-1], generator=generator)
    labels[..., 1:3] = -100
    return labels


def _logits(generator: torch.Generator, shape: Shape) -> Arguments:
    return {"logits_or_hidden": normal(generator, *shape), "labels": _labels(generator, shape)}


def _hidden(generator: torch.Generator, shape: Shape) -> Arguments:
    weights = {"weight": normal(generator, CLASSES, shape[-1]), "bias": normal(generator, CLASSES)}
    return {**_logits(generator, shape), **weights}


def _packed(generator: torch.Generator, shape: Shape) -> Arguments:
    """Sequences of 2, 1 and the rest."""
    return {**_logits(generator, shape), "cu_seqlens": torch.tensor([0, 2, 3, shape[-2]])}


def _accumulated(generator: torch.Generator, shape: Shape) -> Arguments:
    made = _logits(generator, shape)
    shifted = torch.cat([made["labels"][..., 1:], torch.full_like(made["labels"][..., :1], -100)], -1)
    return {**made, "shift_labels": shifted, "num_items_in_batch": torch.tensor(17.0, dtype=torch.float64)}


def _oracle(
    logits_or_hidden, labels, reduction, weight=None, bias=None, cu_seqlens=None, shift_labels=None,
    num_items_in_batch=None, shift=True, **options,
):  # fmt: skip
    """The logits are shifted, as transformers has it, and packed sequences taken apart."""
    logits = logits_or_hidden if weight is None else logits_or_hidden @ weight.T + bias
    if cu_seqlens is not None:
        ends = cu_seqlens.tolist()
        parts = [slice(begin, end) for begin, end in itertools.pairwise(ends)]
        losses = torch.cat([_oracle(logits[p], labels[p], "none", **options) for p in parts], -1)
        counts = torch.cat([_counts(labels[p]) for p in parts])
        return losses if reduction == "none" else losses.sum() / (counts.sum() if reduction == "mean" else 1)
    if shift:
        classes = 1 if logits.dim() > 2 else -1  # their dimension, to torch
        losses = F.cross_entropy(logits[..., :-1, :].movedim(-1, classes), labels[..., 1:], reduction="none")
        losses = F.pad(losses, (0, 1))
        counted = _counts(labels)
    else:
        losses = F.cross_entropy(logits.movedim(-1, 1), labels, reduction="none")
        counted = labels != -100
    if reduction == "none":
        return losses
    divisor = counted.sum() if num_items_in_batch is None else num_items_in_batch
    return losses.sum() / (divisor if reduction == "mean" else 1)


def _counts(labels: Tensor) -> Tensor:
    return F.pad(labels[..., 1:] != -100, (0, 1))


def _masked_oracle(reduction, **given):
    return _oracle(**given, reduction=reduction, shift=False)


OF_LOGITS, OF_ALL = ("logits_or_hidden",), ("logits_or_hidden", "weight", "bias")
MORE = {"indices": ("labels",), "magnitude": 8.0, "batched": False}
CASES = [
    Case("lm_loss", _logits, SHAPE, OF_LOGITS, oracle=_oracle, **MORE),
    Case("lm_loss", _hidden, SHAPE, OF_ALL, None, "hidden states", oracle=_oracle, **MORE),
    Case("lm_loss", _packed, (7, CLASSES), OF_LOGITS, None, "packed", oracle=_oracle, **MORE),
    Case("lm_loss", _accumulated, SHAPE, OF_LOGITS, None, "accumulated", oracle=_oracle, **MORE),
    Case("mlm_loss", _logits, SHAPE, OF_LOGITS, oracle=_masked_oracle, **MORE),
    Case(
        "mlm_loss", lambda g, s: {**_hidden(g, s), "num_items_in_batch": torch.tensor(9.0, dtype=torch.float64)}, SHAPE,
        OF_ALL, None, "hidden states", oracle=_masked_oracle, **MORE,
    ),
]  # fmt: skip
