"""Targets and advantages in expectation: all trajectories of a small decision process, by their probabilities."""

from __future__ import annotations

import itertools
from typing import Any, NamedTuple

import pytest
import torch
from support import BACKENDS, generator
from torch import Tensor

import fastloss
from fastloss import rl

STATES, ACTIONS, STEPS = 3, 2, 3  # in the last state an episode is over
END, GAMMA, NOWHERE = STATES - 1, 0.9, 1e6
STARTS = torch.arange(END)
every_way = pytest.mark.parametrize("way", ["reference", *(name for name, device in BACKENDS if device == "cpu")])


class Process(NamedTuple):
    moves: Tensor  # (S, A, S), the probabilities of the next states
    rewards: Tensor  # (S, A)
    learnt: Tensor  # (S, A), the policy whose values are learnt
    acted: Tensor  # (S, A), the one that acted

    @property
    def ratios(self) -> Tensor:
        return self.learnt / self.acted

    def worth(self, values: Tensor) -> Tensor:
        """(S, A): the reward, and the value of the next state if there is one."""
        return self.rewards + GAMMA * self.moves[..., :END] @ values[:END]

    def of_policy(self, policy: Tensor) -> tuple[Tensor, Tensor]:
        """Its values (S,) and action values (S, A), by a system of linear equations. Those of the end are wrong."""
        moves = torch.einsum("sa,sat->st", policy, self.moves)[:END, :END]
        gained = (policy * self.rewards).sum(1)[:END]
        values = torch.linalg.solve(torch.eye(END, dtype=torch.float64) - GAMMA * moves, gained)
        values = torch.cat([values, torch.tensor([NOWHERE], dtype=torch.float64)])
        return values, self.worth(values)


class Trajectories(NamedTuple):
    """All of them, N, and what the steps of each saw."""

    states: Tensor  # (STEPS + 1, N)
    actions: Tensor  # (STEPS, N)
    likely: Tensor  # (N,), the probability where all pairs of a state and an action are as likely a start

    def seen(self, table: Tensor) -> Tensor:
        """(STEPS, N), of a table of states, or of states and actions."""
        return table[self.states[:-1]] if table.dim() == 1 else table[self.states[:-1], self.actions]

    def after(self, table: Tensor) -> Tensor:
        return table[self.states[1:]]

    @property
    def terminated(self) -> Tensor:
        return self.states[1:] == END

    def expected(self, found: Tensor) -> Tensor:
        """(S, A): the mean of what is found of the first step, given its state and action."""
        place = self.states[0] * ACTIONS + self.actions[0]
        total, weight = torch.zeros(2, STATES * ACTIONS, dtype=torch.float64).index_add(
            1, place, torch.stack([self.likely * found[0], self.likely])
        )
        return (total / weight).view(STATES, ACTIONS)


def _process(name: str) -> Process:
    random = generator(name)

    def positive(*shape: int) -> Tensor:
        weights = 0.05 + torch.rand(shape, generator=random, dtype=torch.float64)
        return weights / weights.sum(-1, keepdim=True)

    rewards = torch.randn(STATES, ACTIONS, generator=random, dtype=torch.float64)
    return Process(positive(STATES, ACTIONS, STATES), rewards, *positive(2, STATES, ACTIONS))


def _trajectories(process: Process, policy: Tensor) -> Trajectories:
    step = list(itertools.product(range(ACTIONS), range(STATES)))
    rows = [(start, *itertools.chain(*way)) for start in range(STATES) for way in itertools.product(step, repeat=STEPS)]
    numbers = torch.tensor(rows).T
    states, actions = numbers[0::2], numbers[1::2]
    moved = process.moves[states[:-1], actions, states[1:]].prod(0)
    return Trajectories(states, actions, moved * policy[states[1:-1], actions[1:]].prod(0))


@every_way
def test_targets_of_a_policy_by_its_own_trajectories_are_its_values(way: str) -> None:
    process = _process("own")
    seen = _trajectories(process, process.learnt)
    values, q = process.of_policy(process.learnt)
    r, v, w = seen.seen(process.rewards), seen.seen(values), seen.after(values)
    ends: dict[str, Any] = {"terminated": seen.terminated, "gamma": GAMMA}
    with fastloss.backend(way):
        for lambda_ in (0.0, 0.6, 1.0):
            advantages, returns = rl.gae(r, v, w, lambda_=lambda_, **ends)
            targets = (returns, advantages + v, rl.lambda_returns(r, w, lambda_=lambda_, **ends))
            for found in targets:
                torch.testing.assert_close(seen.expected(found)[:END], q[:END], rtol=1e-9, atol=1e-9)
        found = [rl.discounted_returns(r, w, **ends), *(rl.n_step_returns(r, w, n=n, **ends) for n in (1, 2, 5))]
    for returns in found:
        torch.testing.assert_close(seen.expected(returns)[:END], q[:END], rtol=1e-9, atol=1e-9)


@every_way
@pytest.mark.parametrize(("rho_bar", "c_bar", "lambda_"), [(1.0, 1.0, 1.0), (0.7, 1.3, 0.8), (1e9, 0.4, 1.0)])
def test_the_fixed_point_of_vtrace_is_the_policy_between(
    way: str, rho_bar: float, c_bar: float, lambda_: float
) -> None:
    process = _process("vtrace")
    seen = _trajectories(process, process.acted)
    clipped = (rho_bar * process.acted).minimum(process.learnt)
    values, q = process.of_policy(clipped / clipped.sum(1, keepdim=True))
    with fastloss.backend(way):
        targets, advantages = rl.vtrace(
            seen.seen(process.rewards), seen.seen(values), seen.after(values), seen.seen(process.ratios),
            seen.terminated, gamma=GAMMA, lambda_=lambda_, rho_bar=rho_bar, c_bar=c_bar, pg_rho_bar=rho_bar,
        )  # fmt: skip
    of_state = (process.acted * seen.expected(targets)).sum(1)
    torch.testing.assert_close(of_state[:END], values[:END], rtol=1e-9, atol=1e-9)
    expected = process.ratios.clamp(max=rho_bar) * (q - values[:, None])
    torch.testing.assert_close(seen.expected(advantages)[:END], expected[:END], rtol=1e-9, atol=1e-9)


def _retraced(process: Process, seen: Trajectories, q: Tensor) -> dict[str, Tensor]:
    """(S, A) of each function, the expectation of its targets when the action values are q."""
    v = (process.learnt * q).sum(1)
    v[END] = NOWHERE
    r, of_action, w = seen.seen(process.rewards), seen.seen(q), seen.after(v)
    ratios, probabilities = seen.seen(process.ratios), seen.seen(process.learnt)
    ends: dict[str, Any] = {"terminated": seen.terminated, "gamma": GAMMA}
    found = {
        "retrace": rl.retrace(r, of_action, w, ratios, **ends),
        "retrace, bounds": rl.retrace(r, of_action, w, ratios, lambda_=0.7, c_bar=3.0, **ends),
        "tree backup": rl.tree_backup(r, of_action, w, probabilities, **ends),
        "Q(lambda)": rl.q_lambda(r, of_action, w, lambda_=0.9, **ends),
    }
    return {name: seen.expected(targets)[:END] for name, targets in found.items()}


@every_way
def test_retrace_contracts_to_the_values_of_the_policy_whoever_acted(way: str) -> None:
    """By gamma at least, with traces up to the ratio of the two policies; Q(lambda)'s are not."""
    process = _process("retrace")
    seen = _trajectories(process, process.acted)
    _, q = process.of_policy(process.learnt)
    away = torch.randn(q.shape, generator=generator("away"), dtype=torch.float64)
    with fastloss.backend(way):
        there, elsewhere = _retraced(process, seen, q), _retraced(process, seen, q + away)
    for name, targets in there.items():
        torch.testing.assert_close(targets, q[:END], rtol=1e-9, atol=1e-9, msg=name)
    one_step = process.worth((process.learnt * (q + away)).sum(1))[:END]
    for name, targets in elsewhere.items():
        assert (targets - one_step).abs().max() > 1e-6, f"{name} does not look further"
        if name != "Q(lambda)":
            left = (targets - q[:END]).abs().max() / away[:END].abs().max()
            assert left <= GAMMA * (1 + 1e-9), name


@every_way
def test_retrace_by_its_operator(way: str) -> None:
    """E[G] = r + gamma P (v + e), and e = E[c (G' - q)] of as many steps as are left: matrices instead of samples."""
    process = _process("operator")
    seen = _trajectories(process, process.acted)
    q = torch.randn(STATES, ACTIONS, generator=generator("any"), dtype=torch.float64)
    v = (process.learnt * q).sum(1)
    traces = {
        "retrace": process.ratios.clamp(max=1.0),
        "retrace, bounds": 0.7 * process.ratios.clamp(max=3.0),
        "tree backup": process.learnt,
        "Q(lambda)": torch.full_like(q, 0.9),
    }
    with fastloss.backend(way):
        found = _retraced(process, seen, q)
    for name, trace in traces.items():
        corrections = torch.zeros(STATES, dtype=torch.float64)
        for _ in range(STEPS):
            targets = process.worth(v + corrections)
            corrections = (process.acted * trace * (targets - q)).sum(1)
        torch.testing.assert_close(found[name], targets[:END], rtol=1e-9, atol=1e-9, msg=name)
