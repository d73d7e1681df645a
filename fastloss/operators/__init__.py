"""Registers the operators behind every fused loss, and loads the binaries that implement them.

One set of schemas serves all losses and all backends. ``torch.ops.fastloss.*`` is implemented in C++ for CPU and CUDA
tensors; ``torch.ops.fastloss_triton.*``, the same operators, in Triton. The math of a loss is chosen by its name, so a
new fused loss adds nothing here. The operators are described in :mod:`fastloss.skeletons`.
"""

from __future__ import annotations

import importlib
import importlib.util
import warnings
from pathlib import Path
from typing import Any

import torch

from fastloss.core import backends, environment
from fastloss.core.backends import NAMESPACES
from fastloss.operators import outer, pointwise, row, scan, similarity
from fastloss.tiles import similarity as similarity_tiles

_SKELETONS = {
    "row": row,
    "pointwise": pointwise,
    "outer": outer,
    "scan": scan,
    "similarity": similarity,
}
_SCALE = "scale_"  # of a gradient by the upstream gradient, in place; of all skeletons


# ------------------------------------------------------------------------------------------ registration


def _define(namespace: str) -> torch.library.Library:
    library = torch.library.Library(namespace, "DEF")
    tags = (torch.Tag.needs_exact_strides, torch.Tag.pt2_compliant_tag)
    library.define(f"{_SCALE}(Tensor(a!) tensor, Tensor factor) -> ()", tags=tags)
    torch.library.register_fake(f"{namespace}::{_SCALE}", lambda tensor, factor: None, lib=library)
    for operators in _SKELETONS.values():
        for name, schema in operators.SCHEMAS.items():
            library.define(name + schema, tags=tags)
            torch.library.register_fake(f"{namespace}::{name}", operators.META[name], lib=library)
        for name, rule in operators.vmap_rules(getattr(torch.ops, namespace)).items():
            torch.library.register_vmap(f"{namespace}::{name}", rule, lib=library)
    return library


_LIBRARIES = [_define(namespace) for namespace in NAMESPACES]  # alive as long as the module
# compositions of the row and pointwise operators with torch's matrix products
similarity_tiles.register(
    _LIBRARIES[NAMESPACES.index("fastloss")],
    {**similarity_tiles.OPERATORS, **similarity_tiles.SEARCHES},
    ("CPU", "CUDA"),
)


def _load(name: str) -> str | None:
    """Loads a binary of this package; None if that went well, else the reason."""
    path = Path(__file__).parent.with_name(f"{name}.so")
    if not path.exists():
        return f"{path.name} was not built; `pip install --no-build-isolation .` builds it where it finds a compiler"
    try:
        torch.ops.load_library(str(path))
    except OSError as error:
        from fastloss import _host  # type: ignore[attr-defined]

        built = _host.build_info()["torch"]
        reason = f"{path.name} does not load: built with torch {built}, you have {torch.__version__}: {error}"
        if environment.STRICT.read():
            raise ImportError(reason) from error
        warnings.warn(f"fastloss: {reason}", RuntimeWarning, stacklevel=3)
        return reason
    return None


def _load_triton() -> str | None:
    """Registers the Triton launchers; None if that went well, else the reason."""
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed; `pip install triton`"
    library = _LIBRARIES[NAMESPACES.index("fastloss_triton")]
    keys = ["CUDA", "XPU"] + (["CPU"] if environment.INTERPRET.read() else [])
    similarity_tiles.register(library, similarity_tiles.SEARCHES, keys)
    launchers = {name: skeleton for skeleton, operators in _SKELETONS.items() for name in operators.SCHEMAS}
    for name in similarity_tiles.SEARCHES:
        del launchers[name]
    for name, module in {**launchers, _SCALE: "scale"}.items():
        for key in keys:
            library.impl(name, _triton_launcher(module, name), key)
    return None


def _triton_launcher(module: str, name: str) -> Any:
    def launch(*operands: Any) -> Any:  # importing triton takes a second, so at the first call
        return getattr(importlib.import_module(f"fastloss.triton_kernels.operators.{module}"), name)(*operands)

    return launch


environment.CPU_CAPABILITY.read()  # which only C++ looks at, when it is too late to say that it is misspelt
backends.settle(
    {
        "cpu": _load("_cpu"),
        "cuda": _load("_cuda") if torch.version.cuda else "this torch is built without CUDA",
        "triton": _load_triton(),
    }
)
