"""Writes docs/oracles.md: how far each loss is from what it is compared with, as the tests of this run found it.

    python -m tools.oracles

Some libraries are taken only where they are installed; the page says which tests had nothing to compare with:

    pip install --no-deps trl verl
"""

from __future__ import annotations

import datetime
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "oracles.md"
BY_FORMULA, BY_KERNELS = "test_reference_agrees_with_the_oracle", "test_kernels_agree_with_the_reference"
LIBRARIES = (
    "torch", "optax", "liger-kernel", "pytorch-metric-learning", "scikit-learn", "scipy", "transformers", "trl", "verl",
    "torchrl", "open_spiel", "ribs", "gymnasium",
)  # fmt: skip

Differences = dict[str, float]  # by dtype; of the largest number that was compared

HEAD = """\
# How far from its oracle

Written by `python -m tools.oracles` on {date} from {commit}; random inputs, seed {seed}. A difference is the largest
one of a comparison, as a share of the largest number compared, and the worst of all comparisons: numbers that cancel (a
difference of two means) show more than an eps.

Beside {libraries}.

## Formulas

Every case of a loss, with its gradients. *Body*: the reference in float64, against a formula that was written
independently (tests/cases), or torch's own function. *Kernels*: the CPU's, against the body in float64.

| loss | cases | body, float64 | kernels, float64 | kernels, float32 |
|---|--:|--:|--:|--:|
"""
SECOND = """
## Libraries, closed forms, enumeration

The tests of tests/oracles, and what their numbers are beside those of the other side. A test may compare more by other
means (equal choices, counts, bounds).

| where | what | comparisons | float64 | float32 |
|---|---|--:|--:|--:|
"""


class Recorder:
    """A plugin of pytest that keeps what the tests compare."""

    def __init__(self) -> None:
        self.found: dict[tuple[str, str], Differences] = defaultdict(dict)  # (file, test or loss)
        self.counts: dict[tuple[str, str], int] = defaultdict(int)
        self.cases: dict[str, set[str]] = defaultdict(set)
        self.skipped: dict[str, set[str]] = defaultdict(set)
        self.current: tuple[str, str] | None = None
        self.failed = False
        self.seed = 0

    def pytest_configure(self) -> None:
        sys.path.insert(0, str(ROOT / "tests"))
        import support

        self.seed = support.SEED
        support.assert_close = self._watching(support.assert_close, lambda args: args[2])
        of_actual: Callable[[tuple[Any, ...]], Any] = lambda args: getattr(args[0], "dtype", torch.float64)  # noqa: E731
        torch.testing.assert_close = self._watching(torch.testing.assert_close, of_actual)

    def _watching(self, compare: Callable[..., None], dtype_of: Callable[[tuple[Any, ...]], Any]) -> Any:
        def watching(*args: Any, **kwargs: Any) -> None:
            compare(*args, **kwargs)
            if self.current is not None and isinstance(args[0], Tensor) and isinstance(args[1], Tensor):
                self.note(args[0], args[1], str(dtype_of(args)).removeprefix("torch."))

        return watching

    def note(self, actual: Tensor, expected: Tensor, dtype: str) -> None:
        assert self.current is not None
        if not actual.is_floating_point():
            return
        actual, expected = actual.detach().double().cpu(), expected.detach().double().cpu()
        finite = actual.isfinite() & expected.isfinite()
        size = expected[finite].abs().max().item() if finite.any() else 0.0
        share = (actual - expected)[finite].abs().max().item() / size if size else 0.0
        known = self.found[self.current]
        known[dtype] = max(known.get(dtype, 0.0), share)
        self.counts[self.current] += 1

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item: pytest.Function) -> Iterator[None]:
        test = item.originalname
        case: Any = item.callspec.params.get("case") if hasattr(item, "callspec") else None
        if case is not None and test in (BY_FORMULA, BY_KERNELS):
            self.current = (test, case.name)
            self.cases[case.name].add(str(case))
        else:
            where = f"{item.cls.__name__}: " if item.cls else ""
            self.current = (item.path.stem.removeprefix("test_"), where + test.removeprefix("test_").replace("_", " "))
        yield
        self.current = None

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.failed |= report.failed
        if report.skipped and isinstance(report.longrepr, tuple) and "oracles" in report.nodeid:
            self.skipped[report.longrepr[2].removeprefix("Skipped: ")].add(report.nodeid.partition("[")[0])


def number(share: float | None) -> str:
    return "" if share is None else "0" if share == 0 else f"{share:.0e}".replace("e-0", "e-")


def page(recorder: Recorder) -> str:
    commit = subprocess.check_output(["git", "describe", "--always", "--dirty"], cwd=ROOT, text=True).strip()
    versions = []
    for name in LIBRARIES:
        try:
            versions.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            continue
    text = HEAD.format(
        date=datetime.date.today(),
        commit=commit,
        libraries=",\n".join(", ".join(versions[k : k + 6]) for k in range(0, len(versions), 6)),
        seed=recorder.seed,
    )
    for name in sorted(recorder.cases):
        formula, kernels = (recorder.found.get((test, name), {}) for test in (BY_FORMULA, BY_KERNELS))
        shares = (formula.get("float64"), kernels.get("float64"), kernels.get("float32"))
        text += f"| `{name}` | {len(recorder.cases[name])} | {' | '.join(map(number, shares))} |\n"
    text += SECOND
    for key in sorted(recorder.found):
        if key[0] in (BY_FORMULA, BY_KERNELS):
            continue
        found = recorder.found[key]
        text += f"| {key[0]} | {key[1]} | {recorder.counts[key]} | {number(found.get('float64'))} | "
        text += f"{number(found.get('float32'))} |\n"
    if recorder.skipped:
        text += "\nNothing to compare with in this run:\n\n"
        text += "".join(f"- {reason}: {len(tests)} tests\n" for reason, tests in sorted(recorder.skipped.items()))
    return text


def main() -> int:
    recorder = Recorder()
    tests = ["tests/oracles", "tests/laws/test_values.py"]
    pytest.main([*tests, "-q", "-k", f"oracles or {BY_FORMULA} or {BY_KERNELS}"], plugins=[recorder])
    if recorder.failed:
        print("tools.oracles: a test failed; the page stays as it is", file=sys.stderr)
        return 1
    PAGE.write_text(page(recorder))
    return 0


if __name__ == "__main__":
    sys.exit(main())
