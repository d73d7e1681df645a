"""The registry under pytest-benchmark: `pytest bench --benchmark-only`, one group for each (loss, shape, dtype, mode).

`-k "1024x32000 and float32"` chooses. Here one provider runs after the other; for ratios that hold on a busy machine
use `python -m fastloss bench`, where they take turns. A fast wrong answer is no result: each provider is checked too.
"""

from __future__ import annotations

from functools import lru_cache

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor

from .cases import DTYPES, Case, all_cases
from .measure import exact, make_pool, relative_error, run_pass
from .providers import PROVIDERS, Pool, Unavailable

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


@lru_cache(maxsize=1)  # all providers of a case in a row
def pool_and_exact(case: Case) -> tuple[Pool, tuple[Tensor, Tensor | None]]:
    pool = make_pool(case, DEVICE)
    return pool, exact(case, pool[0])


def tolerance(case: Case) -> float:
    """Of loss and gradient, relative to the largest exact number.

    Eager torch returns a bfloat16 loss and sums of bfloat16 terms: 8 units in the last place, where the sum of a
    float32 loss is over 65536 rows at most, and the gradient is rounded once or, at worst, in each of a few steps.
    Where the gradient itself is a sum, of products or over pairs, hundreds to thousands of terms are rounded: 64.
    """
    sums = case.loss.pairs or not case.loss.cold
    return (64 if sums else 8) * torch.finfo(DTYPES[case.dtype]).eps


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize("case", list(all_cases(DEVICE.type)), ids=lambda case: str(case).replace(" ", "-"))
def test_provider(benchmark: BenchmarkFixture, case: Case, provider: str) -> None:
    pool, (exact_value, exact_gradient) = pool_and_exact(case)
    try:
        step = PROVIDERS[provider](case, pool)
    except Unavailable as reason:
        pytest.skip(str(reason))

    if step.is_loss:
        step.restore()
        with step.context():
            value, gradient = step.run(0)
        assert relative_error(value, exact_value) <= tolerance(case)
        if exact_gradient is not None:
            assert gradient is not None
            error = benchmark.extra_info["gradient_error"] = relative_error(gradient, exact_gradient)
            # Torch's own formula rounds between its operations: in bfloat16 that takes a ratio to the other side of a
            # clip's bound, where the slope is another. That is reported; of everybody else it is asked.
            assert error <= tolerance(case) or (case.dtype == "bfloat16" and provider in ("eager", "torch.compile"))

    def iteration() -> None:
        run_pass(step, len(pool))
        if DEVICE.type == "cuda":
            torch.cuda.synchronize()

    benchmark.group = str(case)
    benchmark.extra_info.update(bytes=case.bytes * len(pool), iterations=len(pool), note=step.note)
    with step.context():
        benchmark.pedantic(iteration, setup=step.restore, rounds=9, warmup_rounds=2)
