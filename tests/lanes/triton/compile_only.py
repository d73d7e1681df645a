"""Compiles for GPUs that are not there: the launchers run on CPU tensors, every launch is compiled and none is run.

Every launch gets the specialisation it would get on the GPU (alignment, dtypes, constexprs), and `Compiled` says what
came out: registers, spills, shared memory, the widths of loads and stores. The tools come with the Triton wheel.
"""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from triton.runtime.jit import JITFunction

assert os.environ.get("TRITON_INTERPRET") != "1", "the interpreter does not compile"


@dataclass(frozen=True)
class Chip:
    target: GPUTarget
    shared_limit: int  # bytes a program
    registers: int  # 32-bit registers of an SM; of a SIMD lane on AMD


CHIPS = {
    "sm_80": Chip(GPUTarget("cuda", 80, 32), 163 * 1024, 65536),
    "sm_90": Chip(GPUTarget("cuda", 90, 32), 227 * 1024, 65536),
    "sm_100": Chip(GPUTarget("cuda", 100, 32), 227 * 1024, 65536),
    "gfx942": Chip(GPUTarget("hip", "gfx942", 64), 64 * 1024, 512),
}


@dataclass(frozen=True)
class Compiled:
    kernel: str
    warps: int
    registers: int  # a thread
    spills: int  # bytes of a thread's stack, where registers are spilled to
    shared: int  # bytes
    loads: Counter[int]  # bits of an access of global memory -> instructions
    stores: Counter[int]
    traps: bool
    warps_on_chip: int  # that fit the registers of an SM (NVIDIA) or of a SIMD (AMD)
    barriers: int  # instructions at which a block waits for all its threads

    def __str__(self) -> str:
        return (
            f"{self.kernel:21} {self.warps:2} warps {self.registers:3} registers {self.warps_on_chip:2} warps on chip "
            f"{self.spills} spills {self.shared:5} B shared  loads {dict(sorted(self.loads.items()))} "
            f"stores {dict(sorted(self.stores.items()))}"
        )


class NoDriver:
    """Stands in for the driver of a GPU; a launch never gets as far as to need more."""

    def __init__(self, target: GPUTarget):
        self.target = target

    def get_current_target(self) -> GPUTarget:
        return self.target

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int | None = None) -> int:
        return 0

    def get_active_torch_device(self) -> torch.device:
        return torch.device("cpu")


# By the hash of the source, its specialisation and the chip: every second launch is of a sum that another case has had
# too.
known: dict[str, Compiled] = {}


@contextmanager
def compiling(chip: Chip) -> Iterator[list[Compiled]]:
    """Yields the list that receives what each launch compiled to."""
    results: list[Compiled] = []
    original, active = JITFunction.run, driver._active

    def run(self: Any, *args: Any, grid: Any, warmup: bool = False, **options: Any) -> Any:
        self.device_caches.clear()
        kernel = original(self, *args, grid=grid, warmup=True, **options)
        if kernel.hash not in known:
            read = nvidia if chip.target.backend == "cuda" else amd
            known[kernel.hash] = read(kernel, self.fn.__name__, chip)
        results.append(known[kernel.hash])
        return kernel

    driver.set_active(NoDriver(chip.target))
    JITFunction.run = run
    try:
        yield results
    finally:
        JITFunction.run, driver._active = original, active


def nvidia(kernel: Any, name: str, chip: Chip) -> Compiled:
    """Accesses and barriers from PTX: ptxas neither splits nor widens them, and a disassembler takes 0.5 s a kernel.
    What it does is to load once what several loads read from one address, so addresses are counted."""
    with tempfile.TemporaryDirectory() as folder:
        binary = Path(folder) / "kernel.cubin"
        binary.write_bytes(kernel.asm["cubin"])
        command = [triton.knobs.nvidia.cuobjdump.path, "-res-usage", str(binary)]
        usage = subprocess.run(command, capture_output=True, text=True, check=True).stdout

    def used(resource: str) -> int:
        return int(re.search(rf"\b{resource}:(\d+)", usage)[1])

    code = kernel.asm["ptx"]
    widths: dict[str, Counter[int]] = {"ld": Counter(), "st": Counter()}
    accesses = re.findall(r"\b(ld|st)\.global[.\w:]*?(?:\.v(\d))?\.[bsuf](\d+)\s[^;]*?\[\s*([^]]+?)\s*\]", code)
    for access, vector, bits, _ in sorted(set(accesses)):
        widths[access][int(vector or 1) * int(bits)] += 1
    registers, warps = used("REG"), kernel.metadata.num_warps
    allocated = 256 * -(-registers * 32 // 256)
    return Compiled(
        name, warps, registers, used("STACK") + used("LOCAL"), kernel.metadata.shared, widths["ld"], widths["st"],
        "assertfail" in code, min(64, chip.registers // allocated // warps * warps),
        len(re.findall(r"\bbar(?:rier)?\.sync\b", code)),
    )  # fmt: skip


AMD_BITS = {"byte": 8, "ubyte": 8, "short": 16, "ushort": 16, "dword": 32, "dwordx2": 64, "dwordx3": 96, "dwordx4": 128}


def amd(kernel: Any, name: str, chip: Chip) -> Compiled:
    code = kernel.asm["amdgcn"]

    def field(key: str) -> int:
        return int(re.search(rf"\.{key}:\s*(\d+)", code)[1])

    widths: dict[str, Counter[int]] = {"load": Counter(), "store": Counter()}
    for access, size in re.findall(r"^\s+(?:global|buffer)_(load|store)_(\w+)", code, re.M):
        widths[access][AMD_BITS[re.sub(r"^short_d16\w*", "short", size)]] += 1
    registers = field("vgpr_count")
    spills = field("vgpr_spill_count") + field(
        "private_segment_fixed_size"
    )  # a scalar register spills into a vector one
    return Compiled(
        name, kernel.metadata.num_warps, registers, spills, kernel.metadata.shared, widths["load"], widths["store"],
        "hostcall" in code, min(8, chip.registers // (8 * -(-registers // 8))),
        len(re.findall(r"^\s+s_barrier$", code, re.M)),
    )  # fmt: skip
