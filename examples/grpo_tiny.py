"""GRPO of a tiny language model with a toy reward: fastloss from hidden states, and the plain formula.

    python examples/grpo_tiny.py --plot grpo.png      # a minute on two cores

The model continues pieces of Python's documentation. A continuation is rewarded for the share of its neighbouring words
that are neighbours somewhere in the documentation, and groups of continuations of one beginning are compared. All
samples come from the start (off-policy, with its log-probabilities), so that both trainings see the same ones.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from tiny_language_models import Run, arguments, language_model, pretrain, race, report, text, windows
from torch import Tensor
from transformers import LlamaForCausalLM

import fastloss

WORDS, PROMPT, ANSWER, PROMPTS, GROUP = 8000, 8, 16, 4, 8
CLIP = 0.2
Loss = Callable[..., Tensor]


def neighbours(stream: Tensor) -> Tensor:
    """Numbers of the pairs of words that follow each other in the text, sorted."""
    return (stream[:-1] * WORDS + stream[1:]).unique()


def reward(samples: Tensor, known: Tensor) -> Tensor:
    """(N, T) -> (N,): the share of neighbouring words of the answers that are neighbours in the text, too."""
    answers = samples[:, PROMPT - 1 :]
    found = answers[:, :-1] * WORDS + answers[:, 1:]
    return (known[torch.searchsorted(known, found).clamp(max=len(known) - 1)] == found).float().mean(1)


@torch.no_grad()
def sample(model: torch.nn.Module, prompts: Tensor, generator: torch.Generator) -> Tensor:
    """(N, PROMPT) -> (N, PROMPT + ANSWER)"""
    tokens = prompts
    for _ in range(ANSWER):
        p = model(tokens).logits[:, -1].softmax(-1)
        tokens = torch.cat([tokens, p.multinomial(1, generator=generator)], 1)
    return tokens


def plain(hidden: Tensor, weight: Tensor, index: Tensor, old: Tensor, advantages: Tensor, mask: Tensor) -> Tensor:
    """As it is usually written."""
    logp = (hidden @ weight.T).log_softmax(-1).gather(-1, index[..., None])[..., 0]
    ratio = (logp - old).exp()
    loss = -torch.minimum(ratio * advantages, ratio.clamp(1 - CLIP, 1 + CLIP) * advantages)
    return ((loss * mask).sum(-1) / mask.sum(-1)).mean()


def fused(hidden: Tensor, weight: Tensor, index: Tensor, old: Tensor, advantages: Tensor, mask: Tensor) -> Tensor:
    return fastloss.alignment.linear_grpo_loss(hidden, weight, index, old, advantages, clip=CLIP, mask=mask)


def run(steps: int = 30, pretraining: int = 30, seed: int = 0) -> dict[str, Run]:
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    stream = text(WORDS)
    known = neighbours(stream)
    start = language_model(WORDS)
    pretrain(start, stream, pretraining, generator)
    batches = []
    for _ in range(steps):
        prompts = windows(stream, PROMPT, PROMPTS, generator).repeat_interleave(GROUP, 0)
        samples = sample(start, prompts, generator)
        inputs, index = samples[:, :-1], samples[:, 1:]
        mask = (torch.arange(index.shape[1]) >= PROMPT - 1).expand(index.shape)
        with torch.no_grad():
            hidden = start.model(inputs).last_hidden_state
            old = fastloss.linear_selective_log_softmax(hidden, start.lm_head.weight, index, mask=mask).log_prob
        advantages = fastloss.alignment.grpo_advantages(reward(samples, known), GROUP)
        batches.append((inputs, (index, old, advantages[:, None], mask)))

    def of(loss: Loss) -> Callable[[LlamaForCausalLM, int], Tensor]:
        def loss_of(model: LlamaForCausalLM, step: int) -> Tensor:
            inputs, rest = batches[step]
            return loss(model.model(inputs).last_hidden_state, model.lm_head.weight, *rest)

        return loss_of

    return race(start, {"torch": of(plain), "fastloss": of(fused)}, steps)


if __name__ == "__main__":
    asked = arguments("GRPO of a tiny language model", steps=30)
    report(run(asked.steps), "GRPO: words that are neighbours in the text", asked.plot)
