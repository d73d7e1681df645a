"""A family has one name in every tree, and imports go one way: core, then operators and tiles, skeletons and functions,
losses."""

from __future__ import annotations

import ast
import re
from collections import Counter
from pathlib import Path

import pytest
from cases import FUSED, TABLES

from fastloss.core.registry import LOSSES

ROOT = Path(__file__).resolve().parents[2]

# ------------------------------------------------------------------------------------------ one name in every tree

KERNELS: dict[str, set[str]] = {}
"""By family, what has functors and helpers. A loss over pairs and a linear one have none of their own."""
for name, declaration in LOSSES.items():
    family = declaration.signature.reference.__module__.removeprefix("fastloss.losses.")
    KERNELS.setdefault(family, set()).add(name)
FAMILIES = {*KERNELS, *(case.family for case in FUSED)}


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_a_family_has_one_name_in_every_tree(family: str) -> None:
    path = family.replace(".", "/")
    assert (ROOT / "fastloss" / "losses" / f"{path}.py").exists()
    if family in {case.family for case in FUSED}:
        assert (ROOT / "tests" / "cases" / f"{path}.py").exists()
        assert family in TABLES
    if family not in KERNELS:
        return
    functors = (ROOT / "csrc" / "losses" / f"{path}.h").read_text()
    helpers = (ROOT / "triton_kernels" / "losses" / f"{path}.py").read_text()
    for kernel in KERNELS[family]:
        variant = "_" if getattr(LOSSES[kernel], "variant", "") else r"\b"
        assert re.search(rf"\(\s*{kernel}{variant}", functors), f"csrc/losses/{path}.h has no line for {kernel}"
        assert re.search(rf"^(def )?{kernel}{variant}", helpers, re.M), (
            f"triton_kernels/losses/{path}.py lacks {kernel}"
        )


def test_no_file_of_kernels_is_of_no_family() -> None:
    known = {family.replace(".", "/") for family in FAMILIES}
    shared = {"csrc/losses": {"all", "math"}, "triton_kernels/losses": set()}
    for folder, beside in shared.items():
        files = [
            file.relative_to(ROOT / folder).with_suffix("")
            for file in (ROOT / folder).rglob("*")
            if file.suffix in (".h", ".py") and file.stem != "__init__" and file.parent.name != "contracts"
        ]
        assert {str(file) for file in files} <= known | beside, folder


# ------------------------------------------------------------------------------------------ imports

BINARIES = {"fastloss._host", "fastloss._cpu", "fastloss._cuda", "fastloss._small"}
BELOW = {
    "core": {"core"},
    "operators": {"core", "operators", "tiles"},
    "tiles": {"core", "operators", "tiles"},
    "skeletons": {"core", "operators", "tiles", "skeletons"},
    "functions": {"core", "operators", "tiles", "skeletons", "functions"},
    "losses": {"core", "functions", "skeletons", "losses"},
    "functional": {"losses"},
    "rl": {"losses", "functions"},
    "alignment": {"losses"},
    "gan": {"losses"},
    "diffusion": {"losses", "functions"},
    "regularization": {"losses", "functions"},
    "quality_diversity": {"losses", "functions"},
    "games": {"losses", "functions"},
    "compose": {"functions"},
    "distributed": {"core", "operators", "skeletons", "losses", "distributed"},
    "nn": {"core", "losses", "nn"},
    "triton_kernels": {"core", "operators", "triton_kernels"},
}
"""Of each part of the package, what it may import. The rest (patching, cli) may import anything."""


def sources() -> dict[str, Path]:
    """By name, the modules of the package as it is installed."""
    found = {}
    for folder, package in ((ROOT / "fastloss", "fastloss"), (ROOT / "triton_kernels", "fastloss.triton_kernels")):
        for file in folder.rglob("*.py"):
            parts = file.relative_to(folder).with_suffix("").parts
            found[".".join((package, *(part for part in parts if part != "__init__")))] = file
    return found


SOURCES = sources()


def imported(module: str) -> set[str]:
    """The modules of the package that a module imports, at its top or in a function."""
    file = SOURCES[module]
    package = module if file.name == "__init__.py" else module.rpartition(".")[0]
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names if name.name.partition(".")[0] == "fastloss"}
        elif isinstance(node, ast.ImportFrom):
            whence = node.module or ""
            if node.level:
                parents = package.split(".")[: len(package.split(".")) + 1 - node.level]
                whence = ".".join([*parents, *filter(None, [node.module])])
            if whence.partition(".")[0] == "fastloss":
                names = {f"{whence}.{name.name}" for name in node.names}
                modules = names & (SOURCES.keys() | BINARIES)
                found |= modules
                if modules != names:  # some are what the module defines
                    found.add(whence)
    return found


IMPORTS = {module: imported(module) for module in SOURCES}


def part(module: str) -> str:
    """fastloss.losses.rl.value -> losses"""
    return module.split(".")[1] if "." in module else ""


@pytest.mark.parametrize("name", BELOW)
def test_a_part_imports_what_is_below_it(name: str) -> None:
    modules = [module for module in SOURCES if part(module) == name]
    assert modules
    for module in modules:
        above = {other for other in IMPORTS[module] - BINARIES if part(other) not in BELOW[name]}
        assert not above, f"{module} imports {', '.join(sorted(above))}"


def test_the_imports_of_the_backend_in_triton() -> None:
    """Of what is installed torch and triton, of this package no more than its page says; it does not import us back."""
    allowed = {"__future__", "collections", "contextlib", "ctypes", "fastloss", "functools", "importlib", "math"}
    allowed |= {"struct", "torch", "triton", "types", "typing"}
    for module, file in SOURCES.items():
        if part(module) != "triton_kernels":
            assert not any(part(other) == "triton_kernels" for other in IMPORTS[module]), module
            continue
        for node in ast.walk(ast.parse(file.read_text())):
            names = [name.name for name in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module or ""]
            assert {name.partition(".")[0] for name in names} <= allowed, module


def test_no_circle_of_imports() -> None:
    """By files: that a package is imported before a module in it does not count."""
    done: set[str] = set()

    def visit(module: str, path: list[str]) -> None:
        assert module not in path, f"a circle: {' -> '.join([*path[path.index(module) :], module])}"
        if module in done:
            return
        for other in sorted(IMPORTS[module] & SOURCES.keys()):
            visit(other, [*path, module])
        done.add(module)

    for module in SOURCES:
        visit(module, [])


def test_autograd_is_written_once() -> None:
    for module, file in SOURCES.items():
        if part(module) == "core":
            continue
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ClassDef):
                bases = [ast.unparse(base) for base in node.bases]
                assert not any(base.endswith("Function") for base in bases), f"{module}.{node.name}"


# ------------------------------------------------------------------------------------------ laws


def test_a_law_has_a_name_of_its_own() -> None:
    """It is written once, in tests/laws, and runs over the table."""
    found: Counter[str] = Counter()
    laws: set[str] = set()
    for file in (ROOT / "tests").rglob("test_*.py"):
        functions = [node for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.FunctionDef)]
        names = [node.name for node in functions if node.name.startswith("test_")]
        found.update(names)
        if file.parent.name == "laws":
            laws |= set(names)
    assert laws
    assert not [name for name in sorted(laws) if found[name] > 1]


# ------------------------------------------------------------------------------------------ the last digit


def test_softplus_is_ours() -> None:
    """torch's is 2e-9 off from 20 on, unless it is told not to be: there is one place that tells it."""
    files = [file for tree in ("fastloss", "triton_kernels") for file in (ROOT / tree).rglob("*.py")]
    found = {str(file.relative_to(ROOT)) for file in files if re.search(r"(F|functional)\.softplus", file.read_text())}
    assert found == {"fastloss/core/elementary.py"}
