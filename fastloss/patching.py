"""Our losses in place of torch's, for code that calls torch's: ``patch()``, ``unpatch()``, ``with patched():``."""

from __future__ import annotations

import contextlib
import functools
import importlib
import pkgutil
import threading
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F

from fastloss import functional
from fastloss.core import torch_losses

__all__ = ["patch", "patched", "unpatch"]

_OURS: dict[str, Callable[..., Any]] = {
    name: getattr(functional, name)
    for name in functional.__all__
    if getattr(F, name, None) not in (None, getattr(functional, name))
}

# ------------------------------------------------------------------------------------------ what tools look up by name
#
# torch.jit.script compiles what `__prepare_scriptable__` returns, torch's own function: TorchScript cannot read ours.
#
# A pickle of a function is its module and qualified name, and pickling fails where something else has that name, as
# ours has while it replaces torch's. Torch's function is then pickled as `mse_loss.__sizeof__.__self__`, which leads
# to it in any process: every function is the `__self__` of its `__sizeof__`, and ours has an attribute of that name
# which holds torch's.


class _Sizeof:
    """What a function of ours has for a ``__sizeof__``: the torch function in ``__self__`` is whose place it takes."""

    def __init__(self, name: str) -> None:
        self._name = name
        self.__self__ = getattr(torch_losses, name)

    def __call__(self) -> int:
        return self.__self__.__sizeof__()  # type: ignore[no-any-return]

    def __reduce__(self) -> tuple[Callable[[str], Any], tuple[str]]:
        """Without fastloss where it is loaded; pickle's protocols below 4 ask for it."""
        return pkgutil.resolve_name, (f"torch.nn.functional:{self._name}.__sizeof__",)


for _name, _ours in _OURS.items():
    _ours.__prepare_scriptable__ = functools.partial(getattr, torch_losses, _name)  # type: ignore[attr-defined]
    _ours.__sizeof__ = _Sizeof(_name)  # type: ignore[method-assign]


# ------------------------------------------------------------------------------------------ replacing and restoring

_lock = threading.Lock()
_permanent = False  # by patch()
_blocks = 0  # with patched(): entered and not left, in all threads
_replaced: dict[str, Callable[..., Any]] = {}  # what was there before; empty: nothing is replaced


def _settle() -> None:
    """Replaces, or restores, if what was asked for and what is there differ. Under the lock."""
    wanted = _permanent or _blocks > 0
    if wanted and not _replaced:
        # torch.compile looks torch's functions up by name when it is first imported (a second), and would go on to take
        # ours for torch's: opaque, without guards on `fastloss.backend`. So does torch.overrides (40 ms).
        importlib.import_module("torch._dynamo.trace_rules")
        torch.overrides.get_overridable_functions()

        for name, ours in _OURS.items():
            getattr(torch_losses, name).__qualname__ = f"{name}.__sizeof__.__self__"
            _replaced[name] = getattr(F, name)
            setattr(F, name, ours)
    elif not wanted and _replaced:
        for name, before in _replaced.items():
            if getattr(F, name) is _OURS[name]:  # else another library has replaced ours since, and keeps its own
                setattr(F, name, before)
            getattr(torch_losses, name).__qualname__ = name
        _replaced.clear()


def patch() -> None:
    """Puts fastloss's functions in the place of torch's of the same name in :mod:`torch.nn.functional`.

    Everything that calls them as ``torch.nn.functional.cross_entropy(...)`` or ``F.cross_entropy(...)`` then uses ours,
    the Modules of :mod:`torch.nn` and libraries among it, in every thread. It may be repeated.

    What it cannot reach: a name that was bound before, by ``from torch.nn.functional import cross_entropy`` for one;
    compiled code (TorchScript, an exported program); ``torch.ops.aten`` and functions that torch itself calls below
    :mod:`torch.nn.functional`, such as ``torch.nll_loss``. A function that torch.compile has compiled is compiled anew.

    Programs and tools get torch's own functions, as without it: ``torch.jit.script`` compiles them,
    ``torch.jit.trace`` and ``torch.export`` record their operators, ``torch.fx.symbolic_trace`` and tensors with a
    ``__torch_function__`` are given them. Torch's function, taken before, can be pickled, and loads wherever torch is;
    ours, taken from :mod:`torch.nn.functional` meanwhile, is pickled as ours, and loads where fastloss is. A signature
    is torch's with more keywords after it.

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
