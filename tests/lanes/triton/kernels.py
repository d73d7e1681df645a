"""The one place that imports the Triton backend for its tests.

FASTLOSS_TEST_TRITON_KERNELS names a folder with another copy of the sources (the mutants); without it the installed
subpackage is used, and without that the folder of the repository.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType

PACKAGE = "fastloss.triton_kernels"
FOLDER = Path(__file__).resolve().parents[3] / "triton_kernels"


def load(*names: str) -> list[ModuleType]:
    """The modules of these names."""
    folder = os.environ.get("FASTLOSS_TEST_TRITON_KERNELS")
    if folder is None and installed():
        package = PACKAGE
    else:
        package = "triton_kernels_under_test"
        root = Path(folder) if folder else FOLDER
        spec = importlib.util.spec_from_file_location(
            package, root / "__init__.py", submodule_search_locations=[str(root)]
        )
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[package] = module
        spec.loader.exec_module(module)
    return [importlib.import_module(f"{package}.{name}") for name in names]


def installed() -> bool:
    if importlib.util.find_spec("fastloss") is None:
        return False
    return importlib.util.find_spec(PACKAGE) is not None


coefficients, losses, math, sums, row, row_steps, pointwise, outer, scan, similarity, scale = load(
    "coefficients",
    "losses",
    "math",
    "sums",
    "operators.row",
    "operators.row_steps",
    "operators.pointwise",
    "operators.outer",
    "operators.scan",
    "operators.similarity",
    "operators.scale",
)
