"""The benchmark's own parts: what would make a table lie."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext, suppress
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from fastloss.bench import environment, measure, page, plot, report
from fastloss.bench.cases import LOSSES, Case, all_cases
from fastloss.bench.memory import peak_extra_bytes
from fastloss.bench.providers import PROVIDERS, Pool, Step, Unavailable, loss_step
from torch import Tensor

CPU = torch.device("cpu")
TINY = Case(LOSSES[0], (8, 16), "float32", "forward_backward")


def result(provider: str, median: float, **speedup: float) -> measure.Result:
    names = {"compile": "torch.compile"}
    return measure.Result(
        loss="cross_entropy",
        shape="8x16",
        dtype="float32",
        mode="forward",
        provider=provider,
        note="",
        bytes=1000,
        rounds=9,
        others=0.0,
        median=median,
        quartiles=(median, median),
        speedup={names.get(name, name): ratio for name, ratio in speedup.items()},
    )


def make_report() -> report.Report:
    machine: dict[str, object] = dict.fromkeys(
        ("device", "cores", "threads", "transparent_hugepage", "torch", "triton", "python", "commit", "date"), "x"
    )
    results = [
        result("copy", 1.0, copy=1.0),
        result("eager", 2.0, copy=0.5),
        result("torch.compile", 0.5, copy=2.0),
        result("fastloss", 1.0, copy=1.0, eager=2.0, compile=0.5),
    ]
    return report.Report(machine, results, [measure.Skip("case", "peer", "reason")])


def test_bytes_are_those_of_the_inputs_read_once_and_the_gradient_written_once() -> None:
    for case in all_cases():
        if case.shape != (1024, 32000):
            continue
        logits, target = case.make_arguments(CPU, seed=0)
        counted = [logits] + [target] * target.is_floating_point() + [logits] * (case.mode == "forward_backward")
        assert case.bytes == sum(tensor.nbytes for tensor in counted), str(case)


def test_the_pool_exceeds_the_cache_and_holds_no_zeros(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "last_level_cache_bytes", lambda device: 1000)
    pool = measure.make_pool(TINY, CPU)
    assert len(pool) == 8  # of 512 bytes: 4 x 1000 rounded up
    assert all(logits.requires_grad and logits.is_leaf for logits, _ in pool)
    assert all(logits.count_nonzero() == logits.numel() for logits, _ in pool)
    assert not torch.equal(pool[0][0], pool[1][0])


def test_all_providers_take_turns_and_only_samples_are_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "MIN_ROUNDS", 3)
    monkeypatch.setattr(measure, "MAX_ROUNDS", 3)
    calls: list[str] = []

    def step(name: str) -> Step:
        def run(i: int) -> tuple[Tensor, None]:
            calls.append(f"{name}{i}")
            return torch.zeros(()), None

        return Step(run, nullcontext, restore=lambda: calls.append(f"restore {name}"))

    samples = measure.interleave({"a": step("a"), "b": step("b")}, 2, CPU, seconds=0.0)
    assert {name: len(own) for name, own in samples.items()} == {"a": 3, "b": 3}
    a, b = ["restore a", "a0", "a1"], ["restore b", "b0", "b1"]
    warm_up, rounds = [*a, *a, *b, *b], [*a, *b, *b, *a, *a, *b]
    assert calls == warm_up + rounds


@pytest.mark.parametrize("mode", ["forward", "forward_backward"])
def test_gradients_are_dropped_and_errors_are_seen(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    case = replace(TINY, mode=mode)

    def wrong(case: Case, pool: Pool) -> Step:
        return loss_step(case, pool, lambda *arguments: case.loss.torch_function(*arguments) * 1.5)

    def absent(case: Case, pool: Pool) -> Step:
        raise Unavailable("not here")

    monkeypatch.setitem(PROVIDERS, "wrong", wrong)
    monkeypatch.setitem(PROVIDERS, "absent", absent)
    results, skips = measure.measure(case, ["eager", "wrong", "absent"], CPU, seconds=0.01)
    eager, other = results
    assert [(skip.provider, skip.reason) for skip in skips] == [("absent", "not here")]
    epsilon = torch.finfo(torch.float32).eps
    assert eager.value_error is not None
    assert eager.value_error < 4 * epsilon
    assert other.value_error == pytest.approx(0.5, rel=1e-5)
    assert eager.speedup["eager"] == 1.0
    assert other.speedup["eager"] > 0.0
    if mode == "forward":
        assert eager.gradient_error is None
        assert other.gradient_error is None
    else:
        assert eager.gradient_error is not None
        assert eager.gradient_error < 4 * epsilon
        assert other.gradient_error == pytest.approx(0.5, rel=1e-5)


def test_an_unavailable_backend_leaves_gradients_enabled() -> None:
    pool = measure.make_pool(TINY, CPU)
    for provider in ("fastloss:cuda", "fastloss:triton"):
        with suppress(Unavailable):
            PROVIDERS[provider](replace(TINY, mode="forward"), pool)
        assert torch.is_grad_enabled()


def test_in_place_leaves_the_inputs_of_the_others_alone() -> None:
    case = replace(TINY, shape=(64, 1000))
    pool = measure.make_pool(case, CPU)
    before = pool[0][0].detach().clone()
    try:
        step = PROVIDERS["fastloss-in-place"](case, pool)
    except Unavailable as reason:
        pytest.skip(str(reason))
    first = step.run(0)[0]
    assert torch.equal(pool[0][0], before)
    assert not torch.equal(step.run(0)[0], first)  # overwritten
    step.restore()
    assert torch.equal(step.run(0)[0], first)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the peak of resident memory is read from /proc")
@pytest.mark.parametrize("mebibytes", [16, 64])
def test_peak_memory_sees_an_allocation_that_is_freed_again(mebibytes: int) -> None:
    torch.ones(mebibytes << 20, dtype=torch.uint8)  # malloc may keep this and hand it out again below
    peak = peak_extra_bytes(lambda: torch.ones(mebibytes << 20, dtype=torch.uint8), CPU)
    assert peak is not None
    assert abs(peak / 2**20 - mebibytes) < 3
    nothing = peak_extra_bytes(lambda: None, CPU)
    assert nothing is not None
    assert nothing < 3 << 20


@pytest.mark.skipif(not Path("/proc/stat").exists(), reason="the load by others is read from /proc/stat")
def test_the_load_by_other_processes_is_seen_and_that_of_this_one_is_not() -> None:
    """Whatever else runs here: a second of the processor is in what is busy, and in our share if it was ours."""

    def passed(work: Callable[[], object]) -> tuple[float, float]:
        before = environment.processor_seconds()
        work()
        after = environment.processor_seconds()
        assert before is not None
        assert after is not None
        return after[1] - before[1], after[2] - before[2]

    spin = "import time\nwhile time.process_time() < 1.0: pass"
    busy, own = passed(lambda: subprocess.run([sys.executable, "-c", spin], check=True))
    assert busy > 0.9
    assert own < 0.5
    end = time.process_time() + 1.0
    busy, own = passed(lambda: [None for _ in iter(lambda: time.process_time() < end, False)])
    assert busy > 0.9
    assert own > 0.9


def test_the_share_of_others_is_what_is_busy_and_not_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    readings = iter([(100.0, 50.0, 5.0), (110.0, 57.0, 8.0)])
    monkeypatch.setattr(environment, "processor_seconds", lambda: next(readings))
    assert environment.OtherProcesses().share() == pytest.approx(0.4)  # 7 of 10 seconds busy, 3 of them ours


def test_a_saved_report_comes_back(tmp_path: Path) -> None:
    saved = make_report()
    saved.save(tmp_path / "results.json")
    loaded = report.load(tmp_path / "results.json")
    assert page.benchmarks([loaded]) == page.benchmarks([saved])
    assert loaded.skips == saved.skips


def test_the_readme_keeps_its_text_and_marks_the_lost_case() -> None:
    readme = "before\n<!-- bench:begin -->\nold\n<!-- bench:end -->\nafter\n"
    once = page.with_headline(readme, make_report())
    assert page.with_headline(once, make_report()) == once
    assert once.startswith("before\n<!-- bench:begin -->\n")
    assert once.endswith("\n<!-- bench:end -->\nafter\n")
    assert "old" not in once
    assert "| 2.00x | 0.50x slower |" in once

    of_backends = make_report()
    for result in of_backends.results:
        result.provider = result.provider.replace("fastloss", "fastloss:cuda")
    first = make_report().results[0].loss
    assert page.with_headline(readme, of_backends) == once.replace(f"| {first} |", f"| {first} on cuda |")

    with pytest.raises(ValueError, match="bench:begin"):
        page.with_headline("no markers", make_report())


def test_the_headline_is_in_the_registry() -> None:
    known = {(case.loss.name, case.shape_name, case.dtype) for case in all_cases("cpu")}
    assert set(page.HEADLINE_CASES) <= known
    assert len(page.HEADLINE_CASES) <= 12


def test_a_page_names_commit_and_machine_of_every_table() -> None:
    first, second = make_report(), make_report()
    first.environment |= {"commit": "abc1234", "device": "one machine"}
    second.environment |= {"commit": "def5678", "device": "another machine"}
    sections = page.benchmarks([first, second]).split("\n## ")[1:]
    assert [section.count("\n| cross_entropy |") for section in sections] == [1, 1]
    for section, names in zip(sections, (("abc1234", "one machine"), ("def5678", "another machine")), strict=True):
        assert all(name in section for name in names)
        assert "| 2.00x | 0.50x slower |" in section


def test_the_chart_is_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    plot.save_plot(make_report(), tmp_path / "chart.png")
    assert (tmp_path / "chart.png").read_bytes().startswith(b"\x89PNG")
