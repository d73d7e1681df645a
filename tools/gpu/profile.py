"""Hardware counters of single kernels, by ncu: what `make gpu-profile` asks for, and how it reads the answer.

Run as a program, it is the process under ncu: `python -m tools.gpu.profile BACKEND ROWSxCLASSES DTYPE MODE`.
"""

from __future__ import annotations

import csv
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .process import Deadline, run_limited

ROOT = Path(__file__).resolve().parents[2]
SECONDS = 60  # for one case; ncu runs each kernel some 20 times

# Named by ncu's sections, whose names do not change between GPUs, and the two that no section is sure to hold.
SECTIONS = ("SpeedOfLight", "LaunchStats", "Occupancy")
METRICS = ("dram__bytes_read.sum", "dram__bytes_write.sum")
# counter -> (heading, what it is divided by)
SHOWN = {
    "gpu__time_duration.sum": ("us", 1e3),
    "dram__bytes_read.sum": ("MB read", 1e6),
    "dram__bytes_write.sum": ("MB written", 1e6),
    "gpu__dram_throughput.avg.pct_of_peak_sustained_elapsed": ("DRAM %", 1),
    "sm__throughput.avg.pct_of_peak_sustained_elapsed": ("SM %", 1),
    "sm__warps_active.avg.pct_of_peak_sustained_active": ("warps active %", 1),
    "launch__registers_per_thread": ("registers", 1),
    "launch__block_size": ("threads", 1),
    "launch__grid_size": ("blocks", 1),
    "launch__shared_mem_per_block": ("shared KiB", 1024),
}


@dataclass(frozen=True)
class Case:
    backend: str
    shape: str
    dtype: str
    mode: str

    def __str__(self) -> str:
        return f"{self.backend} {self.shape} {self.dtype} {self.mode}"


def _cases(backends: tuple[str, ...], *workloads: tuple[str, str, str]) -> tuple[Case, ...]:
    return tuple(Case(backend, *workload) for workload in workloads for backend in backends)


# A long row, one that fits a block, a short one, and classes that do not lie side by side: one of each skeleton.
CASES = {
    "cuda": _cases(
        ("cuda", "triton"),
        ("4096x128256", "bfloat16", "forward_backward"),
        ("8192x32000", "bfloat16", "forward_backward"),
        ("8192x32000", "bfloat16", "forward"),
        ("131072x1000", "bfloat16", "forward_backward"),
        ("16x1000x8192", "bfloat16", "forward_backward"),
    ),
    "cpu": _cases(("cpu",), ("64x1000", "bfloat16", "forward_backward"), ("2x100x64", "bfloat16", "forward")),
}


def forbidden(reason: str) -> bool:
    """Whether it is the machine that does not let ncu read counters."""
    return any(sign in reason for sign in ("ERR_NVGPUCTRPERM", "Failed to initialize the profiler"))


def counters(
    case: Case, ncu: str, python: Path, deadline: Deadline, folder: Path, environment: dict[str, str]
) -> list[dict[str, Any]] | str:
    """One entry a kernel; or why there is none."""
    name = str(case).replace(" ", "-")
    table, log = folder / f"{name}.csv", folder / f"{name}.log"
    options: list[object] = [
        "--csv",
        "--page",
        "raw",
        "--print-units",
        "base",
        "--log-file",
        table,
        "--force-overwrite",
    ]
    options += ["--profile-from-start", "off", "--target-processes", "all"]
    options += ["--clock-control", "none"]  # the default fixes the clocks of a card that others use too
    for section in SECTIONS:
        options += ["--section", section]
    workload = [python, "-m", "tools.gpu.profile", case.backend, case.shape, case.dtype, case.mode]
    command = [ncu, *options, "--metrics", ",".join(METRICS), *workload]
    status = run_limited(command, Deadline(min(SECONDS, deadline.left)), log, ROOT, environment)
    if status is None:
        return "its time was up"
    text = table.read_text() if table.exists() else ""
    if status != 0:
        return f"ncu ended with status {status}: {text[-500:]} {log.read_text()[-500:]}"
    kernels = read_table(text)
    return [{"case": str(case), **kernel} for kernel in kernels] or f"ncu saw no kernel: {text[-500:]}"


def read_table(text: str) -> list[dict[str, Any]]:
    """ncu's raw page: remarks, a line of names, a line of units, a line for each kernel."""
    lines = text.splitlines()
    first = next((i for i, line in enumerate(lines) if line.startswith('"ID"')), None)
    if first is None:
        return []
    _, *rows = csv.DictReader(lines[first:])
    kernels = []
    for row in rows:
        found = {}
        for counter, (heading, divisor) in SHOWN.items():
            value = row.get(counter, "").replace(",", "")
            if value and value[0].isdigit():  # else n/a
                found[heading] = float(value) / divisor
        kernels.append({"kernel": row["Kernel Name"].partition("(")[0], "counters": found})
    return kernels


def workload(backend: str, shape: str, dtype: str, mode: str) -> None:
    """Warms up, then computes once with the profiler on."""
    import torch

    import fastloss

    device = "cuda" if torch.cuda.is_available() else "cpu"
    sizes = tuple(map(int, shape.split("x")))
    generator = torch.Generator(device).manual_seed(0)
    logits = torch.randn(sizes, generator=generator, device=device, dtype=getattr(torch, dtype))
    target = torch.randint(sizes[1], sizes[:1] + sizes[2:], generator=generator, device=device)
    logits.requires_grad_(mode == "forward_backward")

    def compute() -> None:
        loss = fastloss.cross_entropy(logits, target)
        if mode == "forward_backward":
            torch.autograd.grad(loss, logits)

    with fastloss.backend(backend):
        for _ in range(3):
            compute()
        if device == "cpu":
            compute()
            return
        torch.cuda.synchronize()
        torch.cuda.profiler.start()
        compute()
        torch.cuda.synchronize()
        torch.cuda.profiler.stop()


if __name__ == "__main__":
    workload(*sys.argv[1:])
