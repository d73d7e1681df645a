"""What has to be true of a trial. One law, and how far numbers may be apart.

The backend's answer is the reference's: the same class of error, the same dtypes and shapes, and numbers that are near
those of the reference in float64, or near those of the reference in the trial's own dtype. The second is for what a
dtype decides: where it overflows, and which side of a kink a rounded number is on.

*Near* is one rounding of the result and 32 of the accumulator (as in tests/support.py), element by element. A number
that is farther off is held against what the reference itself loses: its error in the accumulator's dtype at the
arguments and at neighbours of them, which differ by a few roundings, and by how much the neighbours' own values differ.
A gradient p - 1, say, has the rounding of 1 in every implementation; at some of the neighbours the reference shows it.

Beside that: a second call has the bits of the first (by then it is one that is known, see fastloss/core/memo.py), no
argument has changed, and without gradients the value is the same.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from support import gradient_terms, to
from torch import Tensor

import fastloss

from .arguments import each, make
from .calls import FUNCTIONAL, Result, result
from .known import known
from .trial import Trial

NEIGHBOURS = (4, 32)  # of every trial with doubtful numbers; of those that are left
FACTOR = 4.0  # how much farther from float64 than the reference's worst of all neighbours
ROUNDINGS = 4.0  # by how many of the accumulator's a neighbour differs


class Failure(NamedTuple):
    kind: str  # shrinking keeps it
    text: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.text}"


class Verdict(NamedTuple):
    """What became of a trial: "agrees", "raises" (both do), "refused" (the kernels say why),
    "known" (a difference that stays), or "fails"."""

    outcome: str
    failure: Failure | None = None


AGREES, RAISES, REFUSED, EXPECTED = Verdict("agrees"), Verdict("raises"), Verdict("refused"), Verdict("known")


def _failed(kind: str, text: str) -> Verdict:
    return Verdict("fails", Failure(kind, text))


def attempt(trial: Trial, arguments: dict[str, Any], way: str, exact: bool = False, bent: Any = None) -> Any:
    """A Result, or the exception."""
    try:
        return result(trial, arguments, way, exact, bent)
    except Exception as error:  # of which class is what is compared
        return error


def accumulator(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


# ------------------------------------------------------------------------------------------ near


def precision(trial: Trial, got: Result, x: Tensor, arguments: dict[str, Any]) -> torch.dtype:
    """The coarsest dtype that a result has been rounded to on its way: its own, a half that autocast makes of what is
    multiplied, or that of a part of a composition, which knows its own operands only."""
    if "value" in got and torch.finfo(got["value"].dtype).eps > torch.finfo(x.dtype).eps:
        return got["value"].dtype  # its gradient came that way
    floats = {a.dtype for a in arguments.values() if isinstance(a, Tensor) and a.is_floating_point()}
    if x.dtype == torch.float64 and trial.of.skeleton != "pointwise" and floats - {torch.float64}:
        return torch.float32
    halves = trial.of.skeleton in ("linear", "similarity", None) or floats - {torch.float32, torch.float64}
    if trial.transform.startswith("autocast") and x.dtype == torch.float32 and halves:
        return getattr(torch, trial.transform.split()[1])
    return x.dtype


def bound(expected: Tensor, dtype: torch.dtype) -> Tensor:
    """How far a result in this dtype may be from a float64 number, if nothing cancels. Doubles are added up in doubles,
    some thousand in a row, each with the same rounding of 1 / N in it."""
    inner = torch.finfo(accumulator(dtype))
    rounding = torch.finfo(dtype).eps + (128 if dtype == torch.float64 and not expected.dim() else 32) * inner.eps
    return rounding * expected.abs() + torch.finfo(dtype).smallest_normal * torch.finfo(dtype).eps + 4 * inner.tiny


def near(actual: Tensor, expected: Tensor, allowed: Tensor, overflows: bool) -> Tensor:
    """Which elements are; NaN is near NaN, and an infinity near itself.

    Args:
        overflows: all arguments are finite. Then the order of operations decides whether what overflows comes out as
            an infinity or as the difference of two.
    """
    same = (actual == expected) | (actual.isnan() & expected.isnan())
    if overflows:
        same = same | ~(actual.isfinite() | expected.isfinite())
    return same | ((actual - expected).abs() <= allowed)


def _bending(dtype: torch.dtype, seed: int) -> Callable[[Tensor], Tensor]:
    """Changes numbers by a few roundings, of the same shape always in the same way."""

    def bent(x: Tensor) -> Tensor:
        if not x.is_floating_point():
            return x
        random = torch.Generator().manual_seed(seed)
        step = torch.rand(x.shape, generator=random, dtype=torch.float64) * 2 - 1
        return x.double() * (1 + ROUNDINGS * torch.finfo(dtype).eps * step)

    return bent


def lost(
    trial: Trial, arguments: dict[str, Any], exact: Result, coarse: dict[str, torch.dtype], count: int
) -> dict[str, Tensor]:
    """By name, how far from float64 the reference is in the accumulator's dtype, at neighbours of the arguments.

    Of doubles there is no finer dtype to compare with: they lose what float32 loses, in proportion.
    """
    dtypes = set(coarse.values())
    found = {name: torch.zeros_like(x) for name, x in exact.items()}
    for dtype in dtypes:
        inner = accumulator(dtype)
        ratio = torch.finfo(inner).eps / torch.finfo(torch.float32).eps
        for k in range(count):
            bent = _bending(torch.float32 if k % 2 else inner, trial.seed + k)
            moved = each(bent, arguments)
            share = ratio if k % 2 else 1.0
            single = to(moved, "cpu", torch.float32)
            here = attempt(trial, to(moved, "cpu", torch.float64), "reference", True, bent)
            there = attempt(trial, to(single, "cpu", torch.float64), "reference", True)
            rounded = attempt(trial, single, "reference", True)
            for name in (name for name, of in coarse.items() if of == dtype):
                parts = [(here, exact, share)]
                parts.append((rounded, there, ratio))
                for one, other, factor in parts:
                    if (
                        isinstance(one, Exception)
                        or isinstance(other, Exception)
                        or name not in one
                        or name not in other
                    ):
                        continue
                    error = (one[name].double() - other[name].double()).abs() * factor
                    found[name] = torch.maximum(found[name], error.nan_to_num(0.0, 0.0, 0.0))
    return found


def terms(trial: Trial, arguments: dict[str, Any], name: str) -> float:
    """The size of what a row's or a similarity's numbers are differences of: p and q in the gradient p - q. Neighbours
    do not show their rounding in a row of one class, nor where the reference happens to round both alike."""
    case, gradient = trial.of, name.startswith("gradient")
    size = 2.5 if trial.upstream == "random" else abs(float(trial.upstream.replace("ones", "1")))
    if case.skeleton == "similarity":
        rows = max(1, arguments[case.differentiable[0]].shape[0]) if arguments[case.differentiable[0]].dim() else 1
        if gradient:
            return size * case.magnitude / (rows if trial.how == "mean" else 1)
        return case.magnitude * {"none": len(arguments), "sum": rows}.get(trial.how, 1.0)
    if case.skeleton not in ("row", "linear", None) or not gradient:
        return 0.0
    for weight in ("weight", "alpha"):
        if isinstance(arguments.get(weight), Tensor) and arguments[weight].numel():
            size *= max(1.0, arguments[weight].double().abs().max().nan_to_num(1.0).item())
    size /= {**case.options, **trial.options}.get("temperature", 1.0)
    if case.skeleton is None:  # its parts are rows, mostly
        first = arguments[case.differentiable[0]]
        rows = first.shape[:1] if isinstance(first, Tensor) else ()
        return size * max(1.0, case.magnitude) / (max(1, *rows, 1) if "mean" in trial.how else 1)
    if case.skeleton == "linear":  # times what the logits were products of
        size *= max(1.0, *(_largest(arguments[x].double()).item() for x in ("input", "linear_weight")))
        return size / (max(1, arguments["target"].shape[0]) if trial.how == "mean" and arguments["target"].dim() else 1)
    return gradient_terms(arguments["input"], trial.how, size)


def summed(trial: Trial, arguments: dict[str, Any], name: str) -> Tensor | float:
    """The gradient of an operand that was broadcast is a sum of rounded terms: the sum of their sizes."""
    operand = arguments.get(name.removeprefix("gradient of "))
    if trial.of.skeleton != "pointwise" or not isinstance(operand, Tensor):
        return 0.0
    shape = torch.broadcast_shapes(*(x.shape for x in arguments.values() if isinstance(x, Tensor)))
    if operand.shape == shape:
        return 0.0
    wide = to(arguments, "cpu", torch.float64)
    whole = {key: x.expand(shape) if key in trial.leaves else x for key, x in wide.items()}
    found = attempt(trial, whole, "reference", True)
    if isinstance(found, Exception) or name not in found or found[name].shape != shape:
        return 0.0
    return found[name].abs().sum_to_size(operand.shape).nan_to_num(0.0, 0.0, 0.0)


class Numbers(NamedTuple):
    """A result, and what it may be near to, in float64."""

    actual: Tensor
    own: Tensor  # the reference's, of the same dtype
    right: Tensor  # that of float64
    dtype: torch.dtype  # the coarsest on the way
    result: torch.dtype
    overflows: bool  # all arguments are finite

    def good(self, more: Tensor | float = 0.0) -> Tensor:
        """Which elements are near enough.

        Args:
            more: beside the rounding of the result.
        """
        good = near(self.actual, self.right, bound(self.right, self.dtype) + more, self.overflows)
        if good.all():
            return good
        most = torch.finfo(accumulator(self.dtype)).max
        if self.overflows:  # close to what a dtype holds, the order of a sum and a factor decides
            good |= ~self.actual.isfinite() & (torch.maximum(self.right.abs(), self.own.abs()) > most / 1024)
            good |= ~(self.own.isfinite() | self.right.isfinite())  # both reach it on their way: inf * 0 is NaN
        rounded = self.right.to(self.result).double()  # which may have overflown
        good |= near(self.actual, rounded, bound(self.right, self.dtype) + more, self.overflows)
        return good | near(self.actual, self.own, bound(self.own, self.dtype) + more, self.overflows)


def compare(trial: Trial, arguments: dict[str, Any], got: Result, same: Result, exact: Result) -> Failure | None:
    finite = [bool(x.isfinite().all()) for x in arguments.values() if isinstance(x, Tensor) and x.is_floating_point()]
    doubtful: dict[str, Numbers] = {}
    for name, x in got.items():
        numbers = Numbers(
            x.double(), same[name].double(), exact[name].double(), precision(trial, got, x, arguments), x.dtype,
            all(finite),
        )  # fmt: skip
        if not numbers.good().all():
            doubtful[name] = numbers
    if not doubtful:
        return None
    nothing = [name for name, x in same.items() if name == "value" and not x.dim() and x.isnan()]
    for count in NEIGHBOURS:
        right = {name: numbers.right for name, numbers in doubtful.items()}
        loses = lost(trial, arguments, right, {name: numbers.dtype for name, numbers in doubtful.items()}, count)
        for name, numbers in list(doubtful.items()):
            inner = torch.finfo(accumulator(numbers.dtype)).eps
            more = FACTOR * loses[name] + 32 * inner * terms(trial, arguments, name)
            lost_by_exact = 8 * torch.finfo(torch.float64).eps  # what float64 says is rounded as well: 1 - p is 0
            more = more + 4 * inner * _largest(numbers.right)  # of an operation whose two sides nearly cancel
            more = more + lost_by_exact * torch.maximum(_largest(numbers.right), torch.tensor(1024.0))
            more = more + (torch.finfo(numbers.dtype).eps + 32 * inner) * summed(trial, arguments, name)
            if numbers.dtype.itemsize == 2 and trial.of.skeleton != "pointwise":  # rounds between its operations
                more = more + 2 * _largest(numbers.own - numbers.right)
            wrong = ~numbers.good(more)
            if not name.startswith("value"):
                wrong &= ~excused(trial, arguments, name, numbers, bool(nothing))
            if not wrong.any():
                del doubtful[name]
            elif count == NEIGHBOURS[-1]:
                return _far(name, numbers, wrong, more)
        if not doubtful:
            return None
    return None


def _largest(x: Tensor) -> Tensor:
    return x.abs().nan_to_num(0.0, 0.0, 0.0).amax()


def excused(trial: Trial, arguments: dict[str, Any], name: str, numbers: Numbers, nothing: bool) -> Tensor:
    """Which elements of a gradient may differ though they are not near.

    Args:
        nothing: the loss is NaN.
    """
    zero, skeleton = numbers.actual == 0, trial.of.skeleton
    excuses = torch.zeros_like(zero)
    if nothing:  # a mean of nothing: torch's gradient is NaN or 0 as it happens
        excuses |= zero | numbers.actual.isnan()
    if skeleton in ("row", "linear"):  # torch reads the NaN of rows that do not count; we do not
        excuses |= zero & numbers.own.isnan()
    if numbers.overflows:
        return excuses
    undefined = ~numbers.own.isfinite()
    if name.startswith("second"):  # of what is infinite
        return excuses | undefined | ~numbers.actual.isfinite()
    if skeleton == "linear":  # tanh' is 0 at infinity, and inf * 0 in torch
        excuses |= undefined
    if skeleton != "row" and skeleton != "pointwise":  # whether a product has a summand 0 * inf is the BLAS library's
        excuses |= (zero & numbers.own.isnan()) | (numbers.actual.isnan() & (numbers.own == 0))
    if skeleton in ("pointwise", None):  # a loss that is NaN has no derivative, an infinite one one of two
        plain = trial.but(transform="no_grad", reduction="none" if "none" in trial.of.reductions else trial.reduction)
        options = {key: x for key, x in trial.options.items() if key != "return_terms"}
        losses = attempt(plain.but(options=options), arguments, "reference")
        if not isinstance(losses, Exception):
            value = losses["value"]
            if value.shape == zero.shape:
                excuses |= value.isnan() | (value.isinf() & undefined)
            elif not value.isfinite().all():  # the operand is broadcast, or not of elements
                excuses |= undefined | value.isnan().any()
    return excuses


def _far(name: str, numbers: Numbers, wrong: Tensor, more: Tensor) -> Failure:
    (place, *_) = wrong.nonzero().tolist()
    actual, own, right = (x[tuple(place)].item() for x in numbers[:3])
    allowed = (bound(numbers.right, numbers.dtype) + more)[tuple(place)].item()
    kind = "value" if name.startswith("value") else "gradient"
    if not (math.isfinite(actual) and math.isfinite(right)):
        kind = f"non-finite {kind}"
    text = f"{name}{place}: {actual:.9g}, reference {own:.9g}, in float64 {right:.17g}; allowed {allowed:.3g}"
    return Failure(kind, f"{text}; {int(wrong.sum())} of {wrong.numel()} elements")


# ------------------------------------------------------------------------------------------ the law


def described(found: Result) -> dict[str, tuple[torch.dtype, torch.Size]]:
    return {name: (x.dtype, x.shape) for name, x in found.items()}


def check(trial: Trial) -> Verdict:
    """NotBuilt: there is no such call."""
    arguments = make(trial)
    copies = each(Tensor.clone, arguments)
    got = attempt(trial, arguments, trial.way)
    if isinstance(got, fastloss.BackendError):
        return REFUSED
    same = attempt(trial, arguments, "reference")
    if isinstance(same, RuntimeError) and "vmap" in trial.transform and not isinstance(got, Exception):
        same = attempt(trial, arguments, "reference", exact=True)  # torch has no rule for what the body does
    if isinstance(got, Exception) or isinstance(same, Exception):
        both = isinstance(got, Exception) and isinstance(same, Exception)
        if type(got) is type(same) or (both and trial.transform in FUNCTIONAL):  # torch.func has errors of its own
            return RAISES
        texts = [repr(x)[:300] if isinstance(x, Exception) else str(described(x)) for x in (got, same)]
        failure = Failure("error", f"{texts[0]}; the reference {texts[1]}")
        return EXPECTED if known(trial, "error") else Verdict("fails", failure)
    changed = _changed(arguments, copies)
    if changed:
        return _failed("changed", changed)
    if described(got) != described(same):
        return _failed("dtypes and shapes", f"{described(got)}, reference {described(same)}")
    again = attempt(trial, arguments, trial.way)
    if isinstance(again, Exception):
        return _failed("again", f"raises {again!r}")
    if not trial.tiles and (different := [name for name in got if not _same_bits(got[name], again[name])]):
        return _failed("bits", f"{different} differ in a second call")
    exact = attempt(trial, to(arguments, "cpu", torch.float64), "reference", exact=True)
    if isinstance(exact, Exception) or exact.keys() != got.keys():
        exact = same  # what float64 raises for a dtype may be another's number
    far = compare(trial, arguments, got, same, exact)
    if far:
        return EXPECTED if known(trial, far.kind) else Verdict("fails", far)
    return AGREES


def _same_bits(x: Tensor, y: Tensor) -> bool:
    return torch.equal(x, y) or bool(((x == y) | (x.isnan() & y.isnan())).all())


def _changed(arguments: dict[str, Any], copies: dict[str, Any]) -> str:
    names = [name for name, x in arguments.items() if isinstance(x, Tensor) and not _same_bits(x, copies[name])]
    return ", ".join(names)
