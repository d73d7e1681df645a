"""Two small games of poker, on which algorithms are tried: Kuhn's and Leduc."""

from __future__ import annotations

from dataclasses import dataclass, replace

__all__ = ["KuhnPoker", "LeducPoker"]


@dataclass(frozen=True)
class _KuhnState:
    cards: tuple[int, ...] = ()
    bets: str = ""  # p: pass, b: bet

    def is_terminal(self) -> bool:
        return self.bets in ("pp", "bp", "bb", "pbp", "pbb")

    def is_chance_node(self) -> bool:
        return len(self.cards) < 2

    def chance_outcomes(self) -> list[tuple[int, float]]:
        left = [card for card in range(3) if card not in self.cards]
        return [(card, 1 / len(left)) for card in left]

    def current_player(self) -> int:
        return len(self.bets) % 2

    def legal_actions(self) -> list[int]:
        return [0, 1]

    def information_state_string(self) -> str:
        return f"{self.cards[self.current_player()]}{self.bets}"

    def child(self, action: int, /) -> _KuhnState:
        if self.is_chance_node():
            return replace(self, cards=(*self.cards, action))
        return replace(self, bets=self.bets + "pb"[action])

    def returns(self) -> list[float]:
        if self.bets.endswith("bp"):  # who did not pay has lost the ante
            won = 1.0 if self.bets == "bp" else -1.0
        else:
            stake = 2.0 if "b" in self.bets else 1.0
            won = stake if self.cards[0] > self.cards[1] else -stake
        return [won, -won]


class KuhnPoker:
    """Kuhn's poker: three cards, one for each of two players, one bet. The first player loses 1/18 in equilibrium.

    Actions: 0 passes (or folds), 1 bets (or calls). An information state is the card, 0 to 2, and the bets: ``"1pb"``.

    Source:
        Kuhn 1950, A simplified two-person poker.

    Example:
        >>> state = KuhnPoker().new_initial_state()
        >>> for action in (2, 0, 1, 1):  # the king, the jack, a bet, a call
        ...     state = state.child(action)
        >>> state.returns()
        [2.0, -2.0]
    """

    def num_players(self) -> int:
        """Two."""
        return 2

    def num_distinct_actions(self) -> int:
        """Two."""
        return 2

    def new_initial_state(self) -> _KuhnState:
        """Before the cards are dealt."""
        return _KuhnState()


@dataclass(frozen=True)
class _LeducState:
    cards: tuple[int, ...] = ()  # ranks: the first player's, the second one's, the public one
    rounds: tuple[str, ...] = ("",)  # f: fold, c: check or call, r: raise

    def _is_settled(self) -> bool:
        """Is the round of bets over?"""
        bets = self.rounds[-1]
        return len(bets) > 1 and bets[-1] == "c"

    def is_terminal(self) -> bool:
        return self.rounds[-1].endswith("f") or (len(self.rounds) == 2 and self._is_settled())

    def is_chance_node(self) -> bool:
        return len(self.cards) < 1 + len(self.rounds) and not self.is_terminal()

    def chance_outcomes(self) -> list[tuple[int, float]]:
        left = {rank: 2 - self.cards.count(rank) for rank in range(3)}
        return [(rank, count / (6 - len(self.cards))) for rank, count in left.items() if count]

    def current_player(self) -> int:
        return len(self.rounds[-1]) % 2

    def legal_actions(self) -> list[int]:
        bets = self.rounds[-1]
        return [*([0] if bets.endswith("r") else []), 1, *([2] if bets.count("r") < 2 else [])]

    def information_state_string(self) -> str:
        seen = (self.cards[self.current_player()], *self.cards[2:])
        return f"{''.join(map(str, seen))}{'/'.join(self.rounds)}"

    def child(self, action: int, /) -> _LeducState:
        if self.is_chance_node():
            return replace(self, cards=(*self.cards, action))
        after = replace(self, rounds=(*self.rounds[:-1], self.rounds[-1] + "fcr"[action]))
        if len(self.rounds) == 1 and after._is_settled():
            return replace(after, rounds=(*after.rounds, ""))
        return after

    def returns(self) -> list[float]:
        paid = [1.0, 1.0]
        for bets, raised_by in zip(self.rounds, (2.0, 4.0), strict=False):
            for i, bet in enumerate(bets):
                if bet != "f":
                    paid[i % 2] = max(paid) + (raised_by if bet == "r" else 0.0)
        if self.rounds[-1].endswith("f"):
            loser = (len(self.rounds[-1]) - 1) % 2
            won = paid[0] * -1 if loser == 0 else paid[1]
        else:
            first, second = ((card == self.cards[2], card) for card in self.cards[:2])
            won = 0.0 if first == second else paid[1] if first > second else -paid[0]
        return [won, -won]


class LeducPoker:
    """Leduc poker: six cards of three ranks, a private card each, a public one after the first of two rounds of bets.

    Antes are 1, raises 2 in the first round and 4 in the second one, two a round at most; a pair with the public card
    wins, else the higher rank. Actions: 0 folds, 1 checks or calls, 2 raises. Suits are not told apart, so there are
    288 information states, of the ranks and the bets: ``"20rc/c"``.

    Source:
        Southey et al. 2005, Bayes' bluff: opponent modelling in poker.

    Example:
        >>> state = LeducPoker().new_initial_state()
        >>> for action in (0, 2, 1, 2, 1, 0, 1, 1):  # a jack, a king; check, raise, call; a jack; check, check
        ...     state = state.child(action)
        >>> state.returns()
        [3.0, -3.0]
    """

    def num_players(self) -> int:
        """Two."""
        return 2

    def num_distinct_actions(self) -> int:
        """Three."""
        return 3

    def new_initial_state(self) -> _LeducState:
        """Before the cards are dealt."""
        return _LeducState()
