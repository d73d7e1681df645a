"""Pytest plugin of `make gpu-test`: a part of the tests, each noted in a journal as it begins and ends.

FASTLOSS_GPU_JOURNAL   the file; tests that it already holds are left out
FASTLOSS_GPU_SHARE     "3/12": the fourth of twelve parts
FASTLOSS_GPU_DEVICE    of the tests outside tests/lanes/gpu, those with this device
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Generator
from pathlib import Path

import pytest

from . import context
from .journal import Journal

JOURNAL = Journal(Path(os.environ["FASTLOSS_GPU_JOURNAL"]))
DEVICE = os.environ["FASTLOSS_GPU_DEVICE"]
SHARE, SHARES = map(int, os.environ["FASTLOSS_GPU_SHARE"].split("/"))
LONGEST_REASON = 2000


def belongs_here(item: pytest.Item) -> bool:
    """All tests of a case in one process: they need the same Triton kernels, which are then compiled once."""
    parameters = item.callspec.params if hasattr(item, "callspec") else {}
    if "/gpu/" not in item.nodeid and parameters.get("device") != DEVICE:
        return False
    key = str(parameters.get("case", item.nodeid))
    return zlib.crc32(key.encode()) % SHARES == SHARE


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    known = JOURNAL.entries()
    for key, entry in known.items():
        if entry is None:
            JOURNAL.end(key, outcome="failed", seconds=0.0, reason="the process died in this test")
    mine = [item for item in items if belongs_here(item)]
    JOURNAL.plan(len(mine))
    items[:] = [item for item in mine if item.nodeid not in known]


def pytest_collectreport(report: pytest.CollectReport) -> None:
    if report.failed:
        JOURNAL.end(f"collecting {report.nodeid}", outcome="failed", seconds=0.0, reason=_reason(report))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    reports: list[pytest.TestReport] = []
    item.stash[_REPORTS] = reports
    JOURNAL.begin(item.nodeid)
    result = yield
    unusual = [report for report in reports if report.outcome != "passed"]
    JOURNAL.end(
        item.nodeid,
        outcome=unusual[0].outcome if unusual else "passed",
        seconds=round(sum(report.duration for report in reports), 3),
        reason=_reason(unusual[0]) if unusual else "",
    )
    if any(report.failed for report in reports) and not context.is_alive():
        item.session.shouldstop = "the CUDA context is lost; the next process goes on"
    return result


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    item.stash[_REPORTS].append(report)
    return report


_REPORTS = pytest.StashKey[list[pytest.TestReport]]()


def _reason(report: pytest.TestReport | pytest.CollectReport) -> str:
    if isinstance(report.longrepr, tuple):  # of a skip: file, line, reason
        return str(report.longrepr[2]).removeprefix("Skipped: ")
    text = str(report.longrepr)
    return text if len(text) <= LONGEST_REASON else f"... {text[-LONGEST_REASON:]}"
