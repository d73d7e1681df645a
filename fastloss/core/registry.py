"""The fused losses of this process, by the names of their functions: what `@fused` was told of each."""

from __future__ import annotations

from typing import Any

LOSSES: dict[str, Any] = {}
"""The skeleton's description of every fused loss, with its reference body."""
