"""The measuring process of `make gpu-bench`: `python -m tools.gpu.bench JOURNAL DEVICE`. One journal entry a case.

The most telling cases come first, because a stage has a limit. Providers that fail (a kernel that does not compile, a
wrong peer) are named and left out, so that they do not take the others' numbers with them.
"""

from __future__ import annotations

import sys
import traceback
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from fastloss.bench import report
from fastloss.bench.cases import Case, all_cases
from fastloss.bench.ceilings import ceilings
from fastloss.bench.environment import describe
from fastloss.bench.measure import make_pool, measure
from fastloss.bench.providers import PROVIDERS
from fastloss.bench.steps import Unavailable

from . import context
from .journal import Journal

SECONDS = 1.0  # of measuring a case: 100 rounds of ten providers of 1 ms
BASELINES = ("copy", "eager", "torch.compile")
LEFT_OUT = ("fastloss:reference", "fastloss:cpu")  # the first is eager torch under another name


def order(case: Case) -> tuple[bool, bool]:
    """bfloat16 before float32, forward and backward before forward; then as in the registry."""
    return case.dtype != "bfloat16", case.mode == "forward"


def chosen_cases(device: torch.device) -> list[Case]:
    cases = sorted(all_cases(device.type), key=order)
    if device.type == "cuda":
        return cases
    return [case for case in cases if case.shape in ((8, 16), (4096, 1000))]  # a rehearsal


def working_providers(case: Case, device: torch.device) -> tuple[list[str], list[dict[str, str]]]:
    """The providers that run, or say that they cannot; and those that fail, with their reasons."""
    names, failures = list(BASELINES), []
    pool = make_pool(case, device)[:1]
    for name in PROVIDERS:
        if name in BASELINES or name in LEFT_OUT:
            continue
        try:
            step = PROVIDERS[name](case, pool)
            with step.context():
                step.run(0)
            if device.type == "cuda":
                torch.cuda.synchronize()
        except Unavailable:
            pass  # measure() notes the reason
        except Exception as error:
            if not context.is_alive():
                raise RuntimeError(f"{name} cost the CUDA context") from error
            failures.append(failure(f"{case}: {name}", error))
            continue
        names.append(name)
    return names, failures


def failure(what: str, error: Exception) -> dict[str, str]:
    return {"what": what, "reason": "".join(traceback.format_exception(error))[-1500:]}


def run(case: Case, device: torch.device) -> dict[str, Any]:
    names, failures = working_providers(case, device)
    results, skips = measure(case, names, device, SECONDS)
    print(report.case_table(results), flush=True)
    return {"results": list(map(asdict, results)), "skips": list(map(asdict, skips)), "failures": failures}


def main(path: str, device_type: str) -> None:
    device = torch.device(device_type)
    journal = Journal(Path(path))
    known = journal.entries()
    for key, entry in known.items():
        if entry is None:
            journal.end(key, failures=[{"what": key, "reason": "the process died in this case"}])
    cases = chosen_cases(device)
    journal.plan(len(cases) + 1)
    if "ceilings" not in known:
        journal.begin("ceilings")
        journal.end("ceilings", ceilings=ceilings(device), environment=describe(device), failures=[])
    for case in cases:
        if str(case) in known:
            continue
        journal.begin(str(case))
        try:
            outcome = run(case, device)
        except Exception as error:
            outcome = {"failures": [failure(str(case), error)]}
        journal.end(str(case), **outcome)
        if not context.is_alive():
            sys.exit("the CUDA context is lost; the next process goes on")
        if device.type == "cuda":
            torch.cuda.empty_cache()


if __name__ == "__main__":
    main(*sys.argv[1:])
