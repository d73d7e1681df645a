"""The fused losses of this process, by the names of their functions: what `@fused` was told of each."""

from __future__ import annotations

from typing import Any

LOSSES: dict[str, Any] = {}
"""The skeleton's description of every fused loss, with its reference body. Filled at decoration: a program that was
loaded, or compiled first, asks for shapes before anything was lowered."""


def of_kernel(kernel: str) -> Any:
    """The description of the loss that a kernel computes: "<function>", or "<function>_<variant>"."""
    function = kernel
    while function not in LOSSES:
        function, found, _ = function.rpartition("_")
        if not found:
            raise ValueError(f"fastloss: no loss has a kernel named {kernel}")
    return LOSSES[function]
