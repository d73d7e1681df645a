"""What tools/mutants knows of the kernels: the kinds of mutants, the lanes that should notice each, the equivalents.

Throughput decides how many mutants can be run. So a lane builds one file for one instruction set without optimisation
(sources.py edits the copy of the tree for that), the cheapest lane that notices most comes first, and lanes of pytest
start in a process that has imported torch already.
"""

from __future__ import annotations

import importlib.util
import runpy
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DECLARED = runpy.run_path(str(ROOT / "tests" / "lanes" / "triton" / "laws.py"))
QUICK_LAWS = (
    "skeleton_row and (kernels_agree and not bfloat16 and not float16 or bits) or special or ignored or inplace or "
    "range or edges or test_softmax_focal"
)
FOCAL = "skeletons/test_softmax_focal.py"
A_FEW = "cross_entropy or huber_loss or ppo_loss or info_nce or quantile_huber or focal"
LOWERING_LAWS = (
    "laws/test_arguments.py",
    "laws/test_masks.py",
    "laws/test_masks_fit.py",
    "laws/test_metrics.py",
    "laws/test_empty.py",
    "laws/test_autocast.py",
    "laws/test_mixed_dtypes.py",
    "laws/test_layouts.py",
)
STEPS = "skeletons/test_row_statistics.py"
SKELETONS = ("skeletons/test_cross_entropy.py", FOCAL)
ROW_LAWS = ("laws/test_values.py", "laws/test_bits.py", *SKELETONS)
ALL_LAWS = ("laws/test_values.py", "laws/test_gradients.py", "laws/test_bits.py", "laws/test_layouts.py",
            "laws/test_masks.py", "laws/test_metrics.py", "laws/test_autocast.py")  # fmt: skip
POINTWISE_FILES = ("laws/test_values.py", "laws/test_masks.py", "laws/test_metrics.py", "laws/test_layouts.py",
                   "skeletons/test_pointwise.py")  # fmt: skip
POINTWISE_VALUES = (
    "skeleton_pointwise and (kernels_agree or masks or terms or layouts or broadcasting) or several_tiles"
)
FUNCTORS = ("lanes/cpu/test_pointwise_functors_supervised.py", "lanes/cpu/test_pointwise_functors_policies.py")
POINTWISE_ORACLES = ("oracles/test_supervised.py", "oracles/test_rl_and_alignment.py")
OUTER_FILES = ("laws/test_values.py", "laws/test_masks.py", "laws/test_layouts.py", "laws/test_bits.py",
               "skeletons/test_outer.py")  # fmt: skip
OUTER_LAWS = "skeleton_outer and (agree or masks or layouts or bits) or sizes or special or mixed"
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
    # As setup.py chooses: another would build all anew.
    program = f"{sys.executable} -m ninja" if importlib.util.find_spec("ninja") else "ninja"
    return Lane("build", ("sh", "-c", f"{program} --quiet -C {folder} {files}"), ".")


def copied(folder: str = "triton_kernels", package: str = "fastloss/triton_kernels") -> Lane:
    """Python is built by nobody."""
    return Lane("build", ("sh", "-c", f"cp -r {folder}/. build/lib/{package}"), ".")


def interpreted(name: str, file: str, *options: str) -> Lane:
    return Lane(name, (*PYTEST, f"{file}.py", *options), "tests/lanes/triton", (("TRITON_INTERPRET", "1"),))


def interpreted_laws(name: str, files: str, chosen: str) -> Lane:
    first, *more = (f"../../{file}" for file in DECLARED[files])
    return interpreted(name, first.removesuffix(".py"), *more, "-k", chosen)


def of(skeleton: str) -> str:
    """What -k takes of files with laws of all skeletons, and of files without laws, but nothing that is slow."""
    others = {"row", "pointwise", "outer", "similarity", "linear"} - {skeleton}
    return " and ".join([*(f"not skeleton_{other}" for other in sorted(others)), NO_TRANSFORMS])


def emulated(name: str, lane: str, library: str, *arguments: str) -> Lane:
    """Tests of tests/lanes/cuda on a library of its cuda_build.py."""
    build = ("FASTLOSS_EMULATOR_LANE", lane)
    if lane in ("plain", "some"):
        return Lane(name, (*PYTEST, *arguments), "tests/lanes/cuda", (build,))
    build_it = f"from lanes.cuda import cuda_build; cuda_build.library('{library}', '{lane}')"
    make = f'(cd ../.. && {sys.executable} -c "{build_it}")'
    environment = (
        build,
        ("OMP_NUM_THREADS", "1"),
        ("ASAN_OPTIONS", "detect_leaks=0:halt_on_error=0"),
        ("TSAN_OPTIONS", "halt_on_error=0:exitcode=0:report_thread_leaks=0:suppress_equal_addresses=0"),
    )
    return Lane(name, under(lane, make, *arguments), "tests/lanes/cuda", environment)


def library(name: str, lane: str) -> Lane:
    """For the tests of emulated()."""
    build_it = f"from lanes.cuda import cuda_build; cuda_build.library('{name}', '{lane}')"
    return Lane("build", (sys.executable, "-c", build_it))


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

PYTHON = (
    (r" is None\b", " is not None"),
    (r" is not None\b", " is None"),
    (r"\bnot (?!in\b|None\b)", ""),
    (r" not in ", " in "),
    (r" and ", " or "),
    (r" or ", " and "),
    (r" == ", " != "),
    (r" != ", " == "),
    (r" < ", " <= "),
    (r" > ", " >= "),
    (r" <= ", " < "),
    (r" >= ", " > "),
    (r" - ", " + "),
    (r" \+ ", " - "),
    (r" \* ", " / "),
    (r" if [^:\n]+ else ", " if False else "),
    (r"\b1\b(?=[),:\]])", "2"),
    (r"\bTrue\b", "False"),
    (r"\bFalse\b", "True"),
)


def pointwise_families() -> list[str]:
    """The headers with a table of pointwise losses."""
    headers = sorted((ROOT / "csrc" / "losses").rglob("*.h"))
    return [
        str(path.relative_to(ROOT))
        for path in headers
        if "#define FASTLOSS_POINTWISE_" in path.read_text() and path.name != "all.h"
    ]


KINDS = {
    "cpu": Kind(
        (
            "csrc/losses/contracts/row.h",
            "csrc/losses/classification.h",
            "csrc/cpu/row.cpp",
            "csrc/cpu/row_lanes.h",
            "csrc/cpu/row_task.h",
            "csrc/cpu/simd/lanes.h",
            "csrc/operators/row.cpp",
        ),
        (
            (r"if \(ignored\(r(ow)?\)\)", "if (false)"),
            (r"S::first\(count, (from_shift|S::get)", r"S::first(S::lanes, \1"),
            (r"(subtract_target<Dense>\([^;]*\));", ";"),
            (r"if \(contiguous_gradient\) memset[^;]*;", ""),
            (r"if \(over_itself\) memcpy[^;]*;", ""),
            (r"rescale\((most|max)\);", ""),
            *CXX_ARITHMETIC,
        ),
        (
            ninja("_cpu.so"),
            Lane("laws", (*PYTEST, *ROW_LAWS, "-k", QUICK_LAWS)),
            Lane("all", (*PYTEST, *ALL_LAWS, *SKELETONS, "oracles/test_properties.py", "-k", of("row"))),
            sanitized(*ROW_LAWS, "-k", QUICK_LAWS),
        ),
        "cpu",
    ),
    "cuda": Kind(
        (
            "csrc/cuda/row/math.cuh",
            "csrc/cuda/row/contiguous.cuh",
            "csrc/cuda/row/team.cuh",
            "csrc/cuda/row/strided.cuh",
            "csrc/cuda/reduce.cuh",
            "csrc/cuda/row/row.cu",
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
            emulated("ASan", "asan", "kernels", "test_rows.py", "-k", "short_rows or class_stride or scale"),
            emulated("TSan", "tsan", "kernels", "test_races.py"),  # minutes, with many mutants in a build
        ),
    ),
    "triton": Kind(
        (
            "triton_kernels/losses/classification.py",
            "triton_kernels/kernels/row_tiles.py",
            "triton_kernels/kernels/row.py",
            "triton_kernels/kernels/scale.py",
            "triton_kernels/math.py",
            "triton_kernels/memory.py",
            "triton_kernels/sums.py",
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
            interpreted("losses", "lane_pointwise_losses"),  # of math.py's functions
            interpreted("interpreter", "lane_interpreter"),
            Lane("compilers", (*PYTEST, "lanes/triton/test_lanes.py", "-k", "compiled and row and sm_90")),
        ),
    ),
    "functors": Kind(
        ("csrc/losses/math.h", *pointwise_families()),
        CXX_ARITHMETIC,
        (
            ninja("_host.*.so"),
            Lane("functors", (*PYTEST, *FUNCTORS)),
            ninja("_cpu.so"),
            Lane("laws", (*PYTEST, FOCAL, *POINTWISE_FILES, "-k", f"test_softmax_focal or {POINTWISE_VALUES}")),
            Lane("oracles", (*PYTEST, *POINTWISE_ORACLES)),
            sanitized(*POINTWISE_FILES, "-k", POINTWISE_VALUES),
        ),
        "cpu",
    ),
    "cpu-pointwise": Kind(
        ("csrc/cpu/pointwise.cpp", "csrc/cpu/tiles.h", "csrc/layout.h", "csrc/operators/pointwise.cpp"),
        CXX_ARITHMETIC,
        (
            ninja("_cpu.so"),
            Lane("laws", (*PYTEST, *POINTWISE_FILES, "-k", POINTWISE_VALUES)),
            Lane("all", (*PYTEST, *ALL_LAWS, *POINTWISE_FILES[-1:], *POINTWISE_ORACLES, "-k", of("pointwise"))),
            Lane("drop-ins", (*PYTEST, "contract/test_drop_ins.py")),
            # The tiles are those of the losses over pairs, too.
            sanitized(*POINTWISE_FILES, "skeletons/test_outer.py", "-k", f"{POINTWISE_VALUES} or sizes"),
        ),
        "cpu",
    ),
    "cuda-pointwise": Kind(
        (
            "csrc/cuda/pointwise/kernel.cuh",
            "csrc/cuda/pointwise/access.cuh",
            "csrc/cuda/pointwise/launch.cuh",
            "csrc/cuda/pointwise/pointwise.cu",
        ),
        ((r"__syncthreads\(\);", ""), (r"if \(lane == 0\) ", ""), *CXX_ARITHMETIC),
        (
            library("pointwise", "some"),
            emulated("some losses", "some", "pointwise", "test_pointwise.py"),
            library("pointwise", "plain"),
            emulated("all losses", "plain", "pointwise", "test_pointwise.py"),
            emulated("TSan", "tsan", "pointwise", "test_pointwise_races.py"),
            emulated("ASan", "asan", "pointwise", "test_pointwise.py"),
            Lane("nvcc", (*PYTEST, "test_nvcc.py", "-k", "likelihood"), "tests/lanes/cuda"),  # registers
        ),
    ),
    "triton-pointwise": Kind(
        (
            "triton_kernels/kernels/pointwise.py",
            "triton_kernels/operators/pointwise.py",
            "triton_kernels/memory.py",
        ),
        TRITON_ARITHMETIC,
        (
            copied(),
            interpreted("skeleton", "lane_pointwise"),
            interpreted("losses", "lane_pointwise_losses"),
            interpreted_laws("laws", "POINTWISE_FILES", DECLARED["POINTWISE_LAWS"]),
            Lane("compilers", (*PYTEST, "lanes/triton/test_lanes.py", "-k", "compiled and pointwise and sm_90")),
        ),
        "cpu",
    ),
    "triton-losses": Kind(
        tuple(file.replace("csrc", "triton_kernels").replace(".h", ".py") for file in pointwise_families()),
        TRITON_ARITHMETIC,
        (
            copied(),
            interpreted("losses", "lane_pointwise_losses"),
            interpreted_laws("laws", "POINTWISE_FILES", DECLARED["POINTWISE_LAWS"]),
            Lane("compilers", (*PYTEST, "lanes/triton/test_lanes.py", "-k", "every_loss_compiles")),
        ),
        "cpu",
    ),
    "pairs": Kind(
        ("csrc/losses/rl/distributional.h", "csrc/cpu/outer.cpp", "csrc/operators/outer.cpp"),
        CXX_ARITHMETIC,
        (
            ninja("_cpu.so"),
            Lane("laws", (*PYTEST, *OUTER_FILES, "-k", OUTER_LAWS)),
            Lane("all", (*PYTEST, *ALL_LAWS, *OUTER_FILES[-1:], "-k", of("outer"))),
            sanitized(*OUTER_FILES, "-k", OUTER_LAWS),
        ),
        "cpu",
    ),
    "cuda-pairs": Kind(
        ("csrc/losses/rl/distributional.h", "csrc/cuda/outer.cu"),
        ((r"__syncthreads\(\);", ""), *CXX_ARITHMETIC),
        (
            library("kernels", "plain"),
            emulated("paths", "plain", "kernels", "test_pairs_races.py"),
            emulated("values", "plain", "kernels", "test_pairs.py"),
            emulated("shapes", "plain", "kernels", "test_launch_shapes.py", "-k", "pairs"),
            emulated("TSan", "tsan", "kernels", "test_pairs_races.py"),
            emulated("ASan", "asan", "kernels", "test_pairs.py"),
        ),
    ),
    "triton-pairs": Kind(
        (
            "triton_kernels/operators/outer.py",
            "triton_kernels/kernels/outer.py",
            "triton_kernels/losses/rl/distributional.py",
        ),
        TRITON_ARITHMETIC,
        (
            copied(),
            interpreted_laws("laws", "OUTER_FILES", DECLARED["OUTER_LAWS"]),
            Lane("compilers", (*PYTEST, "lanes/triton/test_lanes.py", "-k", "compiled and outer and sm_90")),
        ),
        "cpu",
    ),
    "scan": Kind(
        (
            "csrc/losses/rl/returns.h",
            "csrc/cpu/scan.cpp",
            "csrc/operators/scan.cpp",
        ),
        CXX_ARITHMETIC,
        (
            ninja("_cpu.so"),
            Lane("laws", (*PYTEST, "skeletons/test_scan.py", "-k", "not compiled")),
            sanitized("skeletons/test_scan.py", "-k", "sizes or loops or packed"),
        ),
        "cpu",
    ),
    "cuda-scan": Kind(
        ("csrc/losses/rl/returns.h", "csrc/cuda/scan.cu"),
        CXX_ARITHMETIC,
        (
            library("scan", "plain"),
            emulated("values", "plain", "scan", "test_scans.py"),
            emulated("TSan", "tsan", "scan", "test_scan_races.py"),
            emulated("ASan", "asan", "scan", "test_scans.py"),
        ),
    ),
    "triton-scan": Kind(
        (
            "triton_kernels/operators/scan.py",
            "triton_kernels/kernels/scan.py",
            "triton_kernels/losses/rl/returns.py",
        ),
        TRITON_ARITHMETIC,
        (
            copied(),
            interpreted_laws("laws", "SCAN_FILES", DECLARED["SCAN_LAWS"]),
            Lane("compilers", (*PYTEST, "lanes/triton/test_lanes.py", "-k", "compiled and scan and sm_90")),
        ),
        "cpu",
    ),
    "triton-pairwise": Kind(
        (
            "triton_kernels/operators/similarity.py",
            "triton_kernels/kernels/similarity.py",
            "triton_kernels/losses/contrastive.py",
        ),
        TRITON_ARITHMETIC,
        (
            copied(),
            interpreted_laws("laws", "SIMILARITY_FILES", DECLARED["SIMILARITY_PATHS"]),
            interpreted_laws(
                "all laws",
                "SIMILARITY_CORNERS",
                "triton and (skeleton_similarity and kernels_agree or large_similarities or nothing_that_counts)",
            ),
            Lane("compilers", (*PYTEST, "lanes/triton/test_lanes.py", "-k", "compiled and similarity and sm_90")),
        ),
        "cpu",
    ),
    "small": Kind(
        ("csrc/small_calls.cpp",),
        (
            (r"if \(!undisturbed\(\)\) return;", ""),
            (r" && !?(at|torch)::[\w:]+\([^()]*\)(\.has_value\(\))?", ""),
            (r" \|\| !untransformed\(\)", ""),
            (r"ctx->saved_data\.erase\(ready\(k\)\);", ""),
            (r"key \+= [^;]+;", ""),
            (r"append\(key, size\);", ""),
            *CXX_ARITHMETIC,
        ),
        (
            ninja("_small.*.so"),
            Lane("small", (*PYTEST, "skeletons/test_small.py")),
            Lane("laws", (*PYTEST, "laws/test_bits.py", "laws/test_saved.py", "-k", A_FEW)),
        ),
        "cpu",
    ),
    "cpu-row-steps": Kind(
        ("csrc/cpu/row_statistics.cpp",),
        CXX_ARITHMETIC,
        (
            ninja("_cpu.so"),
            Lane("steps", (*PYTEST, STEPS)),
            Lane("laws", (*PYTEST, "laws/test_values.py", "-k", "skeleton_similarity and agree")),
            Lane("numbers", (*PYTEST, "skeletons/test_row_outputs.py")),
            sanitized(STEPS),
        ),
        "cpu",
    ),
    "cuda-row-steps": Kind(
        ("csrc/cuda/row/statistics.cuh", "csrc/cuda/row/statistics.cu"),
        ((r"__sync(threads|warp)\([^)]*\);", ""), (r"if \((lane == 0|thread == 0)\) ", ""), *CXX_ARITHMETIC),
        (
            library("kernels", "plain"),
            emulated("steps", "plain", "kernels", "test_row_statistics.py"),
            emulated("ASan", "asan", "kernels", "test_row_statistics.py"),
        ),
    ),
    "triton-row-steps": Kind(
        ("triton_kernels/kernels/row_statistics.py", "triton_kernels/operators/row_steps.py"),
        TRITON_ARITHMETIC,
        (
            copied(),
            interpreted("steps", "lane_row_statistics"),
            Lane("compilers", (*PYTEST, "lanes/triton/test_lanes.py", "-k", "compiled and row_statistics and sm_90")),
        ),
        "cpu",
    ),
    "autograd": Kind(
        ("fastloss/core/autograd.py",),
        PYTHON,
        (
            copied("fastloss", "fastloss"),
            Lane("a few losses", (*PYTEST, "laws/test_saved.py", "laws/test_gradients.py", "-k", A_FEW)),
            Lane("more laws", (*PYTEST, "laws/test_transforms.py", "laws/test_loss_scale.py", "-k", A_FEW)),
            Lane("skeletons", (*PYTEST, "skeletons", "-k", f"not more and not steps and {NO_TRANSFORMS}")),
            Lane("laws", (*PYTEST, "laws/test_saved.py", "laws/test_gradients.py", "laws/test_transforms.py")),
        ),
        "cpu",
    ),
    "lowering": Kind(
        (
            "fastloss/core/arguments.py",
            "fastloss/core/dispatch.py",
            "fastloss/core/memo.py",
            "fastloss/core/metrics.py",
            "fastloss/core/reductions.py",
            "fastloss/operators/batch.py",
            "fastloss/operators/outer.py",
            "fastloss/operators/pointwise.py",
            "fastloss/operators/row.py",
            "fastloss/operators/scan.py",
            "fastloss/operators/similarity.py",
            "fastloss/skeletons/outer.py",
            "fastloss/skeletons/pointwise.py",
            "fastloss/skeletons/row.py",
            "fastloss/skeletons/scan.py",
            "fastloss/skeletons/similarity.py",
        ),
        PYTHON,
        (
            copied("fastloss", "fastloss"),
            Lane("a few losses", (*PYTEST, *LOWERING_LAWS, "-k", A_FEW)),
            Lane("dispatch", (*PYTEST, "contract/test_dispatch.py", "skeletons/test_memo.py")),
            Lane("laws", (*PYTEST, *LOWERING_LAWS)),
            Lane("contract", (*PYTEST, "contract", "-k", f"{NO_TRANSFORMS} and not patch")),
        ),
        "cpu",
    ),
    "tiles": Kind(
        ("fastloss/tiles/linear.py", "fastloss/tiles/similarity.py"),
        PYTHON,
        (
            copied("fastloss", "fastloss"),
            Lane(
                "skeletons", (*PYTEST, "skeletons/test_linear.py", "skeletons/test_similarity.py", "-k", NO_TRANSFORMS)
            ),
            Lane("laws", (*PYTEST, *ALL_LAWS, "laws/test_saved.py", "-k", "skeleton_linear or skeleton_similarity")),
        ),
        "cpu",
    ),
}
