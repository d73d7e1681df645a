"""Games against published numbers, recursion through the states, enumeration of pure strategies, and scipy."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from scipy.optimize import linprog
from support import generator

from fastloss import games

ROCK_PAPER_SCISSORS = torch.tensor([[0.0, -1.0, 1.0], [1.0, 0.0, -1.0], [-1.0, 1.0, 0.0]])
KUHN = games.SequenceForm(games.KuhnPoker())
LEDUC = games.SequenceForm(games.LeducPoker())


def _random_policy(form: games.SequenceForm, name: str) -> torch.Tensor:
    weights = torch.rand(form.legal.shape, generator=generator(name), dtype=torch.float64) * form.legal
    return weights / weights.sum(1, keepdim=True)


def _won(state, policy: dict[tuple[int, str], list[float]]) -> np.ndarray:
    """What each player wins, by recursion."""
    if state.is_terminal():
        return np.array(state.returns())
    if state.is_chance_node():
        return sum(p * _won(state.child(action), policy) for action, p in state.chance_outcomes())
    row = policy[state.current_player(), state.information_state_string()]
    return sum(row[action] * _won(state.child(action), policy) for action in state.legal_actions())


def _by_name(form: games.SequenceForm, policy: torch.Tensor) -> dict[tuple[int, str], list[float]]:
    return dict(zip(form.information_states, policy.tolist(), strict=True))


def test_the_published_numbers_of_the_uniform_policy() -> None:
    assert math.isclose(games.nash_conv(KUHN, KUHN.uniform()), 11 / 12, rel_tol=1e-12)
    assert math.isclose(games.exploitability(games.KuhnPoker(), KUHN.uniform()), 11 / 24, rel_tol=1e-12)
    assert math.isclose(games.nash_conv(LEDUC, LEDUC.uniform()), 4.747222, abs_tol=5e-7)
    assert math.isclose(games.exploitability(LEDUC, LEDUC.uniform()), 4.747222 / 2, abs_tol=5e-7)
    assert len(LEDUC.information_states) == 288


@pytest.mark.parametrize(("form", "game"), [(KUHN, games.KuhnPoker()), (LEDUC, games.LeducPoker())], ids=["k", "l"])
def test_values_are_those_of_a_recursion_through_the_states(form, game) -> None:
    policy = _random_policy(form, "recursion")
    response = games.best_response(form, policy)
    expected = _won(game.new_initial_state(), _by_name(form, policy))
    np.testing.assert_allclose(form.expected(form.plan(policy)), expected, atol=1e-12)
    for player in range(2):
        alone = torch.where(form.player[:, None] == player, response.policy, policy)
        won = _won(game.new_initial_state(), _by_name(form, alone))[player]
        np.testing.assert_allclose(response.values[player], won, atol=1e-12)
        np.testing.assert_allclose(response.improvements[player], won - expected[player], atol=1e-12)


def test_no_pure_strategy_is_better_than_the_best_response() -> None:
    policy = _random_policy(KUHN, "enumeration")
    values = games.best_response(KUHN, policy).values
    for player in range(2):
        rows = (KUHN.player == player).nonzero()[:, 0]
        best = -math.inf
        for choice in itertools.product([0, 1], repeat=len(rows)):
            pure = policy.clone()
            pure[rows] = torch.nn.functional.one_hot(torch.tensor(choice), 2).double()
            best = max(best, _won(games.KuhnPoker().new_initial_state(), _by_name(KUHN, pure))[player])
        assert math.isclose(values[player], best, abs_tol=1e-12)


def test_cfr_finds_the_value_of_kuhns_poker() -> None:
    policy = games.cfr(KUHN, iterations=600)
    assert games.exploitability(KUHN, policy) < 0.012
    assert math.isclose(KUHN.expected(KUHN.plan(policy))[0], -1 / 18, abs_tol=2e-3)
    named = _by_name(KUHN, policy)
    assert named[0, "2pb"][1] > 0.99 and named[0, "0pb"][1] < 0.01  # the king calls, the jack folds
    assert abs(named[0, "2"][1] - 3 * named[0, "0"][1]) < 0.1  # the king bets three times as often as the jack bluffs


def _cfr_by_recursion(game, iterations: int, plus: bool) -> dict[tuple[int, str], np.ndarray]:
    """Average policies, walking from state to state, with dictionaries."""
    regrets: dict[tuple[int, str], np.ndarray] = {}
    totals: dict[tuple[int, str], np.ndarray] = {}

    def strategy(name: tuple[int, str], legal: list[int]) -> np.ndarray:
        positive = np.maximum(regrets.setdefault(name, np.zeros(game.num_distinct_actions())), 0)
        uniform = np.isin(np.arange(len(positive)), legal).astype(float)
        weights = positive if positive.sum() > 0 else uniform
        return weights / weights.sum()

    def walk(state, reach: np.ndarray, moving: set[int], weight: int, gains: dict) -> np.ndarray:
        """`reach`: of each player, and of chance."""
        if state.is_terminal():
            return np.array(state.returns())
        if state.is_chance_node():
            with_chance = [(p, np.append(reach[:-1], reach[-1] * p), a) for a, p in state.chance_outcomes()]
            return sum(p * walk(state.child(a), further, moving, weight, gains) for p, further, a in with_chance)
        player, legal = state.current_player(), list(state.legal_actions())
        name = player, state.information_state_string()
        policy = strategy(name, legal)
        worth = {}
        for action in legal:
            further = reach.copy()
            further[player] *= policy[action]
            worth[action] = walk(state.child(action), further, moving, weight, gains)
        value = sum(policy[action] * worth[action] for action in legal)
        if player in moving:
            gain = gains.setdefault(name, np.zeros(len(policy)))
            for action in legal:
                gain[action] += np.delete(reach, player).prod() * (worth[action][player] - value[player])
            totals[name] = totals.get(name, 0) + weight * reach[player] * policy
        return value

    players = range(game.num_players())
    for t in range(1, iterations + 1):
        for moving in [{q} for q in players] if plus else [set(players)]:
            gains: dict[tuple[int, str], np.ndarray] = {}
            walk(game.new_initial_state(), np.ones(game.num_players() + 1), moving, t if plus else 1, gains)
            for name, gain in gains.items():
                regrets[name] = np.maximum(regrets[name] + gain, 0) if plus else regrets[name] + gain
    return {name: total / total.sum() if total.sum() > 0 else strategy(name, []) for name, total in totals.items()}


@pytest.mark.parametrize("plus", [False, True], ids=["cfr", "cfr+"])
@pytest.mark.parametrize(
    ("form", "game", "iterations"),
    [(KUHN, games.KuhnPoker(), 7), (LEDUC, games.LeducPoker(), 3)],
    ids=["kuhn", "leduc"],
)
def test_regret_minimisation_is_that_of_a_recursion_through_the_states(form, game, iterations, plus) -> None:
    expected = _cfr_by_recursion(game, iterations, plus)
    found = form.plan(games.cfr(form, iterations=iterations, plus=plus))
    by_rows = torch.tensor(np.array([expected[name] for name in form.information_states]))
    torch.testing.assert_close(found, form.plan(by_rows), rtol=0, atol=1e-12)


def test_cfr_plus_comes_nearer_in_fewer_iterations() -> None:
    for form, iterations, factor in ((KUHN, 200, 10), (LEDUC, 60, 4)):
        slow, fast = (games.cfr(form, iterations=iterations, plus=plus) for plus in (False, True))
        assert games.exploitability(form, fast) < games.exploitability(form, slow) / factor
    wins = torch.randn(6, 4, generator=generator("plus"), dtype=torch.float64)
    strategies = games.cfr(wins, iterations=2000, plus=True)
    assert games.exploitability(wins, strategies) < 0.01
    assert math.isclose(strategies[0] @ wins @ strategies[1], _scipys(wins.numpy()), abs_tol=0.02)
    with pytest.raises(ValueError, match="at least 1"):
        games.cfr(wins, iterations=0)


@pytest.mark.parametrize("name", ["kuhn_poker", "leduc_poker"])
def test_cfr_plus_is_that_of_open_spiel(name: str) -> None:
    pyspiel = pytest.importorskip("pyspiel", reason="open_spiel is not installed")
    game = pyspiel.load_game(name)
    form = games.SequenceForm(game)
    solver = pyspiel.CFRPlusSolver(game)
    for _ in range(5):
        solver.evaluate_and_update_policy()
    theirs, policy = solver.average_policy(), form.uniform()
    for row, (_, state) in enumerate(form.information_states):
        for action, probability in theirs.get_state_policy(state):
            policy[row, action] = probability
    found = form.plan(games.cfr(form, iterations=5, plus=True))
    torch.testing.assert_close(found, form.plan(policy), rtol=0, atol=1e-9)


def test_self_play_in_leduc_poker_comes_nearer() -> None:
    learned = games.fictitious_play(LEDUC, iterations=60)
    assert math.isclose(learned.exploitability[0], 4.747222 / 2, abs_tol=5e-7)
    assert learned.exploitability[-1] < 0.5
    assert math.isclose(learned.exploitability[-1], games.exploitability(LEDUC, learned.policy), abs_tol=1e-12)
    assert games.exploitability(LEDUC, games.cfr(LEDUC, iterations=60)) < 0.3


def _scipys(wins: np.ndarray) -> float:
    """The value of a game, from the second player's side: min w with A y <= w."""
    rows, columns = wins.shape
    found = linprog(
        [0.0] * columns + [1.0], np.hstack([wins, -np.ones((rows, 1))]), np.zeros(rows),
        [[1.0] * columns + [0.0]], [1.0], [(0, None)] * columns + [(None, None)],
    )  # fmt: skip
    return found.fun


def test_a_matrix_game_against_scipy() -> None:
    wins = torch.randn(6, 4, generator=generator("wins"), dtype=torch.float64)
    strategies = games.zero_sum_equilibrium(wins)
    value = _scipys(wins.numpy())
    assert math.isclose(strategies[0] @ wins @ strategies[1], value, abs_tol=1e-9)
    assert games.nash_conv(wins, strategies) < 1e-9
    assert games.exploitability(torch.stack([wins + 3, -wins]), strategies) < 1e-9  # constant sum
    found = games.psro(wins, iterations=10)  # no more responses than there are strategies
    assert found.exploitability[-1] < 1e-9
    assert math.isclose(found.policy[0] @ wins @ found.policy[1], value, abs_tol=1e-9)
    assert games.exploitability(wins, games.cfr(wins, iterations=800)) < 0.1
    assert games.exploitability(wins, games.fictitious_play(wins, iterations=800).policy) < 0.1
    assert games.exploitability(wins, games.replicator_dynamics(wins, step_size=0.1, iterations=800)) < 0.1


def test_a_game_of_three_against_loops() -> None:
    payoffs = torch.randn(3, 2, 3, 2, generator=generator("three"), dtype=torch.float64)
    strategies = [torch.rand(n, generator=generator(f"s{n}"), dtype=torch.float64) for n in (2, 3, 2)]
    strategies = [s / s.sum() for s in strategies]
    total = 0.0
    for q in range(3):
        worth = [0.0] * payoffs.shape[1 + q]
        for profile in itertools.product(range(2), range(3), range(2)):
            others = math.prod(float(strategies[r][profile[r]]) for r in range(3) if r != q)
            worth[profile[q]] += others * float(payoffs[(q, *profile)])
        total += max(worth) - sum(float(p) * w for p, w in zip(strategies[q], worth, strict=True))
    assert math.isclose(games.nash_conv(payoffs, strategies), total, abs_tol=1e-12)
    assert math.isclose(games.exploitability(payoffs, strategies), total / 3, abs_tol=1e-12)
    assert len(games.cfr(payoffs, iterations=5)) == 3
    with pytest.raises(ValueError, match="two players"):
        games.psro(payoffs, iterations=1)
    assert games.psro(payoffs, iterations=2, meta_solver="alpha_rank").payoffs.shape == (3, 3, 3, 3)


def test_rock_paper_scissors() -> None:
    uniform = (torch.full((3,), 1 / 3),) * 2
    rock = torch.tensor([1.0, 0.0, 0.0])
    assert games.nash_conv(ROCK_PAPER_SCISSORS, uniform) < 1e-7
    assert games.nash_conv(ROCK_PAPER_SCISSORS, (rock, rock)) == 2
    assert games.best_response(ROCK_PAPER_SCISSORS, (rock, uniform[1])).policy[1].tolist() == [0, 1, 0]
    for strategy in games.zero_sum_equilibrium(ROCK_PAPER_SCISSORS):
        torch.testing.assert_close(strategy.float(), uniform[0])
    torch.testing.assert_close(games.alpha_rank(ROCK_PAPER_SCISSORS), torch.full((3, 3), 1 / 9).double())


def test_psro_with_the_uniform_mixture_is_fictitious_play() -> None:
    wins = torch.randn(5, 4, generator=generator("uniform"), dtype=torch.float64)  # no ties, which rounding would break
    found = games.psro(wins, iterations=12, meta_solver="uniform")
    learned = games.fictitious_play(wins, iterations=12)
    torch.testing.assert_close(found.exploitability, learned.exploitability)
    torch.testing.assert_close(found.policy, learned.policy)


def test_the_payoffs_between_policies_are_those_of_a_recursion() -> None:
    found = games.psro(KUHN, iterations=5, meta_solver="uniform")
    for i, j in ((0, 3), (5, 2)):
        both = torch.where(KUHN.player[:, None] == 0, found.policies[i], found.policies[j])
        won = _won(games.KuhnPoker().new_initial_state(), _by_name(KUHN, both))
        np.testing.assert_allclose(found.payoffs[:, i, j], won, atol=1e-12)


def test_psro_solves_kuhns_poker_by_nash_mixtures() -> None:
    found = games.psro(KUHN, iterations=10)
    assert found.exploitability[-1] < 1e-9
    assert math.isclose(KUHN.expected(KUHN.plan(found.policy))[0], -1 / 18, abs_tol=1e-9)
    given = games.psro(KUHN, iterations=2, meta_solver=lambda payoffs: [torch.ones(payoffs.shape[1]).softmax(0)] * 2)
    torch.testing.assert_close(given.exploitability, games.fictitious_play(KUHN, iterations=2).exploitability)
    with pytest.raises(ValueError, match="no meta-solver"):
        games.psro(KUHN, meta_solver="best")


def test_alpha_rank_is_the_stationary_distribution() -> None:
    wins = torch.randn(2, 2, 3, generator=generator("ranks"), dtype=torch.float64)
    alpha, m, profiles = 0.7, 5, [*itertools.product(range(2), range(3))]
    chain = np.zeros((6, 6))
    for (i, s), (j, t) in itertools.product(enumerate(profiles), repeat=2):
        differs = [q for q in range(2) if s[q] != t[q]]
        if len(differs) == 1:
            gain = float(wins[(differs[0], *t)] - wins[(differs[0], *s)])
            chain[i, j] = (1 - math.exp(-alpha * gain)) / (1 - math.exp(-alpha * m * gain)) / 3
        chain[i, i] = 0
    np.fill_diagonal(chain, 1 - chain.sum(1))
    values, vectors = np.linalg.eig(chain.T)
    expected = vectors[:, values.real.argmax()].real
    found = games.alpha_rank(wins, alpha=alpha, population=m)
    np.testing.assert_allclose(found.flatten(), expected / expected.sum(), rtol=1e-9)
    strict = games.alpha_rank(torch.tensor([[[3.0, 0.0], [5.0, 1.0]], [[3.0, 5.0], [0.0, 1.0]]]) * 100)
    assert strict[1, 1] > 1 - 1e-9  # the prisoners' dilemma, without overflow


def test_regret_matching() -> None:
    regrets = torch.tensor([[2.0, -1.0, 6.0], [-1.0, -2.0, 4.0], [0.0, 0.0, 0.0]])
    legal = torch.tensor([[1, 1, 1], [1, 1, 0], [0, 0, 0]])
    expected = torch.tensor([[0.25, 0, 0.75], [0.5, 0.5, 0], [0, 0, 0]])
    torch.testing.assert_close(games.regret_matching(regrets, legal), expected)


class _Pennies:
    """Two pennies, one after the other, unseen: a game of moves, by open_spiel's names, that is a matrix game."""

    def __init__(self, moves=(), sees=False, forgets=False, at_once=False) -> None:
        self.moves, self.options, self.at_once = moves, (sees, forgets), at_once

    def num_players(self):
        return 2

    def num_distinct_actions(self):
        return 2

    def new_initial_state(self):
        return self

    def is_terminal(self):
        return len(self.moves) == (4 if self.options[1] else 2)

    def is_chance_node(self):
        return False

    def current_player(self):
        return -2 if self.at_once else len(self.moves) % 2

    def legal_actions(self):
        return [0, 1]

    def information_state_string(self):
        return f"seen {self.moves}" if self.options[0] and self.current_player() else "unseen"

    def child(self, action):
        return _Pennies((*self.moves, action), *self.options)

    def returns(self):
        return [1.0, -1.0] if self.moves[0] == self.moves[1] else [-1.0, 1.0]


def test_a_game_of_moves_by_the_names_of_its_methods() -> None:
    policy = torch.tensor([[0.8, 0.2], [0.3, 0.7]], dtype=torch.float64)
    matrix = torch.tensor([[1.0, -1.0], [-1.0, 1.0]])
    assert math.isclose(games.nash_conv(_Pennies(), policy), games.nash_conv(matrix, tuple(policy)), abs_tol=1e-12)
    seen = games.SequenceForm(_Pennies(sees=True))  # whoever sees the first penny wins
    assert seen.legal.shape == (3, 2)
    assert games.best_response(seen, seen.uniform()).values[1] == 1
    for wrong, words in ((_Pennies(forgets=True), "cannot tell"), (_Pennies(at_once=True), "simultaneous")):
        with pytest.raises(ValueError, match=words):
            games.SequenceForm(wrong)


@pytest.mark.parametrize("name", ["kuhn_poker", "leduc_poker", "kuhn_poker(players=3)", "tiny_hanabi"])
def test_a_game_of_open_spiel_is_worth_what_open_spiel_says(name: str) -> None:
    pyspiel = pytest.importorskip("pyspiel", reason="open_spiel is not installed")
    game = pyspiel.load_game(name)
    form = games.SequenceForm(game)
    policy = _random_policy(form, name)
    rows = zip(form.information_states, form.legal, policy.tolist(), strict=True)
    table = {state: [(a, row[a]) for a in legal.nonzero()[:, 0].tolist()] for (_, state), legal, row in rows}
    expected = pyspiel.nash_conv(game, pyspiel.TabularPolicy(table))
    assert math.isclose(games.nash_conv(form, policy), expected, rel_tol=1e-9)


@pytest.mark.parametrize(
    ("game", "policy"),
    [
        (ROCK_PAPER_SCISSORS, (torch.ones(3), torch.ones(3))),
        (ROCK_PAPER_SCISSORS, (torch.ones(1), torch.ones(1))),
        (KUHN, torch.ones(12, 3)),
        (LEDUC, torch.full((288, 3), 1 / 3)),  # folds where nothing was raised
        (torch.zeros(3), (torch.ones(3),)),
        (torch.zeros(3, 2, 2), (torch.ones(2) / 2,) * 2),
    ],
)
def test_what_is_no_policy_or_no_game_raises(game, policy) -> None:
    with pytest.raises(ValueError, match=r"must be|no distribution|do not fit"):
        games.nash_conv(game, policy)


def test_nash_conv_has_the_gradient_of_exploitability_descent() -> None:
    logits = torch.randn(12, 2, generator=generator("descent"), dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: games.nash_conv(KUHN, x.softmax(1)), logits)


def test_dpp_against_numpy_and_at_its_edges() -> None:
    x = torch.randn(2, 4, 6, generator=generator("dpp"), dtype=torch.float64)
    kernel = x @ x.mT
    for normalize, eps in ((False, 0.0), (True, 0.5)):
        expected = -np.linalg.slogdet(kernel.numpy() + eps * np.eye(4))[1]
        expected += normalize * np.linalg.slogdet(kernel.numpy() + np.eye(4))[1]
        found = games.dpp_loss(kernel, normalize=normalize, eps=eps, reduction="none")
        np.testing.assert_allclose(found, expected, rtol=1e-12)
    assert games.dpp_loss(torch.ones(2, 2), eps=0.0) == math.inf  # alike
    assert games.dpp_loss(torch.ones(2, 2)).isfinite()
    assert games.dpp_loss(torch.tensor([[0.0, 1.0], [1.0, 0.0]]), eps=0.0).isnan()
    hidden = torch.stack([kernel[0], torch.full((4, 4), math.nan, dtype=torch.float64)]).requires_grad_()
    loss = games.dpp_loss(hidden, eps=0.0, mask=torch.tensor([1, 0]))
    loss.backward()
    torch.testing.assert_close(hidden.grad[0], -torch.linalg.inv(kernel[0]))
    assert (hidden.grad[1] == 0).all()
    assert games.dpp_loss(torch.zeros(0, 0)) == 0


def test_the_other_losses_of_populations_at_their_edges() -> None:
    alike = torch.zeros(3, 2, requires_grad=True)
    games.pairwise_diversity_loss(alike).backward()
    assert (alike.grad == 0).all()
    assert games.pairwise_diversity_loss(torch.zeros(1, 2)) == 0
    squares = games.pairwise_diversity_loss(torch.tensor([[0.0], [1.0], [3.0]]), squared=True, reduction="sum")
    assert squares == -14
    returns = torch.tensor([[math.nan, 2.0], [1.0, math.inf]], requires_grad=True)
    graph = torch.tensor([[0.0, 1.0], [0.5, 0.0]], requires_grad=True)
    games.neupl_loss(returns, graph, reduction="sum").backward()
    assert torch.equal(returns.grad, -graph) and graph.grad is None
    for call in (
        lambda: games.neupl_loss(torch.zeros(2), torch.zeros(2)),
        lambda: games.neupl_loss(torch.zeros(2, 2), torch.zeros(3, 2, 2)),
        lambda: games.paired_regret(torch.zeros(2), torch.zeros(1)),
        lambda: games.pairwise_diversity_loss(torch.zeros(3)),
        lambda: games.dpp_loss(torch.zeros(3, 2)),
        lambda: games.dpp_loss(torch.zeros(2, 2), eps=-1.0),
    ):
        with pytest.raises(ValueError, match=r"must be|does not fit|differ"):
            call()
