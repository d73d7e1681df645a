"""Every Module is its function, divided between a constructor and a call; and the lists of names are the losses'."""

from __future__ import annotations

import copy
import functools
import inspect
import itertools
import pickle
import pkgutil
import subprocess
import sys
import typing
from pathlib import Path

import pytest
import torch
from cases import CASES, NO_LOSSES, RETURNS, Case
from support import generator

import fastloss
from fastloss.catalog import TORCH
from fastloss.core.docstrings import arguments, sections
from fastloss.nn.base import FunctionLoss

ROOT = Path(__file__).parent.parent.parent
NOT_OF_ONE_FUNCTION = {"AdaptiveLogSoftmaxWithLoss", "NLLLoss2d"}
LOSSES = [loss for loss in fastloss.losses() if loss.family != TORCH]
MODULES = {loss.function: getattr(fastloss.nn, loss.module) for loss in LOSSES if loss.module}
OF_FUNCTIONS = [
    case
    for case in (*CASES, *RETURNS)
    if case.loss in MODULES
    and case.name != "linear_cross_entropy"
    and not (case.drop_in and "weighted" in case.variant)
]


def test_every_loss_is_public_and_has_a_module():
    """And the list has all of them: what is public of the files of losses, and all Modules."""
    packages = [info.name for info in pkgutil.iter_modules(fastloss.losses.__path__) if info.ispkg]
    rooms = [fastloss.functional, *(getattr(fastloss, name) for name in packages)]
    public = {getattr(room, name) for room in rooms for name in room.__all__}
    listed = {loss.function for loss in LOSSES}
    assert listed == {loss for loss in public if loss.__module__.startswith("fastloss.losses.")}
    assert len(listed) == len(LOSSES)
    assert all(functools.reduce(getattr, loss.name.split("."), fastloss) is loss.function for loss in LOSSES)
    no_losses = {functools.reduce(getattr, name.split("."), fastloss) for name in NO_LOSSES}
    assert listed - no_losses == set(MODULES)
    assert {loss.module for loss in fastloss.losses()} - {None} == set(fastloss.nn.__all__) - NOT_OF_ONE_FUNCTION
    for module in (fastloss, fastloss.nn, *rooms):
        assert len(set(module.__all__)) == len(module.__all__)


def test_what_the_list_says_of_a_loss():
    listed = {loss.name: loss for loss in fastloss.losses()}
    loss = listed["rl.ppo_clip_loss"]
    assert (loss.family, loss.sections, loss.module) == ("rl.policy", ("7.3",), "PPOClipLoss")
    assert "arXiv:1707.06347" in loss.source and "proximal policy" in loss.summary
    fused = ("reference", "cpu", "triton", "cuda")
    assert {loss.name for loss in listed.values() if loss.backends == fused} >= {"cross_entropy", "rl.gae"}
    for name, loss in listed.items():
        assert loss.source and loss.summary and not set("`\n") & set(loss.summary), name
        assert (loss.backends == fused) == hasattr(loss.function, "resolve")
    assert listed["ctc_loss"].module == "CTCLoss" and listed["vicreg_loss"].backends == ("composite",)


@pytest.mark.parametrize("case", OF_FUNCTIONS, ids=str)
def test_constructor_and_call_are_the_function(case: Case) -> None:
    """Also after a copy and a pickle."""
    cls = MODULES[case.loss]
    made = case.make(generator(str(case)))
    for how in case.reductions:
        expected = case.call(made, how)
        constructor = inspect.signature(cls).parameters
        given = {**made, **case.how(how)}
        # by name in the constructor; torch's PoissonNLLLoss has the name of a flag for its first argument
        settings = {name: value for name, value in given.items() if name in constructor}
        rest = {name: value for name, value in given.items() if name not in constructor}
        parameters = inspect.signature(case.loss).parameters
        names = [name for name, p in parameters.items() if p.kind is not p.KEYWORD_ONLY and name not in constructor]
        positional = [rest.pop(name) for name in itertools.takewhile(set(rest).__contains__, names)]
        module = cls(**settings)
        for again in (module, copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
            torch.testing.assert_close(again(*positional, **rest), expected, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("cls", MODULES.values(), ids=lambda cls: cls.__name__)
def test_a_module_takes_every_argument_of_its_function(cls: type) -> None:
    """Once, with the function's default; only torch's own Modules leave out what torch's do."""
    constructor, call = (dict(inspect.signature(f).parameters) for f in (cls, cls.forward))
    function = inspect.signature(cls.function).parameters
    if cls is fastloss.nn.LinearCrossEntropyLoss:
        return  # which has the weights of a layer in it
    if cls.__bases__ == (FunctionLoss,):
        assert {**constructor, **{k: v for k, v in call.items() if k != "self"}}.keys() == function.keys()
        assert not constructor.keys() & call.keys()
    for name, parameter in constructor.items():
        if name in function:
            assert parameter.default == function[name].default or name == "eps"
    typing.get_type_hints(cls.__init__)
    typing.get_type_hints(cls.forward)
    names = {name for section in ("Args", "Call") for group, _ in arguments(sections(cls.__doc__)[section])
             for name in group} if constructor else set()  # fmt: skip
    assert (constructor.keys() & function.keys()) <= names


def test_stubs():
    """The stubs are what tools/stubs.py writes now."""
    run = subprocess.run([sys.executable, ROOT / "tools" / "stubs.py", "--check"], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
