"""The machine and the versions that a result belongs to."""

from __future__ import annotations

import datetime
import importlib.metadata
import importlib.util
import os
import platform
import subprocess
from pathlib import Path

import torch


def describe(device: torch.device) -> dict[str, object]:
    triton = importlib.util.find_spec("triton") and importlib.metadata.version("triton")
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d"),
        "commit": _commit() or os.environ.get("FASTLOSS_COMMIT"),  # a copy without git knows it from the caller
        "torch": torch.__version__,
        "triton": triton,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else _cpu_name(),
        "device_type": device.type,
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "transparent_hugepage": _transparent_hugepage(),
    }


class OtherProcesses:
    """How much of the machine's CPU time others take from now on.

    A benchmark beside a busy process is worthless, and it does not show in the medians: with one of two cores taken,
    every parallel region waits for a whole time slice of the scheduler.
    """

    def __init__(self) -> None:
        self.start = processor_seconds()

    def share(self) -> float | None:
        """Between 0 and 1; None where the system does not tell (not Linux)."""
        end = processor_seconds()
        if self.start is None or end is None:
            return None
        total, busy, own = (after - before for after, before in zip(end, self.start, strict=True))
        return max(0.0, busy - own) / total


def last_level_cache_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).L2_cache_size
    caches = Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size")
    sizes = [int(file.read_text().strip().rstrip("K")) * 1024 for file in caches]
    return max(sizes, default=64 << 20)  # no sysfs (not Linux): 64 MiB is more than nearly every CPU has


def processor_seconds() -> tuple[float, float, float] | None:
    """Of all processors: seconds passed, seconds busy (steal included); seconds busy for this process."""
    stat = Path("/proc/stat")
    if not stat.exists():
        return None
    # user, nice, system, idle, iowait, irq, softirq, steal; guests are part of user
    ticks = [int(field) for field in stat.read_text().split("\n", 1)[0].split()[1:9]]
    second = os.sysconf("SC_CLK_TCK")
    own = os.times()
    return sum(ticks) / second, (sum(ticks) - ticks[3] - ticks[4]) / second, own.user + own.system


def _commit() -> str | None:
    """Short hash of the checkout that this file is tracked in, "+" if it has changes; None for an installed copy."""
    folder = Path(__file__).resolve().parent

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(["git", "-C", str(folder), *arguments], check=False, capture_output=True, text=True)
        except FileNotFoundError:  # no git on this machine
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    # A virtual environment may lie inside an unrelated checkout: hence the question whether git tracks this file.
    if git("ls-files", "--error-unmatch", Path(__file__).name) is None:
        return None
    commit = git("rev-parse", "--short", "HEAD")
    return commit and commit + ("+" if git("status", "--porcelain", "--untracked-files=no") else "")


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _transparent_hugepage() -> str | None:
    """The chosen one of "always [madvise] never": it decides what a fresh gradient costs on a CPU."""
    setting = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    return setting.read_text().split("[")[1].split("]")[0] if setting.exists() else None
