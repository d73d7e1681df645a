"""`make coverage`: which lines of the CUDA kernels (csrc/cuda) the tests on the emulator execute, by gcov. Minutes.

Not part of the tests: a percentage fails nobody. Every line that no test reaches is printed, to be read.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections import Counter, defaultdict
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TESTS = ROOT / "tests" / "lanes" / "cuda"
sys.path.insert(0, str(ROOT / "tests"))

from lanes.cuda import cuda_build

KERNELS = ROOT / "csrc" / "cuda"
LANE = "coverage"
FILES = (
    "test_rows.py", "test_races.py", "test_pointwise.py", "test_pointwise_races.py", "test_pairs.py",
    "test_pairs_races.py",
)  # fmt: skip


def executed(build: Path) -> dict[str, Counter[int]]:
    """How often each line of csrc/cuda ran, from the notes and counts that g++ and the tests left beside the build."""
    lines: dict[str, Counter[int]] = defaultdict(Counter)
    counts = sorted(build.parent.glob(f"{build.stem}*.gcda"))
    assert counts, f"the tests left no counts beside {build}"
    with tempfile.TemporaryDirectory() as folder:
        for file in counts:
            done = subprocess.run(
                ["gcov", "--json-format", "--stdout", str(file)], cwd=folder, capture_output=True, text=True, check=True
            )
            for text in done.stdout.splitlines():
                for source in json.loads(text)["files"]:
                    path = (ROOT / source["file"]).resolve()
                    if path.is_relative_to(KERNELS):
                        for line in source["lines"]:
                            lines[str(path.relative_to(KERNELS))][line["line_number"]] += line["count"]
    return lines


def main() -> int:
    builds = [cuda_build.library(name, LANE) for name in ("kernels", "pointwise")]
    for build in builds:
        for old in build.parent.glob(f"{build.stem}*.gcda"):
            old.unlink()
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *FILES]
    status = subprocess.run(command, cwd=TESTS, env={**os.environ, "FASTLOSS_EMULATOR_LANE": LANE}).returncode
    if status != 0:
        return status
    lines: dict[str, Counter[int]] = defaultdict(Counter)
    for build in builds:
        for name, counts in executed(build).items():
            lines[name].update(counts)
    print("| file | lines | executed |\n|---|--:|--:|")
    missing = []
    for name, counts in sorted(lines.items()):
        never = sorted(number for number in counts if counts[number] == 0)
        print(f"| {name} | {len(counts)} | {1 - len(never) / len(counts):.1%} |")
        source = (KERNELS / name).read_text().splitlines()
        missing += [f"{name}:{number}: {source[number - 1].strip()}" for number in never]
    every = sum(len(counts) for counts in lines.values())
    print(f"| all | {every} | {1 - len(missing) / every:.1%} |\n", *missing, sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
