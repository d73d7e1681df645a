from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # for `cases` and `support`

import support


def pytest_report_header() -> str:
    lanes = ", ".join(f"{backend} on {device}" for backend, device in support.BACKENDS) or "none"
    return f"fastloss kernels that run here: {lanes}; seed FASTLOSS_TEST_SEED={support.SEED}"
