"""One call of a loss, as data: a trial. Equal trials make equal calls, in every process."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Mapping
from typing import Any

from cases import CASES, RETURNS, Case

BY_NAME = {str(case): case for case in [*CASES, *RETURNS]}


def _none() -> Any:
    return dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, eq=False)
class Trial:
    """The defaults are the simplest call: to shrink is to come back to them."""

    case: str  # as in tests/cases
    seed: int = 0  # of the numbers
    shape: tuple[int, ...] | None = None  # as `Case.shape`, which None stands for
    way: str = "cpu"  # backend
    reduction: str = ""  # "": the case's first one
    dtype: str = "float32"  # of floating arguments
    dtypes: Mapping[str, str] = _none()  # of arguments that have another one
    options: Mapping[str, Any] = _none()  # beside those of the case
    optional: Mapping[str, str] = _none()  # optional tensors: name -> kind
    narrow: Mapping[str, str] = _none()  # arguments that are broadcast: name -> which part there is
    layouts: Mapping[str, str] = _none()  # name -> how it lies
    scale: Mapping[str, float] = _none()  # what floating arguments are multiplied by
    special: tuple[tuple[str, int, str], ...] = ()  # (name, place, value)
    hidden: bool = False  # NaN where the mask takes a loss out
    wanted: tuple[str, ...] | None = None  # the arguments with a gradient; None: all that may have one
    upstream: str = "ones"
    transform: str = ""
    tiles: bool = False  # tiles so small that these shapes have several
    rounded: bool = False  # numbers of one digit

    @functools.cached_property
    def of(self) -> Case:
        return BY_NAME[self.case]

    @property
    def how(self) -> str:
        return self.reduction or self.of.reductions[0]

    @property
    def leaves(self) -> tuple[str, ...]:
        return self.of.differentiable if self.wanted is None else self.wanted

    def but(self, **changes: Any) -> Trial:
        return dataclasses.replace(self, **changes)

    def changed(self) -> dict[str, Any]:
        """The fields that are not the default."""
        fields, plain = vars(self), Trial(self.case)
        names = [field.name for field in dataclasses.fields(self)]
        return {name: fields[name] for name in names if name == "case" or fields[name] != getattr(plain, name)}

    def __str__(self) -> str:
        return json.dumps(self.changed())

    @classmethod
    def parse(cls, text: str) -> Trial:
        fields = json.loads(text)
        for name in ("shape", "wanted"):
            if fields.get(name) is not None:
                fields[name] = tuple(fields[name])
        fields["special"] = tuple(map(tuple, fields.get("special", ())))
        return cls(**fields)
