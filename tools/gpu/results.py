"""What `make gpu` leaves behind: one JSON for each model of GPU, and the same as a page of Markdown.

Each stage replaces its own part and keeps those of the others. The parts "environment", "results" and "skips" are a
report of `python -m fastloss bench`, so that its --load and --page read the file too. Only the standard library.
"""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

Record = dict[str, Any]
STAGES = ("build", "test", "bench", "profile")


class Results:
    def __init__(self, folder: Path, device: str) -> None:
        self.path = folder / f"{re.sub(r'[^a-z0-9]+', '-', device.lower()).strip('-')}.json"
        self.data: Record = {"environment": {"device": device}, "results": [], "skips": [], "stages": {}}
        if self.path.exists():
            self.data = json.loads(self.path.read_text())

    def put(self, stage: str, record: Record) -> None:
        self.data["stages"][stage] = record
        self.save()

    def put_report(self, report: Record) -> None:
        """The benchmark's part. Cases that were measured earlier stay if machine, versions and commit are the same."""
        kept = report["environment"] == self.data["environment"]
        for part in ("results", "skips"):
            measured = {_case(entry) for entry in (*report["results"], *report["skips"])}
            old = [entry for entry in self.data[part] if _case(entry) not in measured] if kept else []
            self.data[part] = [*report[part], *old]
        self.data["environment"] = report["environment"]
        self.save()

    def save(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        for path, text in ((self.path, json.dumps(self.data, indent=1)), (self.page, summary(self.data))):
            unfinished = path.with_suffix(f"{path.suffix}.new")
            unfinished.write_text(text + "\n")
            os.replace(unfinished, path)  # a process that is killed here leaves the old file whole

    @property
    def page(self) -> Path:
        return self.path.with_suffix(".md")


def _case(entry: Record) -> str:
    return entry.get("case") or " ".join(entry[name] for name in ("loss", "shape", "dtype", "mode"))


# ------------------------------------------------------------------------------------------ Markdown


def summary(data: Record) -> str:
    title = "Rehearsal" if data.get("rehearsal") else data["environment"]["device"]
    lines = [f"# {title}", "", "Written by `make gpu`; docs/gpu.md says how to read it.", ""]
    if data.get("rehearsal"):
        lines += ["**A rehearsal without a GPU: it shows that the stages run, and nothing else.**", ""]
    lines += ["| stage | outcome | seconds | when | commit |", "|---|---|--:|---|---|"]
    for name in STAGES:
        stage = data["stages"].get(name)
        cells = [stage["outcome"], f"{stage['seconds']:.0f}", stage["date"], stage["commit"]] if stage else ["not run"]
        lines.append(f"| {name} | {' | '.join(map(str, cells + [''] * (4 - len(cells))))} |")
    for name, section in (("build", _build), ("test", _test), ("bench", _bench), ("profile", _profile)):
        if name in data["stages"]:
            lines += ["", f"## {name}", "", *section(data["stages"][name], data)]
    return "\n".join(lines)


def _build(stage: Record, data: Record) -> list[str]:
    return [f"* {name}: {value}" for name, value in stage["facts"].items()] + _failures(stage)


def _test(stage: Record, data: Record) -> list[str]:
    lines = ["| tests | passed | failed | skipped |", "|---|--:|--:|--:|"]
    lines += [
        f"| {group} | {' | '.join(str(counts.get(outcome, 0)) for outcome in ('passed', 'failed', 'skipped'))} |"
        for group, counts in sorted(stage["groups"].items())
    ]
    lines += [f"* skipped {count}: {reason}" for reason, count in sorted(stage["skips"].items())]
    return [*lines, "", f"Random numbers: FASTLOSS_TEST_SEED={stage['seed']}", *_failures(stage)]


def _bench(stage: Record, data: Record) -> list[str]:
    lines = [f"* {name}: {value:.4g}" for name, value in stage["ceilings"].items()]
    lines += ["", "Median of the interleaved rounds, and the speed of it in % of a copy of the same bytes.", ""]
    results: list[Record] = data["results"]
    for mode in dict.fromkeys(result["mode"] for result in results):
        of_mode = [result for result in results if result["mode"] == mode]
        providers = list(dict.fromkeys(result["provider"] for result in of_mode))
        lines += [f"### {mode}", "", f"| case | {' | '.join(providers)} |", "|---" * (len(providers) + 1) + "|"]
        cases: dict[str, dict[str, Record]] = {}
        for result in of_mode:
            case = f"{result['loss']} {result['shape']} {result['dtype']}"
            cases.setdefault(case, {})[result["provider"]] = result
        for case, row in cases.items():
            lines.append(f"| {case} | {' | '.join(_cell(row.get(provider)) for provider in providers)} |")
        lines.append("")
    reasons = Counter((skip["provider"], skip["reason"]) for skip in data["skips"])
    lines += [f"* not measured: {name}, {count} cases: {reason}" for (name, reason), count in sorted(reasons.items())]
    return lines + _failures(stage)


def _cell(result: Record | None) -> str:
    if result is None:
        return "-"
    share = result["speedup"].get("copy")
    return f"{result['median'] * 1e6:.4g} us" + ("" if share is None else f", {share:.0%}")


def _profile(stage: Record, data: Record) -> list[str]:
    if stage.get("skipped"):
        return [f"Skipped: {_one_line(stage['skipped'])}", *_failures(stage)]
    if not stage["kernels"]:
        return _failures(stage)
    names = list(dict.fromkeys(name for kernel in stage["kernels"] for name in kernel["counters"]))
    lines = [f"| case | kernel | {' | '.join(names)} |", "|---" * (len(names) + 2) + "|"]
    for kernel in stage["kernels"]:
        counters = [kernel["counters"].get(name, "-") for name in names]
        cells = [f"{value:.4g}" if isinstance(value, float) else str(value) for value in counters]
        lines.append(f"| {kernel['case']} | {kernel['kernel']} | {' | '.join(cells)} |")
    return lines + _failures(stage)


def _failures(stage: Record) -> list[str]:
    failures: Iterable[Record] = stage["failures"]
    return ["", *(f"* FAILED {failure['what']}: `{_one_line(failure['reason'])}`" for failure in failures)]


def _one_line(text: str, limit: int = 300) -> str:
    line = " ".join(text.replace("`", "'").split())
    return line if len(line) <= limit else f"{line[:limit]} ..."
