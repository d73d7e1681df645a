"""The parts of `make gpu` that need no GPU: what is kept when a run is cut short, and how answers are read."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tools.gpu import profile
from tools.gpu.journal import Journal
from tools.gpu.process import Deadline, Job, run_job, run_limited
from tools.gpu.results import Results

pytestmark = pytest.mark.lane("make gpu: its parts that need no GPU")
ROOT = Path(__file__).resolve().parents[3]


def test_a_journal_knows_what_was_cut_short(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.jsonl")
    assert journal.entries() == {}
    assert journal.planned() is None
    journal.plan(3)
    journal.begin("a")
    journal.end("a", outcome="passed")
    journal.begin("b")
    with journal.path.open("a") as file:
        file.write('{"end": "b", "outc')  # killed while writing
    assert journal.planned() == 3
    assert journal.entries() == {"a": {"outcome": "passed"}, "b": None}


def test_the_time_limit_ends_a_process_and_its_children(tmp_path: Path) -> None:
    child = "import time\nprint('child', flush=True)\ntime.sleep(600)"
    code = f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {child!r}])"
    deadline = Deadline(2)
    log = tmp_path / "log"
    assert run_limited([sys.executable, "-c", code], deadline, log, tmp_path) is None
    assert log.read_text() == "child\n"
    assert deadline.spent < 15
    assert run_limited([sys.executable, "-c", "raise SystemExit(3)"], Deadline(30), log, tmp_path) == 3


DYING = """
import os, sys, time
from pathlib import Path
from tools.gpu.journal import Journal
journal = Journal(Path(sys.argv[1]))
known = journal.entries()
for key, entry in known.items():
    if entry is None:
        journal.end(key, outcome="failed")
journal.plan(4)
for key in "abcd":
    if key not in known:
        journal.begin(key)
        if key in sys.argv[2]:
            os._exit(1)
        if key in sys.argv[3]:
            time.sleep(600)
        journal.end(key, outcome="passed")
"""


@pytest.mark.parametrize(("deadly", "hanging"), [("", ""), ("a", ""), ("d", "b"), ("bc", ""), ("abcd", "")])
def test_a_job_goes_on_after_each_death(tmp_path: Path, deadly: str, hanging: str) -> None:
    journal = Journal(tmp_path / "journal.jsonl")
    command = [sys.executable, "-c", DYING, journal.path, deadly, hanging]
    job = Job("job", command, journal, {"PYTHONPATH": str(ROOT)}, patience=3)
    assert run_job(job, Deadline(60), tmp_path, tmp_path) is None
    outcomes = {key: entry and entry["outcome"] for key, entry in journal.entries().items()}
    assert outcomes == {key: "failed" if key in deadly + hanging else "passed" for key in "abcd"}


def test_a_job_that_is_out_of_time_says_how_far_it_came(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.jsonl")
    command = [sys.executable, "-c", DYING, journal.path, "", "c"]
    job = Job("job", command, journal, {"PYTHONPATH": str(ROOT)})
    assert run_job(job, Deadline(3), tmp_path, tmp_path) == "cut short after 3 of 4: its time was up"


def test_a_job_that_gets_nowhere_is_given_up(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.jsonl")
    reason = run_job(Job("job", [sys.executable, "-c", "1 / 0"], journal), Deadline(60), tmp_path, tmp_path)
    assert reason is not None
    assert "status 1 before it had a plan" in reason
    assert "ZeroDivisionError" in (tmp_path / "job.log").read_text()


TESTS = """
import os, pytest
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_device(device): assert device == "cuda"
def test_no_device(): assert False
@pytest.mark.parametrize(("case", "device"), [(case, "cuda") for case in "abcdefgh"])
def test_case(case, device):
    if case == "b": pytest.skip("no b")
    if case == "c": raise ValueError("wrong c")
    if case == "d" and "PYTEST_CURRENT_TEST" in os.environ: os._exit(1)
"""


def test_the_tests_are_shared_out_and_survive_a_dying_one(tmp_path: Path) -> None:
    (tmp_path / "test_some.py").write_text(TESTS)
    seen: dict[str, Any] = {}
    for share in range(2):
        journal = Journal(tmp_path / f"{share}.jsonl")
        environment = {
            "PYTHONPATH": str(ROOT),
            "FASTLOSS_GPU_JOURNAL": str(journal.path),
            "FASTLOSS_GPU_SHARE": f"{share}/2",
            "FASTLOSS_GPU_DEVICE": "cuda",
        }
        pytest_here = [sys.executable, "-m", "pytest", "-p", "tools.gpu.pytest_plugin", "-p", "no:cacheprovider"]
        job = Job(f"share-{share}", [*pytest_here, "-q", "test_some.py"], journal, environment)
        assert run_job(job, Deadline(120), tmp_path, tmp_path) is None, (tmp_path / f"share-{share}.log").read_text()
        entries = journal.entries()
        assert not seen.keys() & entries.keys()
        seen |= entries
    outcomes = {key.partition("::")[2]: entry["outcome"] for key, entry in seen.items()}
    expected = {f"test_case[{case}-cuda]": "passed" for case in "aefgh"}
    expected |= {"test_case[b-cuda]": "skipped", "test_case[c-cuda]": "failed", "test_case[d-cuda]": "failed"}
    assert outcomes == {**expected, "test_device[cuda]": "passed"}
    reasons = {key.partition("::")[2]: entry["reason"] for key, entry in seen.items()}
    assert reasons["test_case[b-cuda]"] == "no b"
    assert "wrong c" in reasons["test_case[c-cuda]"]
    assert "died" in reasons["test_case[d-cuda]"]


def bench_report(commit: str, **times: float) -> dict[str, Any]:
    def result(provider: str, median: float) -> dict[str, Any]:
        return {
            "loss": "cross_entropy",
            "shape": "8x16",
            "dtype": "float32",
            "mode": "forward",
            "provider": provider,
            "median": median,
            "speedup": {"copy": 0.5},
        }

    environment = {"device": "Some GPU", "commit": commit}
    skips = [{"case": "cross_entropy 8x16 float32 forward", "provider": "peer", "reason": "is not installed"}]
    return {"environment": environment, "results": [result(*item) for item in times.items()], "skips": skips}


def stage(**parts: Any) -> dict[str, Any]:
    return {"outcome": "passed", "seconds": 3.0, "date": "today", "commit": "abc", "failures": [], **parts}


def test_each_stage_keeps_what_the_others_wrote(tmp_path: Path) -> None:
    results = Results(tmp_path, "NVIDIA H100 80GB HBM3")
    assert results.path.name == "nvidia-h100-80gb-hbm3.json"
    results.put("build", stage(facts={"nvcc": "13.0"}))
    failure = {"what": "tests/test_x.py::test_y", "reason": "wrong\nvalue"}
    groups = {"tests/test_x.py::test_y": {"passed": 3, "failed": 1}}
    results.put("test", stage(groups=groups, skips={"no GPU": 2}, seed="1") | {"failures": [failure]})
    again = Results(tmp_path, "NVIDIA H100 80GB HBM3")
    again.put("bench", stage(ceilings={"copy GB/s": 3000.0}, facts={}))
    again.put_report(bench_report("abc", eager=2e-5, fastloss=1e-5))
    again.put("profile", stage(kernels=[{"case": "c", "kernel": "k", "counters": {"us": 12.5}}]))
    saved = json.loads(again.path.read_text())
    assert set(saved["stages"]) == {"build", "test", "bench", "profile"}
    page = again.page.read_text()
    for text in ("nvcc: 13.0", "| 3 | 1 | 0 |", "`wrong value`", "20 us, 50%", "is not installed", "| c | k | 12.5 |"):
        assert text in page, text


def test_a_report_keeps_cases_of_the_same_commit_only(tmp_path: Path) -> None:
    results = Results(tmp_path, "Some GPU")
    first = bench_report("abc", eager=1.0)
    first["results"][0]["shape"] = "4x4"
    results.put_report(first)
    results.put_report(bench_report("abc", eager=2.0))
    assert [result["median"] for result in results.data["results"]] == [2.0, 1.0]
    results.put_report(bench_report("def", eager=3.0))
    assert [result["median"] for result in results.data["results"]] == [3.0]


def test_the_file_is_a_report_of_the_benchmark(tmp_path: Path) -> None:
    from fastloss.bench import report

    results = Results(tmp_path, "Some GPU")
    results.put("build", stage(facts={}))
    assert report.load(results.path).results == []


TABLE = """\
==PROF== Connected to process 1234 (/usr/bin/python3.12)
==PROF== Disconnected from process 1234
"ID","Process ID","Process Name","Host Name","Kernel Name","Context","Stream","Block Size","Grid Size","Device","CC",\
"dram__bytes_read.sum","dram__bytes_write.sum","gpu__time_duration.sum","launch__registers_per_thread"
"","","","","","","","","","","","byte","byte","ns","register/thread"
"0","1234","python3.12","127.0.0.1","row_forward_cluster_kernel(RowJob<CrossEntropy<float>, __nv_bfloat16>)","1","7",\
"(512, 1, 1)","(16384, 1, 1)","0","9.0","1,050,673,152","1050673152","700,123.50","64"
"1","1234","python3.12","127.0.0.1","sum_kernel","1","7","(256, 1, 1)","(1, 1, 1)","0","9.0","n/a","4096","2000","16"
"""


def test_the_table_of_ncu_is_read() -> None:
    first, second = profile.read_table(TABLE)
    assert first["kernel"] == "row_forward_cluster_kernel"
    assert first["counters"] == pytest.approx(
        {"us": 700.1235, "MB read": 1050.673152, "MB written": 1050.673152, "registers": 64.0}
    )
    assert second == {
        "kernel": "sum_kernel",
        "counters": pytest.approx({"us": 2.0, "MB written": 4.096e-3, "registers": 16}),
    }
    assert profile.read_table("==ERROR== no permission") == []


def fake_ncu(folder: Path, status: int) -> str:
    """Takes ncu's options, runs the program, writes a table."""
    script = folder / "ncu"
    script.write_text(
        f"#!{sys.executable}\nimport subprocess, sys\nfrom pathlib import Path\n"
        "arguments = sys.argv[1:]\n"
        "subprocess.run(arguments[arguments.index('--metrics') + 2:], check=True)\n"
        f"Path(arguments[arguments.index('--log-file') + 1]).write_text({TABLE!r})\n"
        f"sys.exit({status})\n"
    )
    script.chmod(0o755)
    return str(script)


@pytest.mark.parametrize("status", [0, 9])
def test_a_kernel_is_profiled(tmp_path: Path, status: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(profile, "SECONDS", 3000)  # of a real profile; here torch may take a minute to import
    case = profile.Case("reference", "8x10", "float32", "forward_backward")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    found = profile.counters(
        case, fake_ncu(tmp_path, status), Path(sys.executable), Deadline(3000), tmp_path, environment
    )
    if status:
        assert isinstance(found, str)
        assert "status 9" in found
    else:
        assert not isinstance(found, str)
        assert [kernel["case"] for kernel in found] == ["reference 8x10 float32 forward_backward"] * 2


def test_without_a_gpu_there_is_a_reason(tmp_path: Path) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    done = subprocess.run([sys.executable, "-m", "tools.gpu", "test"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    assert "--rehearse runs the stages on the CPU" in done.stderr
