"""The fused losses of this process, by the names of their functions: what `@fused` was told of each."""

from __future__ import annotations

from typing import Any

LOSSES: dict[str, Any] = {}
"""The skeleton's description of every fused loss, with its reference body."""

BY_KERNEL: dict[str, Any] = {}
"""The same by the names of the kernels: a loss with several formulas has one for each. Filled at decoration: a program
that was loaded, or compiled first, asks for shapes before anything was lowered."""
