"""Functions of other libraries, taken out of their files: their packages import trainers and data sets, none of which a
comparison of formulas needs. They are skipped where the packages are not there:

    pip install --no-deps trl verl
"""

from __future__ import annotations

import ast
import functools
import importlib.util
from pathlib import Path
from typing import Any

import pytest


def functions(package: str, path: str, names: tuple[str, ...], **needed: Any) -> dict[str, Any]:
    """Functions (or methods) by name, from a file of a package, without its decorators and annotations.

    Args:
        needed: what they look up in their module.
    """
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        pytest.skip(f"{package} is not installed")
    namespace = dict(needed)
    exec(_code(str(Path(next(iter(spec.submodule_search_locations))) / path), names), namespace)
    return namespace


@functools.cache
def _code(file: str, names: tuple[str, ...]) -> Any:
    found = {node.name: node for node in ast.walk(ast.parse(Path(file).read_text())) if _is_function(node)}
    if missing := set(names) - found.keys():
        pytest.skip(f"this version has no {', '.join(sorted(missing))}")
    nodes = [found[name] for name in names]
    for node in nodes:
        node.decorator_list, node.returns = [], None
        for argument in ast.walk(node):
            if isinstance(argument, ast.arg):
                argument.annotation = None
    return compile(ast.fix_missing_locations(ast.Module(nodes, [])), file, "exec")


def _is_function(node: ast.AST) -> bool:
    return isinstance(node, ast.FunctionDef)
