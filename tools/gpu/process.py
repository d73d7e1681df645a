"""Runs the processes of a stage of `make gpu` within its time, and starts those again that died half-way."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path

from .journal import Journal

# Not a session of its own: then nobody could end it together with us.
OWN_GROUP: dict[str, object] = {"process_group": 0} if sys.version_info >= (3, 11) else {"start_new_session": True}
GRACE = 5  # seconds between asking a process to end and killing it


class Deadline:
    def __init__(self, seconds: float) -> None:
        self.start = time.monotonic()
        self.seconds = seconds

    @property
    def spent(self) -> float:
        return time.monotonic() - self.start

    @property
    def left(self) -> float:
        return max(0.0, self.seconds - self.spent)


@dataclass
class Job:
    """A process that writes a journal; `command` continues where the journal ends."""

    name: str
    command: Sequence[object]
    journal: Journal
    environment: dict[str, str] = field(default_factory=dict)
    patience: float = 120  # seconds without a line in the journal: a kernel that hangs does not end by itself


def run_limited(
    command: Sequence[object],  # strings and paths
    deadline: Deadline,
    log: Path,
    cwd: Path,
    environment: dict[str, str] | None = None,
    hangs: Callable[[], bool] = lambda: False,
) -> int | None:
    """The exit status; None if the process had to be ended, late or hanging. Its output is appended to `log`."""
    with log.open("ab") as output:
        process = subprocess.Popen(
            [str(part) for part in command],
            cwd=cwd,
            env={**os.environ, **(environment or {})},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            **OWN_GROUP,  # type: ignore[call-overload]
        )
        try:
            while process.poll() is None and deadline.left and not hangs():
                time.sleep(0.1)
            return process.poll()
        finally:
            end_group(process)


def end_group(process: subprocess.Popen[bytes]) -> None:
    """Ends what is left of the process and of those it started."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            return
        end = time.monotonic() + GRACE
        while process.poll() is None and time.monotonic() < end:
            time.sleep(0.05)


def run_job(job: Job, deadline: Deadline, folder: Path, cwd: Path) -> str | None:
    """Runs a job to the end of its plan; None if it got there, else why not.

    A kernel that traps or reads out of bounds takes the process's whole CUDA context with it, and one that hangs takes
    all the time there is. The job goes on in a new process then, as long as each of them gets a step further.
    """
    log = folder / f"{job.name}.log"
    started = time.time()

    def hangs() -> bool:
        return time.time() - max(started, job.journal.changed()) > job.patience

    while True:
        before = len(job.journal.entries())
        started = time.time()
        status = run_limited(job.command, deadline, log, cwd, job.environment, hangs)
        entries, planned = job.journal.entries(), job.journal.planned()
        if planned is not None and len(entries) >= planned and None not in entries.values():
            return None
        if not deadline.left:
            return f"cut short after {len(entries)} of {planned}: its time was up"
        if planned is None:
            return f"{ending(status)} before it had a plan, see {log}"
        if len(entries) == before:
            return f"{ending(status)} without progress, see {log}"
        print(f"  {job.name}: its process ended after {len(entries)} of {planned}; starting it again", flush=True)


def ending(status: int | None) -> str:
    return "hung" if status is None else f"ended with status {status}"


def run_together(
    jobs: Sequence[Job], deadline: Deadline, folder: Path, cwd: Path, progress: Callable[[], None]
) -> dict[str, str | None]:
    """All jobs at once; `progress` is called every few seconds. What `run_job` said of each."""
    with ThreadPoolExecutor(len(jobs)) as pool:
        futures = {job.name: pool.submit(run_job, job, deadline, folder, cwd) for job in jobs}
        try:
            while wait(futures.values(), timeout=5).not_done:
                progress()
        except BaseException:
            deadline.seconds = 0  # Ctrl-C does not reach processes in groups of their own
            raise
    progress()
    return {name: future.result() for name, future in futures.items()}
