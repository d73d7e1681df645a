"""Games as tensors: what is walked once, in Python, and from then on is sums and products over all ends of the game.

The sequence form: a player with perfect recall is at each information state by one sequence of own actions. A policy is
then a plan, the probability that the player's own actions give each sequence; what a plan gains is linear in it, and
depends on the ends of the game alone.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

__all__ = ["Game", "SequenceForm", "State"]


class State(Protocol):
    """A state of a game, as open_spiel's: it is not changed, ``child`` is another one.

    Example:
        >>> state = fastloss.games.KuhnPoker().new_initial_state().child(2).child(0)  # the king and the jack are dealt
        >>> state.current_player(), state.legal_actions(), state.information_state_string()
        (0, [0, 1], '2')
    """

    def is_terminal(self) -> bool:
        """Is the game over?"""

    def is_chance_node(self) -> bool:
        """Do the dice move?"""

    def chance_outcomes(self) -> Sequence[tuple[int, float]]:
        """(action, probability) of each move of chance."""

    def current_player(self) -> int:
        """Whose move it is, from 0."""

    def legal_actions(self) -> Sequence[int]:
        """Of the player whose move it is, from 0."""

    def information_state_string(self) -> str:
        """All that the player whose move it is has seen and done."""

    def child(self, action: int, /) -> State:
        """The state behind an action."""

    def returns(self) -> Sequence[float]:
        """What each player has won, where the game is over."""


class Game(Protocol):
    """A game of moves, as open_spiel's, whose games are accepted: finite, of perfect recall, one player at a time.

    Example:
        >>> game = fastloss.games.KuhnPoker()
        >>> game.num_players(), game.num_distinct_actions()
        (2, 2)
    """

    def num_players(self) -> int:
        """How many players there are; chance is none."""

    def num_distinct_actions(self) -> int:
        """Actions are numbers below it."""

    def new_initial_state(self) -> State:
        """Where the game begins."""


class SequenceForm:
    r"""A game as tensors, which every function of this module makes of a game, or takes in its place.

    Args:
        game: a :class:`Game`; or the payoffs of a matrix game: (A, B), what the first player wins from the second, or
            (P, A_1, ..., A_P), what each of P players wins.

    A policy of a matrix game is a tuple of P vectors, a mixed strategy of each player. Of other games it is (I, A): a
    row an information state, in the order of ``information_states``, with probability 0 where an action is not legal.

    Attributes:
        players: P.
        information_states: (player, string) of each of I rows; those with fewer own moves before come first.
        player: (I,), whose it is.
        legal: (I, A), of bool.

    Raises:
        ValueError: payoffs that are no game; simultaneous moves; a player who forgets what it has seen or done.

    Source:
        Koller, Megiddo and von Stengel 1996, Efficient computation of equilibria for extensive two-person games.

    Example:
        >>> form = SequenceForm(fastloss.games.KuhnPoker())
        >>> form.information_states[0], form.legal.shape
        ((0, '0'), torch.Size([12, 2]))
        >>> SequenceForm(torch.eye(3)).uniform()[0]
        tensor([0.3333, 0.3333, 0.3333], dtype=torch.float64)
    """

    # S sequences: the empty one of each player, then those of all rows and actions, row by row; Z ends of the game
    players: int
    information_states: list[tuple[int, str]]
    player: Tensor  # (I,)
    legal: Tensor  # (I, A)
    before: Tensor  # (I,), the sequence of its player that leads to it
    owner: Tensor  # (S,), of a sequence
    levels: list[slice]  # of rows, by the number of own moves before
    ends: Tensor  # (P, Z), the sequence of each player
    gains: Tensor  # (P, Z), what each wins, times the probability of chance's moves

    def __init__(self, game: Game | Tensor) -> None:
        self.counts: list[int] | None = None  # of actions, of each player of a matrix game
        if isinstance(game, Tensor):
            self._of_payoffs(game.detach().double())
        else:
            self._of_moves(game)
        actions = self.legal.shape[1]
        self.owner = torch.cat([torch.arange(self.players).to(self.player), self.player.repeat_interleave(actions)])

    @classmethod
    def of(cls, game: Game | Tensor | SequenceForm) -> SequenceForm:
        """The form of a game, or itself."""
        return game if isinstance(game, SequenceForm) else cls(game)

    def _of_payoffs(self, payoffs: Tensor) -> None:
        if payoffs.dim() == 2:
            payoffs = torch.stack([payoffs, -payoffs])
        counts = list(payoffs.shape[1:])
        if payoffs.dim() < 2 or payoffs.shape[0] != len(counts) or 0 in counts:
            raise ValueError(f"payoffs must be (A, B) or (P, A_1, ..., A_P), got {tuple(payoffs.shape)}")
        self.players = players = len(counts)
        self.counts = counts
        self.information_states = [(player, "") for player in range(players)]
        device = payoffs.device
        self.player = self.before = torch.arange(players, device=device)
        most = max(counts)
        self.legal = torch.arange(most, device=device) < torch.tensor(counts, device=device)[:, None]
        self.levels = [slice(0, players)]
        chosen = torch.meshgrid(*(torch.arange(count, device=device) for count in counts), indexing="ij")
        self.ends = torch.stack([players + most * q + chosen[q].flatten() for q in range(players)])
        self.gains = payoffs.flatten(1)

    def _of_moves(self, game: Game) -> None:
        players, actions = game.num_players(), game.num_distinct_actions()
        rows: dict[tuple[int, str], int] = {}  # in the order in which they are met
        befores: list[tuple[int, int] | None] = []  # of a row: the row and action before it
        legals: list[list[int]] = []
        ends: list[tuple[tuple[int, int] | None, ...]] = []
        gains: list[list[float]] = []
        start: tuple[tuple[int, int] | None, ...] = (None,) * players
        waiting = [(game.new_initial_state(), 1.0, start)]
        while waiting:
            state, chance, last = waiting.pop()
            if state.is_terminal():
                ends.append(last)
                gains.append([chance * won for won in state.returns()])
                continue
            if state.is_chance_node():
                moves = [(state.child(action), chance * p, last) for action, p in state.chance_outcomes() if p]
                waiting += reversed(moves)
                continue
            player = state.current_player()
            if not 0 <= player < players:
                raise ValueError(f"player {player} is to move: simultaneous moves have to be made moves in turn")
            name, legal = (player, state.information_state_string()), list(state.legal_actions())
            row = rows.setdefault(name, len(rows))
            if row == len(legals):
                befores.append(last[player])
                legals.append(legal)
            elif befores[row] != last[player] or legals[row] != legal:
                raise ValueError(f"player {player} cannot tell states of other moves apart at {name[1]!r}")
            for action in reversed(legal):
                waiting.append((state.child(action), chance, (*last[:player], (row, action), *last[player + 1 :])))
        depths: list[int] = []
        for before in befores:  # the row before was met before
            depths.append(0 if before is None else depths[before[0]] + 1)
        order = sorted(range(len(rows)), key=depths.__getitem__)
        place = {row: i for i, row in enumerate(order)}
        names = list(rows)

        def sequence(player: int, last: tuple[int, int] | None) -> int:
            return player if last is None else players + place[last[0]] * actions + last[1]

        self.players = players
        self.information_states = [names[row] for row in order]
        self.player = torch.tensor([player for player, _ in self.information_states], dtype=torch.long)
        self.before = torch.tensor([sequence(names[row][0], befores[row]) for row in order], dtype=torch.long)
        self.legal = torch.zeros(len(order), actions, dtype=torch.bool)
        for row, legal in enumerate(legals):
            self.legal[place[row], legal] = True
        bounds = [sum(d < depth for d in depths) for depth in range(max(depths, default=-1) + 2)]
        self.levels = [slice(a, b) for a, b in itertools.pairwise(bounds)]
        self.ends = torch.tensor([[sequence(q, last[q]) for last in ends] for q in range(players)])
        self.gains = torch.tensor(gains, dtype=torch.float64).t().contiguous()

    # -------------------------------------------------------------------------------------- policies

    def uniform(self) -> Any:
        """The policy that takes every legal action alike."""
        return self.given_back(self.legal / self.legal.sum(1, keepdim=True).double())

    def table(self, policy: Any) -> Tensor:
        """(I, A), of a policy as callers have it.

        Raises:
            ValueError: another shape, rows that are no distributions over the legal actions.
        """
        if self.counts is not None and not isinstance(policy, Tensor):
            sizes = [tuple(strategy.shape) for strategy in policy]
            if sizes != [(count,) for count in self.counts]:
                raise ValueError(f"strategies {sizes} do not fit {self.counts} actions")
            width = self.legal.shape[1]
            policy = torch.stack([torch.nn.functional.pad(s, (0, width - len(s))) for s in policy])
        if not isinstance(policy, Tensor) or policy.shape != self.legal.shape:
            found = tuple(policy.shape) if isinstance(policy, Tensor) else type(policy).__name__
            raise ValueError(f"the policy must be {tuple(self.legal.shape)}, got {found}")
        policy = policy.to(self.gains)
        known = policy.detach()
        is_one = torch.isclose(known.sum(1), known.new_ones(()), atol=1e-4)
        if not (is_one.all() and (known >= 0).all() and (known[~self.legal] == 0).all()):
            raise ValueError("a row of the policy is no distribution over the legal actions")
        return policy

    def given_back(self, table: Tensor) -> Any:
        """A policy (I, A) as callers have it."""
        if self.counts is None:
            return table
        return tuple(table[q, :count] for q, count in enumerate(self.counts))

    def plan(self, table: Tensor) -> Tensor:
        """(S,): the product of the probabilities of a sequence's actions."""
        plan = table.new_ones(self.players)
        for rows in self.levels:
            reached = plan[self.before[rows]]
            plan = torch.cat([plan, (reached[:, None] * table[rows]).flatten()])
        return plan

    def behaviour(self, plan: Tensor) -> Tensor:
        """(I, A), the policy of a plan; uniform where the plan never comes."""
        reached = plan[self.before][:, None]
        uniform = self.legal / self.legal.sum(1, keepdim=True).double()
        taken = plan[self.players :].view(self.legal.shape)
        return torch.where(reached > 0, taken / torch.where(reached > 0, reached, 1), uniform)

    # -------------------------------------------------------------------------------------- values

    def expected(self, plan: Tensor) -> Tensor:
        """(P,), what each player wins."""
        return (self.gains * plan[self.ends].prod(0)).sum(1)

    def against(self, plan: Tensor) -> Tensor:
        """(S,), what a player wins at the ends of each own sequence, if it plays it and the others as planned."""
        reach = plan[self.ends]  # (P, Z)
        others = torch.stack([torch.cat([reach[:q], reach[q + 1 :]]).prod(0) for q in range(self.players)])
        return plan.new_zeros(plan.shape).index_add(0, self.ends.flatten(), (self.gains * others).flatten())

    def values(self, gained: Tensor, table: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """What actions are worth, the reach of the others and of chance counted in: counterfactual values.

        Args:
            gained: (S,), of :meth:`against`.
            table: (I, A), by which the player goes on. None: by the best actions.

        Returns:
            (I, A), of the actions, and (P,), of the game.
        """
        for rows in reversed(self.levels):
            first = self.players + rows.start * self.legal.shape[1]
            worth = gained[first : first + self.legal[rows].numel()].view(-1, self.legal.shape[1])
            if table is None:
                value = worth.masked_fill(~self.legal[rows], -torch.inf).amax(1)
            else:
                value = (worth * table[rows]).sum(1)
            gained = gained.index_add(0, self.before[rows], value)
        return gained[self.players :].view(self.legal.shape), gained[: self.players]

    def payoffs(self, plans: Tensor) -> Tensor:
        """(P, n, ..., n): what each player wins where each plays one of its n plans (n, S)."""
        letters = "abcdefghijklmnopqrstuvw"[: self.players]
        operands = [plans[:, self.ends[q]] for q in range(self.players)]
        return torch.einsum(f"yz,{','.join(f'{q}z' for q in letters)}->y{letters}", self.gains, *operands)
