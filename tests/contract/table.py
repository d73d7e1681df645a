"""The table at the end of a run: what answered torch's own test data, loss by loss (tests/contract/test_opinfo.py).

A plugin, because under pytest-xdist only reports come back from the processes that run the tests.
"""

from __future__ import annotations

from collections import Counter, defaultdict

import pytest

CONTRACT = "contract"  # the key of a report's property: (loss, column, count)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for reports in terminalreporter.stats.values():
        for report in reports:
            if getattr(report, "when", "") == "teardown":
                for key, value in report.user_properties:
                    if key == CONTRACT:
                        counts[value[0]][value[1]] += value[2]
    if not counts:
        return
    columns = sorted({column for row in counts.values() for column in row})
    terminalreporter.section("contract: torch's samples, by what answered")
    terminalreporter.line(" " * 36 + "".join(f"{column:>{len(column) + 2}}" for column in columns))
    for name, row in sorted(counts.items()):
        terminalreporter.line(f"{name:36}" + "".join(f"{row[c] or '-':>{len(c) + 2}}" for c in columns))
