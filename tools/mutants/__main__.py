"""`make mutants`: breaks one thing at a time in the kernels and asks whether the tests notice. Hours; not part of CI.

    python -m tools.mutants [KIND ...] [--sample N [--seed S]] [--minutes M] [--only TEXT ...] [--skip LANE ...]
                            [--together] [--list]

A mutant deletes a barrier or a statement, bends a bound, drops a mask or flips a sign. It is killed if a lane of the
tests fails, the quickest lane first. A survivor is to be read: either a test is missing, or the mutant is equivalent,
that is no input and no schedule can tell it from the original; EQUIVALENT holds those, with the reason.

Mutants of C++ are built together where they can be (schemata.py) and chosen when a lane runs; the others, and
those that no lane reached that way, one by one.

`--sample 40` takes 40 of each kind, spread evenly over its files: one, chosen by the seed, of every 40th part of the
list. `--minutes 10` stops after that time; the next run goes on from there, if no file has changed. docs/mutants.md
has what was run last.
"""

from __future__ import annotations

import argparse
import gc
import random
import sys
from collections import Counter
from dataclasses import replace
from itertools import pairwise

from .kinds import KINDS
from .lanes import BUILD, Journal
from .runs import outcomes
from .sources import ROOT, Mutant, copy_tree, mutants


def sampled(found: list[Mutant], count: int, seed: int) -> list[Mutant]:
    """One of each of `count` equal parts of the list."""
    if count >= len(found):
        return found
    chosen = random.Random(seed)
    edges = [len(found) * part // count for part in range(count + 1)]
    return [found[chosen.randrange(begin, end)] for begin, end in pairwise(edges)]


def report(name: str, of: int, rows: list[tuple[Mutant, str, str]]) -> str:
    """A row of the table of docs/mutants.md, and every mutant with what became of it."""
    ended = Counter(outcome for _, outcome, _ in rows)
    by_lane = Counter(detail.split(":")[0] for _, outcome, detail in rows if outcome == "killed")
    lanes = ", ".join(f"{lane} {count}" for lane, count in by_lane.items())
    counts = " | ".join(str(ended[outcome]) for outcome in ("timeout", "not compiled", "equivalent", "survived"))
    lines = [
        "| kind | mutants | run | killed | by lane | timeout | do not compile | equivalent | survived |",
        "|---|---|---|---|---|---|---|---|---|",
        f"| {name} | {of} | {len(rows)} | {ended['killed']} | {lanes} | {counts} |",
    ]
    for heading in ("survived", "timeout", "equivalent", "not compiled", "killed"):
        lines += ["", f"## {heading}", ""]
        lines += [f"- `{mutant}` {detail}" for mutant, outcome, detail in rows if outcome == heading]
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kinds", nargs="*", choices=[*KINDS, []], default=[], metavar="KIND")
    parser.add_argument(
        "--only", nargs="*", default=[""], metavar="TEXT", help="whose description contains one of these"
    )
    parser.add_argument("--sample", type=int, metavar="N", help="N of each kind, spread over its files")
    parser.add_argument("--seed", type=int, default=1, help="of the sample")
    parser.add_argument("--minutes", type=float, metavar="M", help="no new mutant of a kind after this time")
    parser.add_argument("--skip", nargs="*", default=[], metavar="LANE", help="lanes to leave out: a first look")
    parser.add_argument("--together", action="store_true", help="leave out those that need a build of their own")
    parser.add_argument("--list", action="store_true", help="list them, run nothing")
    arguments = parser.parse_args()
    survived = 0
    gc.freeze()  # pytest collects garbage twice; of what the lanes inherit there is none
    for name in arguments.kinds or KINDS:
        kind, tree = KINDS[name], BUILD / name
        skipped = [lane.name for lane in kind.lanes if lane.name in arguments.skip]
        kind = replace(kind, lanes=tuple(lane for lane in kind.lanes if lane.name not in skipped))
        without = f"without {', '.join(skipped)}" if skipped else ""
        every = list(mutants(kind, ROOT))
        chosen = [mutant for mutant in every if any(text in str(mutant) for text in arguments.only)]
        chosen = sampled(chosen, arguments.sample, arguments.seed) if arguments.sample else chosen
        if arguments.list:
            print(*chosen, sep="\n")
            continue
        journal = Journal(name, *copy_tree(tree))
        for mutant in chosen:
            if mutant.equivalent:
                journal.outcomes[str(mutant)] = ("equivalent", mutant.equivalent)
        todo = [
            mutant
            for mutant in chosen
            if (known := journal.outcomes.get(str(mutant))) is None
            or (known[0] == "survived" and known[1] not in ("", without))
        ]
        for mutant, outcome, detail in outcomes(name, kind, tree, journal, todo, arguments.minutes, arguments.together):
            print(f"{mutant}\n    {outcome} {detail}", flush=True)
            journal.outcomes[str(mutant)] = (outcome, without if outcome == "survived" else detail)
            journal.save()
        journal.save()
        rows = [(mutant, *journal.outcomes[str(mutant)]) for mutant in every if str(mutant) in journal.outcomes]
        (BUILD / f"{name}.md").write_text(report(name, len(every), rows))
        print(report(name, len(every), rows).split("\n\n")[0], flush=True)
        survived += sum(outcome == "survived" for _, outcome, _ in rows)
    return survived > 0


if __name__ == "__main__":
    sys.exit(main())
