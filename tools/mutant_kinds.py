"""What tools/mutants.py knows of the kernels: the kinds of mutants, the lanes that should notice each, the equivalents.

Throughput decides how many mutants can be run. So a lane builds one file for one instruction set without optimisation
(mutants.py edits the copy of the tree for that), the cheapest lane that notices most comes first, and lanes of pytest
start in a process that has imported torch already.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "triton"))
from test_lanes import PAIRS_LAWS as TRITON_PAIRS_LAWS
from test_lanes import PAIRWISE_PATHS, POINTWISE_LAWS

QUICK_LAWS = (
    "(kernels_agree and not bfloat16 and not float16) or bits or special or ignored or inplace or range or edges or "
    "test_softmax_focal"
)
ROW_LAWS = ("test_laws.py", "test_cross_entropy.py", "test_softmax_focal.py")
POINTWISE_VALUES = "kernels_agree or masks or terms or layouts or broadcasting or tiles"
POINTWISE_ORACLES = ("test_pointwise_oracles_supervised.py", "test_pointwise_oracles_policies.py")
PAIRS_LAWS = "agree or sizes or special or mixed or not_there or layouts or bits"
NO_TRANSFORMS = "not compile and not transforms and not opcheck and not gradcheck"  # seconds each, and no kernel's own
# Assertions as they stand: pytest would rewrite those of hypothesis, too, in 2.5 of 4 s of a short lane.
OPTIONS = ("-q", "-x", "-p", "no:cacheprovider", "--assert=plain", "--tb=line", "-W", "ignore")
PYTEST = ("pytest", *OPTIONS)


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
    """Files, what to do to them (regular expression, replacement), and the lanes that should notice, in their order.
    `binaries` are built once (FASTLOSS_BUILD); after that the lane "build" brings build/lib up to date."""

    files: tuple[str, ...]
    edits: tuple[tuple[str, str], ...]
    lanes: tuple[Lane, ...]
    binaries: str = "none"


def ninja(*binaries: str) -> Lane:
    """Of the package in build/lib, where every test imports it from."""
    files = " ".join(f'"$PWD"/build/lib/fastloss/{name}' for name in binaries)
    folder = f"build/ninja-{sysconfig.get_config_var('SOABI')}"  # setup.py's
    program = "ninja" if shutil.which("ninja") else f"{sys.executable} -m ninja"  # another would build all anew
    return Lane("build", ("sh", "-c", f"{program} --quiet -C {folder} {files}"), ".")


def copied() -> Lane:
    """Triton's kernels are built by nobody."""
    return Lane("build", ("sh", "-c", "cp triton_kernels/*.py build/lib/fastloss/triton_kernels"), ".")


def interpreted(name: str, file: str, *options: str) -> Lane:
    return Lane(name, (*PYTEST, f"{file}.py", *options), "tests/triton", (("TRITON_INTERPRET", "1"),))


def emulated(name: str, lane: str, library: str, *arguments: str) -> Lane:
    """Tests of tests/cuda on a library of tests/cuda/cuda_build.py."""
    build = ("FASTLOSS_EMULATOR_LANE", lane)
    if lane in ("plain", "some"):
        return Lane(name, (*PYTEST, *arguments), "tests/cuda", (build,))
    make = f"{sys.executable} -c \"import cuda_build; cuda_build.library('{library}', '{lane}')\""
    environment = (
        build,
        ("OMP_NUM_THREADS", "1"),
        ("ASAN_OPTIONS", "detect_leaks=0:halt_on_error=0"),
        ("TSAN_OPTIONS", "halt_on_error=0:exitcode=0:report_thread_leaks=0:suppress_equal_addresses=0"),
    )
    return Lane(name, under(lane, make, *arguments), "tests/cuda", environment)


def library(name: str, lane: str) -> Lane:
    """For the tests of emulated()."""
    return Lane(
        "build", (sys.executable, "-c", f"import cuda_build; cuda_build.library('{name}', '{lane}')"), "tests/cuda"
    )


def under(sanitizer: str, build: str, *arguments: str) -> tuple[str, ...]:
    """A command: `build`, then tests with the sanitizer's runtime, which has to be there when a process starts."""
    names = {"asan": ("asan", "ubsan"), "tsan": ("tsan",)}[sanitizer]
    commands = [["g++", f"-print-file-name=lib{name}.so"] for name in names]
    libraries = " ".join(subprocess.check_output(command, text=True).strip() for command in commands)
    tests = f'exec env LD_PRELOAD="{libraries}" "$@"'
    return ("sh", "-c", f"{build} && {tests}", "sh", sys.executable, "-m", *PYTEST, *arguments)


def sanitized(*arguments: str) -> Lane:
    """The CPU kernels under AddressSanitizer."""
    flags = "-O0 -g1 -fsanitize=address,undefined -fno-sanitize-recover=undefined"
    make = f"(cd .. && {sys.executable} setup.py -q build --build-lib build/sanitized)"
    build = f"{make} && export PYTHONPATH=../build/sanitized"
    environment = (
        ("FASTLOSS_BUILD", "cpu"), ("CXXFLAGS", flags), ("LDFLAGS", flags), ("ASAN_OPTIONS", "detect_leaks=0"),
    )  # fmt: skip
    return Lane("sanitizers", under("asan", build, *arguments), "tests", environment)


# Where a general edit would not change what runs.
DECLARATIONS = r"static_assert|^\s*#|template <"
# Of a condition: what has no other in it, and all its parentheses closed.
BRANCH = r"((?:[^:?;,(){}\[\]\n]|\((?:[^()\n]|\([^()\n]*\))*\)|\{[^{}\n]*\}|\[[^\[\]\n]*\])+)"
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
    (rf" \? {BRANCH} : {BRANCH}(?=[;,)])", r" ? \2 : \1"),
    (r" & ", " | "),
)

TRITON_ARITHMETIC = (
    (r", mask=[\w &<>=]+(, other=[\w.]+)?", ""),
    (r" & (mask|inside|counted|weighed|column_mask)", ""),
    (r"there = there & \(.*\)", "there = there"),
    (r"tl\.where\((\w+), ", r"tl.where(\1 == \1, "),
    (r" < ", " <= "),
    (r" <= ", " < "),
    (r" > ", " >= "),
    (r" >= ", " > "),
    (r" == ", " != "),
    (r" != ", " == "),
    (r" - ", " + "),
    (r" \+ ", " - "),
    (r" \+= ", " -= "),
    (r"= -(?=[\w(])", "= "),
    (r"\(-(?=\w)", "("),
    (r", -(?=[\w(])", ", "),
    (r"(?<!tl\.)maximum\(", "minimum("),
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
            (r"A\(1\) - gamma \* pull", "A(1) + gamma * pull"),
            (r"miss > A\(0\)", "miss >= A(0)"),
        ),
        (
            ninja("_cpu.so"),
            Lane("laws", (*PYTEST, *ROW_LAWS, "-k", QUICK_LAWS)),
            Lane("all", (*PYTEST, *ROW_LAWS, "test_properties.py", "-k", NO_TRANSFORMS)),
            sanitized(*ROW_LAWS, "-k", QUICK_LAWS),
        ),
        "cpu",
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
            library("kernels", "plain"),
            emulated("paths", "plain", "kernels", "test_races.py"),
            emulated("shapes", "plain", "kernels", "test_launch_shapes.py"),
            emulated("values", "plain", "kernels", "test_rows.py"),
            emulated("TSan", "tsan", "kernels", "test_races.py"),
            emulated("ASan", "asan", "kernels", "test_rows.py"),
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
            copied(),
            interpreted("a few values", "lane_interpreter", "-k", "test_values and float32"),
            interpreted("losses", "lane_pointwise_losses"),  # of common.py's functions
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
            ninja("_host.*.so"),
            Lane("functors", (*PYTEST, "test_pointwise_functors_supervised.py", "test_pointwise_functors_policies.py")),
            ninja("_cpu.so"),
            Lane("laws", (*PYTEST, "test_softmax_focal.py", "test_pointwise.py", "-k", f"focal or {POINTWISE_VALUES}")),
            Lane("oracles", (*PYTEST, *POINTWISE_ORACLES)),
        ),
        "cpu",
    ),
    "cpu-pointwise": Kind(
        ("csrc/cpu/pointwise.cpp", "csrc/cpu/tiles.h", "csrc/iteration.h", "csrc/cpu/pointwise_operators.cpp"),
        CXX_ARITHMETIC,
        (
            ninja("_cpu.so"),
            Lane("laws", (*PYTEST, "test_pointwise.py", "-k", POINTWISE_VALUES)),
            Lane("all", (*PYTEST, "test_pointwise.py", *POINTWISE_ORACLES, "-k", NO_TRANSFORMS)),
            Lane("drop-ins", (*PYTEST, "test_pointwise_drop_ins.py")),
            sanitized("test_pointwise.py", "-k", POINTWISE_VALUES),
        ),
        "cpu",
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
            library("pointwise", "some"),
            emulated("some losses", "some", "pointwise", "test_pointwise.py"),
            library("pointwise", "plain"),
            emulated("all losses", "plain", "pointwise", "test_pointwise.py"),
            emulated("TSan", "tsan", "pointwise", "test_pointwise_races.py"),
            emulated("ASan", "asan", "pointwise", "test_pointwise.py"),
        ),
    ),
    "triton-pointwise": Kind(
        (
            "triton_kernels/pointwise_kernels.py",
            "triton_kernels/pointwise.py",
        ),
        TRITON_ARITHMETIC,
        (
            copied(),
            interpreted("skeleton", "lane_pointwise"),
            interpreted("losses", "lane_pointwise_losses"),
            interpreted("laws", "../test_pointwise", "-k", POINTWISE_LAWS),
            Lane("compilers", (*PYTEST, "triton/test_lanes.py", "-k", "compiled and pointwise and sm_90")),
        ),
        "cpu",
    ),
    "triton-losses": Kind(
        tuple(
            f"triton_kernels/pointwise_{family}.py"
            for family in ("binary", "likelihood", "policy", "preference", "regression")
        ),
        TRITON_ARITHMETIC,
        (
            copied(),
            interpreted("losses", "lane_pointwise_losses"),
            interpreted("laws", "../test_pointwise", "-k", POINTWISE_LAWS),
            Lane("compilers", (*PYTEST, "triton/test_lanes.py", "-k", "every_loss_compiles")),
        ),
        "cpu",
    ),
    "pairs": Kind(
        ("csrc/losses/pairs.h", "csrc/cpu/pairs.cpp", "csrc/cpu/pairs_operators.cpp"),
        CXX_ARITHMETIC,
        (
            ninja("_cpu.so"),
            Lane("laws", (*PYTEST, "test_pairs.py", "-k", PAIRS_LAWS)),
            Lane("all", (*PYTEST, "test_pairs.py", "-k", NO_TRANSFORMS)),
            sanitized("test_pairs.py", "-k", PAIRS_LAWS),
        ),
        "cpu",
    ),
    "cuda-pairs": Kind(
        ("csrc/losses/pairs.h", "csrc/cuda/pairs.cu"),
        ((r"__syncthreads\(\);", ""), *CXX_ARITHMETIC),
        (
            library("kernels", "plain"),
            emulated("paths", "plain", "kernels", "test_pairs_races.py"),
            emulated("values", "plain", "kernels", "test_pairs.py"),
            emulated("TSan", "tsan", "kernels", "test_pairs_races.py"),
            emulated("ASan", "asan", "kernels", "test_pairs.py"),
        ),
    ),
    "triton-pairs": Kind(
        ("triton_kernels/pairs.py", "triton_kernels/pairs_losses.py"),
        TRITON_ARITHMETIC,
        (
            copied(),
            interpreted("laws", "../test_pairs", "-k", TRITON_PAIRS_LAWS),
            Lane("compilers", (*PYTEST, "triton/test_lanes.py", "-k", "compiled and pairs and sm_90")),
        ),
        "cpu",
    ),
    "triton-pairwise": Kind(
        ("triton_kernels/pairwise.py", "triton_kernels/pairwise_kernels.py", "triton_kernels/pairwise_losses.py"),
        TRITON_ARITHMETIC,
        (
            copied(),
            interpreted("laws", "../test_pairwise", "-k", PAIRWISE_PATHS),
            interpreted("all laws", "../test_pairwise", "-k", "triton and (kernels_agree or large or nothing)"),
            Lane("compilers", (*PYTEST, "triton/test_lanes.py", "-k", "compiled and pairwise and sm_90")),
        ),
        "cpu",
    ),
}


@dataclass(frozen=True)
class Equivalent:
    """A mutant that cannot be told from the original: the line as the edit leaves it. Without its number, which any
    change above would move."""

    file: str
    line: str
    reason: str


EQUIVALENT: tuple[Equivalent, ...] = (
    Equivalent(
        "csrc/cpu/pairs.cpp",
        "for (int64_t start = 0; start <= targets; start += kChunk) {",
        "one chunk more, without a target",
    ),
    Equivalent(
        "csrc/cpu/pointwise.cpp",
        "for (int k = 0; k <= F::operands; ++k) {",
        "no loss has all kMaxOperands operands, and those it has not are null",
    ),
    Equivalent(
        "csrc/cuda/pointwise_kernel.cuh",
        "return slot <= kFirstMetricSlot ? int(kTermMetric) : metric_kind<Functor>(slot - kFirstMetricSlot);",
        "the first metric of every loss is a sum",
    ),
    Equivalent("csrc/losses/functions.h", "const auto negative = x <= V{};", "both sigmoids of 0 are 1/2"),
    Equivalent(
        "csrc/losses/functions.h",
        "return ((x <= V{}) ? decay : V{} + 1.0f) / (decay + 1.0f);",
        "decay is 1 at 0",
    ),
    *[
        Equivalent(file, line, "at the advantage 0 both bounds are 0, and 0 > 0 is false")
        for file, line in (
            ("csrc/losses/policy.h", "const auto beyond = (advantage <= zero) & (s.loss > dual_bound);"),
            ("triton_kernels/pointwise_policy.py", "beyond = (advantage <= 0.0) & (loss > dual_bound)"),
        )
    ],
    Equivalent(
        "triton_kernels/pointwise_regression.py",
        "pull = tl.where(error <= 0.0, 1.0 - x[2], x[2]) * error",
        "the pull is 0 at the error 0",
    ),
    Equivalent("triton_kernels/pointwise_regression.py", "small = size <= 1.0", "both formulas hold at 1"),
    Equivalent(
        "csrc/losses/regression.h",
        "const V pull = ((d <= V{}) ? A(1) - x[2] : x[2]) * d;",
        "the pull is 0 at the error 0",
    ),
    Equivalent(
        "csrc/losses/regression.h", "const auto small = size <= V{} + A(0.875);", "both formulas hold at the bound"
    ),
    Equivalent(
        "csrc/losses/regression.h",
        ": beta(A(parameters[0])), inverse_beta(parameters[0] >= 0 ? A(1 / parameters[0]) : A(0)) {}",
        "the inverse is not used for beta = 0",
    ),
    Equivalent(
        "triton_kernels/pointwise_kernels.py",
        "row, start, lane, (row <= rows)[:, None, None], lane < columns - start,",
        "the row is 0, and there is one",
    ),
    *[
        Equivalent("triton_kernels/pointwise_kernels.py", line, "halves become doubles by fp32 or at once")
        for line in (
            "if A != tl.float64 and (value.dtype == tl.bfloat16 or value.dtype == tl.float16):",
            "if value.dtype != tl.float64 and (dtype == tl.bfloat16 or dtype == tl.float16):",
        )
    ],
    Equivalent(
        "triton_kernels/pairs.py",
        "x += (read(operands[k], row, row_strides[2 - k], i, steps[2 + k], exists, A)[:, None],)",
        "no loss over pairs has a second operand: k is 0",
    ),
    Equivalent(
        "triton_kernels/pairs.py",
        "num_warps=WARPS if tile[0] * tile[1] > 256 * WARPS else 1,",
        "a number of warps, for speed",
    ),
    Equivalent("triton_kernels/pairs_losses.py", "pull = tl.where(u <= 0.0, below, above)", "the pull is times u"),
    Equivalent("triton_kernels/pointwise.py", "if max(access) <= 8:", "no code is 8"),
    Equivalent(
        "triton_kernels/pointwise_kernels.py",
        "for k in tl.static_range(len(sizes) + 1):",
        "nothing is left of the row after its outermost dimension",
    ),
    Equivalent("triton_kernels/pointwise.py", "return tensor[a] >= tensor[b]", "they differ"),
    *[
        Equivalent("triton_kernels/pointwise.py", line, "the longer way to the same plan")
        for line in (
            "return tensor.shape != other.shape and tensor.stride() == other.stride()",
            "return tensor.shape == other.shape and tensor.stride() != other.stride()",
        )
    ],
    *[
        Equivalent("csrc/cuda/pointwise.cu", line, reason)
        for line, reason in (
            (
                "while (cut + 1 <= it.dimensions && inner > most) inner /= it.size[++cut];",
                "inside the last dimension there is 1 element, which is not too much",
            ),
            (
                "while (cut - 1 < it.dimensions && inner > most) inner /= it.size[++cut];",
                "inside the last dimension there is 1 element, which is not too much",
            ),
            (
                "return chunks <= kMaxPointwiseBlocks ? unsigned(chunks) : kMaxPointwiseBlocks;",
                "the same at a tie",
            ),
        )
    ],
    Equivalent(
        "triton_kernels/pointwise.py",
        "if inner == 1 and packet >= 1 and tensor.data_ptr() % unit == 0 and not any(steps):",
        "an element is aligned to its own size",
    ),
    Equivalent(
        "triton_kernels/pointwise.py",
        "EDGE=how.columns % how.packet != 0, WIDE=shape.numel() > 2**31,",
        "2^31 elements are at most 2^30 rows",
    ),
    Equivalent(
        "triton_kernels/pointwise.py",
        "full = next((tensor for tensor in present if tensor.shape != shape), None)",
        "the shorter way to the same plan",
    ),
    Equivalent(
        "csrc/cuda/pointwise_access.cuh",
        "for (int d = walk.dimensions - 1; d >= 0; --d) {",
        "nothing is left of the index after the outermost dimension",
    ),
    *[
        Equivalent("csrc/cuda/pointwise_kernel.cuh", line, "one chunk more, without elements")
        for line in (
            "for (uint32_t c = blockIdx.x; c <= chunks; c += gridDim.x) {",
            "const uint32_t chunks = (job.walk.numel + chunk + 1) / chunk;",
        )
    ],
    Equivalent(
        "csrc/cuda/pointwise_access.cuh",
        "return {value, uint32_t(((uint64_t(1) << 32) * ((uint64_t(1) << shift) + value)) / value + 1), shift};",
        "more by 2^33, of which 32 bits are kept",
    ),
    Equivalent(
        "triton_kernels/row_losses.py",
        "pull = tl.where(inside, p * log_p / tl.where(inside == inside, miss, 1.0), 0.0)",
        "the quotient is not taken outside",
    ),
    Equivalent(
        "triton_kernels/row_tiles.py",
        "return sum_packets(tl.where((column == index), z - top[:, None, None], 0.0))",
        "no column behind the mask is a class",
    ),
    Equivalent(
        "triton_kernels/row_tiles.py",
        "return tl.where(inside == inside, index, -1).to(tl.int32), counted, row_weight",
        "the row is NaN for its weight",
    ),
    Equivalent(
        "csrc/cuda/row_contiguous.cuh",
        "const A target_z = Loss::modulated ? job.loss.logit(A(widen(slice.logits[target.index + slice.begin]))) : A(0);",  # noqa: E501
        "a backward pass has no cluster, so the slice begins at 0",
    ),
    Equivalent(
        "csrc/cuda/row_math.cuh",
        "const bool has_target = unsigned(index - first) <= unsigned(kCount);",
        "it saves the comparisons below, which decide",
    ),
    Equivalent(
        "csrc/cuda/row_strided.cuh",
        "for (int c = int(threadIdx.y); c <= classes; c += kClassGroup * parts) {",
        "one group more, without a class",
    ),
    Equivalent(
        "csrc/cuda/row_strided.cuh",
        "if (c + (kClassGroup + 1) * parts < classes) {",
        "the other branch does the same, one at a time",
    ),
    Equivalent(
        "csrc/cuda/reduce.cuh",
        "return count <= kMaxSumThreads ? unsigned(count + 31) / 32 * 32 : unsigned(kMaxSumThreads);",
        "the same at a tie",
    ),
    Equivalent(
        "triton_kernels/row_kernels.py",
        "top = tl.load(state + row)",
        "behind the last row there is the other half of the state, which is not used",
    ),
    *[
        Equivalent("csrc/cuda/scale.cu", line, "one chunk more, without elements")
        for line in ("const long long chunks_per_line = (length + chunk + 1) / chunk;",)
    ],
    *[
        Equivalent("triton_kernels/row_kernels.py", line, "a program is one row, and there is no other")
        for line in (
            "index, counted, row_weight = read_index_target(target, weight, row, row <= rows, classes, ignore_index, A)",  # noqa: E501
            "scale = row_scale(grad_loss, denominator, row, row <= rows, A)",
        )
    ],
    Equivalent("triton_kernels/row_kernels.py", "if whole <= packets:", "one tile more, all of it masked off"),
    *[
        Equivalent(
            "triton_kernels/pointwise_kernels.py", f"return tl.{extreme}(x, axis=LAST) - poison", "poison is 0 or NaN"
        )
        for extreme in ("min", "max")
    ],
    Equivalent(
        "triton_kernels/pairs.py",
        "x += (read(operands[k], row, row_strides[2 + k], i, steps[2 - k], exists, A)[:, None],)",
        "no loss over pairs has a second operand: k is 0",
    ),
)
