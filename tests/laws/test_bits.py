"""The same call gives the same bits, on any number of threads, and changes nothing that it is given."""

from __future__ import annotations

import pytest
import torch
from cases import FUSED, Case
from support import Arguments, compute, each_backend, generator
from torch import Tensor

import fastloss

pytestmark = pytest.mark.usefixtures("small_tiles")


def sized(case: Case, device: str) -> Arguments:
    """Pointwise and outer losses with enough elements for several threads."""
    shape = {"pointwise": (28000, *case.shape[1:]), "outer": (150, *case.shape[1:])}.get(case.skeleton or "")
    if case.skeleton == "outer" and not case.batched:
        shape = None
    dtype = torch.float32 if torch.float32 in case.dtypes else torch.float64
    first = case.skeleton != "pointwise" or not case.variant
    return case.make(generator(str(case)), shape if first else None, dtype, device)


@each_backend
@pytest.mark.parametrize("case", FUSED, ids=str)
def test_the_same_input_gives_the_same_bits(case, backend, device):
    arguments = sized(case, device)
    threads, seen = torch.get_num_threads(), []
    with fastloss.backend(backend):
        try:
            # what torch multiplies, its library splits among its threads as it likes
            for count in (2, 1, 3) if case.skeleton in ("pointwise", "row", "outer") else (threads,) * 3:
                torch.set_num_threads(count)
                seen.append(compute(case, arguments, case.reduced))
        finally:
            torch.set_num_threads(threads)
    for value, gradients in seen[1:]:
        assert torch.equal(value, seen[0][0])
        assert all(torch.equal(gradient, seen[0][1][name]) for name, gradient in gradients.items())


@each_backend
@pytest.mark.parametrize("case", FUSED, ids=str)
def test_arguments_are_left_alone(case, backend, device):
    dtype = torch.float32 if torch.float32 in case.dtypes else torch.float64
    arguments = case.make(generator(str(case)), dtype=dtype, device=device)
    copies = {name: x.clone() for name, x in arguments.items() if isinstance(x, Tensor)}
    with fastloss.backend(backend):
        compute(case, arguments, case.reduced)
    assert all(torch.equal(arguments[name], copy) for name, copy in copies.items())
