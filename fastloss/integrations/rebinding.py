"""What integrations share: names of another library that become ours, after a look at what they were, and back."""

from __future__ import annotations

import inspect
import sys
import weakref
from collections.abc import Callable
from typing import Any

__all__ = ["Handle", "VersionError"]

Undo = Callable[[], None]


class VersionError(RuntimeError):
    """The installed version of a library is not one that fastloss fits; nothing was changed."""


class Handle:
    """What an ``apply()`` returns: ``remove()`` undoes it, and so does the end of a ``with`` block of it."""

    def __init__(self, undo: list[Undo]) -> None:
        self._undo = undo

    def remove(self) -> None:
        """Undoes what was applied, last things first. It may be repeated."""
        while self._undo:
            self._undo.pop()()

    def __enter__(self) -> Handle:
        return self

    def __exit__(self, *exception: object) -> None:
        self.remove()


def _parameters(function: Callable[..., Any]) -> list[tuple[str, Any, Any]]:
    return [(p.name, p.kind, p.default) for p in inspect.signature(function).parameters.values()]


def check_signature(owner: Any, name: str, ours: Callable[..., Any]) -> None:
    """Raises unless ``owner.name`` takes what ours takes: names, kinds and defaults. Annotations do not count."""
    where = f"{getattr(owner, '__qualname__', owner.__name__)}.{name}"
    theirs = getattr(owner, name, None)
    if theirs is None:
        raise VersionError(f"{where} is not there; nothing was changed")
    if _parameters(theirs) != _parameters(ours):
        raise VersionError(
            f"{where} takes {inspect.signature(theirs)}, and fastloss knows it with {inspect.signature(ours)}; "
            "nothing was changed"
        )


_rebound: weakref.WeakKeyDictionary[Any, dict[str, list[list[Any]]]] = weakref.WeakKeyDictionary()


def rebind(owner: Any, name: str, ours: Any) -> Undo:
    """Puts ours in the place of an attribute of an object; undone unless someone else has replaced it since.

    It may be rebound several times, and undone in any order: what is undone first hands what it found to the next one.
    """
    entry = [getattr(owner, name), ours]
    entries = _rebound.setdefault(owner, {}).setdefault(name, [])
    entries.append(entry)
    setattr(owner, name, ours)

    def undo() -> None:
        place = next(k for k, other in enumerate(entries) if other is entry)
        del entries[place]
        if place < len(entries):
            entries[place][0] = entry[0]
        elif getattr(owner, name) is ours:
            setattr(owner, name, entry[0])

    return undo


def rebind_everywhere(package: str, theirs: Any, ours: Any) -> Undo:
    """Puts ours in the place of an object in all modules of a package, imported by name as it may be.

    A module that is imported later takes what it finds, ours; undoing reaches that, too.
    """

    def exchange(old: Any, new: Any) -> None:
        for module_name, module in list(sys.modules.items()):
            if module_name == package or module_name.startswith(f"{package}."):
                for name in [name for name, value in list(vars(module).items()) if value is old]:
                    setattr(module, name, new)

    exchange(theirs, ours)
    return lambda: exchange(ours, theirs)
