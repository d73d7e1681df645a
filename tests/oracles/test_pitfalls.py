"""What `checked` warns of: each mistake, with its remedy, and nothing else; the loss is what it was."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from support import generator

import fastloss
from fastloss import PitfallWarning, checked

TRIPLETS = ("batch_hard_triplet_loss", "semi_hard_triplet_loss")


def _told(call: Any, *args: Any, times: int = 1, **kwargs: Any) -> list[str]:
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        for _ in range(times):
            call(*args, **kwargs)
    assert all(w.category is PitfallWarning and w.filename == __file__ for w in found)
    return [str(w.message) for w in found]


@pytest.mark.parametrize(
    "mse", [fastloss.mse_loss, F.mse_loss, fastloss.MSELoss(reduction="sum")], ids=["ours", "torch's", "Module"]
)
def test_the_squared_error_of_probabilities_is_told(mse) -> None:
    g = generator("squares")
    logits, target = torch.randn(8, 5, generator=g), F.one_hot(torch.randint(5, (8,), generator=g), 5).float()
    for probabilities in (logits.softmax(1), logits.sigmoid()):
        (line,) = _told(checked(mse), probabilities, target)
        assert line.endswith("Remedy: cross-entropy of the logits (fastloss.cross_entropy)")
    for input, other in (
        (logits, target), (logits.softmax(1), logits), (logits.sigmoid(), target * 0), (logits.sigmoid(), target * 0.9),
    ):  # fmt: skip
        assert not _told(checked(mse), input, other)


@pytest.mark.parametrize("name", TRIPLETS)
def test_a_batch_without_a_triplet_is_told(name: str) -> None:
    call = checked(getattr(fastloss, name))
    x = torch.randn(6, 4, generator=generator("triplets"))
    for labels in (torch.zeros(6, dtype=torch.long), torch.arange(6)):
        (line,) = _told(call, x, labels, margin=0.2)
        assert "several samples of each of several classes" in line
    assert not _told(call, x, torch.tensor([0, 0, 1, 2, 3, 4]), margin=0.2)


def test_easy_triplets_are_told() -> None:
    x = torch.randn(300, 4, generator=generator("easy"))
    assert _told(checked(fastloss.triplet_margin_loss, patience=1), x, x, x + 50)[0].startswith(
        "triplets taken at random"
    )
    far = torch.where(torch.arange(300)[:, None] < 6, x, x + 50)  # 2% of them are not
    assert not _told(checked(fastloss.triplet_margin_loss, patience=1), x, x, far)


def test_a_code_that_says_nothing_is_told_when_it_stays() -> None:
    x, small = torch.randn(8, 6), torch.full((8, 3), 1e-3)
    elbo = checked(fastloss.elbo_loss, patience=4)
    assert not _told(elbo, x, x, small, small, times=3)
    assert not _told(elbo, x, x, small + torch.tensor([0.0, 0.18, 0.0]), small)  # one dimension says something
    lines = _told(elbo, x, x, mu=small, logvar=small, times=9)
    assert len(lines) == 1 and "(posterior collapse). Remedy: raise the weight slowly from 0" in lines[0]


def test_rewards_without_a_divergence_are_told() -> None:
    logp, rewards = -torch.rand(4, 6), torch.randn(4, 6)
    for call in (
        lambda **how: checked(fastloss.alignment.grpo_loss)(logp, logp, rewards, **how),
        lambda **how: checked(fastloss.alignment.rlhf_loss)(logp, **{"ref_logp": logp, **how}, rewards=rewards),
    ):
        with pytest.warns(PitfallWarning, match="the divergence from the reference, in the loss or in the rewards"):
            call(beta=0.0)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            call(beta=0.1, ref_logp=logp)


def test_a_policy_that_is_sure_is_told() -> None:
    logits = torch.zeros(5, 3)
    logits[:, 0] = 20.0
    for call in (fastloss.rl.entropy_loss, fastloss.regularization.entropy):
        (line,) = _told(checked(call, patience=2), logits, times=2)
        assert "subtract a share of the policy's entropy from the loss" in line
    actions, advantages = torch.zeros(5, dtype=torch.long), torch.randn(5)
    loss = checked(fastloss.rl.policy_gradient_loss, patience=1)
    assert _told(loss, logits, actions, advantages)
    assert not _told(loss, logits, actions, advantages)  # once is enough
    logits[:, 2] = -torch.inf  # an action that is not there
    loss = checked(fastloss.rl.policy_gradient_loss, patience=1)
    assert _told(loss, logits, actions, advantages)
    unsure = torch.where(torch.arange(5)[:, None] < 1, torch.tensor([0.0, 0.0, -torch.inf]), logits)
    assert not _told(loss, unsure, actions, advantages)
    assert _told(loss, unsure, actions, advantages, mask=torch.arange(5) > 0)


def test_terms_of_different_size_are_told() -> None:
    terms = {"data": (F.mse_loss, 1.0), "penalty": (torch.Tensor.sum, 1e-12)}
    loss = checked(fastloss.compose.CompositeLoss(terms), patience=3)
    given = {"data": (torch.ones(3), torch.zeros(3)), "penalty": (torch.ones(3),)}
    assert not _told(loss, times=2, **given)
    lines = _told(loss, **given)
    assert lines[0].startswith("penalty is dead") and "scale it down" in lines[1]
    assert not _told(loss, **given) and loss(**given)[0].item() == pytest.approx(1.0)


def test_a_checked_loss_is_the_loss() -> None:
    x = torch.rand(6, generator=generator("same")).requires_grad_()
    target = torch.tensor([0.0, 1.0, 0.0, 1.0, 1.0, 0.0])
    with pytest.warns(PitfallWarning):
        loss = checked(fastloss.mse_loss)(x, target, reduction="sum")
    torch.testing.assert_close(loss, fastloss.mse_loss(x, target, reduction="sum"))
    assert torch.autograd.grad(loss, x)[0].ne(0).any()
    with pytest.raises(ValueError, match="labels"):
        checked(fastloss.batch_hard_triplet_loss)(torch.ones(3, 2), torch.ones(4, dtype=torch.long))
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # under torch.func there are no numbers to look at
        torch.func.vmap(checked(fastloss.mse_loss))(x.detach()[None], target[None])
    with pytest.raises(ValueError, match="no check for huber_loss; there are for mse_loss"):
        checked(fastloss.huber_loss)
