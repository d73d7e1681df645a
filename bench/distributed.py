"""Cross-entropy over a vocabulary that two gloo processes share, beside torch's loss_parallel.

    python -m bench.distributed [--rows N] [--classes C] [--ranks R] [--rounds K]

Forward and backward of float32 logits, in the same processes, taking turns; times are milliseconds of the slowest rank,
lower quartiles. "copy" is of this rank's logits, into memory that is there already.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable

import torch
import torch.distributed as dist
import torch.multiprocessing
import torch.nn.functional as F
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Shard
from torch.distributed.tensor.parallel import loss_parallel

from fastloss.distributed import vocab_parallel_cross_entropy


def candidates(logits: Tensor, target: Tensor, classes: int) -> dict[str, Callable[[], Tensor | None]]:
    """What is timed; each returns the gradient of this rank's logits, but for the copy."""
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    place = torch.empty_like(logits)

    def ours() -> Tensor | None:
        x = logits.detach().requires_grad_()
        vocab_parallel_cross_entropy(x, target, vocab_size=classes).backward()
        return x.grad

    def theirs() -> Tensor | None:
        x = logits.detach().requires_grad_()
        with loss_parallel():
            F.cross_entropy(DTensor.from_local(x, mesh, [Shard(1)]), target).backward()
        return x.grad

    def copy() -> None:
        place.copy_(logits)

    return {"fastloss": ours, "loss_parallel": theirs, "copy": copy}


def work(rank: int, ranks: int, folder: str, rows: int, classes: int, rounds: int) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=ranks)
    generator = torch.Generator().manual_seed(rank)
    local = torch.empty(classes).chunk(ranks)[rank].numel()
    logits = torch.randn(rows, local, generator=generator)
    target = torch.randint(classes, (rows,), generator=torch.Generator().manual_seed(9))
    timed = candidates(logits, target, classes)
    torch.testing.assert_close(timed["fastloss"](), timed["loss_parallel"]())
    samples: dict[str, list[float]] = {name: [] for name in timed}
    for _ in range(rounds):
        for name, call in timed.items():
            dist.barrier()
            start = time.perf_counter()
            call()
            slowest = torch.tensor(time.perf_counter() - start, dtype=torch.float64)
            dist.all_reduce(slowest, dist.ReduceOp.MAX)
            samples[name].append(slowest.item() * 1e3)
    if rank == 0:
        quartiles = {name: statistics.quantiles(values, n=4)[0] for name, values in samples.items()}
        figures = "  ".join(f"{name} {value:.1f}" for name, value in quartiles.items())
        ratio = quartiles["loss_parallel"] / quartiles["fastloss"]
        print(f"{rows} x {classes}, {ranks} ranks: {figures}  ratio {ratio:.1f}")
    dist.destroy_process_group()


def main() -> None:
    parser = argparse.ArgumentParser(description="vocab-parallel cross-entropy beside torch's loss_parallel")
    parser.add_argument("--rows", type=int, default=1024)
    parser.add_argument("--classes", type=int, default=32000)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=9)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        operands = (arguments.ranks, folder, arguments.rows, arguments.classes, arguments.rounds)
        torch.multiprocessing.spawn(work, operands, nprocs=arguments.ranks)


if __name__ == "__main__":
    main()
