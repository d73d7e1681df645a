"""Every loss that torch has is here, under its name, with its arguments; torch's own modules say which those are."""

from __future__ import annotations

import copy
import inspect
import io
import pickle
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch.nn.modules import loss as torchs_modules

import fastloss
from fastloss.core import torch_losses

FUNCTIONS = [
    name
    for name, function in vars(F).items()
    if inspect.isfunction(function)
    and function.__module__ == F.__name__
    and not name.startswith("_")
    and "reduction" in inspect.signature(function).parameters
]
MODULES = [*torchs_modules.__all__, "AdaptiveLogSoftmaxWithLoss"]
OURS = [
    name
    for name in torchs_modules.__all__
    if hasattr(fastloss.nn, name) and getattr(fastloss.nn, name) is not getattr(torchs_modules, name)
]
OPTIONS: dict[str, dict[str, Any]] = {
    "BCELoss": {"weight": torch.tensor([0.5, 2.0, 1.0])},
    "BCEWithLogitsLoss": {"weight": torch.tensor([0.5, 2.0, 1.0]), "pos_weight": torch.tensor([3.0, 1.0, 0.5])},
    "CrossEntropyLoss": {"weight": torch.tensor([0.5, 2.0, 1.0]), "ignore_index": 1, "label_smoothing": 0.1},
    "GaussianNLLLoss": {"full": True, "eps": 0.5},
    "HingeEmbeddingLoss": {"margin": 0.3},
    "HuberLoss": {"delta": 0.5},
    "KLDivLoss": {"log_target": True},
    "LinearCrossEntropyLoss": {"in_features": 4, "num_classes": 3},
    "MarginRankingLoss": {"margin": 0.3},
    "PoissonNLLLoss": {"log_input": False, "full": True},
    "SmoothL1Loss": {"beta": 0.3},
}


def test_introspection_finds_losses():
    assert {"cross_entropy", "kl_div", "ctc_loss", "mse_loss", "triplet_margin_with_distance_loss"} <= set(FUNCTIONS)
    assert set(torch_losses.__all__) <= set(FUNCTIONS)
    assert {"CTCLoss", "NLLLoss2d", "MSELoss"} <= set(MODULES)
    assert {"MSELoss", "CrossEntropyLoss", "KLDivLoss"} <= set(OURS)


def assert_signature(ours: Any, torchs: Any) -> None:
    """Torch's parameters, in torch's order; then extras, keyword-only."""
    mine, theirs = (list(inspect.signature(f).parameters.values()) for f in (ours, torchs))
    assert [(p.name, p.kind, p.default) for p in mine[: len(theirs)]] == [(p.name, p.kind, p.default) for p in theirs]
    for extra in mine[len(theirs) :]:
        assert extra.kind is inspect.Parameter.KEYWORD_ONLY and extra.default is not extra.empty, extra


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions(name):
    for namespace in (fastloss, fastloss.functional):
        assert name in namespace.__all__
        assert getattr(namespace, name) is getattr(fastloss.functional, name)
    assert_signature(getattr(fastloss.functional, name), getattr(F, name))
    fused = hasattr(getattr(fastloss.functional, name), "resolve")
    assert fused == hasattr(torch_losses, name), "the body of a fused loss calls torch's through torch_losses.py"
    assert fused or getattr(fastloss.functional, name) is getattr(F, name), "torch's own function, not a copy"


@pytest.mark.parametrize("name", MODULES)
def test_signatures_of_modules(name):
    torchs = getattr(torch.nn, name, None) or getattr(torchs_modules, name)
    for namespace in (fastloss, fastloss.nn):
        assert name in namespace.__all__
        assert getattr(namespace, name) is getattr(fastloss.nn, name)
    ours = getattr(fastloss.nn, name)
    assert issubclass(ours, torchs) or name == "LinearCrossEntropyLoss"  # torch before 2.13 has none
    assert_signature(ours, torchs)
    assert_signature(ours.forward, torchs.forward)


def test_one_namespace():
    """Whatever is in a submodule of losses that torch has, too, is in fastloss itself."""
    assert set(fastloss.functional.__all__) | set(fastloss.nn.__all__) <= set(fastloss.__all__)


def test_every_extra_of_a_function_is_one_of_its_module():
    ours = set(inspect.signature(fastloss.cross_entropy).parameters)
    assert ours - {"input", "target"} == set(inspect.signature(fastloss.CrossEntropyLoss).parameters)


@pytest.mark.parametrize("name", OURS)
def test_state_of_modules(name):
    """repr, state_dict both ways, deepcopy, pickle, torch.save, attributes, .to() of buffers: as torch's."""
    options = OPTIONS.get(name, {})
    torchs = getattr(torch.nn, name)(**options, reduction="sum")
    ours = getattr(fastloss.nn, name)(**options, reduction="sum")
    assert repr(ours) == repr(torchs) and ours.extra_repr() == torchs.extra_repr()
    assert repr(torch.nn.Sequential(ours)) == repr(torch.nn.Sequential(torchs))
    assert ours.reduction == "sum" and ours.training

    buffers = {key: torch.rand_like(x) for key, x in torchs.state_dict().items()}
    assert ours.state_dict().keys() == buffers.keys()
    assert [key for key, _ in ours.named_buffers()] == [key for key, _ in torchs.named_buffers()]
    torchs.load_state_dict(buffers)
    ours.load_state_dict(torchs.state_dict())
    torchs.load_state_dict(ours.state_dict())

    file = io.BytesIO()
    torch.save(ours, file)
    file.seek(0)
    copies = [copy.copy(ours), copy.deepcopy(ours), pickle.loads(pickle.dumps(ours))]
    copies.append(torch.load(file, weights_only=False))
    for other in copies:
        assert type(other) is type(ours)
        assert {k: v for k, v in vars(other).items() if k[0] != "_"} == {
            k: v for k, v in vars(ours).items() if k[0] != "_"
        }
        for key, value in buffers.items():
            assert torch.equal(other.state_dict()[key], value)

    ours.to(torch.float64)
    assert all(x.dtype == torch.float64 for x in ours.state_dict().values())
    ours.to("meta")
    assert all(x.is_meta for x in ours.state_dict().values())


def test_attributes_may_be_changed():
    """A Module passes on what its attributes are when it is called."""
    x, y = torch.randn(3, 4), torch.randn(3, 4)
    module = fastloss.HuberLoss()
    module.delta, module.reduction = 0.25, "sum"
    torch.testing.assert_close(module(x, y), F.huber_loss(x, y, reduction="sum", delta=0.25))
