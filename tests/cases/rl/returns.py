"""Returns and advantages of trajectories: arguments of any shape (T, B), and the same by loops over the steps.

They are no losses, so no law of losses runs over them: tests/skeletons/test_scan.py has theirs.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from cases.case import Arguments, Build, Case, Shape, normal, uniform

SHAPE = (11, 13)


def _trajectories(*names: str) -> Build:
    """(T, B); the episodes are a few steps long."""

    def make(generator: torch.Generator, shape: Shape) -> Arguments:
        def draw(name: str) -> Tensor:
            if name in ("ratios", "probabilities"):
                return uniform(generator, 0.0, 1.0 if name == "probabilities" else 3.0, *shape)
            return normal(generator, *shape)

        made = {name: draw(name) for name in names}
        for name in ("terminated", "truncated"):
            made[name] = torch.rand(shape, generator=generator) < 0.2
        return made

    return make


def _everything(build: Build, *rates: str) -> Build:
    """Also a mask, and rates of each step."""

    def make(generator: torch.Generator, shape: Shape) -> Arguments:
        made = build(generator, shape)
        made["mask"] = torch.rand(shape, generator=generator) < 0.7
        return {**made, **{name: uniform(generator, 0.5, 1.0, *shape) for name in rates}}

    return make


def _packed(build: Build) -> Build:
    """Sequences of several lengths, one of them 0, one behind the other."""

    def make(generator: torch.Generator, shape: Shape) -> Arguments:
        total = shape[0]
        cuts = torch.randint(total + 1, (3,), generator=generator).sort().values
        ends = torch.tensor([0, total])
        return {**build(generator, shape), "cu_seqlens": torch.cat([ends[:1], cuts, cuts[-1:], ends[1:]])}

    return make


# ------------------------------------------------------------------------------------------ by loops
#
# A trajectory is a dict of lists of its steps' numbers, and `g`, which is the discount, 0 where it has terminated, and
# `on`, whether it goes on behind a step.

Trajectory = dict[str, list[float]]


def _discounted(s: Trajectory) -> list[list[float]]:
    result: list[float] = []
    for t in reversed(range(len(s["rewards"]))):
        behind = result[0] if s["on"][t] else s["next_values"][t]
        result.insert(0, s["rewards"][t] + s["g"][t] * behind)
    return [result]


def _lambda(s: Trajectory) -> list[list[float]]:
    result: list[float] = []
    for t in reversed(range(len(s["rewards"]))):
        value = s["next_values"][t]
        behind = (1 - s["lambda_"][t]) * value + s["lambda_"][t] * result[0] if s["on"][t] else value
        result.insert(0, s["rewards"][t] + s["g"][t] * behind)
    return [result]


def _errors(s: Trajectory) -> list[float]:
    return [r + g * w - v for r, g, w, v in zip(s["rewards"], s["g"], s["next_values"], s["values"], strict=True)]


def _summed(s: Trajectory, first: Callable[[int], float], factor: Callable[[int], float]) -> list[float]:
    """sum over k of first(t + k) times the factors of the steps t .. t + k - 1, as long as the trajectory goes on."""
    result = []
    for t in range(len(s["rewards"])):
        total, weight, k = 0.0, 1.0, t
        while True:
            total += weight * first(k)
            if not s["on"][k]:
                break
            weight *= factor(k)
            k += 1
        result.append(total)
    return result


def _gae(s: Trajectory) -> list[list[float]]:
    error = _errors(s)
    advantages = _summed(s, lambda k: error[k], lambda k: s["gamma"][k] * s["lambda_"][k])
    return [advantages, [a + v for a, v in zip(advantages, s["values"], strict=True)]]


def _n_step(n: int) -> Callable[[Trajectory], list[list[float]]]:
    def returns(s: Trajectory) -> list[list[float]]:
        result = []
        for t in range(len(s["rewards"])):
            total, weight = 0.0, 1.0
            for k in range(t, t + n):
                total += weight * s["rewards"][k]
                weight *= s["g"][k]
                if not s["on"][k] or k == t + n - 1:
                    total += weight * s["next_values"][k]
                    break
            result.append(total)
        return [result]

    return returns


def _vtrace(rho_bar: float, c_bar: float, pg_rho_bar: float) -> Callable[[Trajectory], list[list[float]]]:
    def both(s: Trajectory) -> list[list[float]]:
        error, ratio = _errors(s), s["ratios"]
        trace = [s["lambda_"][k] * min(c_bar, ratio[k]) * s["gamma"][k] for k in range(len(ratio))]
        corrections = _summed(s, lambda k: min(rho_bar, ratio[k]) * error[k], lambda k: trace[k])
        advantages = []
        for t in range(len(ratio)):
            behind = s["next_values"][t] + (s["lambda_"][t] * corrections[t + 1] if s["on"][t] else 0.0)
            one_step = s["rewards"][t] + s["g"][t] * behind - s["values"][t]
            advantages.append(min(pg_rho_bar, ratio[t]) * one_step)
        return [[c + v for c, v in zip(corrections, s["values"], strict=True)], advantages]

    return both


def _corrected(trace: Callable[[Trajectory, int], float]) -> Callable[[Trajectory], list[list[float]]]:
    """q_t + sum over k of the discounted errors times the traces of the steps t + 1 .. t + k."""

    def targets(s: Trajectory) -> list[list[float]]:
        error = _errors(s)
        corrections = _summed(s, lambda k: error[k], lambda k: s["g"][k] * trace(s, k + 1))
        return [[c + v for c, v in zip(corrections, s["values"], strict=True)]]

    return targets


def _went_up(s: Trajectory, k: int) -> float:
    return float(s["rewards"][k] + s["g"][k] * s["next_values"][k] >= s["values"][k])


def _by_sequence(
    loop: Callable[[Trajectory], list[list[float]]], outputs: int, arguments: Arguments, time_dim: int = 0
) -> list[Tensor]:
    """The loop over each sequence of the batch, its steps that are there; 0 for the others."""
    first = arguments["rewards"]
    shape = first.movedim(time_dim, 0).shape
    steps = {
        name: (x if isinstance(x, Tensor) else torch.tensor(x, dtype=torch.float64)).expand(first.shape)
        .movedim(time_dim, 0).reshape(shape[0], -1)
        for name, x in arguments.items()
        if name != "cu_seqlens" and x is not None
    }  # fmt: skip
    bounds = arguments.get("cu_seqlens")
    bounds = [0, shape[0]] if bounds is None else bounds.tolist()
    results = [torch.zeros(shape[0], steps["rewards"].shape[1], dtype=torch.float64) for _ in range(outputs)]
    for column in range(steps["rewards"].shape[1]):
        for begin, end in itertools.pairwise(bounds):
            there = [t for t in range(begin, end) if "mask" not in steps or steps["mask"][t, column]]
            s = {name: [float(x[t, column]) for t in there] for name, x in steps.items() if name != "mask"}
            ended = [s.get(name, [0.0] * len(there)) for name in ("terminated", "truncated")]
            s.setdefault("next_values", [0.0] * len(there))
            s["g"] = [gamma * (1 - over) for gamma, over in zip(s["gamma"], ended[0], strict=True)]
            s["on"] = [not (a or b) and k < len(there) - 1 for k, (a, b) in enumerate(zip(*ended, strict=True))]
            if there:
                for result, numbers in zip(results, loop(s), strict=True):
                    result[there, column] = torch.tensor(numbers, dtype=torch.float64)
    return [x.reshape(shape).movedim(0, time_dim) for x in results]


def _linear(inputs: Tensor, coefficients: Any, reverse: bool = True, time_dim: int = 0) -> list[Tensor]:
    x = inputs.movedim(time_dim, 0)
    a = torch.as_tensor(coefficients, dtype=torch.float64).expand(inputs.shape).movedim(time_dim, 0)
    y, state = torch.zeros_like(x), torch.zeros_like(x[0])
    for t in reversed(range(len(x))) if reverse else range(len(x)):
        state = y[t] = x[t] + a[t] * state
    return [y.movedim(0, time_dim)]


LOOPS: dict[str, Callable[..., Any]] = {
    "rl.discounted_returns": lambda: _discounted,
    "rl.lambda_returns": lambda: _lambda,
    "rl.gae": lambda: _gae,
    "rl.n_step_returns": _n_step,
    "rl.td_lambda": lambda: lambda s: [[g - v for g, v in zip(_lambda(s)[0], s["values"], strict=True)]],
    "rl.vtrace": lambda rho_bar=1.0, c_bar=1.0, pg_rho_bar=1.0: _vtrace(rho_bar, c_bar, pg_rho_bar),
    "rl.retrace": lambda c_bar=1.0: _corrected(lambda s, k: s["lambda_"][k] * min(c_bar, s["ratios"][k])),
    "rl.tree_backup": lambda: _corrected(lambda s, k: s["lambda_"][k] * s["probabilities"][k]),
    "rl.q_lambda": lambda: _corrected(lambda s, k: s["lambda_"][k]),
    "rl.upgo": lambda: _corrected(_went_up),
}


def by_loops(case: Case, arguments: Arguments) -> list[Tensor]:
    """What a case's function gives, of arguments in float64."""
    if case.name == "rl.linear_scan":
        return _linear(**arguments, **case.options)
    options = dict(case.options)
    time_dim = options.pop("time_dim", 0)
    given = {name: case.parameters[name].default for name in ("gamma", "lambda_") if name in case.parameters}
    given |= {name: options.pop(name) for name in ("gamma", "lambda_") if name in options} | arguments
    outputs = 2 if case.name in ("rl.gae", "rl.vtrace") else 1
    return _by_sequence(LOOPS[case.name](**options), outputs, given, time_dim)


# ------------------------------------------------------------------------------------------ cases


def _inputs(generator: torch.Generator, shape: Shape) -> Arguments:
    return {"inputs": normal(generator, *shape), "coefficients": normal(generator, *shape, scale=0.7)}


def _of(
    name: str, operands: tuple[str, ...], rates: tuple[str, ...], *differentiable: str, **options: Any
) -> list[Case]:
    build = _trajectories(*operands)
    skeleton = None if name in ("n_step_returns", "td_lambda") else "scan"

    def case(variant: str, build: Build, shape: Shape, more: tuple[str, ...] = (), **others: Any) -> Case:
        return Case(
            f"rl.{name}", build, shape, (*differentiable, *more), skeleton, variant, {**options, **others},
            reductions=("none",),
        )  # fmt: skip

    by_rates = rates if name in ("discounted_returns", "lambda_returns", "n_step_returns") else ()
    return [
        case("", build, SHAPE),
        case("everything", _everything(build, *rates), (6, 9, 3), by_rates, time_dim=1),
        case("packed", _packed(build), (23,)),
    ]


_OPERANDS = ("rewards", "values", "next_values")
_BOTH = ("gamma", "lambda_")
CASES = [
    *_of("gae", _OPERANDS, _BOTH),
    *_of("discounted_returns", ("rewards", "next_values"), ("gamma",), "rewards", "next_values"),
    *_of("lambda_returns", ("rewards", "next_values"), _BOTH, "rewards", "next_values"),
    *_of("n_step_returns", ("rewards", "next_values"), ("gamma",), "rewards", "next_values", n=3),
    *_of("td_lambda", _OPERANDS, _BOTH, "values"),
    *_of("vtrace", (*_OPERANDS, "ratios"), _BOTH, rho_bar=1.3, c_bar=0.9, pg_rho_bar=1.1),
    *_of("retrace", (*_OPERANDS, "ratios"), _BOTH, lambda_=0.9, c_bar=1.2)[:1],
    *_of("retrace", (*_OPERANDS, "ratios"), _BOTH)[1:],
    *_of("tree_backup", (*_OPERANDS, "probabilities"), _BOTH),
    *_of("q_lambda", _OPERANDS, _BOTH),
    *_of("upgo", _OPERANDS, ("gamma",)),
    Case("rl.linear_scan", _inputs, SHAPE, ("inputs", "coefficients"), "scan", reductions=("none",)),
    Case(
        "rl.linear_scan", _inputs, (4, 21, 2), ("inputs", "coefficients"), "scan", "forward",
        {"reverse": False, "time_dim": 1}, reductions=("none",),
    ),
]  # fmt: skip
