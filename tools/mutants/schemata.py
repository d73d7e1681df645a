"""Many mutants of C++ in one build, chosen when the program runs: mutant schemata (Untch, Offutt and Harrold 1993)."""

from __future__ import annotations

import re
from dataclasses import dataclass

# The operator beside the original; switch.h has them.
OPERATORS = {
    (" < ", " <= "): "less",
    (" > ", " >= "): "greater",
    (" <= ", " < "): "at_most",
    (" >= ", " > "): "at_least",
    (" == ", " != "): "equal",
    (" - ", " + "): "minus",
    (" + ", " - "): "plus",
    (" & ", " | "): "both",
    (" += ", " -= "): "into",
}


@dataclass(frozen=True)
class Edit:
    """source[begin:end], and what it becomes in the mutant."""

    begin: int
    end: int
    before: str
    after: str


Parts = list[str | tuple[int, int]]  # text, and pieces of the source, which may hold other edits


def parts(edit: Edit, number: int) -> Parts | None:
    """What to write for the edit, or None: of that form, mutants are built one by one."""
    on, (begin, end), before, after = f"::mutant::on<{number}>()", (edit.begin, edit.end), edit.before, edit.after
    if (before, after) in OPERATORS:
        return [f"{before}::mutant::{OPERATORS[before, after]}<{number}>{{}}{before}"]
    if (before, after) == ("= -", "= "):
        return [f"= ::mutant::negative<{number}>{{}} ->* "]
    if (before, after) in {("math::maximum", "math::minimum"), ("math::minimum", "math::maximum")}:
        return [f"[&](auto... values) {{ return {on} ? {after}(values...) : {before}(values...); }}"]
    branches = re.fullmatch(r" \? ([^:?;]+) : ([^:?;]+)", before)
    if branches and after == f" ? {branches[2]} : {branches[1]}":
        first, second = ((begin + branches.start(k), begin + branches.end(k)) for k in (1, 2))
        return [f" ? ({on} ? (", second, ") : (", first, f")) : ({on} ? (", first, ") : (", second, "))"]
    if after in ("", ";") and re.fullmatch(r"[\w+][^{}]*;", before) and not before.startswith("if "):
        return [f"{{ if (!{on}) ", (begin, end), " }"]
    if after == "" and re.fullmatch(r"if \(.*\) ", before):
        return [f"if ({on} || (", (begin + len("if ("), end - len(") ")), ")) "]
    return None


def switched(source: str, edits: dict[int, Edit]) -> tuple[str, set[int]]:
    """The source with all edits that can be made together, by their numbers, and which these are."""
    done: set[int] = set()
    ordered = sorted(edits.items(), key=lambda item: (item[1].begin, -item[1].end))

    def written(begin: int, end: int, within: list[tuple[int, Edit]]) -> str:
        text, position = [], begin
        for place, (number, edit) in enumerate(within):
            if edit.begin < position or edit.end > end:
                continue  # in a piece that is written already, or across its end
            pieces = parts(edit, number)
            if pieces is None:
                continue
            done.add(number)
            text.append(source[position : edit.begin])
            for piece in pieces:
                text.append(piece if isinstance(piece, str) else written(*piece, within[place + 1 :]))
            position = edit.end
        return "".join([*text, source[position:end]])

    return written(0, len(source), ordered), done
