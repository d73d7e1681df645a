"""The CPU kernels under AddressSanitizer and UndefinedBehaviorSanitizer, over the case table."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from support import BACKENDS, SEED

ROOT = Path(__file__).resolve().parents[3]
TREE = ROOT / "build" / "sanitized"


def runtime(name: str) -> str | None:
    """Path of a sanitizer's runtime library of g++, or None."""
    if shutil.which("g++") is None:
        return None
    path = subprocess.run(["g++", f"-print-file-name={name}"], capture_output=True, text=True).stdout.strip()
    return path if os.path.isabs(path) else None


RUNTIMES = [runtime("libasan.so"), runtime("libubsan.so")]

# What the sanitizers should see: every path of the kernels on every layout; values are checked on the way.
# The pointwise functors are all in kernels_agree; mixed_dtypes reads and writes the tiles of every pair of dtypes.
LAWS = (
    "((kernels_agree or layouts) and not skeleton_similarity and not skeleton_linear) or special_values or "
    "inplace_overwrites or (broadcasting and not drop_ins) or masks or (terms and not transforms) or "
    "domains_in_tensors or everything_masked_out or empty_as_torch or "
    "(same_bits and (skeleton_row or skeleton_pointwise) and (cross_entropy or huber_loss)) or "
    "(mixed_dtypes and mse_loss) or test_weighted or (test_outer and sizes)"
)
FILES = (
    "laws/test_values.py", "laws/test_layouts.py", "laws/test_masks.py", "laws/test_metrics.py", "laws/test_bits.py",
    "skeletons/test_cross_entropy.py", "skeletons/test_outer.py", "contract/test_drop_ins.py",
    "oracles/test_supervised.py",
)  # fmt: skip


# A weight vector that is one class short: the operators trust fastloss.core.arguments to have checked it.
PLANTED = """
import torch, fastloss
assert "sanitized" in fastloss.__file__, fastloss.__file__
x, y = torch.randn(4, 40), torch.full((4,), 39)
torch.ops.fastloss.row_forward(x, y, torch.ones(39), "cross_entropy", [0.0, 0.0, 0.0, 1.0], -100, 1)
"""

pytestmark = [
    pytest.mark.slow(180),
    pytest.mark.skipif(None in RUNTIMES, reason="g++ has no AddressSanitizer runtime here"),
    pytest.mark.skipif(("cpu", "cpu") not in BACKENDS, reason="no CPU kernels"),
]


@pytest.fixture(scope="module", autouse=True)
def sanitized_build():
    # The kernels compile in half of the time with the checks of addresses as calls, and without four checks of
    # pointers: what they find, AddressSanitizer finds where the pointer is used.
    flags = (
        "-O1 -g1 -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize-recover=undefined "
        "-fno-sanitize=null,object-size,vptr,pointer-overflow --param=asan-instrumentation-with-call-threshold=0"
    )
    from fastloss import _host  # there, as the CPU kernels are

    best = _host.instruction_sets()[-1]  # runs below, as the baseline does; another one would compile for a minute
    TREE.mkdir(parents=True, exist_ok=True)
    with TREE.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # workers of pytest-xdist; the second finds nothing left to build
        build = subprocess.run(
            [sys.executable, "setup.py", "-q", "build", "--build-lib", str(TREE)],
            cwd=ROOT,
            env={
                **os.environ, "FASTLOSS_BUILD": "cpu", "CXX": "g++", "CXXFLAGS": flags, "LDFLAGS": flags,
                "FASTLOSS_INSTRUCTION_SETS": best,
            },
            capture_output=True,
            text=True,
        )  # fmt: skip
    assert build.returncode == 0, build.stdout[-2000:] + build.stderr[-2000:]


def sanitized(*arguments: str, instruction_set: str = "") -> subprocess.CompletedProcess[str]:
    environment = {
        "PYTHONPATH": str(TREE),
        "LD_PRELOAD": " ".join(str(path) for path in RUNTIMES),
        "ASAN_OPTIONS": "detect_leaks=0",  # Python's own
        "UBSAN_OPTIONS": "print_stacktrace=1",
        "FASTLOSS_CPU_CAPABILITY": instruction_set,
        "FASTLOSS_TEST_SEED": str(SEED),
    }
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT / "tests",
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
    )


def test_the_sanitizer_notices():
    result = sanitized("-c", PLANTED)
    assert result.returncode != 0
    assert "AddressSanitizer: heap-buffer-overflow" in result.stderr, result.stderr


@pytest.mark.parametrize("instruction_set", ["", "baseline"], ids=["best", "baseline"])
def test_kernels_under_sanitizers(instruction_set: str, lane_ran: Callable[[str, int], None]) -> None:
    # double has no vector instructions in any build of the pointwise and pairs kernels, so the best one's will do
    laws = LAWS if not instruction_set else f"({LAWS}) and not (float64 and (skeleton_pointwise or skeleton_outer))"
    command = ("-m", "pytest", "-q", "-p", "no:cacheprovider", *FILES, "-k", laws)
    result = sanitized(*command, instruction_set=instruction_set)
    report = result.stdout[-1500:] + result.stderr[-4000:]
    assert result.returncode == 0, report
    assert "runtime error" not in result.stderr, report
    passed = re.search(r"^(\d+) passed", result.stdout, re.M)
    assert passed is not None, report
    lane_ran(f"CPU C++ under ASan + UBSan, {instruction_set or 'best'} instruction set", int(passed[1]))
