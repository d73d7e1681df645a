"""Policies that are learned by playing against themselves: fictitious play, regret matching."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from fastloss.functions.games.responses import responded
from fastloss.functions.games.sequence_form import Game, SequenceForm

__all__ = ["Learned", "cfr", "fictitious_play", "regret_matching"]


class Learned(NamedTuple):
    """What self-play has come to."""

    policy: Any  # a policy of the game: (I, A), or P strategies
    exploitability: Tensor  # (iterations + 1,), before each iteration and at the end


@torch.no_grad()
def fictitious_play(game: Game | Tensor | SequenceForm, *, iterations: int = 100) -> Learned:
    r"""Fictitious play: every player responds to the average of what the others have played so far.

    .. math:: \bar\pi_{t+1} = \frac{t}{t + 1}\, \bar\pi_t + \frac{1}{t + 1}\, b(\bar\pi_t), \qquad t = 1, 2, ...

    from the uniform policy, which counts as the first one. The average is of plans, not of the policies at each
    information state, so that it plays as a mixture of the responses would.

    Args:
        game: payoffs (A, B) or (P, A_1, ..., A_P), a :class:`Game` or its :class:`SequenceForm`.
        iterations: how many responses.

    Returns:
        A :class:`Learned`, in float64: the average policy, and the exploitability of each average.

    Source:
        Brown 1951, Iterative solution of games by fictitious play; of games of moves: Heinrich et al. 2015, Fictitious
        self-play in extensive-form games.

    Example:
        >>> learned = fictitious_play(torch.tensor([[3.0, 1.0], [4.0, 2.0]]), iterations=9)  # the second row is better
        >>> [round(p, 2) for p in learned.policy[0].tolist()]
        [0.05, 0.95]
    """
    form = SequenceForm.of(game)
    average = form.plan(form.table(form.uniform()))
    curve = []
    for t in range(1, iterations + 2):
        table, _, improvements = responded(form, average)
        curve.append(improvements.mean())
        if t <= iterations:
            average = average + (form.plan(table) - average) / (t + 1)
    return Learned(form.given_back(form.behaviour(average)), torch.stack(curve))


def regret_matching(regrets: Tensor, mask: Tensor | None = None) -> Tensor:
    r"""The strategy that plays each action as often as it is regretted not to have been played.

    .. math:: \pi_a = \frac{\max(0, R_a)}{\sum_b \max(0, R_b)}

    Args:
        regrets: R, the sums of what each action would have won more than the strategies that were played.
        mask: 0 where an action is not legal, whatever its regret.

    Shape:
        - regrets: (\*, A); mask: one that broadcasts to it
        - output: (\*, A)

    Returns:
        The strategy; uniform where nothing is regretted. :func:`cfr` of a matrix game is the algorithm of this name.

    Source:
        Hart and Mas-Colell 2000, A simple adaptive procedure leading to correlated equilibrium.

    Example:
        >>> regret_matching(torch.tensor([[3.0, -2.0, 1.0], [-1.0, 0.0, -1.0]])).tolist()
        [[0.75, 0.0, 0.25], [0.3333333432674408, 0.3333333432674408, 0.3333333432674408]]
    """
    legal = torch.ones_like(regrets) if mask is None else (mask != 0).to(regrets.dtype).expand(regrets.shape)
    positive = torch.where(legal != 0, regrets.clamp(min=0), 0)
    total = positive.sum(-1, keepdim=True)
    weights = torch.where(total > 0, positive, legal)
    return weights / weights.sum(-1, keepdim=True).clamp(min=torch.finfo(weights.dtype).tiny)


@torch.no_grad()
def cfr(game: Game | Tensor | SequenceForm, *, iterations: int = 1000, plus: bool = False) -> Any:
    r"""Counterfactual regret minimisation: regret matching at every information state.

    .. math:: R_{t+1}(I, a) = R_t(I, a) + v_t(I, a) - \sum_b \pi_t(I, b)\, v_t(I, b)

    with the counterfactual values v: what the action wins, times the probability that chance and the others come to the
    information state. All players move on at once, and all policies count alike in the average.

    CFR+ differs in three ways. No regret stays below 0, :math:`R_{t+1} = \max(0, R_t + \dots)`, so that an action that
    turns out to be good is played at once; the players take turns, and each meets the new policies of those before it;
    the policy of iteration t counts t times.

    Args:
        game: payoffs (A, B) or (P, A_1, ..., A_P), a :class:`Game` or its :class:`SequenceForm`.
        iterations: how many policies are averaged.
        plus: CFR+.

    Returns:
        The average policy, P strategies of a matrix game, else (I, A), in float64. In games of two players and zero sum
        its exploitability falls at least as fast as one over the square root of ``iterations``; so does
        that of CFR+, and in poker faster.

    Raises:
        ValueError: fewer than one iteration.

    Source:
        Zinkevich et al. 2007, Regret minimization in games with incomplete information; CFR+: Tammelin 2014,
        arXiv:1407.5042, the policies averaged as open_spiel's ``CFRPlusSolver`` does.

    Example:
        >>> kuhn = fastloss.games.SequenceForm(fastloss.games.KuhnPoker())
        >>> bool(fastloss.games.exploitability(kuhn, cfr(kuhn, iterations=200)) < 0.02)
        True
        >>> bool(fastloss.games.exploitability(kuhn, cfr(kuhn, iterations=200, plus=True)) < 0.002)
        True
    """
    if iterations < 1:
        raise ValueError(f"iterations must be at least 1, got {iterations}")
    form = SequenceForm.of(game)
    regrets = torch.zeros(form.legal.shape).to(form.gains)
    total = torch.zeros(form.owner.shape).to(form.gains)
    for t in range(1, iterations + 1):
        if not plus:
            plan, gained = _regretted(form, regrets)
            regrets += gained
            total += plan
            continue
        for player in range(form.players):
            plan, gained = _regretted(form, regrets)
            regrets = torch.where(form.player[:, None] == player, (regrets + gained).clamp(min=0), regrets)
            total += t * plan * (form.owner == player)
    return form.given_back(form.behaviour(total / total[0]))


def _regretted(form: SequenceForm, regrets: Tensor) -> tuple[Tensor, Tensor]:
    """The plan that regret matching plays, and what each action would have won more, (I, A)."""
    table = regret_matching(regrets, form.legal)
    plan = form.plan(table)
    worth, _ = form.values(form.against(plan), table)
    return plan, worth - (worth * table).sum(1, keepdim=True)
