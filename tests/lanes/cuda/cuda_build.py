"""Builds for the tests of csrc/cuda: the kernels on the emulator, one library a lane, and nvcc's objects.

A build is known by the hash of its command and sources, so an unchanged one is found in build/cuda-tests and not made
again. nvcc's PTX is kept beside its objects. `prefetch` makes builds in the background, two at a time, while the first
tests run. Several processes may want the same builds (the workers of pytest-xdist): each is made by one of them.
"""

from __future__ import annotations

import dataclasses
import fcntl
import functools
import hashlib
import os
import pathlib
import re
import shutil
import subprocess
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[2]
OUTPUT = ROOT / "build" / "cuda-tests"
OF_SKELETONS = ROOT / "tests" / "skeletons"
CUDA = pathlib.Path(os.environ.get("CUDA_HOME", "/usr/local/cuda"))
ARCHITECTURES = ("80", "90", "100")
# The pointwise and outer kernels have no code of an architecture's own: one PTX for all takes a third of the time. The
# row kernels have clusters from sm_90 on; for sm_100, ptxas would take 90 s for the same PTX, and there is none to run.
ALL_AT_ONCE, WITHOUT_CLUSTERS, HOPPER = "80-90-100", "80", "90"
# What test_launch.py links. Of row and scale for sm_80 only ptxas's figures and the PTX are looked at, so nvcc need not
# compile the host's side once more: 26 s of CPU time became 23 for row, 3.4 became 1.3 for scale.
LINKED = (ALL_AT_ONCE, HOPPER)
GENERATED = {
    ALL_AT_ONCE: ["-gencode", "arch=compute_80,code=[sm_80,sm_90,sm_100]"],
    WITHOUT_CLUSTERS: ["-arch=sm_80"],
    HOPPER: ["-arch=sm_90"],
}

LANE_FLAGS = {
    "plain": ["-O1"],  # at -O2 the rows compile for 45 s instead of 27
    # row.cu compiles in 36 s instead of 101: at -O0, with the checks of addresses as calls, and without three checks
    # of pointers that AddressSanitizer makes as well.
    "asan": [
        "-O0", "-fno-omit-frame-pointer", "-fsanitize=address,undefined", "-fsanitize-recover=address",
        "-fno-sanitize=null,object-size,vptr", "--param=asan-instrumentation-with-call-threshold=0",
    ],
    "tsan": ["-O1", "-fsanitize=thread"],
    "coverage": ["-O0", "--coverage"],  # tools/coverage.py
}  # fmt: skip
EMULATED_FLAGS = [
    "-std=c++17", "-g1", "-fPIC", "-shared", "-Wall", "-Wextra", "-Werror",
    "-Wno-unknown-pragmas",  # #pragma unroll
    "-Wno-maybe-uninitialized",  # operands that are loaded under the same condition as they are used
    "-Wl,-Bsymbolic",  # a library keeps to its own emulator, whichever is loaded first
    "-fno-strict-aliasing", "-fno-gnu-unique", f"-I{HERE / 'emulator'}", f"-I{OF_SKELETONS}",
    "-isystem", str(CUDA / "include"),
]  # fmt: skip
KERNELS = ROOT / "csrc/cuda"
# As csrc/losses/all.h lists them.
FAMILIES = re.findall(
    r"FAMILY\((\w+)\)",
    (ROOT / "csrc/losses/all.h").read_text().partition("POINTWISE_FAMILIES(FAMILY)")[2].partition("#define")[0],
)
# Of the losses' families, those that sanitizers look at: all would compile for a minute more.
SANITIZED = ("regression", "binary", "policy", "value")


@dataclasses.dataclass(frozen=True)
class Source:
    """A file to compile, and the macros that make one of several compilations of it."""

    path: pathlib.Path
    macros: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return "-".join([self.path.stem, *(macro.partition("=")[2] for macro in self.macros)])

    @property
    def flags(self) -> list[str]:
        return [f"-D{macro}" for macro in self.macros]


def family(name: str) -> Source:
    return Source(KERNELS / "pointwise/family.cu", (f"FASTLOSS_FAMILY={name}",))


# nvcc's object files, each by the name that tests call it.
COMPILED = {
    "row": Source(KERNELS / "row/row.cu"),
    "row_statistics": Source(KERNELS / "row/statistics.cu"),
    "scale": Source(KERNELS / "scale.cu"),
    "outer": Source(KERNELS / "outer.cu"),
    "scan": Source(KERNELS / "scan.cu"),
    "pointwise": Source(KERNELS / "pointwise/pointwise.cu"),
    **{f"pointwise_{name}": family(name) for name in FAMILIES},
}
POINTWISE = [name for name in COMPILED if name.startswith("pointwise")]
STEPS_OF_ROWS = Source(KERNELS / "row/statistics.cu")
SOURCES = {
    "kernels": [*(COMPILED[name] for name in ("row", "scale", "outer")), STEPS_OF_ROWS],
    "pointwise": [*(COMPILED[name] for name in POINTWISE), Source(HERE / "kernels/evaluate.cu")],
    "scan": [COMPILED["scan"]],
    "selftest": [Source(HERE / "kernels/selftest.cu")],
    "bugs": [Source(HERE / "kernels/bugs.cu")],
}

_pool = ThreadPoolExecutor(max_workers=2)
_lock = threading.Lock()
_futures: dict[tuple[str, str], Future[pathlib.Path]] = {}


def missing_emulator_tools() -> str | None:
    """Why the emulator cannot be built here, or None."""
    if shutil.which("g++") is None:
        return "g++ is not installed"
    if not (CUDA / "include/cuda_fp16.h").exists():
        return f"the CUDA toolkit's headers are not in {CUDA / 'include'} (set CUDA_HOME)"
    return None


def nvcc() -> str | None:
    """Path of nvcc, or None."""
    candidate = CUDA / "bin/nvcc"
    return str(candidate) if candidate.exists() else shutil.which("nvcc")


@functools.cache
def _headers() -> bytes:
    """What any build may include: all headers but those of the CPU's kernels, and the emulator."""
    folders = [ROOT / "csrc", HERE / "emulator", OF_SKELETONS]
    paths = [p for folder in folders for p in sorted(folder.rglob("*")) if p.suffix in (".h", ".cuh")]
    used = [p for p in paths if "cpu" not in p.relative_to(ROOT).parts]
    return b"".join(p.name.encode() + p.read_bytes() for p in used)


@functools.cache
def _version(compiler: str) -> bytes:
    return subprocess.run([compiler, "--version"], capture_output=True, check=True).stdout


def steps(command: list[str], sources: list[Source], output: pathlib.Path) -> list[list[str]]:
    """`command sources -o output` where that compiles only; else an object a source, so that ccache, if there is one,
    need not compile those again that have not changed."""
    if "-c" in command or "-cubin" in command:
        (source,) = sources
        return [[*command, *source.flags, str(source.path), "-o", str(output)]]
    objects = [output.with_suffix(f".{source.name}.o") for source in sources]
    compilations = [
        [*command, *source.flags, "-c", str(source.path), "-o", str(out)]
        for source, out in zip(sources, objects, strict=True)
    ]
    return [*compilations, [*command, "-x", "none", *map(str, objects), "-o", str(output)]]


def make(
    name: str,
    command: list[str],
    sources: list[Source],
    finish: Callable[[pathlib.Path], None] = lambda output: None,
) -> pathlib.Path:
    """The output of the steps; its messages are beside it in a file with the suffix .log. `finish`
    puts more files beside it, before it is there itself."""
    digest = hashlib.sha256(_headers() + _version(command[0]) + " ".join(command).encode())
    for source in sources:
        digest.update(" ".join(source.flags).encode() + source.path.read_bytes())
    output = OUTPUT / f"{name}-{digest.hexdigest()[:16]}.so"
    if output.exists():
        return output
    OUTPUT.mkdir(parents=True, exist_ok=True)
    with output.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if output.exists():  # another process has built it meanwhile
            return output
        unfinished = output.with_suffix(".unfinished")
        messages = ""
        for step in steps(command, sources, unfinished):
            result = subprocess.run(step, capture_output=True, text=True)
            messages += result.stdout + result.stderr
            if result.returncode != 0:
                raise RuntimeError(f"{name} does not build:\n{messages}"[:8000])
        output.with_suffix(".log").write_text(messages)
        finish(output)
        unfinished.rename(output)
    return output


def _build(name: str, lane: str) -> pathlib.Path:
    if lane in LANE_FLAGS:
        flags, sources = LANE_FLAGS[lane], SOURCES[name]
        if lane == "tsan":  # no test runs them there, and they compile for a minute
            sources = [source for source in sources if source != STEPS_OF_ROWS]
        if name == "pointwise" and lane == "plain":
            flags = ["-O1"]  # 40 losses, each in three kernels: at -O2 they would compile for a minute
        elif name == "pointwise":
            if lane == "asan":  # it compiles in half of the time, and the tests are short
                flags = [*flags, "-O0"]
            sources = [s for s in sources if not s.macros or s in map(family, SANITIZED)]
        return make(f"{name}-{lane}", ["g++", "-x", "c++", *EMULATED_FLAGS, *flags], sources)
    compiler = nvcc()
    assert compiler is not None
    source = COMPILED[name]
    intermediate = OUTPUT / f"{name}-sm{lane}-intermediate"
    intermediate.mkdir(parents=True, exist_ok=True)

    def keep_ptx(output: pathlib.Path) -> None:
        shutil.copy(next(intermediate.glob(f"{source.path.stem}*.ptx")), output.with_suffix(".ptx"))
        shutil.rmtree(intermediate)

    flags = ["-std=c++17", "-O3", *GENERATED[lane], "-Xptxas", "-v", "-Xcompiler", "-fPIC"]
    output = ["-c" if lane in LINKED else "-cubin", "--keep", "--keep-dir", str(intermediate)]
    return make(f"{name}-sm{lane}", [compiler, *flags, *output], [source], keep_ptx)


def prefetch(name: str, lane: str) -> Future[pathlib.Path]:
    """Starts a build. `lane` is one of LANE_FLAGS, or of GENERATED for nvcc's object file."""
    with _lock:
        if (name, lane) not in _futures:
            _futures[name, lane] = _pool.submit(_build, name, lane)
        return _futures[name, lane]


def library(name: str, lane: str) -> pathlib.Path:
    """Path of a build; waits for it."""
    return prefetch(name, lane).result()
