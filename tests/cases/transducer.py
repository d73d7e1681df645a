"""Transducers: the sum over all alignments, enumerated."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from cases.case import MASKED, Arguments, Case, Shape, normal

SHAPE = (4, 5, 3, 6)  # samples, frames, labels and one, classes
BLANK = 2


def _samples(generator: torch.Generator, shape: Shape) -> Arguments:
    count, frames, places, classes = shape
    targets = torch.randint(classes - 1, (count, places - 1), generator=generator)
    return {
        "logits": normal(generator, *shape),
        "targets": targets + (targets >= BLANK),
        "logit_lengths": torch.randint(1, frames + 1, (count,), generator=generator),
        "target_lengths": torch.randint(places, (count,), generator=generator),
    }


def _oracle(logits, targets, logit_lengths, target_lengths, blank, fused_log_softmax=True) -> Tensor:
    """An alignment is the choice of the steps, of all but the last, that are labels."""
    log_probs = logits.log_softmax(-1) if fused_log_softmax else logits
    losses = []
    for sample, labels, frames, count in zip(log_probs, targets, logit_lengths, target_lengths, strict=True):
        paths = []
        for chosen in itertools.combinations(range(frames + count - 1), count):
            t, u, steps = 0, 0, []
            for step in range(frames + count):
                steps.append(sample[t, u, labels[u] if step in chosen else blank])
                t, u = (t, u + 1) if step in chosen else (t + 1, u)
            paths.append(torch.stack(steps).sum())
        losses.append(-torch.stack(paths).logsumexp(0))
    return torch.stack(losses)


def _case(variant: str = "", **options) -> Case:
    return Case(
        "rnnt_loss", _samples, SHAPE, ("logits",), None, variant, {"blank": BLANK, **options},
        ("targets", "logit_lengths", "target_lengths"), optional=MASKED, oracle=_oracle, magnitude=16.0,
    )  # fmt: skip


CASES = [
    _case(),
    _case("log-probabilities", fused_log_softmax=False),
]
