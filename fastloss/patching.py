"""Our losses in place of torch's, for code that calls torch's: ``patch()``, ``unpatch()``, ``with patched():``."""

from __future__ import annotations

import contextlib
import importlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

import torch.nn.functional as F

from fastloss import functional

__all__ = ["patch", "patched", "unpatch"]

_OURS: dict[str, Callable[..., Any]] = {
    name: getattr(functional, name)
    for name in functional.__all__
    if getattr(F, name, None) not in (None, getattr(functional, name))
}

_lock = threading.Lock()
_permanent = False  # by patch()
_blocks = 0  # with patched(): entered and not left, in all threads
_replaced: dict[str, Callable[..., Any]] = {}  # what was there before; empty: nothing is replaced


def _settle() -> None:
    """Replaces, or restores, if what was asked for and what is there differ. Under the lock."""
    wanted = _permanent or _blocks > 0
    if wanted and not _replaced:
        # torch.compile looks torch's functions up by name when it is first imported (a second), and would go on to take
        # ours for torch's: opaque, without guards on `fastloss.backend`.
        importlib.import_module("torch._dynamo.trace_rules")

        for name, ours in _OURS.items():
            _replaced[name] = getattr(F, name)
            setattr(F, name, ours)
    elif not wanted and _replaced:
        for name, before in _replaced.items():
            if getattr(F, name) is _OURS[name]:  # else another library has replaced ours since, and keeps its own
                setattr(F, name, before)
        _replaced.clear()


def patch() -> None:
    """Puts fastloss's functions in the place of torch's of the same name in :mod:`torch.nn.functional`.

    Everything that calls them as ``torch.nn.functional.cross_entropy(...)`` or ``F.cross_entropy(...)`` then uses ours,
    the Modules of :mod:`torch.nn` and libraries among it, in every thread. It may be repeated.

    What it cannot reach: a name that was bound before, by ``from torch.nn.functional import cross_entropy`` for one;
    compiled code (TorchScript, an exported program); ``torch.ops.aten`` and functions that torch itself calls below
    :mod:`torch.nn.functional`, such as ``torch.nll_loss``. ``torch.fx.symbolic_trace`` records torch's own functions. A
    function that torch.compile has compiled is compiled anew.

    Example:
        >>> fastloss.patch()
        >>> torch.nn.functional.mse_loss is fastloss.mse_loss
        True
        >>> fastloss.unpatch()
        >>> torch.nn.functional.mse_loss is fastloss.mse_loss
        False
    """
    global _permanent
    with _lock:
        _permanent = True
        _settle()


def unpatch() -> None:
    """Undoes :func:`patch`: torch's functions are again the very objects that were there before. Inside a block of
    :func:`patched`, at the end of the block. It may be repeated, and called without a :func:`patch`."""
    global _permanent
    with _lock:
        _permanent = False
        _settle()


@contextlib.contextmanager
def patched() -> Iterator[None]:
    """:func:`patch` for the ``with`` block.

    Blocks may be nested, and overlap in several threads: torch's functions come back when the last one is left. What is
    replaced belongs to the process: other threads see it too.
    """
    global _blocks
    with _lock:
        _blocks += 1
        _settle()
    try:
        yield
    finally:
        with _lock:
            _blocks -= 1
            _settle()
