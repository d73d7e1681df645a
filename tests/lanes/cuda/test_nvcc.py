"""nvcc compiles the kernels for every architecture, and ptxas keeps to the registers that their launch bounds plan."""

from __future__ import annotations

import dataclasses
import functools
import re
import subprocess
from collections import Counter

import pytest
from lanes.cuda import cuda_build, emulated

pytestmark = [
    pytest.mark.lane("CUDA C++ by nvcc"),
    pytest.mark.skipif(cuda_build.nvcc() is None, reason="nvcc is not installed"),
    pytest.mark.skipif(emulated.LANE != "plain", reason="nvcc's objects have no lanes"),
]
REGISTERS_PER_PROCESSOR = 65536


@dataclasses.dataclass
class Kernel:
    name: str
    architecture: str
    registers: int
    stack: int
    spilled: int
    shared: int


def kernels_in(log: str) -> list[Kernel]:
    """The kernels of a log of `-Xptxas -v`."""
    pattern = re.compile(
        r"Compiling entry function '(?P<name>\w+)' for 'sm_(?P<architecture>\d+)'.*?"
        r"(?P<stack>\d+) bytes stack frame, (?P<stores>\d+) bytes spill stores, (?P<loads>\d+) bytes spill loads.*?"
        r"Used (?P<registers>\d+) registers(?P<rest>[^\n]*)",
        re.DOTALL,
    )
    found = list(pattern.finditer(log))
    names = subprocess.run(
        ["c++filt"], input="\n".join(m["name"] for m in found), capture_output=True, text=True, check=True
    ).stdout.splitlines()
    kernels = []
    for match, name in zip(found, names, strict=True):
        shared = re.search(r"(\d+) bytes smem", match["rest"])
        spilled = int(match["stores"]) + int(match["loads"])
        short = name.partition("(")[0].replace("fastloss::", "").removeprefix("void ")
        kernels.append(
            Kernel(
                short,
                match["architecture"],
                int(match["registers"]),
                int(match["stack"]),
                spilled,
                int(shared[1]) if shared else 0,
            )
        )
    return kernels


@functools.cache
def functors() -> dict[str, tuple[int, int]]:
    """Operands and metrics of the losses in csrc/losses."""
    pattern = r"struct (\w+) : PointwiseLoss<(\w+), \w+(?:, (\d+))?>"
    found = {}
    for header in (cuda_build.ROOT / "csrc/losses").rglob("*.h"):
        text = header.read_text()
        for name, operands, metrics in re.findall(pattern, text):
            if not operands.isdigit():  # the last name of an enumeration, and so the number of those before it
                enumeration = re.search(rf"enum \w+ {{([^}}]*)\b{operands}\b", text)[1]
                operands = re.sub(r"//.*", "", enumeration).count(",")
            found[name] = (int(operands), int(metrics or 0))
    return found


def pointwise_blocks(name: str) -> int:
    """Blocks of 256 threads that a processor is to hold: what a thread keeps in registers decides."""
    in_packs = "InPacks" in name
    operands, metrics = functors()[re.search(r", (?:fastloss::)?(\w+)<", name)[1]]
    if operands > 4:
        return 1 if in_packs else 2
    if operands > 2 or "ByElement<double>" in name or (in_packs and metrics):
        return 2
    return 3 if in_packs or metrics else 4


def register_budget(name: str) -> int:
    """So many registers that the threads which a processor is to hold have room: see row/team.cuh."""
    if "double" in name and name.startswith("row_"):
        return 255
    if name.startswith("row_"):
        dense_or_short = "true" in name or "LanesTeam" in name or "strided" in name
        return REGISTERS_PER_PROCESSOR // (3 * 256 if dense_or_short else 2 * 512)
    if name.startswith("pointwise_kernel"):
        return REGISTERS_PER_PROCESSOR // (256 * pointwise_blocks(name))
    return REGISTERS_PER_PROCESSOR // (2048 if name.startswith("scale") else 1024)


@pytest.mark.parametrize(
    ("source", "architectures"),
    [
        pytest.param(source, architectures, marks=pytest.mark.builds(source, architectures))
        for source in ("row", "scale")
        for architectures in (cuda_build.WITHOUT_CLUSTERS, cuda_build.HOPPER)
    ],
)
def test_registers_and_shared_memory(source: str, architectures: str) -> None:
    kernels = kernels_in(cuda_build.library(source, architectures).with_suffix(".log").read_text())
    for kernel in kernels:
        print(
            f"sm_{kernel.architecture} {kernel.registers:4d} registers {kernel.shared:6d} bytes shared  {kernel.name}"
        )
    counts = Counter(kernel.architecture for kernel in kernels)
    assert set(counts) == set(architectures.split("-"))
    assert min(counts.values()) >= {"row": 45, "scale": 4}[source]
    assert [k for k in kernels if k.spilled or k.stack] == []
    assert [k for k in kernels if k.registers > register_budget(k.name)] == []
    # block_shape leaves 1 KiB for a block's static arrays; the others may have the 48 KiB that need no opting in.
    assert [k for k in kernels if k.shared > (1024 if "row_forward" in k.name else 48 * 1024)] == []


@pytest.mark.builds("row_statistics", cuda_build.HOPPER)
def test_registers_of_the_rows_in_steps() -> None:
    built = cuda_build.library("row_statistics", cuda_build.HOPPER)
    kernels = kernels_in(built.with_suffix(".log").read_text())
    assert len(kernels) >= 70
    assert [k for k in kernels if k.spilled or k.stack] == []
    ptx = built.with_suffix(".ptx").read_text()
    entries = {entry.partition("(")[0]: entry for entry in ptx.split(".visible .entry ")[1:]}
    for name, body in entries.items():
        packs = [k for k in ("step_statistics", "step_gradient") if k in name]
        expected = ["ld.global.L1::no_allocate.v4.u32", *(["st.global.v4.u32"] if "gradient" in name else [])]
        assert not packs or [e for e in expected if e not in body] == [], name


@pytest.mark.parametrize(
    "architectures",
    [pytest.param(a, marks=pytest.mark.builds("row", a)) for a in (cuda_build.WITHOUT_CLUSTERS, cuda_build.HOPPER)],
)
def test_rows_move_in_16_byte_accesses(architectures: str) -> None:
    """nvcc is free to split what is written as one access; it has split shared loads into single bytes before."""
    ptx = cuda_build.library("row", architectures).with_suffix(".ptx").read_text()
    entries = {entry.partition("(")[0]: entry for entry in ptx.split(".visible .entry ")[1:]}
    cluster = "row_forward_cluster_kernel"
    with_packs = [cluster, "row_forward_kernel", "row_backward_kernel"]
    checked = 0
    for name, body in entries.items():
        assert not re.search(r"\b(ld|st)\.(local|shared\.[usb]8\b)", body), name
        if not any(kernel in name for kernel in with_packs) or (
            cluster in name and architectures == cuda_build.WITHOUT_CLUSTERS
        ):
            continue
        expected = ["ld.global.L1::no_allocate.v4.u32", "st.global.v4.u32"]
        if "row_forward" in name:
            expected += ["ld.shared.v4.u32", "st.shared.v4.u32"]
        if cluster in name:
            expected += ["barrier.cluster.arrive", "barrier.cluster.wait", "mapa"]
        assert [e for e in expected if e not in body] == [], name
        checked += 1
    assert checked >= 24


@pytest.mark.parametrize(
    "source",
    [pytest.param(name, marks=pytest.mark.builds(name, cuda_build.ALL_AT_ONCE)) for name in cuda_build.POINTWISE],
)
def test_pointwise_kernels(source: str) -> None:
    """Registers and accesses of the pointwise kernels, a family of losses at a time."""
    built = cuda_build.library(source, cuda_build.ALL_AT_ONCE)
    kernels = kernels_in(built.with_suffix(".log").read_text())
    for kernel in kernels:
        print(
            f"sm_{kernel.architecture} {kernel.registers:4d} registers {kernel.shared:6d} bytes shared  {kernel.name}"
        )
    ways = 1 if source == "pointwise" else 3  # packs, elements, elements in double
    assert {k.architecture for k in kernels} == set(cuda_build.ARCHITECTURES)
    assert len(kernels) >= ways * len(cuda_build.ARCHITECTURES)
    assert [k for k in kernels if k.spilled or k.stack] == []
    assert [k for k in kernels if k.registers > register_budget(k.name)] == []
    ptx = built.with_suffix(".ptx").read_text()
    for entry in ptx.split(".visible .entry ")[1:]:
        name, _, body = entry.partition("(")
        assert not re.search(r"\b(ld|st)\.local\b", body), name
        if "InPacks" in name:
            assert body.count("ld.global.L1::no_allocate.v4.u32") >= 2, name
            assert body.count("st.global.v4.u32") >= 2, name


@pytest.mark.builds("outer", cuda_build.ALL_AT_ONCE)
def test_outer_kernels() -> None:
    """A block of 128 threads is nothing but arithmetic: eight of them on a processor hide its latency."""
    kernels = kernels_in(cuda_build.library("outer", cuda_build.ALL_AT_ONCE).with_suffix(".log").read_text())
    for kernel in kernels:
        print(
            f"sm_{kernel.architecture} {kernel.registers:4d} registers {kernel.shared:6d} bytes shared  {kernel.name}"
        )
    assert {k.architecture for k in kernels} == set(cuda_build.ARCHITECTURES)
    assert sum(k.name.startswith("outer_kernel") for k in kernels) == 4 * len(cuda_build.ARCHITECTURES)
    assert [k for k in kernels if k.spilled or k.stack] == []
    assert [k for k in kernels if k.registers > REGISTERS_PER_PROCESSOR // (8 * 128)] == []


@pytest.mark.builds("scan", cuda_build.ALL_AT_ONCE)
def test_scan_kernels() -> None:
    """ptxas keeps some numbers of a loop in local memory, up to eight of four bytes, though registers are left."""
    kernels = kernels_in(cuda_build.library("scan", cuda_build.ALL_AT_ONCE).with_suffix(".log").read_text())
    for kernel in kernels:
        print(f"sm_{kernel.architecture} {kernel.registers:4d} registers {kernel.spilled:4d} spilled  {kernel.name}")
    assert {k.architecture for k in kernels} == set(cuda_build.ARCHITECTURES)
    assert sum(k.name.startswith("scan_warp_kernel") for k in kernels) == 18 * len(cuda_build.ARCHITECTURES)
    assert [k for k in kernels if k.spilled > 64] == []  # stores and loads
