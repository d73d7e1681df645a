"""`make gpu`: builds for the GPU of this machine, tests, measures and profiles there. Needs no network.

    python -m tools.gpu build | test | bench | profile | all [--rehearse]

Needs a CUDA GPU and a `python3` with a CUDA torch, nvcc and pytest; what else the build asks for is taken from that
Python or from the folder wheels/ (`make peers` fills it). A stage ends after at most STAGE_SECONDS, the build that it
may have to begin with included, and keeps what it had. Results: bench/results/<GPU>.json and .md.

--rehearse runs the same stages where there is no GPU, on the CPU, and writes to build/gpu-rehearsal instead.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import random
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import peers
from .journal import Entry, Journal
from .process import Deadline, Job, run_limited, run_together
from .profile import CASES, counters, forbidden
from .results import STAGES, Record, Results

ROOT = Path(__file__).resolve().parents[2]
PYTHON = ROOT / ".venv" / "bin" / "python"
SHOWN_FAILURES = 25  # in the terminal; the JSON has all
STAGE_SECONDS = 435  # and a few to end processes and write: well within 8 minutes
TEST_PROCESSES = 12  # each has a CUDA context, about 0.5 GB, and compiles Triton kernels on a core of its own

DESCRIBE = """
import json, torch
gpus = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
print(json.dumps({
    "torch": torch.__version__, "cuda": torch.version.cuda,
    "gpus": [gpu.name for gpu in gpus], "capabilities": sorted({f"{gpu.major}.{gpu.minor}" for gpu in gpus}),
}))
"""


@dataclass
class Session:
    """One run of this program."""

    rehearsal: bool
    machine: Record  # as DESCRIBE prints it
    results: Results
    work: Path  # logs and journals

    @property
    def device(self) -> str:
        return "cpu" if self.rehearsal else "cuda"

    def environment(self) -> dict[str, str]:
        """Of every process that computes."""
        return {"FASTLOSS_GPU_REHEARSAL": "1" if self.rehearsal else "0", "PYTHONUNBUFFERED": "1"}

    def folder(self, stage: str) -> Path:
        """Empty: a journal continues within a run, not from an earlier one."""
        folder = self.work / stage
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        return folder


def describe_machine() -> Record:
    python = PYTHON if PYTHON.exists() else sys.executable
    done = subprocess.run([python, "-c", DESCRIBE], capture_output=True, text=True, cwd=ROOT)
    if done.returncode != 0:
        sys.exit(f"gpu: {python} has no working torch:\n{done.stderr[-1000:]}")
    return json.loads(done.stdout)


def start(rehearsal: bool) -> Session:
    machine = describe_machine()
    if rehearsal:
        print("gpu: REHEARSAL on the CPU. Nothing below is a result of a GPU, and bench/results stays as it is.")
        work = ROOT / "build" / "gpu-rehearsal"
        results = Results(work / "results", "rehearsal without a GPU")
        results.data["rehearsal"] = True
    else:
        if not machine["gpus"]:
            why = "is built without CUDA" if machine["cuda"] is None else "sees no GPU"
            sys.exit(f"gpu: torch {machine['torch']} {why}; --rehearse runs the stages on the CPU")
        work = ROOT / "build" / "gpu"
        results = Results(ROOT / "bench" / "results", machine["gpus"][0])
    print(f"gpu: {', '.join(machine['gpus']) or 'no GPU'}, torch {machine['torch']}, CUDA {machine['cuda']}")
    return Session(rehearsal, machine, results, work)


def commit() -> str:
    """Of the checkout; a copy without git has FASTLOSS_COMMIT, or nothing to tell."""
    done = subprocess.run(["git", "describe", "--always", "--dirty=+"], capture_output=True, text=True, cwd=ROOT)
    return done.stdout.strip() if done.returncode == 0 else os.environ.get("FASTLOSS_COMMIT", "unknown")


def record(deadline: Deadline, outcome: str, failures: list[Record], **facts: Any) -> Record:
    """What every stage leaves."""
    return {
        "outcome": outcome,
        "seconds": round(deadline.spent, 1),
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M"),
        "commit": commit(),
        "failures": failures,
        **facts,
    }


# ------------------------------------------------------------------------------------------ build


def build(session: Session, deadline: Deadline) -> bool:
    """Builds what is not built yet, for the GPUs of this machine only: the usual build is for three architectures."""
    log = session.folder("build") / "build.log"
    before = binaries()
    architectures = ";".join(session.machine["capabilities"]) or "9.0"
    environment = {"FASTLOSS_BUILD": "cuda", "TORCH_CUDA_ARCH_LIST": architectures}
    status = run_limited([sys.executable, ROOT / "tools" / "setup_env.py"], deadline, log, ROOT, environment)
    failures = []
    facts: Record = {"architectures": architectures}
    if status != 0:
        reason = "its time was up" if status is None else f"status {status}: {log.read_text()[-1500:]}"
        failures.append({"what": "tools/setup_env.py", "reason": reason})
    else:
        facts["nvcc"] = nvcc_version()
        facts |= {name: f"{size / 1e6:.2f} MB" for name, (size, _) in binaries().items()}
        failures += doctor(facts, session)
        if not failures and before == binaries() and "build" in session.results.data["stages"]:
            return True  # the record of the build itself is worth more than one of its repetition
    session.results.put("build", record(deadline, "failed" if failures else "passed", failures, facts=facts))
    report("build", session)
    return not failures


def binaries() -> dict[str, tuple[int, int]]:
    """Size and time of change."""
    return {file.name: (file.stat().st_size, file.stat().st_mtime_ns) for file in sorted(ROOT.glob("fastloss/*.so"))}


def doctor(facts: Record, session: Session) -> list[Record]:
    """Adds what `python -m fastloss doctor` says; the backends for GPUs must be ready."""
    command = [str(PYTHON), "-m", "fastloss", "doctor", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env={**os.environ, "FASTLOSS_STRICT": "1"})
    if done.returncode != 0:
        return [{"what": "python -m fastloss doctor", "reason": done.stderr[-1500:]}]
    found = json.loads(done.stdout)
    facts |= {name: found[name] for name in ("python", "torch", "cuda", "triton", "gpus", "automatic")}
    facts["built with"] = found["build"]
    needed = ["cpu", "triton"] + ["cuda"] * (found["cuda"] is not None or not session.rehearsal)
    reasons = {name: found["backends"][name] for name in needed}
    return [{"what": f"backend {name}", "reason": reason} for name, reason in reasons.items() if reason is not None]


def nvcc_version() -> str:
    nvcc = shutil.which("nvcc") or Path(os.environ.get("CUDA_HOME", "/usr/local/cuda")) / "bin" / "nvcc"
    return subprocess.run([str(nvcc), "--version"], capture_output=True, text=True).stdout.strip().splitlines()[-1]


# ------------------------------------------------------------------------------------------ test


def test(session: Session, deadline: Deadline) -> None:
    """The laws of tests/ with device cuda and the tests of tests/lanes/gpu, in processes side by side."""
    folder = session.folder("test")
    seed = os.environ.get("FASTLOSS_TEST_SEED") or str(random.randrange(2**31))
    alone = [ROOT / "tests" / "lanes" / "gpu" / name for name in ("test_large.py", "test_sanitizers.py")]
    ignored = [f"--ignore={file}" for file in alone]
    skips = {}
    shared = [ROOT / "tests" / name for name in ("laws", "oracles", "skeletons", "contract", "lanes/gpu")]
    if not has_module("hypothesis"):
        ignored.append(f"--ignore={ROOT / 'tests' / 'oracles' / 'test_properties.py'}")
        skips["tests/oracles/test_properties.py: hypothesis is not installed"] = 1
    count = max(1, min(TEST_PROCESSES, (os.cpu_count() or 2) - 2))

    def job(name: str, share: str, *arguments: str | Path) -> Job:
        journal = Journal(folder / f"{name}.jsonl")
        pytest = [PYTHON, "-m", "pytest", "-p", "tools.gpu.pytest_plugin", "-p", "no:cacheprovider", "--tb=short", "-q"]
        environment = {
            "FASTLOSS_TEST_SEED": seed,
            "FASTLOSS_GPU_JOURNAL": str(journal.path),
            "FASTLOSS_GPU_SHARE": share,
            "FASTLOSS_GPU_DEVICE": session.device,
            "OMP_NUM_THREADS": "1",  # the oracles are small, the processes many
            "TORCHINDUCTOR_COMPILE_THREADS": "1",  # for the same reason: torch.compile starts a pool in each
        }
        command = [*pytest, "--continue-on-collection-errors", *arguments]
        return Job(name, command, journal, {**session.environment(), **environment})

    jobs = [job(f"share-{i}", f"{i}/{count}", *ignored, *shared) for i in range(count)]
    jobs += [job(file.stem, "0/1", file) for file in alone]
    jobs[-1].patience = 200  # a test under compute-sanitizer may take 180 s

    def save(outcomes: dict[str, str | None] | None = None) -> None:
        entries: dict[str, Entry | None] = {}
        for each in jobs:
            entries |= each.journal.entries()
        session.results.put("test", test_record(deadline, entries, outcomes, skips, seed))

    save(run_together(jobs, deadline, folder, ROOT, save))
    report("test", session)


def has_module(name: str) -> bool:
    code = f"import importlib.util, sys; sys.exit(importlib.util.find_spec({name!r}) is None)"
    return subprocess.run([PYTHON, "-c", code], cwd=ROOT / "tools").returncode == 0


def test_record(
    deadline: Deadline,
    entries: dict[str, Entry | None],
    outcomes: dict[str, str | None] | None,  # of the processes; None: they are running
    skips: dict[str, int],
    seed: str,
) -> Record:
    groups: dict[str, Counter[str]] = {}
    reasons = Counter(skips)
    failures = []
    for key, entry in entries.items():
        if entry is None:
            continue
        groups.setdefault(key.partition("[")[0], Counter())[entry["outcome"]] += 1
        if entry["outcome"] == "skipped":
            reasons[entry["reason"]] += 1
        elif entry["outcome"] == "failed":
            failures.append({"what": key, "reason": entry["reason"]})
    problems = {name: reason for name, reason in (outcomes or {}).items() if reason is not None}
    failures += [{"what": f"process {name}", "reason": reason} for name, reason in problems.items()]
    outcome = outcome_of(failures, outcomes is not None)
    return record(deadline, outcome, failures, groups=groups, skips=reasons, seed=seed)


def outcome_of(failures: list[Record], finished: bool) -> str:
    if not finished:
        return "running, or killed"
    return "failed" if failures else "passed"


# ------------------------------------------------------------------------------------------ bench


def bench(session: Session, deadline: Deadline) -> None:
    """The registry of bench/ on the GPU, beside the peers whose wheels are there."""
    folder = session.folder("bench")
    facts: Record = {"peers": peers.install(PYTHON)}
    facts["nvidia-smi before"] = nvidia_smi()
    journal = Journal(folder / "bench.jsonl")
    command = [PYTHON, "-m", "tools.gpu.bench", journal.path, session.device]

    def save(outcomes: dict[str, str | None] | None = None) -> None:
        entries = {key: entry for key, entry in journal.entries().items() if entry is not None}
        failures = [failure for entry in entries.values() for failure in entry["failures"]]
        failures += [{"what": name, "reason": reason} for name, reason in (outcomes or {}).items() if reason]
        ceilings: dict[str, float] = next((entry["ceilings"] for entry in entries.values() if "ceilings" in entry), {})
        outcome = outcome_of(failures, outcomes is not None)
        session.results.put("bench", record(deadline, outcome, failures, ceilings=ceilings, facts=facts))
        parts: dict[str, list[Record]] = {
            part: [each for entry in entries.values() for each in entry.get(part, [])] for part in ("results", "skips")
        }
        environments = [entry["environment"] for entry in entries.values() if "environment" in entry]
        if environments:
            session.results.put_report({"environment": environments[0], **parts})

    job = Job("bench", command, journal, session.environment())
    outcomes = run_together([job], deadline, folder, ROOT, save)
    facts["nvidia-smi after"] = nvidia_smi()
    save(outcomes)
    report("bench", session)


def nvidia_smi() -> str:
    """Clocks, temperature, power and who else computes: what a strange timing is explained with. Read, never set."""
    if shutil.which("nvidia-smi") is None:
        return "nvidia-smi is not on the PATH"
    fields = "clocks.sm,clocks.mem,temperature.gpu,power.draw,utilization.gpu,memory.used"
    done = subprocess.run(
        ["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader"], capture_output=True, text=True
    )
    return done.stdout.strip() or done.stderr.strip()


# ------------------------------------------------------------------------------------------ profile


def profile(session: Session, deadline: Deadline) -> None:
    """Hardware counters of chosen kernels, where ncu is there and may read them."""
    folder = session.folder("profile")
    kernels: list[Record] = []
    failures: list[Record] = []
    ncu = shutil.which("ncu")
    skipped = "ncu is not on the PATH" if ncu is None else ""
    for case in CASES[session.device]:
        if ncu is None:
            break
        found = counters(case, ncu, PYTHON, deadline, folder, session.environment())
        if not isinstance(found, str):
            kernels += found
        elif forbidden(found):
            skipped = found
            break
        else:
            failures.append({"what": str(case), "reason": found})
        session.results.put("profile", record(deadline, outcome_of(failures, False), failures, kernels=kernels))
    outcome = "skipped" if skipped else outcome_of(failures, True)
    session.results.put("profile", record(deadline, outcome, failures, kernels=kernels, skipped=skipped))
    report("profile", session)


# ------------------------------------------------------------------------------------------ the program


def report(stage: str, session: Session) -> None:
    """The outcome of a stage for the terminal; the page has the tables."""
    found = session.results.data["stages"][stage]
    for failure in found["failures"][:SHOWN_FAILURES]:
        print(f"  FAILED {failure['what']}: {telling_line(failure['reason'])}")
    if len(found["failures"]) > SHOWN_FAILURES:
        print(f"  ... {len(found['failures'])} failures in all")
    for group, counts in sorted(found.get("groups", {}).items()):
        print(f"  {group}: {', '.join(f'{count} {outcome}' for outcome, count in sorted(counts.items()))}")
    if found.get("skipped"):
        print(f"  {telling_line(found['skipped'])}")
    print(f"gpu-{stage}: {found['outcome']} after {found['seconds']:.0f} s; {session.results.page}", flush=True)


def telling_line(reason: str) -> str:
    """The first line that pytest marks as the error; of other texts the last."""
    lines = reason.strip().splitlines()
    marked = [line.removeprefix("E").strip() for line in lines if line.startswith("E  ")]
    return (marked or lines[-1:] or [""])[0][:200]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", choices=[*STAGES, "all"])
    parser.add_argument("--rehearse", action="store_true", help="on the CPU, where there is no GPU")
    arguments = parser.parse_args()
    session = start(arguments.rehearse)
    deadline = Deadline(STAGE_SECONDS)
    if not build(session, deadline):
        return 1
    run = {"test": test, "bench": bench, "profile": profile}
    if arguments.stage in run:
        run[arguments.stage](session, deadline)
    elif arguments.stage == "all":
        for stage in run.values():
            stage(session, Deadline(STAGE_SECONDS))
    chosen = STAGES if arguments.stage == "all" else (arguments.stage,)
    outcomes = [session.results.data["stages"][name]["outcome"] for name in chosen]
    return 0 if all(outcome in ("passed", "skipped") for outcome in outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())
