"""What the tools know of the tree by name is there: they run for hours, and rarely."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from tools.mutants.equivalents import EQUIVALENT
from tools.mutants.kinds import KINDS, Kind, Lane
from tools.mutants.sources import CHEAPER, mutants
from tools.oracles import Recorder, page

ROOT = Path(__file__).resolve().parents[2]
LANES = [pytest.param(lane, id=f"{name}-{lane.name}") for name, kind in KINDS.items() for lane in kind.lanes]


def test_every_equivalent_is_a_mutant() -> None:
    """In the file that it is listed for, by the text of its line: else it excuses nothing, or what nobody has read."""
    made: dict[str, set[str]] = {}
    for kind in KINDS.values():
        for mutant in mutants(kind, ROOT):
            made.setdefault(mutant.file, set()).add(mutant.after)
    listed = [(file, line) for file, lines in EQUIVALENT.items() for line in lines]
    assert [entry for entry in listed if entry[1] not in made.get(entry[0], set())] == []


@pytest.mark.parametrize("kind", KINDS.values(), ids=list(KINDS))
def test_the_sources_of_a_kind_exist(kind: Kind) -> None:
    assert [name for name in kind.files if not (ROOT / name).is_file()] == []


@pytest.mark.parametrize("lane", LANES)
def test_the_tests_of_a_lane_exist(lane: Lane) -> None:
    folder = ROOT / lane.folder
    assert folder.is_dir()
    named = [word for argument in lane.command for word in re.findall(r"[\w./]+\.py\b", argument)]
    assert [name for name in named if not (folder / name).is_file() and not (ROOT / name).is_file()] == []


@pytest.mark.parametrize("lane", LANES)
def test_the_words_of_a_lane_are_of_its_tests(lane: Lane) -> None:
    """A word of `-k` that no test has selects nothing, and nobody would notice."""
    if "-k" not in lane.command:
        return
    words = set(re.findall(r"[\w.-]+", lane.command[lane.command.index("-k") + 1])) - {"and", "or", "not"}
    tests = "\n".join(file.stem + file.read_text() for file in (ROOT / "tests").rglob("*.py"))
    assert [word for word in sorted(words) if word not in tests] == []


def test_the_copy_can_be_made_cheaper() -> None:
    for name, edits in CHEAPER.items():
        text = (ROOT / name).read_text()
        assert [text.count(costly) for costly, _ in edits] == [1] * len(edits), name


def test_the_coverage_of_the_emulator_finds_its_tests() -> None:
    from tools import coverage

    assert [name for name in coverage.FILES if not (coverage.TESTS / name).is_file()] == []


def test_the_page_of_oracles_has_the_worst_difference() -> None:
    """As a share of the largest number; what is infinite in both is equal."""
    recorder = Recorder()
    recorder.seed, recorder.current = 1, ("files", "a test")
    exact = torch.tensor([4.0, 0.5, torch.inf], dtype=torch.float64)
    for error in (1e-6, 4e-6, 2e-6):
        recorder.note(exact.float() + error, exact, "float32")
    recorder.note(exact, exact, "float64")
    recorder.note(torch.ones(2), torch.full((2,), 1.25).double(), "float32 of another")
    assert "| files | a test | 5 | 0 | 1e-6 |" in page(recorder)
