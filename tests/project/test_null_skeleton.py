"""docs/adding-a-skeleton.md is complete: its blocks, written into a copy of the tree, build and pass their own test."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "adding-a-skeleton.md").read_text()
BLOCK = re.compile(r"^```(\w+)\n(?:#|//) (\S+)\n(.*?)^```$", re.M | re.S)
FILES = {path: text for kind, path, text in BLOCK.findall(PAGE) if kind != "diff"}
CHANGES = {path: text for kind, path, text in BLOCK.findall(PAGE) if kind == "diff"}
RUN = """
import sys
import fastloss, pytest, torch
torch.ops.load_library(sys.argv[1])
sys.exit(pytest.main(["-q", "-p", "no:cacheprovider", "--import-mode=importlib", sys.argv[2]]))
"""


def changed(text: str, change: str) -> str:
    """Each run of - lines replaced by the run of + lines after it."""
    for before, after in re.findall(r"((?:^-.*\n)+)((?:^\+.*\n)+)", change, re.M):
        old, new = (re.sub(r"^[-+]", "", lines, flags=re.M) for lines in (before, after))
        assert text.count(old) == 1, f"the page replaces what is not there once:\n{old}"
        text = text.replace(old, new)
    return text


def make_tree(tree: Path) -> None:
    for folder in ("csrc", "fastloss"):
        shutil.copytree(ROOT / folder, tree / folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "triton_kernels", tree / "fastloss" / "triton_kernels")
    shutil.copy(ROOT / "setup.py", tree)
    for path, text in FILES.items():
        assert not (tree / path).exists(), f"{path} is there already"
        (tree / path).parent.mkdir(parents=True, exist_ok=True)
        (tree / path).write_text(text)
    for path, change in CHANGES.items():
        (tree / path).write_text(changed((tree / path).read_text(), change))


def test_a_skeleton_takes_about_a_dozen_files() -> None:
    of_a_loss = {path for path in FILES if "nothing" in path}
    assert len(FILES.keys() - of_a_loss) + len(CHANGES) <= 12


@pytest.mark.slow(60)
def test_the_null_skeleton_builds_and_runs(tmp_path: Path) -> None:
    compiler = shutil.which(os.environ.get("CXX", "c++")) or shutil.which("g++")
    if compiler is None:
        pytest.skip("no C++ compiler")
    tree, library = tmp_path / "tree", tmp_path / "null.so"
    make_tree(tree)
    installed = Path(torch.__file__).parent
    flags = ["-O1", "-std=c++17", "-fPIC", "-shared", "-fvisibility=hidden", "-DFASTLOSS_DEVICE=cpu"]
    flags += ["-DTORCH_TARGET_VERSION=0x020a000000000000", f"-I{installed / 'include'}", "-o", str(library)]
    sources = ["csrc/operators/null.cpp", "csrc/cpu/null.cpp"]
    libraries = [f"-L{installed / 'lib'}", "-ltorch_cpu", "-lc10"]
    built = subprocess.run([compiler, *flags, *sources, *libraries], cwd=tree, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    environment = {**os.environ, "PYTHONPATH": str(tree), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    command = [sys.executable, "-c", RUN, str(library), str(tree / "tests" / "skeletons" / "test_null.py")]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
