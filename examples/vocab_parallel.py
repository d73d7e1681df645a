"""A language model whose output layer is shared out over ranks: each has the logits of its classes, and none has all.

    torchrun --nproc-per-node 2 examples/vocab_parallel.py       # two processes, on CPUs by gloo
    python examples/vocab_parallel.py                            # one: the same losses

A small network predicts the next byte of the Zen of Python from those before it. The hidden states are the same on
every rank; each multiplies them by its slice of the output matrix, 129 and 128 of 257 classes on two ranks. The loss
exchanges three floats a row. What is left to the layer, as everywhere in tensor parallelism, is to sum the gradient of
the hidden states over the ranks.
"""

from __future__ import annotations

import argparse
import codecs
import contextlib
import io
import os
import time

import torch
import torch.distributed as dist
from torch import Tensor, nn

from fastloss.distributed import vocab_parallel_cross_entropy

CLASSES, CONTEXT, WIDTH = 257, 8, 64  # bytes, and one that stands before the beginning


def text() -> Tensor:
    """(length,)"""
    with contextlib.redirect_stdout(io.StringIO()):
        import this
    return torch.tensor([CLASSES - 1] * CONTEXT + list(codecs.decode(this.s, "rot13").encode()))


def over_ranks(gradient: Tensor) -> Tensor:
    total = gradient.clone()
    dist.all_reduce(total)
    return total


def run(steps: int = 200, rows: int = 128, seed: int = 0) -> list[float]:
    """The losses of the steps, by the default group."""
    rank, ranks = dist.get_rank(), dist.get_world_size()
    generator = torch.Generator().manual_seed(seed)  # the same batches and the same weights on every rank
    torch.manual_seed(seed)
    embedding = nn.Embedding(CLASSES, WIDTH)
    body = nn.Sequential(nn.Flatten(), nn.Linear(CONTEXT * WIDTH, WIDTH), nn.GELU(), nn.LayerNorm(WIDTH))
    whole = nn.Linear(WIDTH, CLASSES, bias=False).weight.detach()
    head = nn.Parameter(whole.chunk(ranks)[rank].clone())  # (C_local, WIDTH)
    optimizer = torch.optim.AdamW([*embedding.parameters(), *body.parameters(), head], lr=3e-3)
    windows = text().unfold(0, CONTEXT + 1, 1)  # (length - CONTEXT, CONTEXT + 1)
    losses = []
    for _ in range(steps):
        batch = windows[torch.randint(len(windows), (rows,), generator=generator)]
        hidden = body(embedding(batch[:, :-1]))  # (rows, WIDTH)
        hidden.register_hook(over_ranks)
        loss = vocab_parallel_cross_entropy(hidden @ head.t(), batch[:, -1], vocab_size=CLASSES)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def main() -> None:
    parser = argparse.ArgumentParser(description="a vocabulary that is shared out over ranks")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--rows", type=int, default=128)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    if "RANK" in os.environ:  # torchrun's
        dist.init_process_group("gloo")
    else:
        dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        start = time.perf_counter()
        losses = run(**vars(arguments))
        if dist.get_rank() == 0:
            print(f"first {losses[0]:.6f}  last {losses[-1]:.6f}  seconds {time.perf_counter() - start:.1f}")
    finally:
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
