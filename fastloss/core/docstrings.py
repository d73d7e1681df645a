"""Docstrings that are made of others: by their sections, of which a Module's takes some of its function's."""

from __future__ import annotations

import inspect
import re
import textwrap
from collections.abc import Callable
from typing import Any


def sections(docstring: str | None) -> dict[str, str]:
    """The parts of a docstring by their headings (Args, Shape, Returns, ...), without the margin; the text is ""."""
    parts = re.split(r"^(\w+):\n(?=    )", inspect.cleandoc(docstring or ""), flags=re.MULTILINE)
    found = {"": parts[0].strip()}
    for heading, text in zip(parts[1::2], parts[2::2], strict=True):
        found[heading] = textwrap.dedent(text).strip()
    return found


def arguments(text: str) -> list[tuple[list[str], str]]:
    """(names, description) of each entry of a section Args."""
    entries = re.findall(r"^(\w+(?:, \w+)*): (.*(?:\n[ ]+.*)*)", text, flags=re.MULTILINE)
    return [(names.split(", "), " ".join(description.split())) for names, description in entries]


def documented(module: type, function: Callable[..., Any], torchs: type | None) -> str | None:
    """The Module's own docstring, what it is the Module of, and from the function's docstring its arguments."""
    if module.__doc__ is None:  # python -OO
        return None
    where = inspect.unwrap(function).__module__.split(".")[2:-1]
    lines = [inspect.cleandoc(module.__doc__), ""]
    lines += [f"The Module of :func:`{'.'.join(['fastloss', *where, function.__name__])}`, which has the formula."]
    if torchs is not None:
        lines += [f"A drop-in for :class:`torch.nn.{torchs.__name__}`."]
    parts = sections(function.__doc__)
    constructor = list(inspect.signature(module.__init__).parameters)[1:]  # type: ignore[misc]
    forward = list(inspect.signature(module.forward).parameters)[1:]  # type: ignore[attr-defined]
    for heading, names in (("Args", constructor), ("Call", forward)):
        entries = [
            (", ".join(own), text)
            for group, text in arguments(parts.get("Args", ""))
            if (own := [name for name in group if name in names])
        ]
        if entries:
            lines += ["", f"{heading}:", *(f"    {own}: {text}" for own, text in entries)]
    lines += [
        f"\n{heading}:\n{textwrap.indent(parts[heading], '    ')}"
        for heading in ("Shape", "Returns")
        if heading in parts
    ]
    return "\n".join(lines)
