"""The decorator of losses that are made of others: dtypes, terms, what explain says."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import fastloss
from fastloss.core.composite import composite, elements, present


@composite()
def _doubled(input: Tensor, target: Tensor, *, reduction: str = "mean", mask=None, normalizer=None, return_terms=False):
    assert input.dtype in (torch.float32, torch.float64)
    assert not torch.is_autocast_enabled("cpu")
    input, target = present(input.shape, mask, normalizer, input, target)
    losses = fastloss.mse_loss(input, target, reduction="none")
    return elements(2 * losses, {"plain": losses})


@composite(calls_model=True)
def _of_model(model, input: Tensor, *, reduction: str = "mean"):
    return elements(model(input).float())


@composite()
def _of_many(parameters, *, scale: float = 1.0):
    return scale * torch.stack([x.square().sum() for x in parameters]).sum()


def test_a_composite_tells_its_parts() -> None:
    x, y = torch.randn(90, 80), torch.randn(90, 80)
    told = fastloss.explain(_doubled, x, y)
    assert (
        told.backend == "composite" and told.reason.startswith("mse_loss by ") and "the rest is torch's" in told.reason
    )
    with fastloss.backend("reference"):
        assert "mse_loss by reference (chosen explicitly)" in fastloss.explain(_doubled, x, y).reason
    told = fastloss.explain(_of_many, [x, y])
    assert told.backend == "reference" and "no part" in told.reason
    with pytest.raises(ValueError, match="does not broadcast"):
        fastloss.explain(_doubled, x, y, mask=torch.ones(3))


def test_a_composite_is_explained_without_being_computed() -> None:
    layer = torch.nn.BatchNorm1d(4)
    before = layer.running_mean.clone()
    state = torch.get_rng_state()
    fastloss.explain(_of_model, lambda x: layer(torch.nn.functional.dropout(x)), torch.randn(5, 4))
    assert torch.equal(layer.running_mean, before)
    torch.set_rng_state(state)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64], ids=str)
def test_a_composite_has_the_dtype_of_its_operands(dtype: torch.dtype) -> None:
    x, y = torch.randn(9, 8, dtype=dtype), torch.randn(9, 8, dtype=dtype)
    mask = torch.ones(9, 1, dtype=torch.float64)
    loss, terms = _doubled(x.requires_grad_(), y, mask=mask, return_terms=True)
    assert loss.dtype == terms["plain"].dtype == dtype
    assert terms["plain"].dim() == 0 and not terms["plain"].requires_grad
    torch.testing.assert_close(loss.detach(), 2 * terms["plain"])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert _doubled(x, y).dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert _of_many(iter([x, y])).dtype == dtype


@composite()
def _masked(input: Tensor, mask: Tensor | None = None, *, reduction: str = "mean"):
    (input,) = present(input.shape, mask, None, input)
    return elements(input)


def test_a_mask_is_a_mask_wherever_it_is() -> None:
    x, mask = torch.tensor([1.0, float("nan")]), torch.tensor([1.0, 0.0], dtype=torch.float64)
    for loss in (_masked(x, mask), _masked(x, mask=mask)):
        assert loss == 1 and loss.dtype == torch.float32


def test_a_model_is_called_as_the_caller_would() -> None:
    layer = torch.nn.Linear(4, 3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        seen = []
        loss = _of_model(lambda x: seen.append(layer(x)) or seen[-1], torch.randn(5, 4))
    assert seen[0].dtype == torch.bfloat16 and loss.dtype == torch.float32
    half = torch.randn(5, 4, dtype=torch.bfloat16)
    assert _of_model(layer.bfloat16(), half).dtype == torch.bfloat16
