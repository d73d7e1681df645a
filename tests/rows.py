"""What is missing of the sections (fastloss/sections.py)."""

from __future__ import annotations

NOT_YET: set[str] = set()
"""Names that are not there yet. Whoever adds one takes it out here: a test says so."""
