"""Losses of a softmax over classes against other libraries: values and gradients on the same inputs."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from support import assert_close, generator
from torch import Tensor

import fastloss

each_backend = pytest.mark.parametrize("backend", ["auto", "reference"])


def normal(name: str, *shape: int, scale: float = 1.0) -> Tensor:
    return scale * torch.randn(shape, generator=generator(name), dtype=torch.float64)


def compare(
    backend: str, ours: Callable[..., Tensor], theirs: Callable[..., Tensor], *tensors: Tensor, magnitude: float = 30.0
) -> None:
    leaves = [x.clone().requires_grad_() for x in tensors]
    with fastloss.backend(backend):
        value = ours(*leaves)
    expected = theirs(*leaves)
    assert_close(value, expected, torch.float64, "value", magnitude)
    gradients = torch.autograd.grad(value, leaves), torch.autograd.grad(expected, leaves)
    for actual, wanted in zip(*gradients, strict=True):
        assert_close(actual, wanted, torch.float64, "gradient", magnitude)


@each_backend
@pytest.mark.parametrize("name", ["ArcFaceLoss", "CosFaceLoss"])
def test_margins_of_pytorch_metric_learning(name: str, backend: str) -> None:
    losses = pytest.importorskip("pytorch_metric_learning.losses", reason="pytorch-metric-learning is not installed")
    x, weight = normal("embeddings", 12, 8), normal("weight", 7, 8)
    target = torch.arange(12) % 7
    margin = 28.6 if name == "ArcFaceLoss" else 0.35  # degrees
    module = getattr(losses, name)(7, 8, margin=margin, scale=16.0).double()
    module.W.requires_grad_(False)

    def theirs(x: Tensor, weight: Tensor) -> Tensor:
        del module.W
        module.W = weight.t()  # in the place of the Parameter, so that it is differentiated
        return module(x, target)

    def ours(x: Tensor, weight: Tensor) -> Tensor:
        if name == "ArcFaceLoss":
            return fastloss.arcface_loss(x, weight, target, s=16.0, m=math.radians(28.6))
        return fastloss.cosface_loss(x, weight, target, s=16.0, m=0.35)

    module.__dict__.pop("W", None)
    compare(backend, ours, theirs, x, weight, magnitude=1e3)  # theirs clamps the cosines at 1e-7 from their ends


@each_backend
@pytest.mark.parametrize("linear", [False, True], ids=["logits", "hidden states"])
def test_next_tokens_of_transformers(linear: bool, backend: str) -> None:
    loss_utils = pytest.importorskip("transformers.loss.loss_utils", reason="transformers is not installed")
    hidden, weight = normal("hidden", 2, 6, 8), normal("matrix", 11, 8)
    labels = torch.randint(11, (2, 6), generator=generator("labels"))
    labels[0, :3] = -100

    def theirs(hidden: Tensor, weight: Tensor) -> Tensor:
        logits = hidden @ weight.t()
        # transformers widens to float32, which is not what this test is about
        logits.float = lambda: logits  # type: ignore[method-assign]
        return loss_utils.ForCausalLMLoss(logits, labels, 11, num_items_in_batch=torch.tensor(13))

    def ours(hidden: Tensor, weight: Tensor) -> Tensor:
        if linear:
            return fastloss.lm_loss(hidden, labels, weight, num_items_in_batch=13)
        return fastloss.lm_loss(hidden @ weight.t(), labels, num_items_in_batch=13)

    compare(backend, ours, theirs, hidden, weight)


LIGER: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "dpo": ("LigerFusedLinearDPOLoss", {"beta": 0.2, "use_ref_model": True}, {"beta": 0.2}),
    "simpo": ("LigerFusedLinearSimPOLoss", {"beta": 0.2, "gamma": 0.5}, {"beta": 0.2, "gamma": 0.5}),
    "cpo": ("LigerFusedLinearCPOLoss", {"beta": 0.2, "alpha": 0.0}, {"beta": 0.2, "alpha": 0.0}),
    "orpo": ("LigerFusedLinearORPOLoss", {"beta": 0.2}, {"beta": 0.2}),
}


@each_backend
@pytest.mark.parametrize("name", LIGER)
def test_preferences_from_hidden_states_of_liger(name: str, backend: str) -> None:
    """Liger's chunked losses, which run in torch; without their cross-entropy of the chosen tokens."""
    chunked = pytest.importorskip("liger_kernel.chunked_loss", reason="liger-kernel is not installed")
    cls, theirs_options, ours_options = LIGER[name]
    hidden, weight, bias = normal("hidden", 6, 5, 8), normal("matrix", 11, 8), normal("bias", 11)
    labels = torch.randint(11, (6, 5), generator=generator("labels"))
    labels[:, :2] = -100
    references = normal("reference hidden", 6, 5, 8), normal("reference", 11, 8)
    loss = getattr(chunked, cls)(compiled=False, compute_nll_loss=False, **theirs_options)

    def theirs(hidden: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        given = {"ref_input": references[0], "ref_weight": references[1]} if name == "dpo" else {}
        return loss(weight, hidden, labels, bias, **given)[0]

    def ours(hidden: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        function = getattr(fastloss.alignment, f"linear_{name}_loss")
        given = ()
        if name == "dpo":
            given = fastloss.alignment.linear_sequence_logps(*references, labels).chunk(2)
        return function(hidden, weight, labels, *given, bias=bias, **ours_options)

    leaves = [x.float().requires_grad_() for x in (hidden, weight, bias)]
    references = tuple(x.float() for x in references)
    with fastloss.backend(backend):
        value = ours(*leaves)
    expected = theirs(*leaves)
    assert_close(value, expected.double(), torch.float32, "value", 100.0)
    for actual, wanted in zip(torch.autograd.grad(value, leaves), torch.autograd.grad(expected, leaves), strict=True):
        assert_close(actual, wanted.double(), torch.float32, "gradient", 100.0)


@each_backend
@pytest.mark.parametrize("beta", [0.0, 0.3, 1.0])
def test_gkd_by_its_formula(beta: float, backend: str) -> None:
    """Agarwal et al. 2023: of the mixture beta * teacher + (1 - beta) * student, by torch.distributions."""
    student, teacher = normal("student", 4, 9, scale=2.0), normal("teacher", 4, 9, scale=2.0)
    kl = torch.distributions.kl_divergence

    def theirs(student: Tensor) -> Tensor:
        s, t = (torch.distributions.Categorical(logits=x / 0.7) for x in (student, teacher))
        if beta in (0.0, 1.0):
            return (kl(s, t) if beta else kl(t, s)).mean()
        m = torch.distributions.Categorical(probs=beta * t.probs + (1 - beta) * s.probs)
        return (beta * kl(t, m) + (1 - beta) * kl(s, m)).mean()

    compare(backend, lambda x: fastloss.generalized_jsd_loss(x, teacher, beta=beta, temperature=0.7), theirs, student)


def test_projections_keep_mass_and_mean() -> None:
    """On a grid of uneven steps, by linear interpolation; beyond its ends all mass is at the end."""
    support = torch.tensor([-2.0, -0.5, 0.0, 3.0], dtype=torch.float64)
    atoms, probs = normal("atoms", 5, 7, scale=2.0), normal("probs", 5, 7).softmax(-1)
    projected = fastloss.rl.categorical_projection(atoms, probs, support)
    inside = atoms.clamp(-2.0, 3.0)
    assert_close(projected.sum(-1), torch.ones(5, dtype=torch.float64), torch.float64)
    assert_close(projected @ support, (probs * inside).sum(-1), torch.float64, "mean", 8.0)
    for values, weights in ((atoms[0], probs[0]), (support, torch.full((4,), 0.25, dtype=torch.float64))):
        columns = [np.interp(values, support, row) for row in np.eye(4)]
        wanted = torch.tensor(np.stack(columns, 1)).mul(weights[:, None]).sum(0)
        assert_close(fastloss.rl.categorical_projection(values, weights, support), wanted, torch.float64, "each")
    assert torch.equal(fastloss.rl.two_hot(support, support), torch.eye(4, dtype=torch.float64))
