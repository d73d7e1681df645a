"""Builds the binaries of fastloss with ninja; everything else about the package is in pyproject.toml.

    fastloss/_host*.so   pybind11, no torch: build information, processor features
    fastloss/_cpu.so     operators for CPU tensors
    fastloss/_small*.so  small calls of these without Python; for the torch it was built with only
    fastloss/_cuda.so    operators for CUDA tensors

Environment:
    FASTLOSS_BUILD        auto (default), cpu, cuda (both), none. auto builds what it finds the tools for: a C++
                          compiler; nvcc and a torch with CUDA. The others fail if a tool is missing.
    FASTLOSS_INSTRUCTION_SETS  those of "avx2 avx512" that the CPU kernels are compiled for beside the baseline;
                          default: both. For a test that runs one of them only
    MAX_JOBS              parallel compilers
    TORCH_CUDA_ARCH_LIST  GPU architectures, default "8.0;9.0;10.0+PTX"; no GPU is needed to build for one
    CXX, CUDA_HOME        tools, if they are not on the PATH
    CXXFLAGS, LDFLAGS     added to ours, e.g. for a sanitizer
"""

from __future__ import annotations

import importlib.util
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
X86 = platform.machine().lower() in ("x86_64", "amd64")
# -fno-math-errno and -fno-trapping-math let `a > b ? a : b` and sqrt become one instruction; nothing here reads errno
# or floating-point exceptions. Never -ffast-math: NaN and infinity are part of the contract.
CXX_FLAGS = (
    "-O3 -std=c++17 -fPIC -fvisibility=hidden -fno-math-errno -fno-trapping-math "
    "-Wall -Wextra -Wno-psabi -Wno-maybe-uninitialized -Wno-unknown-warning-option "
) + os.environ.get("CXXFLAGS", "")
INSTRUCTION_SETS = {"baseline": ""}
if X86:
    INSTRUCTION_SETS["avx2"] = "-mavx2 -mfma -mf16c"
    # GCC 12 warns of its own AVX-512 intrinsics
    INSTRUCTION_SETS["avx512"] = "-mavx512f -mavx512bw -mavx512vl -mavx512dq -mfma -mf16c -Wno-uninitialized"
for name in INSTRUCTION_SETS.keys() - {"baseline", *os.environ.get("FASTLOSS_INSTRUCTION_SETS", "avx2 avx512").split()}:
    CXX_FLAGS += f" -DFASTLOSS_WITHOUT_{name.upper()}"
    del INSTRUCTION_SETS[name]
SKELETONS = ("row", "pointwise", "outer", "scan")
STABLE_ABI = "-DTORCH_TARGET_VERSION=0x020a000000000000"  # torch 2.10


def pointwise_families() -> list[str]:
    """As csrc/losses/all.h lists them."""
    text = (ROOT / "csrc" / "losses" / "all.h").read_text()
    table = text.partition("#define FASTLOSS_POINTWISE_FAMILIES(FAMILY)")[2].partition("#define")[0]
    return re.findall(r"FAMILY\((\w+)\)", table)


def cxx() -> str | None:
    return shutil.which(os.environ.get("CXX", "c++")) or shutil.which("g++") or shutil.which("clang++")


def cuda_home() -> Path | None:
    nvcc = shutil.which("nvcc")
    candidates = [os.environ.get("CUDA_HOME"), nvcc and Path(os.path.realpath(nvcc)).parent.parent, "/usr/local/cuda"]
    for home in (Path(c) for c in candidates if c):
        if (home / "bin" / "nvcc").exists() and (home / "include" / "cuda_runtime_api.h").exists():
            return home
    return None


def architectures() -> list[str]:
    """nvcc flags for TORCH_CUDA_ARCH_LIST."""
    flags = []
    for item in os.environ.get("TORCH_CUDA_ARCH_LIST", "8.0;9.0;10.0+PTX").replace(" ", ";").split(";"):
        number = item.removesuffix("+PTX").replace(".", "")
        flags.append(f"-gencode=arch=compute_{number},code=sm_{number}")
        if item.endswith("+PTX"):
            flags.append(f"-gencode=arch=compute_{number},code=compute_{number}")
    return flags


def wanted() -> list[Extension]:
    choice = os.environ.get("FASTLOSS_BUILD", "auto")
    if choice not in ("auto", "cpu", "cuda", "none"):
        sys.exit(f"FASTLOSS_BUILD={choice}: choose auto, cpu, cuda or none")
    if choice == "none":
        return []
    if cxx() is None:
        message = "fastloss: no C++ compiler found (install g++ or clang++, or set CXX)"
        if choice != "auto":
            sys.exit(message)
        print(f"{message}; installing without binaries", file=sys.stderr)
        return []
    import torch

    names = ["_host", "_cpu", "_small"]
    if choice == "cuda" or (choice == "auto" and torch.version.cuda and cuda_home()):
        if cuda_home() is None:
            sys.exit("fastloss: FASTLOSS_BUILD=cuda, and no nvcc found (set CUDA_HOME)")
        names.append("_cuda")
    return [Extension(f"fastloss.{name}", sources=[]) for name in names]


class Ninja:
    """A build.ninja in the making."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.lines = [
            f"cxx = {cxx()}",
            f"nvcc = {(cuda_home() or Path('/')) / 'bin' / 'nvcc'}",
            "rule compile",
            "  command = $cxx -MMD -MF $out.d $flags -c $in -o $out",
            "  depfile = $out.d",
            "  deps = gcc",
            "rule nvcc",
            "  command = $nvcc -MD -MF $out.d $flags -c $in -o $out",
            "  depfile = $out.d",
            "  deps = gcc",
            "rule link",
            f"  command = $cxx -shared $in -o $out $flags {os.environ.get('LDFLAGS', '')}",
        ]

    def object(self, source: Path, flags: str, tag: str = "", rule: str = "compile") -> str:
        folder = source.parent.relative_to(ROOT) if source.is_relative_to(ROOT) else Path()
        out = f"{str(folder / source.stem).replace(os.sep, '-')}{tag}.o"
        self.lines += [f"build {out}: {rule} {source}", f"  flags = {flags}"]
        return out

    def link(self, out: Path | str, objects: list[str], flags: str, after: list[str] | None = None) -> str:
        order = f" | {' '.join(after)}" if after else ""
        self.lines += [f"build {out}: link {' '.join(objects)}{order}", f"  flags = {flags}"]
        return str(out)

    def run(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        (self.directory / "build.ninja").write_text("\n".join(self.lines) + "\n")
        jobs = ["-j", os.environ["MAX_JOBS"]] if "MAX_JOBS" in os.environ else []
        subprocess.check_call([*ninja_command(), *jobs], cwd=self.directory)


def ninja_command() -> list[str]:
    """The package's before another on the PATH: a ninja of another version builds everything anew, and the PATH of an
    environment's Python is not always its own."""
    if importlib.util.find_spec("ninja"):
        return [sys.executable, "-m", "ninja"]
    return ["ninja"]


def torch_cuda_stub(build: Ninja) -> str:
    """A stand-in for torch's CUDA library where this torch has none: only its soname and one symbol are linked to."""
    build.directory.mkdir(parents=True, exist_ok=True)
    source = build.directory / "torch_cuda_stub.cpp"
    source.write_text('extern "C" int aoti_torch_get_current_cuda_stream(int, void**) { return 1; }\n')
    return build.link("libtorch_cuda.so", [build.object(source, "-fPIC")], "-Wl,-soname,libtorch_cuda.so")


class BuildBinaries(build_ext):
    def get_ext_filename(self, fullname: str) -> str:
        # _cpu.so and _cuda.so are no Python modules: torch loads them
        if fullname.rpartition(".")[2] in ("_host", "_small"):
            return super().get_ext_filename(fullname)
        return os.path.join(*fullname.split(".")) + ".so"

    def run(self) -> None:
        if not self.extensions:
            return
        import torch

        torch_root = Path(torch.__file__).parent
        custom = bool({"CXXFLAGS", "LDFLAGS", "FASTLOSS_INSTRUCTION_SETS"} & os.environ.keys())  # objects of their own
        torch_include = f"-isystem {torch_root / 'include'}"
        build = Ninja(ROOT / "build" / f"ninja-{sysconfig.get_config_var('SOABI')}{'-custom' if custom else ''}")
        csrc = ROOT / "csrc"

        for extension in self.extensions:
            out = Path(self.get_ext_fullpath(extension.name)).resolve()
            out.parent.mkdir(parents=True, exist_ok=True)
            name = extension.name.rpartition(".")[2]
            if name == "_host":
                import pybind11

                with_cuda = any(e.name.endswith("_cuda") for e in self.extensions)
                archs = os.environ.get("TORCH_CUDA_ARCH_LIST", "8.0;9.0;10.0+PTX") if with_cuda else "no"
                # -O1 compiles in 12 s instead of 20, and nothing here is hot
                flags = (
                    f"{CXX_FLAGS} -O1 -isystem {pybind11.get_include()} -isystem {sysconfig.get_paths()['include']} "
                    f"'-DFASTLOSS_BUILT_WITH_TORCH=\"{torch.__version__}\"' '-DFASTLOSS_BUILT_WITH_CUDA=\"{archs}\"'"
                )
                objects = [build.object(csrc / "host.cpp", flags)]
                objects += self.per_instruction_set(build, csrc / "cpu" / "simd" / "probe.cpp")
                build.link(out, objects, "")
            elif name == "_cpu":
                glue = f"{CXX_FLAGS} -DFASTLOSS_DEVICE=cpu {STABLE_ABI} {torch_include}"
                objects = [build.object(csrc / "operators" / f"{name}.cpp", glue, "_cpu") for name in SKELETONS]
                for source in sorted((csrc / "cpu").glob("*.cpp")):
                    objects += self.per_instruction_set(build, source)
                build.link(out, objects, f"-L{torch_root / 'lib'} -ltorch_cpu -lc10")
                operators = out
            elif name == "_small":
                python = f"-isystem {sysconfig.get_paths()['include']}"
                flags = (
                    f"{CXX_FLAGS} -O2 -Wno-unused-parameter {torch_include} {python} "
                    f"'-DFASTLOSS_BUILT_WITH_TORCH=\"{torch.__version__}\"'"
                )
                libraries = f"-L{torch_root / 'lib'} -ltorch_python -ltorch_cpu -lc10"
                beside = f"-L{operators.parent} -l:{operators.name} '-Wl,-rpath,$$ORIGIN'"
                small = build.object(csrc / "small_calls.cpp", flags)
                build.link(out, [small], f"{beside} {libraries}", after=[str(operators)])
            else:
                self.cuda(build, out, torch_root)
        build.run()

    @staticmethod
    def cuda(build: Ninja, out: Path, torch_root: Path) -> None:
        home = cuda_home()
        assert home is not None
        csrc, library = ROOT / "csrc", torch_root / "lib"
        include = f"-isystem {torch_root / 'include'} -isystem {home / 'include'}"
        glue_flags = f"{CXX_FLAGS} -DFASTLOSS_DEVICE=cuda -DUSE_CUDA {STABLE_ABI} {include}"
        operators = (*SKELETONS, "scale")
        glue = [build.object(csrc / "operators" / f"{name}.cpp", glue_flags, "_cuda") for name in operators]
        kernel_flags = f"-O3 -std=c++17 -Xcompiler -fPIC,-fvisibility=hidden {' '.join(architectures())}"
        family = csrc / "cuda" / "pointwise" / "family.cu"
        objects = [
            build.object(file, kernel_flags, rule="nvcc")
            for file in sorted((csrc / "cuda").rglob("*.cu"))
            if file != family
        ]
        objects += [
            build.object(family, f"{kernel_flags} -DFASTLOSS_FAMILY={name}", f"_{name}", "nvcc")
            for name in pointwise_families()
        ]
        runtime = f"-L{home / 'lib64'} -lcudart_static -lpthread -ldl -lrt"
        torch_libraries = f"-Wl,--no-as-needed -L{library} -ltorch_cpu -lc10"
        stub = [] if (library / "libtorch_cuda.so").exists() else [torch_cuda_stub(build)]
        torch_cuda = f"-L{build.directory if stub else library} -ltorch_cuda"
        build.link(out, [*glue, *objects], f"{torch_libraries} {torch_cuda} {runtime}", after=stub)

    @staticmethod
    def per_instruction_set(build: Ninja, source: Path) -> list[str]:
        return [
            build.object(source, f"{CXX_FLAGS} {flags}", tag=f"_{name}") for name, flags in INSTRUCTION_SETS.items()
        ]


setup(ext_modules=wanted(), cmdclass={"build_ext": BuildBinaries})
