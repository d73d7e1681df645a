"""The environment is read in one file, and the README says what is read."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from fastloss.core.environment import VARIABLES, Choice

ROOT = Path(__file__).resolve().parents[2]
HERE = "fastloss/core/environment.py"
SOURCES = {
    str(file.relative_to(ROOT)): file
    for folder in ("fastloss", "triton_kernels")
    for file in sorted((ROOT / folder).rglob("*.py"))
}


def reads_environment(source: str) -> bool:
    """Through os.environ or os.getenv, whatever the name they were imported by."""
    for node in ast.walk(ast.parse(source)):
        name = getattr(node, "attr", None) or getattr(node, "id", None) or getattr(node, "name", None)
        if name in ("environ", "environb", "getenv"):
            return True
    return False


def test_the_environment_is_read_in_one_file():
    assert reads_environment("from os import environ") and reads_environment("import os as o; o.getenv('X')")
    assert [name for name, file in SOURCES.items() if reads_environment(file.read_text())] == [HERE]


def test_cpp_reads_what_is_listed():
    read = {
        name
        for file in (ROOT / "csrc").rglob("*")
        if file.is_file()
        for name in re.findall(r"getenv\(([^)]*)\)", file.read_text())
    }
    assert {name.strip('"') for name in read} <= {variable.name for variable in VARIABLES}


def row(variable) -> str:
    """The README's."""
    values = ", ".join(f"`{value}`" for value in variable.values) if isinstance(variable, Choice) else "`1`"
    return f"| `{variable.name}` | {values} | {variable.meaning} |"


@pytest.mark.parametrize("variable", VARIABLES, ids=lambda variable: variable.name)
def test_the_readme_lists_it(variable):
    assert row(variable) in (ROOT / "README.md").read_text().splitlines(), row(variable)


def test_doctor_prints_every_variable_and_a_misspelt_word_is_an_error():
    def doctor(**environment: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "fastloss", "doctor"]
        return subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment})

    shown = doctor(FASTLOSS_BACKEND="reference", FASTLOSS_VALIDATE="on").stdout
    assert all(f"  {variable.name}: " in shown for variable in VARIABLES)
    assert "FASTLOSS_BACKEND: reference" in shown and "FASTLOSS_VALIDATE: on" in shown
    wrong = doctor(FASTLOSS_CPU_CAPABILITY="avx51")
    assert wrong.returncode != 0 and "FASTLOSS_CPU_CAPABILITY: unknown value 'avx51'" in wrong.stderr
