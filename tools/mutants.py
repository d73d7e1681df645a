"""`make mutants`: breaks one thing at a time in the kernels and asks whether the tests notice. Not part of CI (hours).

    python tools/mutants.py [cpu|cuda|triton ...] [--only TEXT] [--list]

A mutant deletes a barrier or a statement, bends a bound, drops a mask or flips a sign. It is killed if a lane of the
tests fails. Each survivor is to be read: either a test is missing, or the mutant is equivalent.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TREE = ROOT / "build" / "mutants"
PYTEST = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "--tb=line"]


@dataclass(frozen=True)
class Kind:
    """Files, what to do to them (regular expression, replacement), and the lanes that should notice."""

    files: tuple[str, ...]
    edits: tuple[tuple[str, str], ...]
    lanes: tuple[tuple[str, ...], ...]  # commands, run in a copy of the tree; the first that fails kills


KINDS = {
    "cpu": Kind(
        ("csrc/losses/row.h", "csrc/cpu/row.cpp", "csrc/cpu/vectors.h", "csrc/cpu/operators.cpp"),
        (
            (r"i < size\)", "i + 1 < size)"),
            (r"C - start < kChunk", "C - start <= kChunk - 1"),
            (r"chunk_max > max", "chunk_max < max"),
            (r"most = \(logit > most\) \? logit : most", "most = logit"),
            (r"sum \*= double\(S::exp\(shift - max\)\);", ""),
            (r"linear \+= mass \* \(double\(shift\) - double\(max\)\);", ""),
            (r"(sum|mass|linear) \+= S::sum\(chunk_\1\);", r"\1 = S::sum(chunk_\1);"),
            (r"if \(ignored\(r(ow)?\)\)", "if (false)"),
            (r"== -infinity \?", "== infinity ?"),
            (r"S::first\(count, (from_max|f\.logit)", r"S::first(S::lanes, \1"),
            (r"(subtract_target<Dense>\([^;]*\));", ";"),
            (r"if \(contiguous_gradient\) memset[^;]*;", ""),
            (r" - sums\.max\)", " + sums.max)"),
            (r"p\.inverse_denominator \?", "false ?"),
            (r"p\.row_factor \? factor \* [^:]*:", "false ? factor :"),
            (r"y\[row\] < 0 \|\| ", ""),
            (r"y\[row\] >= classes", "y[row] > classes"),
            (r"\+\+counted;", ""),
            (r"sum / denominator : sum", "sum : sum"),
            (r"s\.mass \* s\.log_sum - s\.linear", "s.mass * s.log_sum + s.linear"),
            (r"s\.mass \+ A\(2\) \* regularizer", "s.mass + regularizer"),
            (r"one - capped \* capped", "one + capped * capped"),
            (r"weight \* \(keep \* target \+ uniform\)", "weight * (keep * target - uniform)"),
            (r"return keep \* weight;", "return weight;"),
            (r"g\.live\[k\] \? d : V\{\}", "d"),
            (r"z > g\.max\[k\]", "z < g.max[k]"),
        ),
        (
            (sys.executable, "setup.py", "-q", "build", "--build-lib", "build/lib"),
            (*PYTEST, "tests/test_native.py", "-k", "functors"),
            (
                *PYTEST,
                "tests/test_laws.py",
                "tests/test_cross_entropy.py",
                "-k",
                "(kernels_agree and not bfloat16 and not float16) or bits or special or ignored or inplace or range",
            ),
        ),
    ),
    "cuda": Kind(
        (
            "csrc/cuda/row_math.cuh",
            "csrc/cuda/row_contiguous.cuh",
            "csrc/cuda/row_team.cuh",
            "csrc/cuda/row_strided.cuh",
            "csrc/cuda/reduce.cuh",
            "csrc/cuda/row.cu",
            "csrc/cuda/scale.cu",
        ),
        (
            (r"__syncthreads\(\);", ""),
            (r"__syncwarp\(\);", ""),
            (r"\.sync\(\);", ";"),
            (r"__threadfence\(\);", ""),
            (r"(\bi|\bc|\brow|\bindex) < ", r"\1 <= "),
            (r" == ignore", " != ignore"),
            (r" \+= ", " -= "),
            (r" - ", " + "),
        ),
        ((*PYTEST, "tests/cuda/test_rows.py"), (*PYTEST, "tests/cuda/test_lanes.py")),
    ),
    "triton": Kind(
        (
            "triton_kernels/row_losses.py",
            "triton_kernels/row_tiles.py",
            "triton_kernels/row_kernels.py",
            "triton_kernels/common.py",
        ),
        (
            (r"mask=(counted|exists|inside)[^,)]*", "mask=None"),
            (r" & (mask|inside|counted|exists)", ""),
            (r" < (classes|rows|positions|packets|count)", r" <= \1"),
            (r" \+= ", " -= "),
            (r" - ", " + "),
            (r"counted, ", "exists, "),
        ),
        ((*PYTEST, "tests/triton/test_lanes.py", "-k", "interpreter"), (*PYTEST, "tests/triton/test_lanes.py")),
    ),
}


def mutants(kind: Kind) -> Iterator[tuple[str, int, str, str]]:
    """(file, line, text of the line, mutated source)"""
    for name in kind.files:
        source = (ROOT / name).read_text()
        for pattern, replacement in kind.edits:
            for match in re.finditer(pattern, source):
                start = source.rfind("\n", 0, match.start()) + 1
                line = source[start : source.find("\n", match.start())]
                if line.lstrip().startswith(("//", "#", '"""')):
                    continue
                mutated = source[: match.start()] + match.expand(replacement) + source[match.end() :]
                if mutated != source:
                    number = source.count("\n", 0, match.start()) + 1
                    yield (
                        name,
                        number,
                        f"{line.strip()}   [{match.group(0)} -> {match.expand(replacement) or 'gone'}]",
                        mutated,
                    )


def copy_tree() -> None:
    files = subprocess.check_output(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, text=True).splitlines()
    for name in files:
        (TREE / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, TREE / name)


def killed_by(kind: Kind) -> str | None:
    """What noticed: a build or the first test that failed; None: nothing."""
    environment = {**os.environ, "PYTHONPATH": str(TREE / "build" / "lib"), "FASTLOSS_BUILD": "cpu"}
    for lane in kind.lanes:
        try:
            result = subprocess.run(lane, cwd=TREE, env=environment, capture_output=True, text=True, timeout=900)
        except subprocess.TimeoutExpired:
            return "timeout"
        if result.returncode:
            failed = re.findall(r"^FAILED (\S+)", result.stdout, re.M)
            return failed[0] if failed else f"{lane[1]} exit {result.returncode}"
    return None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kinds", nargs="*", choices=[*KINDS, []], default=[], metavar="KIND")
    parser.add_argument("--only", default="", help="mutants whose description contains this")
    parser.add_argument("--list", action="store_true", help="list them, run nothing")
    arguments = parser.parse_args()
    survivors = total = 0
    for name in arguments.kinds or KINDS:
        kind = KINDS[name]
        if not arguments.list:
            copy_tree()
            reason = killed_by(kind)
            if reason:
                sys.exit(f"{name}: the tests fail without a mutant: {reason}")
        for file, number, text, mutated in mutants(kind):
            description = f"{file}:{number}: {text}"
            if arguments.only not in description:
                continue
            total += 1
            if arguments.list:
                print(description)
                continue
            start, target = time.time(), TREE / file
            original = target.read_text()
            target.write_text(mutated)
            reason = killed_by(kind)
            target.write_text(original)
            survivors += reason is None
            verdict = f"killed by {reason}" if reason else "SURVIVED"
            print(f"{description}\n    {verdict}, {time.time() - start:.0f} s", flush=True)
    print(f"{total} mutants" + ("" if arguments.list else f", {survivors} survived"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
