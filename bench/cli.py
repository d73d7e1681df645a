"""`python -m fastloss bench`"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch

from . import page
from . import report as reports
from .cases import DTYPES, LOSSES, MODES, Case, all_cases
from .environment import describe
from .measure import measure
from .plot import save_plot
from .providers import PROVIDERS

CHECKOUT = Path(__file__).resolve().parent.parent
SECONDS, QUICK_SECONDS = 10.0, 2.0  # of measuring, per case

DESCRIPTION = """\
Measures fastloss beside eager torch, torch.compile and a plain copy of the same bytes, on random inputs.
Providers take turns within one run. Times are medians; IQR is the interquartile range as a part of the median;
"of copy", "x eager" and "x compile" are speeds relative to these (above 1: faster)."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = DESCRIPTION
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    filters = parser.add_argument_group("what to measure (default: everything; a filter may be given several times)")
    for name, choices in (
        ("loss", [loss.name for loss in LOSSES]),
        ("shape", list(dict.fromkeys(case.shape_name for device in ("cpu", "cuda") for case in all_cases(device)))),
        ("dtype", list(DTYPES)),
        ("mode", list(MODES)),
        ("provider", list(PROVIDERS)),
    ):
        text = ", ".join(choices)
        filters.add_argument(f"--{name}", action="append", choices=choices, metavar=name.upper(), help=text)
    filters.add_argument("--device", type=torch.device, help="cpu or cuda (default: cuda if there is one)")
    filters.add_argument("--headline", action="store_true", help="the cases and the providers of the README's table")
    filters.add_argument("--quick", action="store_true", help="plain cross-entropy, float32, a large and a tiny shape")
    outputs = parser.add_argument_group("what to do with the results")
    outputs.add_argument("--save", type=Path, metavar="FILE.json", help="write the results")
    outputs.add_argument("--load", type=Path, metavar="FILE.json", help="show saved results, measure nothing")
    outputs.add_argument("--plot", type=Path, metavar="FILE.png", help="draw a bar chart (needs matplotlib)")
    outputs.add_argument(
        "--page",
        action="store_true",
        help="measure nothing; in a checkout: rewrite docs/benchmarks.md and README.md's table from bench/results",
    )


def run(arguments: argparse.Namespace) -> int:
    if arguments.page:
        if not (CHECKOUT / "docs").is_dir():
            raise SystemExit(f"{CHECKOUT} is no checkout of fastloss: there is no page to write")
        for file, text in page.pages(CHECKOUT).items():
            file.write_text(text)
        return 0
    if arguments.load:
        report = reports.load(arguments.load)
        print(reports.machine(report.environment))
        for results in reports.by_case(report.results):
            print("\n" + reports.case_table(results))
        print("\n" + reports.skip_table(report.skips))
    else:
        report = measure_cases(arguments)
    if arguments.save:
        report.save(arguments.save)
    if arguments.plot:
        save_plot(report, arguments.plot)
    return 0


def measure_cases(arguments: argparse.Namespace) -> reports.Report:
    device = arguments.device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
    cases = [case for case in all_cases(device.type) if is_chosen(case, arguments, device.type)]
    if not cases:
        raise SystemExit("the filters leave no case")
    providers = arguments.provider or (page.HEADLINE_PROVIDERS if arguments.headline else PROVIDERS)
    report = reports.Report(describe(device), [], [])
    print(reports.machine(report.environment))
    for number, case in enumerate(cases, 1):
        start = time.perf_counter()
        seconds = QUICK_SECONDS if arguments.quick else SECONDS
        results, skips = measure(case, providers, device, seconds)
        report.results += results
        report.skips += skips
        if results:
            print("\n" + reports.case_table(results))
        print(f"  [{number}/{len(cases)}, {time.perf_counter() - start:.0f} s]", flush=True)
    print("\n" + reports.skip_table(report.skips))
    return report


def is_chosen(case: Case, arguments: argparse.Namespace, device_type: str) -> bool:
    names = (case.loss.name, case.shape_name, case.dtype)
    if arguments.headline and (names not in page.HEADLINE_CASES or case.mode != "forward_backward"):
        return False
    if arguments.quick and (case.loss is not LOSSES[0] or case.dtype != "float32"):
        return False
    shapes = LOSSES[0].shapes_on(device_type)
    if arguments.quick and case.shape not in (shapes[0], shapes[-1]):
        return False
    chosen = (
        (arguments.loss, case.loss.name),
        (arguments.shape, case.shape_name),
        (arguments.dtype, case.dtype),
        (arguments.mode, case.mode),
    )
    return all(wanted is None or actual in wanted for wanted, actual in chosen)
