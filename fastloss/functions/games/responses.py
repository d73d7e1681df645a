"""What policies are worth in a game, and how much a player would win by leaving them."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from fastloss.functions.games.sequence_form import Game, SequenceForm

__all__ = ["Response", "best_response", "exploitability", "nash_conv"]


class Response(NamedTuple):
    """The best response of each player to the policies of all others."""

    policy: Any  # a policy of the game: (I, A), or P strategies
    values: Tensor  # (P,), what a player wins that alone plays it
    improvements: Tensor  # (P,), how much more than by its own policy


def responded(form: SequenceForm, plan: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(table of the responses, their values, the improvements), of a plan."""
    worth, values = form.values(form.against(plan))
    best = worth.masked_fill(~form.legal, -torch.inf).argmax(1)
    table = torch.nn.functional.one_hot(best, form.legal.shape[1]).to(plan)
    return table, values, values - form.expected(plan)


def best_response(game: Game | Tensor | SequenceForm, policy: Any) -> Response:
    r"""The best response of each player to the policies of all others, exact.

    .. math:: b_q = \operatorname{argmax}_{\pi_q} u_q(\pi_q, \pi_{-q})

    Args:
        game: payoffs (A, B) or (P, A_1, ..., A_P), a :class:`Game` or its :class:`SequenceForm`, which saves walking
            through the game again.
        policy: of all players: P strategies of a matrix game, else (I, A), see :class:`SequenceForm`.

    Returns:
        A :class:`Response`, in float64. Its policy is pure: of equal actions the first one, as where the others never
        let the game come to.

    Raises:
        ValueError: a policy that is none of the game.

    Example:
        >>> scissors = torch.tensor([0.0, 0.0, 1.0])
        >>> rock_paper_scissors = torch.tensor([[0.0, -1.0, 1.0], [1.0, 0.0, -1.0], [-1.0, 1.0, 0.0]])
        >>> best_response(rock_paper_scissors, (scissors, scissors)).policy[0].tolist()
        [1.0, 0.0, 0.0]
    """
    form = SequenceForm.of(game)
    table, values, improvements = responded(form, form.plan(form.table(policy)))
    return Response(form.given_back(table), values, improvements)


def nash_conv(game: Game | Tensor | SequenceForm, policy: Any) -> Tensor:
    r"""How much all players together would win by best responses: 0 in a Nash equilibrium and nowhere else.

    .. math:: \sum_q \bigl(\max_{\pi_q'} u_q(\pi_q', \pi_{-q}) - u_q(\pi)\bigr)

    Args:
        game: payoffs (A, B) or (P, A_1, ..., A_P), a :class:`Game` or its :class:`SequenceForm`.
        policy: of all players: P strategies of a matrix game, else (I, A), see :class:`SequenceForm`. It may have a
            gradient: exploitability descent.

    Returns:
        0-d, in float64.

    Raises:
        ValueError: a policy that is none of the game.

    Source:
        Lanctot et al. 2017, arXiv:1711.00832; its descent: Lockhart et al. 2019, arXiv:1903.05614.

    Example:
        >>> kuhn = SequenceForm(fastloss.games.KuhnPoker())
        >>> round(nash_conv(kuhn, kuhn.uniform()).item(), 6)  # 11 / 12
        0.916667
    """
    form = SequenceForm.of(game)
    plan = form.plan(form.table(policy))
    _, values = form.values(form.against(plan))
    return (values - form.expected(plan)).sum()


def exploitability(game: Game | Tensor | SequenceForm, policy: Any) -> Tensor:
    """:func:`nash_conv` by the number of players, as open_spiel has it.

    Args:
        game, policy: as there.

    Returns:
        0-d, in float64.

    Raises:
        ValueError: a policy that is none of the game.

    Source:
        Lanctot et al. 2017, arXiv:1711.00832.

    Example:
        >>> kuhn = SequenceForm(fastloss.games.KuhnPoker())
        >>> round(exploitability(kuhn, kuhn.uniform()).item(), 6)  # 11 / 24
        0.458333
    """
    form = SequenceForm.of(game)
    return nash_conv(form, policy) / form.players
