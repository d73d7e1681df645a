"""Processes that have a group: started once for many calls, whose results come back by rank."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing
from support import SEED


def _run(rank: int, size: int, folder: str, work: Callable[[int], Any]) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=size)
    try:
        torch.save(work(rank), f"{folder}/{rank}.pt")
    finally:
        dist.destroy_process_group()


def on_ranks(size: int, work: Callable[[int], Any]) -> list[Any]:
    """What work(rank) returned in each of so many gloo processes."""
    os.environ["FASTLOSS_TEST_SEED"] = str(SEED)  # of the children, too
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.spawn(_run, (size, folder, work), nprocs=size)
        return [torch.load(Path(folder) / f"{rank}.pt") for rank in range(size)]
