"""The backends: where each computes, whose operators it runs, and why it cannot run in this process.

What can run depends on nothing but the process and the device type, so :mod:`fastloss.operators`, which registers the
operators, settles it once, at import. Every skeleton imports that module.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from fastloss.core import environment

NONE = "none"  # an explanation's backend where the call raises
COMPOSITE = "composite"  # of a loss that is made of others, each with a backend of its own


class Backend(NamedTuple):
    """A backend that has kernels."""

    devices: tuple[str, ...]
    namespace: str  # of its operators, in torch.ops


KERNELS = {
    "cpu": Backend(("cpu",), "fastloss"),
    "triton": Backend(("cuda", "xpu"), "fastloss_triton"),
    "cuda": Backend(("cuda",), "fastloss"),
}
NAMES = environment.BACKEND.values  # "auto", "reference" and those with kernels
NAMESPACES = ("fastloss", "fastloss_triton")
AUTOMATIC = {"cpu": ("cpu",), "cuda": ("cuda", "triton"), "xpu": ("triton",)}
"""By device type, the backends in the order of the automatic choice."""


@dataclass(frozen=True)
class Explanation:
    """Which backend answers a call, and why."""

    backend: str
    reason: str

    def __str__(self) -> str:
        return f"{self.backend}: {self.reason}"


UNAVAILABLE: dict[str, str | None] = {}
"""Why a backend cannot be used in this process whatever the tensors; None: it can."""
CHOICES: dict[tuple[str, str], Explanation | None] = {}
"""By the name that was asked for and the device type; None: that backend cannot."""


def settle(unavailable_here: Mapping[str, str | None]) -> None:
    """Makes every choice, from why each backend cannot be used in this process."""
    UNAVAILABLE.update(unavailable_here)
    for device in AUTOMATIC:
        CHOICES["auto", device] = _automatic(device)
        for name in KERNELS:
            chosen = unavailable(name, device) is None
            CHOICES[name, device] = Explanation(name, "chosen explicitly") if chosen else None


def unavailable(name: str, device: str) -> str | None:
    """Why backend `name` cannot compute on tensors of a device type; None: it can."""
    interpreted = name == "triton" and device == "cpu" and environment.INTERPRET.read()
    if device not in KERNELS[name].devices and not interpreted:
        return f"it does not compute on {device} tensors"
    return UNAVAILABLE[name]


def _automatic(device: str) -> Explanation:
    candidates = AUTOMATIC[device]
    reasons = {name: unavailable(name, device) for name in candidates}
    for name, reason in reasons.items():
        if reason is None:
            return Explanation(name, f"the first of ({', '.join(candidates)}) that runs on {device} tensors")
    return Explanation("reference", "; ".join(str(reason) for reason in reasons.values()))
