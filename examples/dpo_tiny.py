"""DPO of a tiny language model on pairs made of real text: fastloss from hidden states, and the plain formula.

    python examples/dpo_tiny.py --plot dpo.png      # half a minute on two cores

A pair is a piece of Python's documentation and the same beginning with its words in a random order. The model, randomly
initialised and trained for a moment, learns to prefer the first. Both trainings start from the same weights and see the
same pairs; the fused one never stores the logits of all tokens.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from tiny_language_models import Run, arguments, language_model, pretrain, race, report, text, windows
from torch import Tensor
from transformers import LlamaForCausalLM

import fastloss

WORDS, PROMPT, ANSWER, PAIRS = 8000, 8, 24, 16
BETA = 0.1
Loss = Callable[..., Tensor]


def pairs(stream: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """(inputs, labels), (2 PAIRS, PROMPT + ANSWER - 1): the first half is chosen; labels of the prompt are -100."""
    chosen = windows(stream, PROMPT + ANSWER, PAIRS, generator)
    order = torch.rand(PAIRS, ANSWER, generator=generator).argsort(1)
    rejected = torch.cat([chosen[:, :PROMPT], chosen[:, PROMPT:].gather(1, order)], 1)
    both = torch.cat([chosen, rejected])
    labels = both[:, 1:].clone()
    labels[:, : PROMPT - 1] = -100
    return both[:, :-1], labels


def plain(hidden: Tensor, weight: Tensor, labels: Tensor, reference: Tensor) -> Tensor:
    """As it is usually written."""
    logps = (hidden @ weight.T).log_softmax(-1).gather(-1, labels.clamp(min=0)[..., None])[..., 0]
    ratio = (logps * (labels != -100)).sum(-1) - reference
    chosen, rejected = ratio.chunk(2)
    return -F.logsigmoid(BETA * (chosen - rejected)).mean()


def fused(hidden: Tensor, weight: Tensor, labels: Tensor, reference: Tensor) -> Tensor:
    return fastloss.alignment.linear_dpo_loss(hidden, weight, labels, *reference.chunk(2), beta=BETA)


def run(steps: int = 40, pretraining: int = 30, seed: int = 0) -> dict[str, Run]:
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    stream = text(WORDS)
    start = language_model(WORDS)
    pretrain(start, stream, pretraining, generator)
    batches = []
    for _ in range(steps):
        inputs, labels = pairs(stream, generator)
        with torch.no_grad():
            hidden = start.model(inputs).last_hidden_state
            reference = fastloss.alignment.linear_sequence_logps(hidden, start.lm_head.weight, labels)
        batches.append((inputs, labels, reference))

    def of(loss: Loss) -> Callable[[LlamaForCausalLM, int], Tensor]:
        def loss_of(model: LlamaForCausalLM, step: int) -> Tensor:
            inputs, labels, reference = batches[step]
            return loss(model.model(inputs).last_hidden_state, model.lm_head.weight, labels, reference)

        return loss_of

    return race(start, {"torch": of(plain), "fastloss": of(fused)}, steps)


if __name__ == "__main__":
    asked = arguments("DPO of a tiny language model", steps=40)
    report(run(asked.steps), "DPO: text against its own words in another order", asked.plot)
