"""patch() breaks nothing that ran without it: pickles of torch's functions, torch.jit.script, programs."""

from __future__ import annotations

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
