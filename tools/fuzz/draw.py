"""A trial out of random numbers."""

from __future__ import annotations

import math
import random
from collections import defaultdict
from typing import Any

import torch
from cases import COMPOSED, FUSED, RETURNS, Case

from fastloss.core.arguments import Hyper
from fastloss.core.registry import LOSSES

from .arguments import LAYOUTS, NotBuilt, floating
from .calls import SLOW_TRANSFORMS, TRANSFORMS
from .trial import Trial

SIZES = (1, 1, 2, 2, 3, 4, 5, 7, 8, 13, 16, 17, 31, 33, 64, 67)
CLASSES = (1, 2, 3, 4, 5, 8, 9, 16, 17, 31, 37, 64, 129, 257, 1000, 2048, 2049)
DTYPES = ("float32", "float32", "float32", "float64", "bfloat16", "float16")
INTEGERS = ("int32", "int16", "int8", "uint8", "bool")
ORDINARY = ("nan", "-0.0", "0.0", "1.0", "-1.0", "subnormal")
SPECIAL = (*ORDINARY, "inf", "-inf", "least", "huge", "most", "1e4", "-1e4", "88", "-104")
OF_VECTORS = (*ORDINARY, "inf", "-inf")  # others cancel in squares of distances, or overflow there
WEIGHTS = ("weight", "weights", "alpha", "pos_weight", "tau")  # those have no meaning: 0 times them is in every loss
OPTIONAL = ("", "", "", "all", "nothing", "weights", "integers", "row", "misfit")
LARGEST = 6000  # elements, but in one of fifty

_KINDS = {"pointwise": 40, "row": 20, "linear": 6, "similarity": 6, "outer": 5, "": 18, "scan": 5}


def _by_kind() -> dict[str, dict[str, list[Case]]]:
    """kind -> name of the loss -> its cases: losses with many cases are drawn no more often than others."""
    found: dict[str, dict[str, list[Case]]] = defaultdict(lambda: defaultdict(list))
    for case in [*FUSED, *COMPOSED, *RETURNS]:
        found[case.skeleton or ""][case.name].append(case)
    return found


_CASES = _by_kind()


class Draw:
    def __init__(self, seed: int, only: str = "", slow: float = 0.0, special: float = 0.25) -> None:
        """
        Args:
            only: of the cases in whose name this is.
            slow: the share of trials that are compiled or exported, which takes seconds.
            special: the share of trials with NaN, infinities, subnormal and huge numbers among the others.
        """
        self.random = random.Random(seed)
        self.slow, self.of_special = slow, special
        self.only = [case for case in [*FUSED, *COMPOSED, *RETURNS] if only in str(case)] if only else []

    def sometimes(self, share: float) -> bool:
        return self.random.random() < share

    # -------------------------------------------------------------------------------------- what is called

    def case(self) -> Case:
        if self.only:
            return self.random.choice(self.only)
        (kind,) = self.random.choices(list(_KINDS), list(_KINDS.values()))
        return self.random.choice(self.random.choice(list(_CASES[kind].values())))

    def shape(self, case: Case) -> tuple[int, ...] | None:
        if self.sometimes(0.3):
            return None
        size = lambda: 0 if self.sometimes(0.01) else self.random.choice(SIZES)  # noqa: E731
        if case.skeleton == "pointwise":
            shape = tuple(size() for _ in range(self.random.choice((0, 1, 1, 2, 2, 2, 2, 3, 4, 5))))
        elif case.skeleton == "row":
            shape = (self.random.choice(CLASSES),)
            if len(case.shape) > 1 or self.sometimes(0.5):
                shape = (size(), *shape, *(self.random.choice(SIZES[:8]) for _ in case.shape[2:]))
            if len(shape) > 1 and self.sometimes(0.2):
                shape = (*shape, self.random.choice(SIZES))
        elif case.composed and self.sometimes(0.6):
            shape = case.with_batch(size()) if case.batched else case.shape
        else:
            shape = tuple(size() for _ in case.shape)
        most = LARGEST * 10 if self.sometimes(0.02) else LARGEST
        while math.prod(shape) > most:
            k = shape.index(max(shape))
            shape = (*shape[:k], max(1, shape[k] // 3), *shape[k + 1 :])
        return shape

    def number(self, value: Any, hyper: Hyper | None) -> Any:
        """Another number in place of an option: near it, anywhere in its domain, at an end of that, or beyond."""
        kind = self.random.random()
        if hyper is None:
            return self.random.choice((0.0, 0.5, 1.0, value * self.random.uniform(0.3, 3.0)))
        low, high = hyper.low, hyper.high
        if kind < 0.2:
            ends = [x for x in (low, high) if not x or 1e-20 < abs(x) < 1e30]  # 1 / 1e-30 is for few numbers
            return self.random.choice(ends or [0.0])
        if kind < 0.25:
            beyond = (low - 1.0, high + 1.0, math.nan, 1e-40)  # an infinite coefficient would multiply zeros
            return self.random.choice([x for x in beyond if not math.isinf(x)])
        if high <= 1.0:
            return self.random.uniform(max(low, -1.0), high)
        number = 10 ** self.random.uniform(-3, 2)
        number = -number if low < 0 and self.sometimes(0.3) else number
        return min(max(low, number), high)

    def options(self, case: Case, made: dict[str, Any]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        hypers = LOSSES[case.loss.__name__].parameters if case.loss.__name__ in LOSSES and case.skeleton else {}
        for name, parameter in case.parameters.items():
            value = case.options.get(name, parameter.default)
            hyper = hypers.get(name)
            if name in (case.reduction_argument, "mask", "normalizer", *made) or (hyper is not None and hyper.choices):
                continue
            if name == "return_terms" and self.sometimes(0.3):
                found[name] = True
            elif isinstance(value, bool) and self.sometimes(0.1):
                found[name] = not value
            elif type(value) in (int, float) and (hyper is not None or type(value) is float) and self.sometimes(0.15):
                found[name] = self.number(value, hyper)
        return found

    # -------------------------------------------------------------------------------------- with what

    def special(self, case: Case, names: list[str]) -> tuple[tuple[str, int, str], ...]:
        found = []
        for _ in range(self.random.choice((1, 1, 1, 2, 5))):
            name = self.random.choice(names)
            values = OF_VECTORS if case.skeleton in ("similarity", None) else SPECIAL
            value = self.random.choice(ORDINARY[1:] if name in WEIGHTS else values)
            if name in case.domain:
                value = str(float(self.random.choice(case.domain[name]))) if self.sometimes(0.8) else "-1.0"
            elif len(names) > 1 and name not in case.domain and self.sometimes(0.2):
                value = "as " + self.random.choice([other for other in names if other != name])
            found.append((name, self.random.randrange(10**6), value))
        return tuple(found)

    def trial(self) -> Trial:
        """NotBuilt: the case has no arguments of the shape that was drawn."""
        pick, case = self.random.choice, self.case()
        seed, shape = self.random.randrange(2**31), self.shape(case)
        try:  # small ones of the case's own shape, for their names
            made = case.build(torch.Generator().manual_seed(seed), shape or case.shape)
        except Exception as error:
            raise NotBuilt from error
        tensors = [name for name, x in made.items() if isinstance(x, torch.Tensor)]
        floats = [name for name in tensors if floating(made[name])]
        allowed = [str(dtype).removeprefix("torch.") for dtype in case.dtypes]
        fields: dict[str, Any] = {"dtype": pick([dtype for dtype in DTYPES if dtype in allowed])}
        if self.sometimes(0.15):
            fields["way"] = "auto"
        fields["reduction"] = pick(case.reductions)
        if self.sometimes(0.4):
            fields["options"] = self.options(case, made)
        if case.indices and self.sometimes(0.2):
            fields["dtypes"] = {pick(case.indices): pick(INTEGERS)}
        elif floats and self.sometimes(0.12):
            constants = [name for name in floats if name not in case.differentiable]
            if constants and self.sometimes(0.2):
                fields["dtypes"] = {pick(constants): pick(("int64", *INTEGERS))}
            else:
                fields["dtypes"] = {pick(floats): pick(DTYPES)}
        optional = {
            name: pick(("number", "zero", "")) if name == "normalizer" else pick(OPTIONAL)
            for name in case.optional
            if self.sometimes(0.25) and (name != "normalizer" or "mean" in fields["reduction"] or self.sometimes(0.1))
        }
        if optional:
            fields["optional"] = optional
            fields["hidden"] = self.sometimes(0.3)
        if case.skeleton == "pointwise" and tensors and self.sometimes(0.2):
            fields["narrow"] = {pick(tensors): pick(("row", "one row", "column", "number"))}
        if self.sometimes(0.35):
            chosen = tensors if self.sometimes(0.3) else [pick(tensors)] if tensors else []
            layout = pick(list(LAYOUTS))
            fields["layouts"] = {name: layout if self.sometimes(0.6) else pick(list(LAYOUTS)) for name in chosen}
        if floats and case.skeleton != "similarity" and self.sometimes(0.1):
            fields["scale"] = {pick(floats): pick((0.0, 1e-3, 10.0, 100.0, -1.0))}
        # Scans: the reference composes by doubling, and so multiplies an infinity that no step reaches by 0.
        if floats and case.skeleton != "scan" and self.sometimes(self.of_special):
            fields["special"] = self.special(case, floats)
        if case.differentiable and self.sometimes(0.2):
            count = self.random.randrange(len(case.differentiable) + 1)
            fields["wanted"] = tuple(self.random.sample(case.differentiable, count))
        fields["upstream"] = pick(("ones", "random", "random", "0.0", "1024.0", "-1.0"))
        if self.sometimes(self.slow):
            fields["transform"] = pick(SLOW_TRANSFORMS)
        elif self.sometimes(0.3):
            fields["transform"] = pick(TRANSFORMS)
        if fields.get("transform") in ("again", "twice"):  # which the logits overwritten do not allow
            fields["options"] = {name: x for name, x in fields.get("options", {}).items() if name != "inplace"}
        fields["tiles"] = case.skeleton in ("linear", "similarity", None) and self.sometimes(0.5)
        return Trial(str(case), seed, shape, **fields)
