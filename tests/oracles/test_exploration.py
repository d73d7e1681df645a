"""What a visit is worth: pseudo-counts of models that count, the disagreement of ensembles, running statistics."""

from __future__ import annotations

import copy
import math
from decimal import Decimal, getcontext

import numpy as np
import pytest
import torch
from support import generator

from fastloss import rl


def test_pseudo_counts_of_a_model_that_counts_are_its_counts() -> None:
    """n visits, N of them here: N / n before another one, (N + 1) / (n + 1) after it."""
    total = torch.randint(2, 1000, (200,), generator=generator("visits")).double()
    counts = (total * torch.rand(200, generator=generator("share")).double()).floor()
    counts[0] = 0
    found = rl.pseudo_count((counts / total).log(), ((counts + 1) / (total + 1)).log())
    torch.testing.assert_close(found, counts, rtol=1e-9, atol=0)


def test_pseudo_counts_by_decimals_of_a_hundred_digits() -> None:
    getcontext().prec = 100
    for logp, gain in ((-3000.0, 0.125), (-0.5, 2.0**-20), (-1e-3, 2.0**-20), (-40.0, 39.0), (-700.0, 600.0)):
        before, after = Decimal(logp).exp(), Decimal(logp + gain).exp()
        expected = float(before * (1 - after) / (after - before))
        found = rl.pseudo_count(*torch.tensor([logp, logp + gain], dtype=torch.float64))
        assert math.isclose(found.item(), expected, rel_tol=1e-12), (logp, gain)


def test_pseudo_counts_at_the_edges() -> None:
    never, certain, half = -math.inf, 0.0, math.log(0.5)
    logp = torch.tensor([never, half, half, never, half, half]).requires_grad_()
    recoding = torch.tensor([half, half, never, never, certain, math.nan])
    found = rl.pseudo_count(logp, recoding)
    expected = torch.tensor([0.0, math.inf, math.inf, math.inf, 0.0, math.nan])
    torch.testing.assert_close(found, expected, equal_nan=True)
    assert not found.requires_grad
    bonus = rl.count_bonus(found)
    torch.testing.assert_close(bonus, torch.tensor([math.inf, 0.0, 0.0, 0.0, math.inf, math.nan]), equal_nan=True)
    assert rl.pseudo_count(logp[:, None].bfloat16(), recoding.bfloat16()).dtype == torch.bfloat16
    assert rl.pseudo_count(logp[:, None], recoding).shape == (6, 6)


@pytest.mark.parametrize("dim", [0, 1, -2])
def test_disagreement_is_the_variance_over_the_models(dim: int) -> None:
    predictions = torch.randn(5, 4, 3, 7, generator=generator("ensemble"), dtype=torch.float64).add(1e3)
    moved = predictions.movedim(0, dim).requires_grad_()
    found = rl.disagreement_bonus(moved, dim=dim)
    np.testing.assert_allclose(found.detach(), predictions.numpy().var(0).mean(-1), rtol=1e-9)
    (gradient,) = torch.autograd.grad(found.sum(), moved)
    expected = 2 * (predictions - predictions.mean(0)) / (5 * 7)
    torch.testing.assert_close(gradient.movedim(dim, 0), expected, rtol=1e-9, atol=1e-12)


def test_models_that_agree_are_worth_nothing() -> None:
    one = torch.randn(1, 6, 3, generator=generator("agree"))
    assert rl.disagreement_bonus(one.expand(4, 6, 3)).count_nonzero() == 0
    halves = torch.tensor([[300.0, 0.0], [-300.0, 0.0]]).half()  # a variance of 90000, which float16 does not have
    assert rl.disagreement_bonus(halves) == 45000
    assert rl.disagreement_bonus(one.expand(4, 6, 3).bfloat16()).dtype == torch.bfloat16
    integers = torch.tensor([[[1, 2]], [[4, 2]]])
    assert rl.disagreement_bonus(integers) == 1.125  # and not the integer below
    assert rl.disagreement_bonus(integers.to(torch.uint8)) == 1.125
    for bad, dim in ((torch.ones(3), 0), (torch.ones(3, 2), 1), (torch.ones(3, 2), -1), (torch.ones(1, 2), 0)):
        with pytest.raises(ValueError, match=r"predictions must be|two models"):
            rl.disagreement_bonus(bad, dim=dim)


def _batches(name: str, *sizes: int) -> list[torch.Tensor]:
    random = generator(name)
    return [1e3 + torch.randn(size, 3, generator=random, dtype=torch.float64) * (k + 1) for k, size in enumerate(sizes)]


def test_running_statistics_are_those_of_all_batches_at_once() -> None:
    batches = _batches("running", 7, 1, 0, 100, 3)
    scale, parts = rl.RunningMeanStd(3), [rl.RunningMeanStd((3,)) for _ in range(2)]
    for k, batch in enumerate(batches):
        scale.update(batch)
        parts[k % 2].update(batch)
    parts[0].merge(parts[1])
    seen = torch.cat(batches).numpy()
    for one in (scale, parts[0]):
        assert one.count == 111
        np.testing.assert_allclose(one.mean, seen.mean(0), rtol=1e-13)
        np.testing.assert_allclose(one.var, seen.var(0), rtol=1e-11)
    expected = ((seen - seen.mean(0)) / seen.std(0)).clip(-1.5, 1.5)
    scale.clip = 1.5
    np.testing.assert_allclose(scale(torch.from_numpy(seen)), expected, rtol=1e-7, atol=1e-9)
    scale.clip = None
    np.testing.assert_allclose(scale.inverse(scale(torch.from_numpy(seen))), seen, rtol=1e-13)


def test_running_statistics_are_gymnasiums() -> None:
    utils = pytest.importorskip("gymnasium.wrappers.utils", reason="gymnasium is not installed")
    theirs, ours = utils.RunningMeanStd(epsilon=1e-300, shape=(3,)), rl.RunningMeanStd(3)
    for batch in _batches("gymnasium", 5, 9, 2):
        theirs.update(batch.numpy())
        ours.update(batch)
    np.testing.assert_allclose(ours.mean, theirs.mean, rtol=1e-12)
    np.testing.assert_allclose(ours.var, theirs.var, rtol=1e-7)


def test_what_is_masked_out_is_not_in_the_running_statistics() -> None:
    (batch,) = _batches("masked", 12)
    mask = torch.rand(3, 4, generator=generator("mask")) < 0.5
    mask[0, 0], mask[0, 1] = True, False
    kept, holed = rl.RunningMeanStd(3), rl.RunningMeanStd(3)
    kept.update(batch.view(3, 4, 3)[mask])
    batch = torch.where(mask[..., None], batch.view(3, 4, 3), math.nan)
    for _ in range(2):
        holed.update(batch, mask=mask)
    assert holed.count == 2 * kept.count
    torch.testing.assert_close((holed.mean, holed.var), (kept.mean, kept.var))
    before = copy.deepcopy(holed.state_dict())
    holed.update(batch, mask=torch.zeros(4))
    torch.testing.assert_close(holed.state_dict(), before, rtol=0, atol=0)
    empty = rl.RunningMeanStd(3)
    empty.update(batch, mask=torch.zeros(4))
    torch.testing.assert_close(empty.state_dict(), rl.RunningMeanStd(3).state_dict(), rtol=0, atol=0)
    weighted, repeated = rl.RunningMeanStd(), rl.RunningMeanStd()
    weighted.update(torch.tensor([1.0, 4.0]), mask=torch.tensor([3, 1]))
    repeated.update(torch.tensor([1.0, 1.0, 1.0, 4.0]))
    torch.testing.assert_close(weighted.state_dict(), repeated.state_dict())


def test_scaling_leaves_the_running_statistics_alone() -> None:
    scale = rl.RunningMeanStd(clip=2.0, center=False)
    assert "clip=2.0" in repr(scale)
    x = torch.tensor([-3.0, 0.5], requires_grad=True)
    y = scale(x)  # before anything was seen: 1
    torch.testing.assert_close(y, torch.tensor([-2.0, 0.5]))
    scale.update(x)
    (gradient,) = torch.autograd.grad(y.sum(), x)  # an update in between is no error
    assert gradient.tolist() == [0.0, 1.0]
    rewards = torch.tensor([-1, 0, 4])
    bonus = scale(rewards)
    assert bonus.dtype == torch.float32 and torch.equal(bonus.sign(), rewards.sign().float())
    assert scale(rewards.bfloat16()).dtype == torch.bfloat16
    assert scale.inverse(rewards).dtype == torch.float32
    torch.testing.assert_close(scale.inverse(scale(0.5 * x)), 0.5 * x)
    restored = rl.RunningMeanStd(clip=2.0, center=False)
    restored.load_state_dict(scale.state_dict())
    assert torch.equal(restored(x), scale(x)) and restored.count == 2


def test_running_statistics_refuse_what_does_not_fit() -> None:
    for options, message in (({"clip": 0.0}, "clip"), ({"clip": math.nan}, "clip"), ({"eps": -1.0}, "eps")):
        with pytest.raises(ValueError, match=message):
            rl.RunningMeanStd(**options)
    scale = rl.RunningMeanStd((2, 3))
    for use in (scale, scale.update, scale.inverse):
        with pytest.raises(ValueError, match="does not end in"):
            use(torch.ones(5, 3))
    for mask in (torch.ones(4), torch.ones(1, 5)):
        with pytest.raises(ValueError, match="does not broadcast"):
            scale.update(torch.ones(5, 2, 3), mask=mask)
    with pytest.raises(ValueError, match="do not fit"):
        scale.merge(rl.RunningMeanStd(3))
    scale.half()
    for use, more in ((scale.update, torch.ones(5, 2, 3)), (scale.merge, rl.RunningMeanStd((2, 3)))):
        with pytest.raises(ValueError, match="stop counting"):
            use(more)
