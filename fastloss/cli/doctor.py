"""What this installation can do and, where it cannot do something, why: ``python -m fastloss doctor``."""

from __future__ import annotations

import platform
from typing import Any

import torch

import fastloss
from fastloss.core import backends, environment, small

_SHOWN = {True: "on", False: "off"}


def _version_of(package: str) -> str | None:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _build() -> dict[str, Any] | None:
    """What the binaries were built with; None if there are none."""
    try:
        from fastloss import _host  # type: ignore[attr-defined]
    except ImportError:
        return None
    return {**_host.build_info(), "instruction_set": _host.instruction_set()}


def report() -> dict[str, Any]:
    """Versions, build, devices and, for each backend, None or the reason why it is not available."""
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] if torch.version.cuda else []
    return {
        "fastloss": fastloss.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "hip": torch.version.hip,
        "triton": _version_of("triton"),
        "threads": torch.get_num_threads(),
        "gpus": gpus,
        "build": _build(),
        "backends": {"reference": None, **backends.UNAVAILABLE},
        "small_calls": small.UNAVAILABLE or None,
        "automatic": {device: str(choice) for (name, device), choice in backends.CHOICES.items() if name == "auto"},
        "environment": {variable.name: variable.read() for variable in environment.VARIABLES},
    }


def render(report: dict[str, Any]) -> str:
    """The report as text."""
    build = report["build"]
    lines = [
        f"fastloss {report['fastloss']}, torch {report['torch']}, triton {report['triton'] or 'not installed'}, "
        f"Python {report['python']}",
        f"CUDA {report['cuda'] or 'no'}, HIP {report['hip'] or 'no'}, GPUs: {', '.join(report['gpus']) or 'none'}, "
        f"CPU threads: {report['threads']}",
        "build: "
        + (", ".join(f"{key} {value}" for key, value in build.items()) if build else "no binaries, see below"),
        "",
        "backends:",
        *(f"  {name:10} {'ready' if reason is None else reason}" for name, reason in report["backends"].items()),
        f"  small calls of cpu: {report['small_calls'] or 'ready'}",
        "automatic choice:",
        *(f"  {device:10} {choice}" for device, choice in report["automatic"].items()),
    ]
    lines += [
        "environment:",
        *(f"  {name}: {_SHOWN.get(value, value)}" for name, value in report["environment"].items()),
    ]
    return "\n".join(lines)
