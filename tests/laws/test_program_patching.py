"""patch() breaks nothing that ran without it: pickles of torch's functions, torch.jit.script, programs."""

from __future__ import annotations

import copy
import functools
import pickle

import pytest
import torch
import torch.nn.functional as F

import fastloss
from fastloss.patching import _OURS

TORCHS = {name: getattr(F, name) for name in _OURS}


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("name", TORCHS)
def test_functions_pickle_while_patched(name, protocol):
    with fastloss.patched():
        data = pickle.dumps(functools.partial(TORCHS[name], reduction="sum"), protocol)
        assert b"fastloss" not in data
        assert pickle.loads(data).func is TORCHS[name]
        assert pickle.loads(pickle.dumps(getattr(F, name), protocol)) is getattr(fastloss, name)
    assert pickle.loads(data).func is TORCHS[name]


@pytest.mark.parametrize("name", TORCHS)
def test_script_compiles_what_it_compiled(name):
    def scripted() -> bool:
        try:
            torch.jit.script(getattr(F, name))
        except torch.jit.frontend.NotSupportedError:
            return False
        return True

    before = scripted()
    with fastloss.patched():
        assert scripted() == before


TENSORS = {
    "cross_entropy": (torch.randn(60, 80), torch.randint(80, (60,))),
    "gaussian_nll_loss": (torch.randn(60, 80), torch.randn(60, 80), torch.rand(60, 80) + 0.1),
    "margin_ranking_loss": (torch.randn(60, 80), torch.randn(60, 80), torch.randn(60, 80).sign()),
    "binary_cross_entropy": (torch.rand(60, 80), torch.rand(60, 80)),
    "linear_cross_entropy": (torch.randn(60, 8), torch.randn(80, 8), torch.randint(80, (60,))),
}  # larger than what "auto" leaves to torch


class ThirdParty(torch.nn.Module):
    """Torch's loss as other people's code has it: by name when it runs, and bound as an attribute."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name, self.bound = name, getattr(F, name)

    def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return getattr(F, self.name)(a, b) + self.bound(a, b)


class OfThree(ThirdParty):
    def forward(self, a: torch.Tensor, b: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
        return getattr(F, self.name)(a, b, c) + self.bound(a, b, c)


PROGRAMS = {
    "torch.jit.trace": lambda model, tensors: torch.jit.trace(model, tensors, check_trace=False),
    "torch.fx.symbolic_trace": lambda model, tensors: torch.fx.symbolic_trace(model),
    "torch.export": lambda model, tensors: torch.export.export(model, tensors, strict=False).module(),
    "copy.deepcopy": lambda model, tensors: copy.deepcopy(model),
    "pickle": lambda model, tensors: pickle.loads(pickle.dumps(model)),
}


@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize("name", TORCHS)
def test_programs_of_third_party_code_are_as_they_were(name, program):
    tensors = TENSORS.get(name, (torch.randn(60, 80), torch.rand(60, 80)))
    if (name, program) == ("gaussian_nll_loss", "torch.export"):
        pytest.skip("torch's own looks at its data")
    model = (OfThree if len(tensors) == 3 else ThirdParty)(name)
    before = PROGRAMS[program](model, tensors)(*tensors)
    with fastloss.patched():
        after = PROGRAMS[program](model, tensors)(*tensors)
    torch.testing.assert_close(after, before)
