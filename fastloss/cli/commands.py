"""`python -m fastloss doctor | bench | demo | recommend`"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence

from fastloss.bench import cli as bench
from fastloss.cli import demo, doctor, guide


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m fastloss", description="Fused losses for PyTorch.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    doctor_parser = commands.add_parser("doctor", help="which backends work on this machine, and why others do not")
    doctor_parser.add_argument("--json", action="store_true", help="machine-readable")
    doctor_parser.set_defaults(run=run_doctor)

    bench_parser = commands.add_parser("bench", help="measure speed, memory and accuracy beside torch")
    bench.add_arguments(bench_parser)
    bench_parser.set_defaults(run=bench.run)

    demo_parser = commands.add_parser("demo", help="train a small language model with torch's loss and with fastloss's")
    demo.add_arguments(demo_parser)
    demo_parser.set_defaults(run=demo.run)

    guide_parser = commands.add_parser("recommend", help="which loss for a problem, and what goes wrong with it")
    guide.add_arguments(guide_parser)
    guide_parser.set_defaults(run=guide.run)
    return parser


def run_doctor(arguments: argparse.Namespace) -> int:
    report = doctor.report()
    print(json.dumps(report, indent=2) if arguments.json else doctor.render(report))
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    arguments = make_parser().parse_args(argv)
    command: Callable[[argparse.Namespace], int] = arguments.run
    return command(arguments)
