"""What all tests share: the order in which they start, and a table, at the end, of the lanes and their cases.

A lane is a way of running the kernels: these tests in this process, the interpreter, an emulator under a sanitizer. A
lane that needs a process of its own is one test here, which says by `lane_ran` how many cases passed there.
"""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Callable

import pytest

if os.environ.get("TRITON_INTERPRET") == "1":
    from lanes.triton import interpreter  # noqa: F401 (repairs and checks; before the kernels are imported)

import support

LANE = "lane"  # the key of a report's property (name of the lane, cases)
IN_THIS_PROCESS = "laws, oracles and units, on the backends of this machine"


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "slow(seconds): takes about so long; such tests start first, the longest first")
    config.pluginmanager.import_plugin("contract.table")
    for skeleton in ("pointwise", "row", "outer", "scan", "similarity", "linear"):
        config.addinivalue_line("markers", f"skeleton_{skeleton}: the law's case is of this skeleton")
    config.addinivalue_line("markers", "lane(name): where the table of lanes counts the test")
    if getattr(config.option, "numprocesses", None):  # this process starts pytest-xdist's workers
        os.environ.setdefault("FASTLOSS_TEST_SEED", str(support.SEED))  # one for all
        os.environ.setdefault("OMP_NUM_THREADS", "1")  # a worker a core; tests of threads set their number themselves
    else:  # for the lanes: they need no plugins, pytest-benchmark and hypothesis among them
        os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    # Some machines set it; a lane would compile its tests, and pytest's plugins, each time that it starts.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)


def pytest_report_header() -> str:
    lanes = ", ".join(f"{backend} on {device}" for backend, device in support.BACKENDS) or "none"
    return f"fastloss kernels that run here: {lanes}; seed FASTLOSS_TEST_SEED={support.SEED}"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """With several workers, what takes minutes must not be what is left for the end."""

    def seconds(item: pytest.Item) -> float:
        marker = item.get_closest_marker("slow")
        return marker.args[0] if marker else 0

    items.sort(key=seconds, reverse=True)


@pytest.fixture
def lane_ran(request: pytest.FixtureRequest) -> Callable[[str, int], None]:
    """For a test that has run a lane in a process of its own: its name, and how many cases passed."""

    def ran(name: str, cases: int) -> None:
        request.node.user_properties.append((LANE, (name, cases)))

    return ran


def pytest_itemcollected(item: pytest.Item) -> None:
    marker = item.get_closest_marker(LANE)
    case = getattr(item, "callspec", None) and item.callspec.params.get("case")
    if getattr(case, "skeleton", None):
        item.add_marker(f"skeleton_{case.skeleton}")  # for -k of the lanes
    item.user_properties.append((LANE, (marker.args[0] if marker else IN_THIS_PROCESS, 1)))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if config.option.verbose < 0:  # -q: as the lanes' own processes are run
        return
    reports = [
        (outcome, report)
        for outcome in ("passed", "failed", "skipped", "error", "")  # "": setups and teardowns that passed
        for report in terminalreporter.stats.get(outcome, [])
    ]
    lanes: dict[str, list[tuple[str, int]]] = defaultdict(list)  # by test; the last one counts
    for _, report in reports:
        # A file that could not be collected has an outcome but no properties: it counts as one case of this process.
        found = [value for key, value in getattr(report, "user_properties", ()) if key == LANE]
        lanes[report.nodeid] = max(lanes[report.nodeid], found, key=len)
    cases: dict[str, Counter[str]] = defaultdict(Counter)
    seconds: Counter[str] = Counter()
    for outcome, report in reports:
        name, count = lanes[report.nodeid][-1] if lanes[report.nodeid] else (IN_THIS_PROCESS, 1)
        seconds[name] += getattr(report, "duration", 0.0)  # a file that skips itself has none
        cases[name][outcome] += count if outcome == "passed" else 1
    terminalreporter.section("lanes: cases that ran")
    terminalreporter.line(f"{'passed':>7}{'failed':>8}{'skipped':>9}{'seconds':>9}")
    for name, ran in sorted(cases.items()):
        failed = ran["failed"] + ran["error"]
        terminalreporter.line(f"{ran['passed']:7}{failed:8}{ran['skipped']:9}{seconds[name]:9.0f}  {name}")


@pytest.fixture
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Laws meet every path of what is tiled in Python at the size of the cases: blocks of 64 queries and a similarity
    matrix of which a part is kept; chunks of 7 rows of 37 classes in float64, the last one shorter."""
    from fastloss.tiles import linear, similarity

    monkeypatch.setattr(similarity, "TILE_BYTES", 1)
    monkeypatch.setattr(similarity, "MIN_ROWS", 64)
    monkeypatch.setattr(similarity, "KEPT_BYTES", 64 * 70 * 8)
    limit = 7 * 37 * 8
    monkeypatch.setattr(linear, "CHUNK_BYTES", {"cpu": limit})
    monkeypatch.setattr(linear, "CHUNK_BYTES_ELSEWHERE", limit)
