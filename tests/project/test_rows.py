"""Every row of the table has its functions, and each of these a docstring with all parts, a case and an oracle."""

from __future__ import annotations

import functools
import inspect
from pathlib import Path

import pytest
from cases import CASES
from rows import NOT_YET

import fastloss
from fastloss.core.docstrings import sections
from fastloss.sections import SECTIONS as ROWS

TESTS = Path(__file__).parent.parent
NAMES = sorted({name for _, names in ROWS.values() for name in names.split()})
BY_NAME = {name: [case for case in CASES if case.name == name] for name in NAMES}


def _texts(*folders: str) -> str:
    return "\n".join(file.read_text() for folder in folders for file in sorted((TESTS / folder).rglob("*.py")))


ORACLES = _texts("oracles", "skeletons")  # tests against libraries, closed forms, enumeration
ANYWHERE = ORACLES + _texts("cases")  # of what is no loss, and has no case of its own


def found(name: str) -> object | None:
    try:
        return functools.reduce(getattr, name.split("."), fastloss)
    except AttributeError:
        return None


def test_there_are_57_rows_and_what_is_missing_is_listed() -> None:
    assert len(ROWS) == 57
    missing = {name for name in NAMES if found(name) is None}
    assert missing == NOT_YET
    whole = [row for row, (_, names) in ROWS.items() if not set(names.split()) & NOT_YET]
    print(f"{len(whole)} of {len(ROWS)} rows; not yet: {', '.join(r for r in ROWS if r not in whole) or 'none'}")


@pytest.mark.parametrize("name", [name for name in NAMES if name not in NOT_YET])
def test_a_name_of_the_table_is_whole(name: str) -> None:
    value = inspect.unwrap(found(name))  # type: ignore[arg-type]
    if not value.__module__.startswith("fastloss."):
        assert BY_NAME[name], "torch's own has a case"
        return
    parts = sections(value.__doc__)
    assert "Example" in parts
    is_loss = value.__module__.startswith("fastloss.losses.")
    if is_loss:
        assert {"Args", "Shape", "Returns", "Raises", "Source"} <= parts.keys()
        assert ":math:" in parts[""] or ".. math::" in parts[""], "no formula"
    public = name.rpartition(".")[2]
    by_case = any(case.oracle is not None or case.drop_in for case in BY_NAME[name])
    assert by_case or public in (ORACLES if BY_NAME[name] else ANYWHERE), "no oracle"
    if is_loss and "reduction" in inspect.signature(value).parameters:
        assert BY_NAME[name], "no case"
