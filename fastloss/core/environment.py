"""Every environment variable that fastloss reads when it runs; the build's own are in setup.py.

``python -m fastloss doctor`` prints them.
"""

from __future__ import annotations

import os
from typing import NamedTuple


class Choice(NamedTuple):
    """One of some words."""

    name: str
    values: tuple[str, ...]
    default: str
    meaning: str

    def read(self) -> str:
        """
        Raises:
            ValueError: for another word, which would else quietly be the default.
        """
        value = os.environ.get(self.name) or self.default
        if value != self.default and value not in self.values:
            raise ValueError(f"{self.name}: unknown value {value!r}; choose one of {', '.join(self.values)}")
        return value


class Flag(NamedTuple):
    """On or off; the default is off."""

    name: str
    meaning: str

    def read(self) -> bool:
        return os.environ.get(self.name, "").lower() in ("1", "true", "yes", "on", "y")  # as Triton reads its own


BACKEND = Choice(
    "FASTLOSS_BACKEND",
    ("auto", "reference", "cpu", "triton", "cuda"),
    "auto",
    "the backend of the whole process, where no `fastloss.backend` says otherwise; read at import",
)
CPU_CAPABILITY = Choice(
    "FASTLOSS_CPU_CAPABILITY",  # as in csrc/cpu/simd/isa.h
    ("baseline", "avx2", "avx512"),
    "the processor's best",
    "no better instruction set than this one; read at the first call",
)
STRICT = Flag("FASTLOSS_STRICT", "a binary that does not load is an error instead of one warning")
VALIDATE = Flag(
    "FASTLOSS_VALIDATE", "CUDA: class indices are checked before a launch (synchronises), for a readable `IndexError`"
)
INTERPRET = Flag(
    "TRITON_INTERPRET",
    "Triton's own: its kernels run in Triton's interpreter, and so on CPU tensors too; read at import",
)

VARIABLES = (BACKEND, CPU_CAPABILITY, STRICT, VALIDATE, INTERPRET)
