"""The torch glue compiles, links and registers as in a build for CUDA; its operators work on emulated kernels."""

from __future__ import annotations

import pathlib
import subprocess
import sys

import pytest
import torch
from lanes.cuda import cuda_build, emulated

HERE = pathlib.Path(__file__).resolve().parent
TORCH = pathlib.Path(torch.__file__).parent
GLUE_FLAGS = [
    "-std=c++17", "-O1", "-fPIC", "-fvisibility=hidden", "-DUSE_CUDA", "-DTORCH_TARGET_VERSION=0x020a000000000000",
    "-isystem", str(TORCH / "include"), "-isystem", str(cuda_build.CUDA / "include"), "-Wall", "-Wextra", "-Werror",
]  # fmt: skip
LIBRARIES = ["-Wl,--no-as-needed", f"-L{TORCH / 'lib'}", f"-Wl,-rpath,{TORCH / 'lib'}", "-ltorch_cpu", "-lc10"]

OPERATORS = ("row", "pointwise", "outer", "scan", "scale")


def glue_source(name: str, *macros: str) -> cuda_build.Source:
    return cuda_build.Source(cuda_build.ROOT / f"csrc/operators/{name}.cpp", ("FASTLOSS_DEVICE=cuda", *macros))


pytestmark = [
    pytest.mark.lane("CUDA C++, the torch glue"),
    emulated.needed,
    pytest.mark.skipif(emulated.LANE != "plain", reason="the glue has no kernels to sanitize"),
]


def run_check(*arguments: object) -> str:
    command = [sys.executable, str(HERE / "launch_check.py"), *map(str, arguments)]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr[-4000:]
    return result.stdout


@pytest.mark.builds("kernels", "plain")
@pytest.mark.builds("pointwise", "plain")
def test_operators_on_emulated_kernels() -> None:
    # -Bsymbolic: the stand-ins, and not torch's own functions of the same name.
    command = ["g++", "-shared", "-Wl,-Bsymbolic", *GLUE_FLAGS, *LIBRARIES]
    sources = [glue_source(name, "FASTLOSS_KEY=CPU") for name in OPERATORS]
    glue = cuda_build.make("launch-on-cpu", command, [*sources, cuda_build.Source(HERE / "kernels/launch_on_cpu.cpp")])
    kernels = [cuda_build.library(name, "plain") for name in ("kernels", "pointwise", "scan")]
    output = run_check("CPU", *kernels, glue)
    print(output)
    assert "28 problems right" in output


@pytest.mark.skipif(cuda_build.nvcc() is None, reason="nvcc is not installed")
@pytest.mark.builds("row", cuda_build.HOPPER)
@pytest.mark.builds("row_statistics", cuda_build.HOPPER)
@pytest.mark.builds("scale", cuda_build.HOPPER)
@pytest.mark.builds("pointwise", cuda_build.ALL_AT_ONCE)
@pytest.mark.builds("outer", cuda_build.ALL_AT_ONCE)
@pytest.mark.builds("scan", cuda_build.ALL_AT_ONCE)
def test_library_for_cuda_registers(tmp_path: pathlib.Path) -> None:
    """Linked as setup.py does it where torch has no CUDA: against a stub with the soname of torch's CUDA library."""
    glue = [cuda_build.make(f"glue-{name}", ["g++", "-c", *GLUE_FLAGS], [glue_source(name)]) for name in OPERATORS]
    stub, library = tmp_path / "libtorch_cuda.so", tmp_path / "libfastloss_cuda.so"
    source = tmp_path / "stub.c"
    source.write_text("int aoti_torch_get_current_cuda_stream(int device, void** stream) { return 1; }\n")
    subprocess.run(["gcc", "-shared", "-fPIC", "-Wl,-soname,libtorch_cuda.so", source, "-o", stub], check=True)
    objects = [
        cuda_build.library("row", cuda_build.HOPPER),
        cuda_build.library("row_statistics", cuda_build.HOPPER),
        cuda_build.library("scale", cuda_build.HOPPER),
        *glue,
    ]
    objects += [cuda_build.library(name, cuda_build.ALL_AT_ONCE) for name in cuda_build.POINTWISE]
    objects += [cuda_build.library(name, cuda_build.ALL_AT_ONCE) for name in ("outer", "scan")]
    static_runtime = [f"-L{cuda_build.CUDA / 'lib64'}", "-lcudart_static", "-lpthread", "-ldl", "-lrt"]
    links = ["-Wl,--no-undefined", *LIBRARIES, f"-L{tmp_path}", "-ltorch_cuda", *static_runtime]
    subprocess.run(["g++", "-shared", *objects, *links, "-o", library], check=True)
    output = run_check("CUDA", stub, library)
    print(output)
    assert "13 operators registered for CUDA" in output
