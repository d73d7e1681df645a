"""The blocks of docs/integrations.md run."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "integrations.md").read_text()
BLOCKS = re.findall(r"^```python\n(.*?)^```$", PAGE, re.M | re.S)


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: re.findall(r"fastloss\.integrations\.(\w+)", block)[0])
def test_a_block_of_the_page(block: str) -> None:
    for library in re.findall(r"^import (?!fastloss|torch)(\w+)", block, re.M):
        pytest.importorskip(library)
    exec(block, {})


def test_the_page_has_blocks() -> None:
    assert len(BLOCKS) >= 2
