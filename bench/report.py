"""What a run leaves behind: JSON, a table for the terminal, the cells of a table of Markdown (page.py)."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path

from .measure import Result, Skip

QUIET = 0.05  # of the CPU for others; beyond, threads begin to wait for each other


@dataclass
class Report:
    environment: dict[str, object]
    results: list[Result]
    skips: list[Skip]

    def save(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self), indent=1) + "\n")


def load(path: Path) -> Report:
    saved = json.loads(path.read_text())
    results = [Result(**result) for result in saved["results"]]
    return Report(saved["environment"], results, [Skip(**skip) for skip in saved["skips"]])


def by_case(results: Iterable[Result]) -> list[list[Result]]:
    def case(result: Result) -> tuple[str, ...]:
        return result.loss, result.shape, result.dtype, result.mode

    return [list(group) for _, group in groupby(results, case)]


def machine(environment: dict[str, object]) -> str:
    e = environment
    return (
        f"{e['device']}, {e['cores']} cores, {e['threads']} threads, transparent huge pages: "
        f"{e['transparent_hugepage']}, torch {e['torch']}, triton {e['triton']}, python {e['python']}, "
        f"commit {e['commit'] or 'unknown'}, {e['date']}"
    )


HEADER = (
    f"  {'provider':<20}{'time':>10}{'IQR':>9}{'GB/s':>8}{'of copy':>9}{'x eager':>9}{'x compile':>11}"
    f"{'peak MiB':>10}{'loss err':>10}{'grad err':>10}"
)


def case_table(results: Sequence[Result]) -> str:
    """All providers of one case; times with unit, ratios above 1 are faster than the baseline."""
    first = results[0]
    case = f"{first.loss}  {first.shape}  {first.dtype}  {first.mode}"
    lines = [f"{case}: {_size(first.bytes)} to move, {first.rounds} rounds, {_others([first])}", HEADER]
    for r in results:
        spread = r.quartiles[1] - r.quartiles[0]
        peak = "-" if r.peak_extra_bytes is None else f"{r.peak_extra_bytes / 2**20:.0f}"
        lines.append(
            f"  {r.provider:<20}{_time(r.median):>10}{spread / r.median:>9.0%}{r.bytes / r.median / 1e9:>8.2f}"
            f"{_ratio(r, 'copy', '.0%'):>9}{_ratio(r, 'eager', '.2f'):>9}{_ratio(r, 'torch.compile', '.2f'):>11}"
            f"{peak:>10}{_error(r.value_error):>10}{_error(r.gradient_error):>10}"
            f"{_note(r)}"
        )
    return "\n".join(lines)


def skip_table(skips: Iterable[Skip]) -> str:
    """What was not measured, and why."""
    reasons = Counter((skip.provider, skip.reason) for skip in skips)
    return "\n".join(f"not measured: {name}, {count} cases: {reason}" for (name, reason), count in reasons.items())


def losing_to(result: Result) -> list[str]:
    """The baselines that are faster than this result of fastloss."""
    return [name for name in ("eager", "torch.compile") if result.speedup.get(name, 1.0) < 1.0]


def caption(report: Report) -> str:
    return f"{machine(report.environment)}; {_others(report.results)}"


def cells(of: dict[str, Result], name: str) -> dict[str, str]:
    """What a table says of one case, by column; `name` is the provider in fastloss's place."""
    ours = of[name]
    losing = losing_to(ours)

    def time_of(provider: str) -> str:
        return _time(of[provider].median) if provider in of else "-"

    def against(baseline: str) -> str:
        if baseline not in ours.speedup:
            return "-"
        return _ratio(ours, baseline, ".2f") + ("x slower" if baseline in losing else "x")

    peaks = " / ".join(
        "-" if each not in of or (peak := of[each].peak_extra_bytes) is None else f"{peak / 2**20:.0f}"
        for each in (name, "eager")
    )
    return {
        "loss": ours.loss + "".join(f" on {backend}" for backend in name.split(":")[1:]),
        "shape": ours.shape,
        "dtype": ours.dtype,
        "mode": ours.mode.replace("_", " + "),
        "eager": time_of("eager"),
        "torch.compile": time_of("torch.compile"),
        "fastloss": time_of(name),
        "in place": time_of("fastloss-in-place"),
        "vs eager": against("eager"),
        "vs compile": against("torch.compile"),
        "of copy": _ratio(ours, "copy", ".0%"),
        "peak MiB: ours / eager": peaks,
    }


def _others(results: Iterable[Result]) -> str:
    shares = [result.others for result in results if result.others is not None]
    if not shares:
        return "load by other processes unknown"
    busy = max(shares) > QUIET
    return f"other processes took {max(shares):.0%} of the CPU" + (": TOO BUSY TO COMPARE" if busy else "")


def _note(result: Result) -> str:
    parts = [result.note] if result.note else []
    if result.provider.startswith("fastloss"):
        parts += [f"slower than {name}" for name in losing_to(result)]
    return "  " + ", ".join(parts) if parts else ""


def _ratio(result: Result, baseline: str, form: str) -> str:
    return format(result.speedup[baseline], form) if baseline in result.speedup else "-"


def _error(error: float | None) -> str:
    return "-" if error is None else f"{error:.1e}"


def _time(seconds: float) -> str:
    for unit, factor in (("s", 1.0), ("ms", 1e3)):
        if seconds * factor >= 1.0:
            return f"{seconds * factor:.3g} {unit}"
    return f"{seconds * 1e6:.3g} us"


def _size(count: int) -> str:
    return f"{count / 1e6:.1f} MB" if count >= 1e5 else f"{count} bytes"
