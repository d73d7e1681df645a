"""Starts the builds that the collected tests name, and fails tests in which a sanitizer has reported something."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator

import pytest
import torch
from lanes.cuda import cuda_build

_STATUS = pytest.StashKey[int]()
REPORTS = ("AddressSanitizer", "ThreadSanitizer", "runtime error:")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "builds(name, lane): a build of cuda_build.py that the test needs")
    config.addinivalue_line("markers", "planted: the test provokes sanitizer reports on purpose")


def pytest_collection_finish(session: pytest.Session) -> None:
    if session.config.option.collectonly:
        return
    for item in session.items:
        for marker in item.iter_markers("builds"):
            if cuda_build.missing_emulator_tools() is None:
                cuda_build.prefetch(*marker.args)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    session.config.stash[_STATUS] = int(exitstatus)


@pytest.hookimpl(trylast=True)
def pytest_unconfigure(config: pytest.Config) -> None:
    """ThreadSanitizer runs torch's static destructors in an order in which torch throws."""
    if os.environ.get("FASTLOSS_EMULATOR_LANE") == "tsan" and _STATUS in config.stash:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(config.stash[_STATUS])


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """The tensors are small; two threads of OpenMP would wait for each other on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def no_sanitizer_report(request: pytest.FixtureRequest, capfd: pytest.CaptureFixture[str]) -> Iterator[None]:
    """A sanitizer writes to stderr and goes on; the test that it happened in fails."""
    yield
    if request.node.get_closest_marker("planted") is not None:
        return
    output, errors = capfd.readouterr()
    print(output, end="")
    if any(report in errors for report in REPORTS):
        pytest.fail("sanitizer report:\n" + errors[:6000], pytrace=False)
