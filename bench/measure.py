"""How: providers take turns within one run, so that the drift of a busy machine hits all of them alike."""

from __future__ import annotations

import gc
import importlib.util
import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from .cases import Arguments, Case
from .environment import OtherProcesses, last_level_cache_bytes
from .memory import peak_extra_bytes
from .providers import PROVIDERS
from .steps import Pool, Step, Unavailable, nothing

BASELINES = ("copy", "eager", "torch.compile")
MIN_ROUNDS, MAX_ROUNDS = 9, 199


@dataclass
class Result:
    """One provider on one case."""

    loss: str
    shape: str
    dtype: str
    mode: str
    provider: str
    note: str
    bytes: int  # that have to be moved, see Case.bytes
    rounds: int
    others: float | None  # share of the machine's CPU time that other processes took meanwhile
    median: float  # seconds
    quartiles: tuple[float, float]  # seconds
    speedup: dict[str, float] = field(default_factory=dict)  # over each baseline, median of the ratios of the rounds
    peak_extra_bytes: int | None = None
    do_bench: float | None = None  # seconds, as triton.testing.do_bench has it: the number that others publish
    value_error: float | None = None  # |loss - exact| / |exact|, exact: the torch formula in float64 on the same inputs
    gradient_error: float | None = None  # max |gradient - exact| / max |exact|


@dataclass
class Skip:
    case: str
    provider: str
    reason: str


def make_pool(case: Case, device: torch.device) -> Pool:
    """Inputs that together exceed the last-level cache fourfold, so that each is cold when its turn comes.

    At most 64: a tiny call measures its overhead, not memory, and hundreds of tensors would add cache misses of the
    Python objects. On CUDA one, because there the cache is flushed before each sample.
    """
    count = 1
    if device.type == "cpu" and case.loss.cold:
        count = max(1, min(64, -(-4 * last_level_cache_bytes(device) // case.footprint)))
    pool = [case.make_arguments(device, seed) for seed in range(count)]
    for arguments in pool:
        for tensor in arguments[: case.loss.differentiated]:
            tensor.requires_grad_(case.mode == "forward_backward")
    return pool


def exact(case: Case, arguments: Arguments) -> tuple[Tensor, Tensor | None]:
    """Loss and gradient of the torch formula in float64."""
    logits, *rest = (tensor.detach().double() if tensor.is_floating_point() else tensor for tensor in arguments)
    function = case.loss.exact_function or case.loss.torch_function
    if case.mode == "forward":
        return function(logits, *rest), None
    value = function(logits.requires_grad_(), *rest)
    return value.detach(), torch.autograd.grad(value, logits)[0]


def relative_error(actual: Tensor, expected: Tensor) -> float:
    """max |actual - expected| / max |expected|"""
    return float((actual.double() - expected).abs().max() / expected.abs().max())


def run_pass(step: Step, pool_size: int) -> None:
    for i in range(pool_size):
        step.run(i)


def sample_time(step: Step, pool_size: int, stopwatch: Callable[[Callable[[], object]], float]) -> float:
    """Seconds of one iteration, averaged over one pass through the pool."""
    step.restore()
    with step.context():
        return stopwatch(lambda: run_pass(step, pool_size)) / pool_size


def make_stopwatch(device: torch.device) -> Callable[[Callable[[], object]], float]:
    if device.type == "cpu":

        def cpu(work: Callable[[], object]) -> float:
            start = time.perf_counter()
            work()
            return time.perf_counter() - start

        return cpu

    # The flush evicts the inputs, and keeps the GPU busy while the host queues the work: between the two events lies
    # the time of the GPU, without that of the launch unless the launch is slower than the flush.
    flush = torch.empty(4 * last_level_cache_bytes(device), dtype=torch.int8, device=device)

    def cuda(work: Callable[[], object]) -> float:
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        flush.zero_()
        start.record()
        work()
        end.record()
        end.synchronize()
        return float(start.elapsed_time(end)) * 1e-3

    return cuda


def interleave(steps: dict[str, Step], pool_size: int, device: torch.device, seconds: float) -> dict[str, list[float]]:
    """Samples of each provider, round by round, for about `seconds` altogether."""
    stopwatch = make_stopwatch(device)
    for step in steps.values():  # warm-up
        for _ in range(2):
            sample_time(step, pool_size, stopwatch)

    samples: dict[str, list[float]] = {name: [] for name in steps}
    names = list(steps)
    gc.collect()
    gc.disable()
    try:
        end = time.perf_counter() + seconds
        for i in range(MAX_ROUNDS):
            if i >= MIN_ROUNDS and time.perf_counter() > end:
                break
            first = i % len(names)  # no provider always follows the same one
            for name in names[first:] + names[:first]:
                samples[name].append(sample_time(steps[name], pool_size, stopwatch))
    finally:
        gc.enable()
    return samples


def do_bench_median(step: Step) -> float | None:
    """None without triton, and for a step that must be restored before each iteration, which do_bench cannot."""
    if importlib.util.find_spec("triton") is None or step.restore is not nothing:
        return None
    from triton.testing import do_bench

    with step.context():
        return float(do_bench(lambda: step.run(0), return_mode="median")) * 1e-3


def measure(
    case: Case, providers: Iterable[str], device: torch.device, seconds: float
) -> tuple[list[Result], list[Skip]]:
    pool = make_pool(case, device)
    steps: dict[str, Step] = {}
    skips = []
    for name in providers:
        try:
            steps[name] = PROVIDERS[name](case, pool)
        except Unavailable as reason:
            skips.append(Skip(str(case), name, str(reason)))
    if not steps:
        return [], skips

    others = OtherProcesses()
    samples = interleave(steps, len(pool), device, seconds)
    share = others.share()
    results = []
    for name, step in steps.items():
        own = samples[name]
        low, median, high = statistics.quantiles(own, n=4)
        result = Result(
            loss=case.loss.name,
            shape=case.shape_name,
            dtype=case.dtype,
            mode=case.mode,
            provider=name,
            note=step.note,
            bytes=case.bytes,
            rounds=len(own),
            others=share,
            median=median,
            quartiles=(low, high),
        )
        for baseline in BASELINES:
            if baseline in samples:
                ratios = [other / mine for other, mine in zip(samples[baseline], own, strict=True)]
                result.speedup[baseline] = statistics.median(ratios)
        with step.context():
            result.peak_extra_bytes = peak_extra_bytes(partial(step.run, 0), device)
        if device.type == "cuda":
            result.do_bench = do_bench_median(step)
        results.append(result)

    # Last: the float64 tensors of a large case would disturb what malloc has kept.
    expected_value, expected_gradient = exact(case, pool[0])
    for result in results:
        step = steps[result.provider]
        if not step.is_loss:
            continue
        step.restore()
        with step.context():
            value, gradient = step.run(0)
        result.value_error = relative_error(value, expected_value)
        if gradient is not None and expected_gradient is not None:
            result.gradient_error = relative_error(gradient, expected_gradient)
    return results, skips
