"""`make mutants`: breaks one thing at a time in the kernels and asks whether the tests notice. Hours; not part of CI.

    python tools/mutants.py [KIND ...] [--sample N [--seed S]] [--minutes M] [--only TEXT] [--list]

A mutant deletes a barrier or a statement, bends a bound, drops a mask or flips a sign. It is killed if a lane of the
tests fails, the quickest lane first. A survivor is to be read: either a test is missing, or the mutant is equivalent,
that is no input and no schedule can tell it from the original; EQUIVALENT holds those, with the reason.

`--sample 40` takes 40 of each kind, spread evenly over its files: one, chosen by the seed, of every 40th part of the
list. `--minutes 10` stops after that time; the next run goes on from there, if no file has changed. docs/mutants.md
has what was run last.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import os
import random
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
from itertools import pairwise
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BUILD = ROOT / "build" / "mutants"
QUICK_LAWS = "(kernels_agree and not bfloat16 and not float16) or bits or special or ignored or inplace or range"
QUICK_POINTWISE_LAWS = "kernels_agree or masks or terms or layouts or broadcasting or bits"
NOT_BUILT = "does not build"
POINTWISE_ORACLES = ("test_pointwise_oracles_supervised.py", "test_pointwise_oracles_policies.py")
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


def only_host() -> Lane:
    """The functors by themselves, a fraction of the build that went before."""
    ninja = f'{sys.executable} -m ninja --quiet -C build/ninja-*-custom "$PWD"/build/lib/fastloss/_host.*.so'
    return Lane("build", ("sh", "-c", ninja), ".")


def interpreted(name: str, file: str, *options: str) -> Lane:
    return Lane(name, (*PYTEST, f"{file}.py", *options), "tests/triton", (("TRITON_INTERPRET", "1"),))


# Where a general edit would not change what runs.
DECLARATIONS = r"static_assert|^\s*#|template <"
# Bounds, signs, extremes, masks; the branches of a condition in each other's place.
CXX_ARITHMETIC = (
    (r" < ", " <= "),
    (r" > ", " >= "),
    (r" <= ", " < "),
    (r" >= ", " > "),
    (r" == ", " != "),
    (r" - ", " + "),
    (r" \+ ", " - "),
    (r" \+= ", " -= "),
    (r"= -(?=[\w(])", "= "),
    (r"math::maximum", "math::minimum"),
    (r"math::minimum", "math::maximum"),
    (r" \? ([^:?;,]+) : ([^:?;,]+);", r" ? \2 : \1;"),
    (r" & ", " | "),
)

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
            (r"if \(mass != A\(0\)\) ", ""),
            (r"A\(1\) - gamma \* pull", "A(1) + gamma * pull"),
            (r"miss > A\(0\)", "miss >= A(0)"),
        ),
        (
            build("cpu", ("CXXFLAGS", "-O0")),
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
            Lane("sanitizers", (*PYTEST, "cuda/test_lanes.py", "-k", "rows"), environment=(("PYTEST_ADDOPTS", "-x"),)),
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
            interpreted("a few values", "lane_interpreter", "-k", "test_values and float32"),
            interpreted("interpreter", "lane_interpreter"),
            Lane("compilers", (*PYTEST, "triton/test_lanes.py", "-k", "compiled and row and sm_90")),
        ),
    ),
    "functors": Kind(
        tuple(
            f"csrc/losses/{name}.h"
            for name in ("binary", "functions", "likelihood", "policy", "preference", "regression")
        ),
        CXX_ARITHMETIC,
        (
            only_host(),
            Lane("functors", (*PYTEST, "test_pointwise_functors_supervised.py", "test_pointwise_functors_policies.py")),
            build("cpu", ("CXXFLAGS", "-O0")),
            Lane("laws", (*PYTEST, "test_pointwise.py", "-k", QUICK_POINTWISE_LAWS)),
            Lane("oracles", (*PYTEST, *POINTWISE_ORACLES)),
        ),
    ),
    "cpu-pointwise": Kind(
        ("csrc/cpu/pointwise.cpp", "csrc/cpu/tiles.h", "csrc/iteration.h", "csrc/cpu/pointwise_operators.cpp"),
        CXX_ARITHMETIC,
        (
            build("cpu", ("CXXFLAGS", "-O0")),
            Lane("laws", (*PYTEST, "test_pointwise.py", "-k", QUICK_POINTWISE_LAWS)),
            Lane(
                "all",
                (
                    *PYTEST,
                    "test_pointwise.py",
                    "test_pointwise_oracles_supervised.py",
                    "test_pointwise_oracles_policies.py",
                ),
            ),
            Lane("drop-ins", (*PYTEST, "test_pointwise_drop_ins.py")),
        ),
    ),
    "cuda-pointwise": Kind(
        (
            "csrc/cuda/pointwise_kernel.cuh",
            "csrc/cuda/pointwise_access.cuh",
            "csrc/cuda/pointwise_launch.cuh",
            "csrc/cuda/pointwise.cu",
        ),
        ((r"__syncthreads\(\);", ""), (r"if \(lane == 0\) ", ""), *CXX_ARITHMETIC),
        (
            build("none"),
            Lane("some losses", (*PYTEST, "cuda/test_pointwise.py"), environment=(("FASTLOSS_EMULATOR_LANE", "some"),)),
            Lane("all losses", (*PYTEST, "cuda/test_pointwise.py")),
            Lane("sanitizers", (*PYTEST, "cuda/test_lanes.py", "-k", "pointwise")),
        ),
    ),
    "triton-pointwise": Kind(
        (
            "triton_kernels/pointwise_kernels.py",
            "triton_kernels/pointwise.py",
            "triton_kernels/pointwise_binary.py",
            "triton_kernels/pointwise_likelihood.py",
            "triton_kernels/pointwise_policy.py",
            "triton_kernels/pointwise_preference.py",
            "triton_kernels/pointwise_regression.py",
        ),
        (
            (r", mask=[\w &<>=]+(, other=[\w.]+)?", ""),
            (r" & (mask|inside|counted|weighed|column_mask)", ""),
            (r"tl\.where\((\w+), ", r"tl.where(\1 == \1, "),
            (r" < ", " <= "),
            (r" <= ", " < "),
            (r" > ", " >= "),
            (r" >= ", " > "),
            (r" == ", " != "),
            (r" - ", " + "),
            (r" \+ ", " - "),
            (r" \+= ", " -= "),
            (r"= -(?=[\w(])", "= "),
            (r"\(-(?=\w)", "("),
            (r"(?<!tl\.)maximum\(", "minimum("),
        ),
        (
            build("none"),
            interpreted("skeleton", "lane_pointwise"),
            interpreted("losses", "lane_pointwise_losses"),
            interpreted("laws", "../test_pointwise", "-k", "triton and (test_terms or broadcasting)"),
            Lane(
                "compilers", (*PYTEST, "triton/test_lanes.py", "-k", "(compiled and pointwise and sm_90) or compiles")
            ),
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
                line = code[code.rfind("\n", 0, match.start()) + 1 : code.find("\n", match.start())]
                if re.search(DECLARATIONS, line):
                    continue
                mutated = source[: match.start()] + match.expand(replacement) + source[match.end() :]
                if mutated in seen:
                    continue
                seen.add(mutated)
                start = source.rfind("\n", 0, match.start()) + 1
                before, after = (text[start : text.find("\n", match.start())].strip() for text in (source, mutated))
                yield Mutant(name, source.count("\n", 0, start) + 1, before, after, mutated)


def copy_tree(tree: Path) -> str:
    """The digest of what it has copied."""
    files = subprocess.check_output(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, text=True).splitlines()
    digest = hashlib.sha256()
    for name in files:
        digest.update(name.encode() + (ROOT / name).read_bytes())
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tree / name)  # dated now, so that ninja rebuilds what an interrupted run left mutated
    # Without optimisation the emulated kernels are built in 6 s, and not in 14. "some": pointwise losses of some
    # families only, as in the sanitizers' builds.
    builds = tree / "tests/cuda/cuda_build.py"
    text = builds.read_text()
    for slow, quick in (
        ('"plain": ["-O2"]', '"plain": ["-O0"], "some": ["-O0"]'),
        ('flags = ["-O1"]', 'flags = ["-O0"]'),
    ):
        assert text.count(slow) == 1
        text = text.replace(slow, quick)
    builds.write_text(text)
    return digest.hexdigest()


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
    if " does not build:" in output:  # cuda_build.py
        return NOT_BUILT
    failed = re.findall(r"^FAILED (\S+)", output, re.M)
    return failed[0] if failed else f"exit code {process.returncode}"


class Journal:
    """What a run has found out, kept for the next one over the same files."""

    def __init__(self, name: str, digest: str) -> None:
        self.path = BUILD / f"{name}.json"
        known = json.loads(self.path.read_text()) if self.path.exists() else {}
        same = known.get("digest") == digest
        self.digest = digest
        self.seconds: dict[str, float] = known["seconds"] if same else {}  # of a lane without a mutant
        self.outcomes: dict[str, tuple[str, str]] = known["outcomes"] if same else {}

    def save(self) -> None:
        content = {"digest": self.digest, "seconds": self.seconds, "outcomes": self.outcomes}
        self.path.write_text(json.dumps(content, indent=1))


class Unmutated:
    """The lanes without a mutant, each run when it is first needed. They must pass, and test the copy: an editable
    install of fastloss may be near."""

    def __init__(self, name: str, kind: Kind, tree: Path, journal: Journal) -> None:
        self.name, self.kind, self.tree, self.journal = name, kind, tree, journal
        for lane in reversed(kind.lanes):  # the whole build is the later one
            if lane.name == "build":
                self.run(lane)
        modules = "fastloss, fastloss.triton_kernels" if "triton" in name else "fastloss"
        where = f"import sys, {modules}; sys.exit(not fastloss.__file__.startswith({str(tree)!r}))"
        assert run(Lane("import", (sys.executable, "-c", where)), tree, 60) is None, "the tests import another tree"

    def run(self, lane: Lane) -> None:
        start = time.time()
        failure = run(lane, self.tree, 1800)
        seconds = time.time() - start
        print(f"{self.name}, without a mutant: {lane.name} {failure or 'passes'}, {seconds:.0f} s", flush=True)
        if failure:
            sys.exit(1)
        if lane.name != "build":
            self.journal.seconds[lane.name] = seconds

    def timeout(self, lane: Lane) -> float:
        return 600 if lane.name == "build" else 60 + 3 * self.journal.seconds[lane.name]


def verdict(mutant: Mutant, kind: Kind, tree: Path, unmutated: Unmutated) -> tuple[str, str]:
    """("killed", "equivalent", "not compiled" or "survived", by which lane's test or why)"""
    if mutant.equivalent:
        return "equivalent", mutant.equivalent
    target = tree / mutant.file
    original = target.read_text()
    builds = [lane for lane in kind.lanes if lane.name == "build"]
    try:
        for lane in kind.lanes:
            if lane not in builds and lane.name not in unmutated.journal.seconds:
                target.write_text(original)
                for build in builds:
                    run(build, tree, 1800)
                unmutated.run(lane)
                target.write_text(mutant.source)
                for build in builds:
                    run(build, tree, 1800)
            target.write_text(mutant.source)
            noticed = run(lane, tree, unmutated.timeout(lane))
            if noticed == NOT_BUILT or (noticed and lane in builds):
                return "not compiled", ""
            if noticed:
                return "killed", f"{lane.name}: {noticed}"
        return "survived", ""
    finally:
        target.write_text(original)


def sampled(found: list[Mutant], count: int, seed: int) -> list[Mutant]:
    """One of each of `count` equal parts of the list."""
    if count >= len(found):
        return found
    chosen = random.Random(seed)
    edges = [len(found) * part // count for part in range(count + 1)]
    return [found[chosen.randrange(begin, end)] for begin, end in pairwise(edges)]


def report(name: str, of: int, rows: list[tuple[Mutant, str, str]]) -> str:
    """A row of the table of docs/mutants.md, and every mutant with what became of it."""
    outcomes = Counter(outcome for _, outcome, _ in rows)
    by_lane = Counter(detail.split(":")[0] for _, outcome, detail in rows if outcome == "killed")
    lanes = ", ".join(f"{lane} {count}" for lane, count in by_lane.items())
    counts = " | ".join(str(outcomes[outcome]) for outcome in ("not compiled", "equivalent", "survived"))
    lines = [
        "| kind | mutants | run | killed | by lane | do not compile | equivalent | survived |",
        "|---|---|---|---|---|---|---|---|",
        f"| {name} | {of} | {len(rows)} | {outcomes['killed']} | {lanes} | {counts} |",
    ]
    for heading in ("survived", "equivalent", "not compiled", "killed"):
        lines += ["", f"## {heading}", ""]
        lines += [f"- `{mutant}` {detail}" for mutant, outcome, detail in rows if outcome == heading]
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kinds", nargs="*", choices=[*KINDS, []], default=[], metavar="KIND")
    parser.add_argument("--only", default="", help="mutants whose description contains this")
    parser.add_argument("--sample", type=int, metavar="N", help="N of each kind, spread over its files")
    parser.add_argument("--seed", type=int, default=1, help="of the sample")
    parser.add_argument("--minutes", type=float, metavar="M", help="no new mutant of a kind after this time")
    parser.add_argument("--list", action="store_true", help="list them, run nothing")
    arguments = parser.parse_args()
    survived = 0
    for name in arguments.kinds or KINDS:
        kind, tree = KINDS[name], BUILD / name
        every = list(mutants(kind, ROOT))
        chosen = [mutant for mutant in every if arguments.only in str(mutant)]
        chosen = sampled(chosen, arguments.sample, arguments.seed) if arguments.sample else chosen
        if arguments.list:
            print(*chosen, sep="\n")
            continue
        journal = Journal(name, copy_tree(tree))
        unmutated: Unmutated | None = None
        rows: list[tuple[Mutant, str, str]] = []
        begun = time.time()
        for mutant in chosen:
            if str(mutant) not in journal.outcomes:
                start = time.time()
                if arguments.minutes and start - begun > 60 * arguments.minutes:
                    continue
                unmutated = unmutated or Unmutated(name, kind, tree, journal)
                outcome, detail = verdict(mutant, kind, tree, unmutated)
                print(f"{mutant}\n    {outcome} {detail}, {time.time() - start:.0f} s", flush=True)
                journal.outcomes[str(mutant)] = (outcome, detail)
                journal.save()
            rows.append((mutant, *journal.outcomes[str(mutant)]))
            survived += rows[-1][1] == "survived"
            (BUILD / f"{name}.md").write_text(report(name, len(every), rows))
        print(report(name, len(every), rows).split("\n\n")[0], flush=True)
    return survived > 0


if __name__ == "__main__":
    sys.exit(main())
