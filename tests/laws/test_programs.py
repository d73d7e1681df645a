"""A loss in a program gives torch's result, or a refusal that the reference has too; never None, nor another number.

Each program has a process of its own, in which no loss was called before: what a first call leaves behind must not be
what makes the program right. The programs are in :mod:`programs`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from programs import FEW, PROGRAMS
from support import BACKENDS, SEED


@pytest.mark.slow(20)
@pytest.mark.skipif(("cpu", "cpu") not in BACKENDS, reason="no CPU kernels")
@pytest.mark.parametrize("name", PROGRAMS)
def test_losses_in_programs(name):
    run = subprocess.run(
        [sys.executable, "-m", "programs", name],
        cwd=Path(__file__).parents[1],
        env={**os.environ, "FASTLOSS_TEST_SEED": str(SEED), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr[-3000:]
    result = json.loads(run.stdout.splitlines()[-1])
    assert result["calls"] >= (5 if name in FEW else 60)
    assert not result["violations"], f"{name}, seed {result['seed']}:\n" + "\n".join(result["violations"])
