"""What a process of `make gpu` has begun and finished, a JSON line for each event: its death loses only the present.

The process appends; the stage reads it meanwhile and afterwards, and starts the process again for what is left. Only
the standard library, because every process of every stage reads or writes one.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

Entry = dict[str, Any]


class Journal:
    def __init__(self, path: Path) -> None:
        self.path = path

    def begin(self, key: str) -> None:
        self._append({"begin": key})

    def end(self, key: str, **entry: Any) -> None:
        self._append({"end": key, **entry})

    def plan(self, count: int) -> None:
        """How many keys there are to be, known once the process has looked around."""
        self._append({"plan": count})

    def entries(self) -> dict[str, Entry | None]:
        """By key, in the order of their beginnings; None: begun and not ended."""
        found: dict[str, Entry | None] = {}
        for event in self._events():
            if "begin" in event:
                found[event["begin"]] = None
            elif "end" in event:
                found[event.pop("end")] = event
        return found

    def planned(self) -> int | None:
        """The first plan: a process that was started again plans only the rest. None: it never came so far."""
        return next((event["plan"] for event in self._events() if "plan" in event), None)

    def changed(self) -> float:
        """When the last line was written, in seconds since the epoch; 0 before the first."""
        return self.path.stat().st_mtime if self.path.exists() else 0.0

    def _append(self, event: Entry) -> None:
        with self.path.open("ab", buffering=0) as file:  # one write: the next process appends to whole lines
            file.write(json.dumps(event).encode() + b"\n")

    def _events(self) -> list[Entry]:
        if not self.path.exists():
            return []
        # the last line may be half written: its process is writing it now, or was killed there
        lines = self.path.read_text().split("\n")[:-1]
        return [json.loads(line) for line in lines]
