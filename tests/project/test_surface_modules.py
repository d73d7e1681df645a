"""Every Module is its function, divided between a constructor and a call; and the lists of names are the losses'."""

from __future__ import annotations

import copy
import importlib
import inspect
import pickle
import pkgutil
import subprocess
import sys
import typing
from pathlib import Path

import pytest
import torch
from cases import CASES, Case
from support import generator

import fastloss
import fastloss.losses
from fastloss.nn.base import FunctionLoss
from fastloss.nn.documentation import arguments, sections

ROOT = Path(__file__).parent.parent.parent
MODULES = {
    value.function: value
    for value in map(vars(fastloss.nn).get, fastloss.nn.__all__)
    if isinstance(value, type) and issubclass(value, FunctionLoss)
}
FILES = [
    importlib.import_module(info.name)
    for info in pkgutil.walk_packages(fastloss.losses.__path__, "fastloss.losses.")
    if not info.ispkg
]
LOSSES = [getattr(file, name) for file in FILES for name in file.__all__]
OF_FUNCTIONS = [
    case
    for case in CASES
    if case.loss in MODULES
    and case.name != "linear_cross_entropy"
    and not (case.drop_in and "weighted" in case.variant)
]


def test_every_loss_is_public_and_has_a_module():
    rooms = (fastloss.functional, fastloss.rl, fastloss.alignment)
    public = {getattr(room, name) for room in rooms for name in room.__all__}
    assert set(LOSSES) == {loss for loss in public if loss.__module__.startswith("fastloss.")}
    assert set(LOSSES) == set(MODULES)
    for module in (fastloss, fastloss.nn, *rooms):
        assert len(set(module.__all__)) == len(module.__all__)


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
        positional = [rest.pop(name) for name in parameters if name in rest and parameters[name].kind is not
                      inspect.Parameter.KEYWORD_ONLY]  # fmt: skip
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
