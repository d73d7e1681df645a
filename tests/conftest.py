from __future__ import annotations

import os
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))  # for `cases` and `support`
if os.environ.get("TRITON_INTERPRET") == "1":
    sys.path.insert(0, str(HERE / "triton"))
    import interpreter  # noqa: F401 (repairs and checks; before the kernels are imported)

import support


def pytest_report_header() -> str:
    lanes = ", ".join(f"{backend} on {device}" for backend, device in support.BACKENDS) or "none"
    return f"fastloss kernels that run here: {lanes}; seed FASTLOSS_TEST_SEED={support.SEED}"
