"""`python -m fastloss recommend`: which loss for a problem, as text or as JSON."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from fastloss.functions.guidance import Recommendation, recommend
from fastloss.functions.problems import Advice, Pitfall


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("problem", nargs="+", help='in a few words: "binary classification, imbalanced"')
    parser.add_argument("--json", action="store_true", help="machine-readable")


def run(arguments: argparse.Namespace) -> int:
    try:
        found = recommend(" ".join(arguments.problem))
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    print(json.dumps(_plain(found), indent=2) if arguments.json else render(found))
    return 0


def _plain(value: Any) -> Any:
    """Dictionaries of named tuples."""
    if hasattr(value, "_asdict"):
        return {name: _plain(part) for name, part in value._asdict().items() if name != "words"}
    return [_plain(part) for part in value] if isinstance(value, tuple) else value


def _lines(entry: Advice | Pitfall) -> list[str]:
    if isinstance(entry, Pitfall):
        head = f"beware of {entry.mistake}: {entry.consequence}."
        return [head, f"  remedy: {entry.remedy}; fastloss.{entry.function}", f"  >>> {entry.example}"]
    head = f"{entry.when or 'default'}: fastloss.{entry.function}"
    return [head, f"  {entry.why}", f"  >>> {entry.example}"]


def render(found: Recommendation) -> str:
    """What the symptoms ask for comes first; then the rest of what is known of the problem."""
    lines = [found.problem, ""]
    for entry in dict.fromkeys((*found.answers, found.default, *found.upgrades, *found.pitfalls)):
        head, *rest = _lines(entry)
        asked = f"for your symptoms ({', '.join(found.symptoms)}): " if entry in found.answers else ""
        lines += [asked + head, *rest, ""]
    return "\n".join(lines).rstrip()
