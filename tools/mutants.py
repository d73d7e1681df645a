"""`make mutants`: breaks one thing at a time in the kernels and asks whether the tests notice. An hour; not part of CI.

    python tools/mutants.py [cpu|cuda|triton ...] [--only TEXT] [--list]

A mutant deletes a barrier or a statement, bends a bound, drops a mask or flips a sign. It is killed if a lane of the
tests fails, the quickest lane first. A survivor is to be read: either a test is missing, or the mutant is equivalent,
that is no input and no schedule can tell it from the original; EQUIVALENT holds those, with the reason.
"""

from __future__ import annotations

import argparse
import io
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import tokenize
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BUILD = ROOT / "build" / "mutants"
QUICK_LAWS = "(kernels_agree and not bfloat16 and not float16) or bits or special or ignored or inplace or range"
PYTEST = (sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "--tb=line")


@dataclass(frozen=True)
class Lane:
    """A command that fails where it notices a mutant."""

    name: str
    command: tuple[str, ...]
    # Below the copy of the tree. Never its root: `python -m` puts the working folder first on the path, and the root
    # has a `fastloss` without binaries.
    folder: str = "tests"
    environment: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Kind:
    """Files, what to do to them (regular expression, replacement), and the lanes that should notice, in their order."""

    files: tuple[str, ...]
    edits: tuple[tuple[str, str], ...]
    lanes: tuple[Lane, ...]


def build(binaries: str, *flags: tuple[str, str]) -> Lane:
    """The package in build/lib, where every test imports it from."""
    command = (sys.executable, "setup.py", "-q", "build", "--build-lib", "build/lib")
    return Lane("build", command, ".", (("FASTLOSS_BUILD", binaries), *flags))


KINDS = {
    "cpu": Kind(
        ("csrc/losses/row.h", "csrc/cpu/row.cpp", "csrc/cpu/vectors.h", "csrc/cpu/row_operators.cpp"),
        (
            (r"i < size\)", "i + 1 < size)"),
            (r"C - start < kChunk", "C - start + 1 < kChunk"),
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
            (r"left < 0 \? 0 : ", ""),
            (r"if \(g\.count\[k\]\) ", ""),
            (r"if \(index_mass != A\(0\)\) ", ""),
        ),
        (
            build("cpu", ("CXXFLAGS", "-O1")),  # a third of the time of -O3
            Lane("laws", (*PYTEST, "test_laws.py", "test_cross_entropy.py", "-k", QUICK_LAWS)),
            Lane("all", (*PYTEST, "test_laws.py", "test_cross_entropy.py", "test_properties.py", "test_native.py")),
            Lane("sanitizers", (*PYTEST, "test_sanitizers.py")),
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
            (r"__sync(threads|warp)\([^)]*\);", ""),
            (r"cluster_\.(arrive|wait)\(\);", ""),
            (r"if \((lane == 0|thread == 0|team\.reports\(\)|exists && reports)\) ", ""),
            (r" < ", " <= "),
            (r" >= ", " > "),
            (r" == ignore", " != ignore"),
            (r" \+= ", " -= "),
            (r" - ", " + "),
        ),
        (
            build("none"),
            Lane("paths", (*PYTEST, "cuda/test_races.py")),
            Lane("values", (*PYTEST, "cuda/test_rows.py")),
            Lane("sanitizers", (*PYTEST, "cuda/test_lanes.py"), environment=(("PYTEST_ADDOPTS", "-x"),)),
        ),
    ),
    "triton": Kind(
        (
            "triton_kernels/row_losses.py",
            "triton_kernels/row_tiles.py",
            "triton_kernels/row_kernels.py",
            "triton_kernels/common.py",
        ),
        (
            (r"tl\.debug_barrier\(\)", "pass"),
            (r", mask=[\w &<>=]+(\[[^\]]*\])?(, other=(float\([^)]*\)|[\w.]+))?", ""),
            (r" & (mask|inside|counted|exists)(\[[^\]]*\])?", ""),
            (r"tl\.where\((\w+(\[[^\]]*\])?), ", r"tl.where(\1 == \1, "),
            (r" < ", " <= "),
            (r" >= 0", " > 0"),
            (r" <= length", " < length"),
            (r" \+= ", " -= "),
            (r" - ", " + "),
        ),
        (
            build("none"),
            Lane(
                "a few values",
                (*PYTEST, "lane_interpreter.py", "-k", "test_values and float32"),
                "tests/triton",
                (("TRITON_INTERPRET", "1"),),
            ),
            Lane("interpreter", (*PYTEST, "lane_interpreter.py"), "tests/triton", (("TRITON_INTERPRET", "1"),)),
            Lane("compilers", (*PYTEST, "triton/test_lanes.py", "-k", "not interpreter")),
        ),
    ),
}


@dataclass(frozen=True)
class Equivalent:
    """A mutant that cannot be told from the original: the line as the edit leaves it. Without its number, which any
    change above would move."""

    file: str
    line: str
    reason: str


EQUIVALENT: tuple[Equivalent, ...] = ()


@dataclass(frozen=True)
class Mutant:
    file: str
    number: int
    before: str  # the line
    after: str
    source: str  # of the file

    def __str__(self) -> str:
        return f"{self.file}:{self.number}: {self.before}  ->  {self.after or 'gone'}"

    @property
    def equivalent(self) -> str | None:
        """The reason why it is."""
        for known in EQUIVALENT:
            if (known.file, known.line) == (self.file, self.after):
                return known.reason
        return None


def without_text(name: str, source: str) -> str:
    """The source with spaces for its comments and strings: an edit there would be no mutant."""

    def spaces(text: str) -> str:
        return re.sub(r"\S", " ", text)

    if not name.endswith(".py"):
        return re.sub(r"//.*", lambda match: spaces(match.group()), source)
    lines = source.splitlines(keepends=True)
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type in (tokenize.STRING, tokenize.COMMENT):
            (first, begin), (last, end) = token.start, token.end
            for number in range(first - 1, last):
                line = lines[number]
                left, right = begin if number == first - 1 else 0, end if number == last - 1 else len(line)
                lines[number] = line[:left] + spaces(line[left:right]) + line[right:]
    return "".join(lines)


def mutants(kind: Kind, root: Path) -> Iterator[Mutant]:
    for name in kind.files:
        source = (root / name).read_text()
        code, seen = without_text(name, source), {source}
        for pattern, replacement in kind.edits:
            for match in re.finditer(pattern, code):
                mutated = source[: match.start()] + match.expand(replacement) + source[match.end() :]
                if mutated in seen:
                    continue
                seen.add(mutated)
                start = source.rfind("\n", 0, match.start()) + 1
                before, after = (text[start : text.find("\n", match.start())].strip() for text in (source, mutated))
                yield Mutant(name, source.count("\n", 0, start) + 1, before, after, mutated)


def copy_tree(tree: Path) -> None:
    files = subprocess.check_output(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, text=True).splitlines()
    for name in files:
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tree / name)  # dated now, so that ninja rebuilds what an interrupted run left mutated
    # Without optimisation the emulated kernels are built in 6 s, and not in 14.
    builds = tree / "tests/cuda/cuda_build.py"
    text = builds.read_text()
    assert text.count('"plain": ["-O2"]') == 1
    builds.write_text(text.replace('"plain": ["-O2"]', '"plain": ["-O0"]'))


def run(lane: Lane, tree: Path, timeout: float) -> str | None:
    """What noticed: the first test that failed, or how the lane ended; None if nothing did."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(tree / "build" / "lib"),
        "PYTHONDONTWRITEBYTECODE": "1",  # two mutants of one second and size would share their bytecode
        "FASTLOSS_TEST_SEED": "1",
        **dict(lane.environment),
    }
    process = subprocess.Popen(
        lane.command, cwd=tree / lane.folder, env=environment, text=True, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    try:
        output, _ = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)  # a lane may have started processes of its own
        process.communicate()
        return "timeout"
    if process.returncode == 0:
        return None
    failed = re.findall(r"^FAILED (\S+)", output, re.M)
    return failed[0] if failed else f"exit code {process.returncode}"


def times_without_a_mutant(name: str, kind: Kind, tree: Path) -> dict[Lane, float]:
    """Seconds of each lane. The lanes must pass, and test the copy: an editable install of fastloss may be near."""
    seconds = {}
    for lane in kind.lanes:
        start = time.time()
        failure = run(lane, tree, 1800)
        seconds[lane] = time.time() - start
        print(f"{name}, without a mutant: {lane.name} {failure or 'passes'}, {seconds[lane]:.0f} s", flush=True)
        if failure:
            sys.exit(1)
        if lane.name == "build":
            modules = "fastloss, fastloss.triton_kernels" if name == "triton" else "fastloss"
            where = f"import sys, {modules}; sys.exit(not fastloss.__file__.startswith({str(tree)!r}))"
            assert run(Lane("import", (sys.executable, "-c", where)), tree, 60) is None, "the tests import another tree"
    return seconds


def verdict(mutant: Mutant, kind: Kind, tree: Path, seconds: dict[Lane, float]) -> tuple[str, str]:
    """("killed" or "equivalent" or "survived", by which lane's test or why)"""
    if mutant.equivalent:
        return "equivalent", mutant.equivalent
    target = tree / mutant.file
    original = target.read_text()
    target.write_text(mutant.source)
    try:
        for lane in kind.lanes:
            noticed = run(lane, tree, 30 + 3 * seconds[lane])
            if noticed:
                return "killed", f"{lane.name}: {noticed}"
        return "survived", ""
    finally:
        target.write_text(original)


def report(results: dict[str, list[tuple[Mutant, str, str]]]) -> str:
    lines = ["| kind | mutants | killed | by lane | equivalent | survived |", "|---|---|---|---|---|---|"]
    for name, rows in results.items():
        outcomes = Counter(outcome for _, outcome, _ in rows)
        by_lane = Counter(detail.split(":")[0] for _, outcome, detail in rows if outcome == "killed")
        lanes = ", ".join(f"{lane} {count}" for lane, count in by_lane.items())
        counts = (outcomes[outcome] for outcome in ("equivalent", "survived"))
        lines.append(f"| {name} | {len(rows)} | {outcomes['killed']} | {lanes} | {' | '.join(map(str, counts))} |")
    for heading in ("survived", "equivalent", "killed"):
        lines += ["", f"## {heading}", ""]
        for rows in results.values():
            lines += [f"- `{mutant}` {detail}" for mutant, outcome, detail in rows if outcome == heading]
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kinds", nargs="*", choices=[*KINDS, []], default=[], metavar="KIND")
    parser.add_argument("--only", default="", help="mutants whose description contains this")
    parser.add_argument("--list", action="store_true", help="list them, run nothing")
    arguments = parser.parse_args()
    results: dict[str, list[tuple[Mutant, str, str]]] = {}
    for name in arguments.kinds or KINDS:
        kind, tree = KINDS[name], BUILD / name
        if arguments.list:
            for mutant in mutants(kind, ROOT):
                print(mutant)
            continue
        copy_tree(tree)
        seconds = times_without_a_mutant(name, kind, tree)
        rows = results[name] = []
        for mutant in list(mutants(kind, tree)):
            if arguments.only not in str(mutant):
                continue
            start = time.time()
            outcome, detail = verdict(mutant, kind, tree, seconds)
            print(f"{mutant}\n    {outcome} {detail}, {time.time() - start:.0f} s", flush=True)
            rows.append((mutant, outcome, detail))
            (BUILD / "report.md").write_text(report(results))  # a run that is cut short keeps what it has
    if results:
        print(report(results).split("\n\n")[0])
    return any(outcome == "survived" for rows in results.values() for _, outcome, _ in rows)


if __name__ == "__main__":
    sys.exit(main())
