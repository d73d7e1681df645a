"""Distillation of a tiny language model into a smaller one: fastloss, and the plain formula.

    python examples/distill_tiny.py --plot distill.png      # a minute on two cores

The teacher has learned from Python's documentation for a moment; the student, randomly initialised and half as wide,
sees the teacher's distributions of the next word and the words themselves.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from tiny_language_models import Run, arguments, language_model, pretrain, race, report, text, windows
from torch import Tensor
from transformers import LlamaForCausalLM

import fastloss

WORDS, LENGTH, BATCH = 8000, 32, 16
ALPHA, TEMPERATURE = 0.5, 2.0
Loss = Callable[..., Tensor]


def plain(student: Tensor, teacher: Tensor, target: Tensor) -> Tensor:
    """As it is usually written, for rows of logits."""
    soft = F.kl_div(
        (student / TEMPERATURE).log_softmax(-1), (teacher / TEMPERATURE).log_softmax(-1),
        log_target=True, reduction="batchmean",
    )  # fmt: skip
    return ALPHA * F.cross_entropy(student, target) + (1 - ALPHA) * TEMPERATURE**2 * soft


def fused(student: Tensor, teacher: Tensor, target: Tensor) -> Tensor:
    return fastloss.distillation_loss(student, teacher, target, alpha=ALPHA, temperature=TEMPERATURE)


def run(steps: int = 40, pretraining: int = 40, seed: int = 0) -> dict[str, Run]:
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    stream = text(WORDS)
    teacher = language_model(WORDS)
    pretrain(teacher, stream, pretraining, generator)
    start = language_model(WORDS, hidden=32, layers=1)
    batches = []
    for _ in range(steps):
        window = windows(stream, LENGTH + 1, BATCH, generator)
        with torch.no_grad():
            batches.append((window[:, :-1], teacher(window[:, :-1]).logits.flatten(0, 1), window[:, 1:].flatten()))

    def of(loss: Loss) -> Callable[[LlamaForCausalLM, int], Tensor]:
        def loss_of(model: LlamaForCausalLM, step: int) -> Tensor:
            inputs, of_teacher, target = batches[step]
            return loss(model(inputs).logits.flatten(0, 1), of_teacher, target)

        return loss_of

    return race(start, {"torch": of(plain), "fastloss": of(fused)}, steps, rate=3e-3)


if __name__ == "__main__":
    asked = arguments("distillation of a tiny language model", steps=40)
    report(run(asked.steps), "distillation: teacher of width 64, student of width 32", asked.plot)
