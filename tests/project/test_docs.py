"""Pages and comments name files that exist, and the generated pages are what their generators write now."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import io
import re
import subprocess
import sys
import tokenize
from pathlib import Path

import pytest
from cases import CASES, Case, one_of_each

import fastloss

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = (".ci", "bench", "csrc", "docs", "examples", "fastloss", "tests", "tools", "triton_kernels")
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
SOURCES = sorted(
    file
    for folder in ("csrc", "triton_kernels", "fastloss", "tools")
    for file in (ROOT / folder).rglob("*")
    if file.suffix in (".h", ".cpp", ".cu", ".cuh", ".py")
)
# A name with one of our suffixes, alone or in folders; or something in one of our folders. `*` stands for any name, and
# so do F, a family, and S, a skeleton.
FILE = re.compile(r"(?<![\w/.*:<>{$-])([\w*.-]+/)*[\w*-]+\.(?:py|h|cpp|cuh?|md)\b(?![\w/*<({])")
INSIDE = re.compile(
    r"(?<![\w/.*:<>{$-])(?:csrc|docs|bench|tests|tools|triton_kernels|examples)/[\w*./-]*[\w*](?![\w/*<({])"
)


def known_paths() -> set[str]:
    """Every file and folder of the checkout, and what ends a path to it: `cpu/row.cpp` is csrc/cpu/row.cpp."""
    files = [ROOT / name for name in ("README.md", "CHANGELOG.md", "setup.py", "pyproject.toml", "Makefile")]
    for folder in FOLDERS:
        files += [file for file in (ROOT / folder).rglob("*") if "__pycache__" not in file.parts]
        files.append(ROOT / folder)
    endings = set()
    for file in files:
        parts = file.relative_to(ROOT).parts
        endings |= {"/".join(parts[first:]) for first in range(len(parts))}
    return endings


KNOWN = known_paths() | {"topics.py"}  # of Python's pydoc_data, which the demo reads


def dangling(text: str) -> list[str]:
    """The paths in the text that lead nowhere."""
    mentioned = {match.group().rstrip("./") for pattern in (FILE, INSIDE) for match in pattern.finditer(text)}

    def exists(path: str) -> bool:
        any_name = re.sub(r"(?<![a-zA-Z])[FS](?![a-zA-Z])", "*", path)
        if "*" not in any_name:
            return path in KNOWN
        pattern = re.compile(re.escape(any_name).replace(r"\*", "[^/]*"))
        return any(pattern.fullmatch(known) for known in KNOWN)

    return sorted(path for path in mentioned if not exists(path))


# `fastloss.nn.HuberLoss`, also where a page or a comment leaves the rest of the sentence to punctuation.
NAME = re.compile(r"(?<![\w./<])fastloss(?:\.[A-Za-z_]\w*)+(?![\w*<{(/-]*[*<{/-])")


def is_a_name(name: str) -> bool:
    """Whether a module, or something in one, is called so."""
    found: object = fastloss
    path = "fastloss"
    for part in name.split(".")[1:]:
        path += f".{part}"
        if not hasattr(found, part):
            try:
                if importlib.util.find_spec(path) is None:
                    return False
                found = importlib.import_module(path)
            except ModuleNotFoundError:
                return False
        else:
            found = getattr(found, part)
    return True


def unknown(text: str) -> list[str]:
    """The dotted names in the text that nothing has."""
    names = {
        match.group() for match in NAME.finditer(text) if not re.search(r"\.(?:py|pyi|so|md|json)$", match.group())
    }
    return sorted(name for name in names if not is_a_name(name))


def prose(file: Path) -> str:
    """A page without its blocks of code; of a source its comments and strings, docstrings among them."""
    text = file.read_text()
    if file.suffix == ".md":
        return re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S)
    if file.suffix != ".py":
        return "\n".join(re.findall(r"//.*", text))
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    return "\n".join(token.string for token in tokens if token.type in (tokenize.COMMENT, tokenize.STRING))


def test_a_path_that_leads_nowhere_is_seen() -> None:
    text = "csrc/nowhere.h, `fastloss/nothing.py` and docs/design.md, csrc/losses/*.h, no_such_file.cuh; csrc/neverland"
    assert dangling(text) == ["csrc/neverland", "csrc/nowhere.h", "fastloss/nothing.py", "no_such_file.cuh"]


@pytest.mark.parametrize("file", [*PAGES, *SOURCES], ids=lambda file: str(file.relative_to(ROOT)))
def test_every_path_in_prose_exists(file: Path) -> None:
    assert dangling(prose(file)) == []


def test_a_name_that_nothing_has_is_seen() -> None:
    text = "`fastloss.nn.HuberLoss`, :func:`fastloss.core.dispatch.fused`. fastloss.nowhere, fastloss.core.neverland.x"
    assert unknown(text) == ["fastloss.core.neverland.x", "fastloss.nowhere"]


@pytest.mark.parametrize("file", [*PAGES, *SOURCES], ids=lambda file: str(file.relative_to(ROOT)))
def test_every_name_in_prose_exists(file: Path) -> None:
    assert unknown(prose(file)) == []


def walks() -> list[list[tuple[str, list[str]]]]:
    """The tables of docs/design.md that follow a tensor: (file, what it is called there)."""
    text = (ROOT / "docs" / "design.md").read_text()
    tables = [table for table in text.split("\n\n") if table.startswith("| file | down | back |")]
    rows = [[re.findall(r"`([^`]+)`", line) for line in table.splitlines()[2:]] for table in tables]
    return [[(file, names) for file, *names in table] for table in rows]


def test_a_tensor_is_called_what_the_page_says() -> None:
    """And passes few files and names: 10 and 16 where autograd and glue stood once for each skeleton and device."""
    assert len(walks()) == 2
    for walk in walks():
        for file, names in walk:
            text = (ROOT / file).read_text()
            assert [name for name in names if not re.search(rf"\b{name}\b", text)] == [], file
        assert len(walk) < 10 and len({name for _, names in walk for name in names}) < 16


SPELLINGS = set(re.findall(r"`(?:\w+\.)?(\w+)`", (ROOT / "docs" / "glossary.md").read_text().partition("## Public")[2]))


@pytest.mark.parametrize("loss", one_of_each(CASES), ids=lambda case: case.name)
def test_the_glossary_has_every_argument(loss: Case) -> None:
    """A new spelling is a new line there, or a known one."""
    if inspect.unwrap(loss.loss).__module__.startswith("fastloss."):
        assert set(loss.parameters) <= SPELLINGS


def test_the_name_of_a_loss_ends_in_loss_or_is_in_the_glossary() -> None:
    names = {case.name.rpartition(".")[2] for case in CASES}
    assert {name for name in names if not name.endswith(("_loss", "_penalty", "_loss_from_logits"))} <= SPELLINGS


def test_the_pages_of_the_losses_are_what_is_generated():
    if fastloss.core.dispatch.unavailable("cpu", "cpu"):
        pytest.skip("the pages are asked of the C++ kernels")
    run = subprocess.run([sys.executable, ROOT / "tools" / "loss_pages.py", "--check"], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


@pytest.mark.parametrize("file", PAGES, ids=lambda file: str(file.relative_to(ROOT)))
def test_every_link_leads_somewhere(file: Path) -> None:
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", prose(file))
    assert [link for link in links if not (file.parent / link).exists()] == []
