"""Sums of losses: identities, closed forms, schedules at their ends."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from support import assert_close, generator

import fastloss
from fastloss import compose
from fastloss.compose import schedules


def test_a_composite_is_the_sum_of_its_terms() -> None:
    beta = schedules.Linear(0.0, 1.0, 4)
    loss = compose.CompositeLoss({"error": (fastloss.nn.HuberLoss(delta=0.5), 2.0), "kl": (fastloss.gaussian_kl, beta)})
    x, y = torch.randn(5, 3, requires_grad=True), torch.randn(5, 3)
    for step in range(6):
        total, terms = loss(error=(x, y), kl={"mu": x, "logvar": y})
        error, kl = F.huber_loss(x, y, delta=0.5), fastloss.gaussian_kl(x, y)
        torch.testing.assert_close(total, 2 * error + min(1.0, step / 4) * kl)
        torch.testing.assert_close(terms, {"error": error.detach(), "kl": kl.detach()})
        assert total.requires_grad and not terms["kl"].requires_grad
        loss.step()
    again = compose.CompositeLoss({"error": (fastloss.nn.HuberLoss(), 1.0), "kl": (fastloss.gaussian_kl, beta)})
    again.load_state_dict(loss.state_dict())
    assert again.steps == 6 and again.weight("kl") == 1.0
    total, terms = loss(error=(x, y))
    assert terms.keys() == {"error"}
    for wrong in ({}, {"other": (x,)}):
        with pytest.raises(ValueError, match="the terms are"):
            loss(**wrong)


def test_schedules_at_their_ends_and_between() -> None:
    for schedule in (schedules.Linear, schedules.Cosine, schedules.Exponential):
        made = schedule(4.0, 1.0, 10)
        values = [made(step) for step in range(14)]
        assert values[0] == 4.0 and all(math.isclose(x, 1.0) for x in values[10:])
        assert all(a >= b for a, b in zip(values[:-1], values[1:], strict=True))  # noqa: RUF007
    assert math.isclose(schedules.Exponential(4.0, 1.0, 10)(5), 2.0)
    assert math.isclose(schedules.Cosine(4.0, 1.0, 10)(5), 2.5)
    cycle = schedules.Cyclical(0.0, 2.0, period=4, rising=0.5)
    assert [cycle(step) for step in range(6)] == [0.0, 1.0, 2.0, 2.0, 0.0, 1.0]


def test_uncertainties_are_least_where_they_are_the_errors() -> None:
    """d/ds of e^-s L + s is 0 at s = log L."""
    weighting = compose.UncertaintyWeighting(["a", "b"]).double()
    terms = {"a": torch.tensor(2.0).double(), "b": torch.tensor(0.3).double()}
    with torch.no_grad():
        weighting.log_variance.copy_(torch.tensor([2.0, 0.3]).double().log())
    (gradient,) = torch.autograd.grad(weighting(terms), weighting.log_variance)
    assert (gradient.abs() < 1e-7).all()


def test_norms_of_gradients_are_balanced() -> None:
    w = torch.tensor([1.0, 2.0], requires_grad=True)
    balance = compose.GradNorm(["a", "b"], alpha=0.0)
    optimizer = torch.optim.SGD([balance.weights], 0.02)
    for _ in range(200):
        terms = {"a": 3 * w[0], "b": 0.5 * w[1]}
        optimizer.zero_grad()
        balance.loss(terms, [w]).backward()
        optimizer.step()
        balance.renormalize()
    sizes = balance.weights.detach() * torch.tensor([3.0, 0.5])
    assert abs(sizes[0] / sizes[1] - 1) < 0.15 and abs(balance.weights.sum().item() - 2) < 1e-5
    assert balance(terms).grad_fn is not None and w.grad is None


def test_conflicts_are_projected_out() -> None:
    gradients = torch.randn(3, 6, generator=generator("conflicts"), dtype=torch.float64)
    gradients[1] = -gradients[0] + 0.1 * gradients[1]
    found = compose.PCGrad([]).projected(gradients[:2])
    assert (found @ gradients[:2].T).diagonal(offset=0).min() >= 0
    for i, j in ((0, 1), (1, 0)):
        assert abs(found[i] @ gradients[j]) < 1e-9
    harmless = torch.eye(3, dtype=torch.float64)
    assert torch.equal(compose.PCGrad([]).projected(harmless), harmless)
    w = torch.ones(2, requires_grad=True)
    unused = torch.ones(3, requires_grad=True)
    compose.PCGrad([w, unused]).backward([w.square().sum(), w.sum()])
    assert torch.equal(w.grad, torch.tensor([3.0, 3.0])) and (unused.grad == 0).all()


def test_means_of_what_counts() -> None:
    x = torch.tensor([[1.0, 2.0], [math.nan, 4.0]], requires_grad=True)
    mask = torch.tensor([[1, 1], [0, 1]])
    mean = compose.masked_mean(x, mask)
    mean.backward()
    assert_close(mean, torch.tensor(7 / 3, dtype=torch.float64), torch.float32)
    assert x.grad[1, 0] == 0
    rows = compose.masked_mean(x, torch.tensor([[1, 1], [0, 0]]), dim=1)
    assert rows.tolist() == [1.5, 0.0]
    with pytest.raises(ValueError, match="broadcast"):
        compose.masked_mean(x, torch.ones(3))
    assert compose.agg_loss(x, mask, aggregation="seq-mean-token-mean").item() == (1.5 + 4) / 2
    losses = torch.randn(4, 5, generator=generator("groups"), requires_grad=True)
    groups = torch.randint(3, (4, 5), generator=generator("ids"))
    means, sizes = compose.group_means(losses, groups, 4)
    for k in range(4):
        right = losses[groups == k].mean() if (groups == k).any() else torch.zeros(())
        torch.testing.assert_close(means[k], right)
        assert sizes[k] == (groups == k).sum()
    nested = compose.stop_gradient({"a": [x, 3], "b": (x,)})
    assert not nested["a"][0].requires_grad and nested["a"][1] == 3 and not nested["b"][0].requires_grad


def test_a_monitor_says_what_is_wrong_and_nothing_else() -> None:
    def told(**sizes: float) -> list[str]:
        monitor = compose.TermMonitor(patience=2, decay=0.5)
        for _ in range(2):
            assert not monitor.report()
            monitor.update({name: torch.tensor(x) for name, x in sizes.items()})
        return monitor.report()

    assert told(a=1.0, b=0.5) == []
    assert any(line.startswith("kl is dead") for line in told(recon=2.0, kl=0.0))
    assert any(line.startswith("recon dominates") for line in told(recon=1000.0, kl=1.0))
    assert any("times" in line for line in told(a=2000.0, b=1500.0, c=1.0))
    assert told(a=1.0, b=math.nan) == ["b is not finite"]


def test_loggers_get_numbers() -> None:
    calls = []
    terms = {"a": torch.tensor(2.0), "b": torch.tensor(3.0)}
    compose.log_terms(lambda *args, **kwargs: calls.append((args, kwargs)), terms, 5)
    compose.log_terms(lambda *args, **kwargs: calls.append((args, kwargs)), terms, 6, prefix="", by_name=False)
    assert calls == [(("loss/a", 2.0, 5), {}), (("loss/b", 3.0, 5), {}), (({"a": 2.0, "b": 3.0},), {"step": 6})]
