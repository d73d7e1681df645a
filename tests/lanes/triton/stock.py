"""Every loss on Triton's interpreter as it is installed, without the repairs of interpreter.py: what somebody without a
GPU gets who sets TRITON_INTERPRET=1. A script, because tests/conftest.py repairs; prints how many losses were right."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from cases import FUSED, one_of_each
from support import SEED, assert_close, compute, expected, generator

import fastloss


def main() -> None:
    warnings.simplefilter("ignore")  # of numpy, about lanes that are masked off
    right = 0
    for case in one_of_each(FUSED):
        arguments = case.make(generator(str(case)), dtype=torch.float32)
        value, gradients = expected(case, arguments, case.reduced)
        with fastloss.backend("triton"):
            found, of_arguments = compute(case, arguments, case.reduced)
        what = f"{case}, seed {SEED}"
        assert_close(found, value, torch.float32, what, case.magnitude)
        for name, gradient in of_arguments.items():
            assert_close(gradient, gradients[name], torch.float32, f"{what}, {name}", case.magnitude)
        right += 1
    print(f"{right} passed")


if __name__ == "__main__":
    main()
