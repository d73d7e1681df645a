"""Advantages against their definitions, a group at a time in plain Python, and against verl's own code."""

from __future__ import annotations

import itertools
from collections import defaultdict
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from oracles.peers import functions
from oracles.test_policy_losses import masked_functions
from support import generator
from torch import Tensor

from fastloss import alignment

SIZE = 4
COUNT = 5 * SIZE


def rewards(name: str, *shape: int) -> Tensor:
    return torch.randn(shape or (COUNT,), generator=generator(name), dtype=torch.float64)


def groups(r: Tensor) -> list[list[float]]:
    return r.view(-1, SIZE).tolist()


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


def deviation(values: list[float]) -> float:
    return (sum((x - mean(values)) ** 2 for x in values) / (len(values) - 1)) ** 0.5


def close(found: Tensor, expected: list[float] | Tensor) -> None:
    expected = torch.as_tensor(expected, dtype=found.dtype)
    torch.testing.assert_close(found, expected.view(found.shape), rtol=1e-12, atol=1e-12)


# ------------------------------------------------------------------------------------------ definitions


@pytest.mark.parametrize("scale", ["group", "batch", "none"])
def test_grpo_advantages(scale):
    r = rewards("grpo")
    by = {"group": deviation, "batch": lambda _: deviation(r.tolist()), "none": lambda _: 1.0 - 1e-4}[scale]
    expected = [(x - mean(group)) / (by(group) + 1e-4) for group in groups(r) for x in group]
    close(alignment.grpo_advantages(r, SIZE, scale_rewards=scale), expected)


def test_rloo_advantages():
    r = rewards("rloo")
    expected = [x - mean([*group[:k], *group[k + 1 :]]) for group in groups(r) for k, x in enumerate(group)]
    close(alignment.rloo_advantages(r, SIZE), expected)


def test_opo_advantages():
    r, lengths = rewards("opo"), torch.randint(1, 50, (COUNT,), generator=generator("lengths"))
    expected = []
    for group, sizes in zip(groups(r), lengths.view(-1, SIZE).tolist(), strict=True):
        baseline = sum(x * n for x, n in zip(group, sizes, strict=True)) / sum(sizes)
        expected += [x - baseline for x in group]
    close(alignment.opo_advantages(r, lengths, SIZE), expected)


def test_gdpo_advantages():
    r, weights = rewards("gdpo", COUNT, 3), torch.tensor([1.0, 0.5, 2.0], dtype=torch.float64)
    of_each = [
        [(x - mean(group)) / (deviation(group) + 1e-4) for group in groups(column) for x in group] for column in r.T
    ]
    score = [sum(w * x for w, x in zip(weights.tolist(), row, strict=True)) for row in zip(*of_each, strict=True)]
    expected = [(x - mean(score)) / (deviation(score) + 1e-4) for x in score]
    close(alignment.gdpo_advantages(r, SIZE, weights=weights), expected)


@pytest.mark.parametrize("k", [2, 3, 4])
@pytest.mark.parametrize("ties", [False, True])
def test_pass_at_k_advantages(k, ties):
    r = rewards("pass").round() if ties else rewards("pass")
    expected = []
    for group in groups(r):
        subsets = list(itertools.combinations(range(SIZE), k))
        for i in range(SIZE):
            leads = [max(group[j] for j in s) - max(group[j] for j in s if j != i) for s in subsets if i in s]
            expected.append(sum(leads) / len(subsets))
    close(alignment.pass_at_k_advantages(r, SIZE, k=k), expected)


@pytest.mark.parametrize("gamma", [1.0, 0.9])
def test_reinforce_plus_plus_advantages(gamma):
    """A token that is masked out is skipped, whatever it holds; the length is no power of two."""
    r = rewards("tokens", 6, 11)
    mask = torch.rand(6, 11, generator=generator("mask")) < 0.7
    returns = torch.zeros_like(r)
    for i, row in enumerate(r.tolist()):
        running = 0.0
        for t in reversed(range(11)):
            if mask[i, t]:
                returns[i, t] = running = row[t] + gamma * running
    counted = returns[mask]
    expected = torch.zeros_like(r)
    expected[mask] = (counted - counted.mean()) / (counted.var() + 1e-8).sqrt()
    hidden = torch.where(mask, r, torch.nan)
    close(alignment.reinforce_plus_plus_advantages(hidden, mask=mask, gamma=gamma), expected)


def test_reinforce_plus_plus_advantages_with_the_baseline_of_a_group():
    r = rewards("baseline", COUNT, 7)
    mask = torch.arange(7) < torch.randint(1, 8, (COUNT, 1), generator=generator("lengths"))
    scores = torch.where(mask, r, 0).sum(1)
    centred = torch.tensor([x - mean(group) for group in groups(scores) for x in group], dtype=torch.float64)
    tokens = centred[:, None].expand(COUNT, 7)[mask]
    expected = torch.zeros_like(r)
    expected[mask] = (tokens - tokens.mean()) / (tokens.var() + 1e-8).sqrt()
    close(alignment.reinforce_plus_plus_advantages(r, SIZE, mask=mask), expected)


def test_remax_advantages():
    r, greedy = rewards("remax", 6, 5), rewards("greedy", 6)
    mask = torch.rand(6, 5, generator=generator("mask")) < 0.7
    expected = torch.stack([torch.where(mask, r, 0)[:, t:].sum(1) - greedy for t in range(5)], 1) * mask
    close(alignment.remax_advantages(torch.where(mask, r, torch.nan), greedy, mask=mask), expected)
    close(alignment.remax_advantages(r[:, 0], greedy), r[:, 0] - greedy)


# ------------------------------------------------------------------------------------------ laws

OF_GROUPS: dict[str, Any] = {
    "grpo": alignment.grpo_advantages,
    "rloo": alignment.rloo_advantages,
    "opo": lambda r, *a, **k: alignment.opo_advantages(r, torch.arange(1, len(r) + 1), *a, **k),
    "gdpo": lambda r, *a, **k: alignment.gdpo_advantages(r[:, None], *a, **k),
    "reinforce++": lambda r, *a, **k: alignment.reinforce_plus_plus_advantages(r[:, None], *a, **k)[:, 0],
}


@pytest.mark.parametrize("name", OF_GROUPS)
def test_groups_by_number_are_groups_by_size(name):
    """In any order, of any size; a group of one has nothing to be compared with."""
    advantages, r = OF_GROUPS[name], rewards(f"groups {name}")
    ids = torch.arange(COUNT) // SIZE
    order = torch.randperm(COUNT, generator=generator("order"))
    if name != "opo":  # whose lengths are by place
        close(advantages(r[order], group_ids=ids[order]), advantages(r, SIZE)[order])
    close(advantages(r, group_ids=ids), advantages(r, SIZE))
    if name in ("grpo", "rloo", "opo"):
        alone = advantages(r, group_ids=torch.arange(COUNT).clamp(max=COUNT - 2))
        assert (alone[: COUNT - 2] == 0).all() and (alone[COUNT - 2 :] != 0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_halves_are_computed_in_float32(dtype):
    r = rewards("halves").to(dtype)
    for name, advantages in OF_GROUPS.items():
        found = advantages(r, SIZE)
        assert found.dtype == dtype
        torch.testing.assert_close(found.double(), advantages(r.double(), SIZE), rtol=1e-2, atol=1e-3, msg=name)
    assert alignment.grpo_advantages(torch.tensor([1, 0]), 2).dtype == torch.float32


def test_advantages_are_constants_compile_and_take_nothing():
    r = rewards("constant").requires_grad_()
    for name, advantages in OF_GROUPS.items():
        assert not advantages(r, SIZE).requires_grad, name
        assert advantages(r[:0], SIZE).numel() == 0, name
    for name in ("grpo", "reinforce++"):
        compiled = torch.compile(OF_GROUPS[name], fullgraph=True, backend="eager")
        torch.testing.assert_close(compiled(r.detach(), SIZE), OF_GROUPS[name](r, SIZE))
    assert not alignment.pass_at_k_advantages(r, SIZE).requires_grad
    assert (alignment.grpo_advantages(torch.ones(8), 4) == 0).all()


@pytest.mark.parametrize(
    "call",
    [
        lambda r: alignment.grpo_advantages(r),
        lambda r: alignment.grpo_advantages(r, 3),
        lambda r: alignment.grpo_advantages(r, 4, group_ids=torch.arange(COUNT)),
        lambda r: alignment.grpo_advantages(r, group_ids=torch.arange(3)),
        lambda r: alignment.grpo_advantages(r, 4, scale_rewards="std"),
        lambda r: alignment.opo_advantages(r, torch.ones(3), 4),
        lambda r: alignment.remax_advantages(r, torch.ones(3)),
        lambda r: alignment.remax_advantages(r, r, mask=r),
        lambda r: alignment.gdpo_advantages(r, 4),
        lambda r: alignment.pass_at_k_advantages(r, 4, k=1),
        lambda r: alignment.pass_at_k_advantages(r, 4, scale_rewards="batch"),
        lambda r: alignment.reinforce_plus_plus_advantages(r.view(4, 5), mask=torch.ones(3, 5)),
    ],
)
def test_errors_of_advantages(call):
    with pytest.raises(ValueError, match=r"must|valid|does not broadcast"):
        call(rewards("errors"))


# ------------------------------------------------------------------------------------------ verl


def verl(name: str, r: Tensor, mask: Tensor, **more: Any) -> Tensor:
    module = functions(
        "verl", "trainer/ppo/core_algos.py", (name, "compute_grpo_outcome_advantage"), torch=torch,
        defaultdict=defaultdict, verl_F=masked_functions(),
    )  # fmt: skip
    return module[name](r.clone(), response_mask=mask, **more)[0]


def test_verl_advantages():
    mask = (torch.arange(7) < torch.randint(1, 8, (COUNT, 1), generator=generator("lengths"))).double()
    tokens = rewards("verl", COUNT, 7) * mask
    r, index = tokens.sum(1), [k // SIZE for k in range(COUNT)]
    in_groups = {"index": index, "epsilon": 1e-6, "config": {}}
    of_sequences = {
        "compute_grpo_outcome_advantage": alignment.grpo_advantages(r, SIZE, eps=1e-6),
        "compute_rloo_outcome_advantage": alignment.rloo_advantages(r, SIZE),
        "compute_opo_outcome_advantage": alignment.opo_advantages(r, mask.sum(1), SIZE),
        "compute_grpo_passk_outcome_advantage": alignment.pass_at_k_advantages(r, SIZE, scale_rewards="group"),
    }
    for name, ours in of_sequences.items():
        torch.testing.assert_close(ours[:, None] * mask, verl(name, tokens, mask, **in_groups), msg=name)
    baseline = verl("compute_reinforce_plus_plus_baseline_outcome_advantage", tokens, mask, **in_groups)
    torch.testing.assert_close(alignment.reinforce_plus_plus_advantages(tokens, SIZE, mask=mask), baseline)
    returns = verl("compute_reinforce_plus_plus_outcome_advantage", tokens, mask, config=SimpleNamespace(gamma=0.9))
    torch.testing.assert_close(alignment.reinforce_plus_plus_advantages(tokens, mask=mask, gamma=0.9), returns)
    greedy = rewards("greedy")
    theirs = verl("compute_remax_outcome_advantage", tokens, mask, reward_baselines=greedy)
    torch.testing.assert_close(alignment.remax_advantages(tokens, greedy, mask=mask), theirs)
