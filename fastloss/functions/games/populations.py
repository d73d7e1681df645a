"""Populations of policies that grow by best responses to mixtures of themselves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fastloss.functions.games.meta_games import alpha_rank, replicator_dynamics, zero_sum_equilibrium
from fastloss.functions.games.responses import responded
from fastloss.functions.games.sequence_form import Game, SequenceForm

__all__ = ["Population", "psro"]


class Population(NamedTuple):
    """The policies that were found, and the mixture of them that is played."""

    policy: Any  # the mixture as a policy of the game: (I, A), or P strategies
    policies: list[Any]  # policies of the game: the uniform one, then the responses
    mixtures: tuple[Tensor, ...]  # (n,) for each player, over its policies
    payoffs: Tensor  # (P, n, ..., n), what each player wins where each plays one of its policies
    exploitability: Tensor  # (iterations + 1,), of the mixture before each iteration and at the end


MetaSolver = Callable[[Tensor], Sequence[Tensor]]


def _uniform(payoffs: Tensor) -> list[Tensor]:
    return [payoffs.new_full((count,), 1 / count) for count in payoffs.shape[1:]]


def _alpha_rank(payoffs: Tensor) -> list[Tensor]:
    """The shares of each player's strategies in the distribution over profiles."""
    ranks = alpha_rank(payoffs)
    return [ranks.movedim(q, 0).flatten(1).sum(1) for q in range(ranks.dim())]


_SOLVERS: dict[str, MetaSolver] = {
    "uniform": _uniform,
    "nash": zero_sum_equilibrium,
    "replicator": replicator_dynamics,
    "alpha_rank": _alpha_rank,
}


@torch.no_grad()
def psro(
    game: Game | Tensor | SequenceForm, *, iterations: int = 10, meta_solver: str | MetaSolver = "nash"
) -> Population:
    """Policy-space response oracles: each player's population gets a best response to a mixture of the others'.

    Args:
        game: payoffs (A, B) or (P, A_1, ..., A_P), a :class:`Game` or its :class:`SequenceForm`.
        iterations: how many responses.
        meta_solver: what is played of the populations. ``"nash"``, by :func:`zero_sum_equilibrium` (double oracle);
            ``"uniform"`` (fictitious play); ``"replicator"``, by :func:`replicator_dynamics`; ``"alpha_rank"``, the
            shares of a player's strategies in :func:`alpha_rank`; or a function of the payoffs (P, n, ..., n), which
            returns a distribution over the n policies of each player.

    Returns:
        A :class:`Population`, in float64. The populations start with the uniform policy; responses are exact.

    Raises:
        ValueError: an unknown meta-solver; ``"nash"`` of a game that is not of two players and constant sum.

    Source:
        Lanctot et al. 2017, arXiv:1711.00832; McMahan et al. 2003, Planning in the presence of cost functions
        controlled by an adversary (double oracle).

    Example:
        >>> rock_paper_scissors = torch.tensor([[0.0, -1.0, 1.0], [1.0, 0.0, -1.0], [-1.0, 1.0, 0.0]])
        >>> found = psro(rock_paper_scissors, iterations=3, meta_solver="uniform")
        >>> len(found.policies), found.payoffs.shape
        (4, torch.Size([2, 4, 4]))
    """
    if isinstance(meta_solver, str) and meta_solver not in _SOLVERS:
        raise ValueError(f"{meta_solver!r} is no meta-solver; choose one of {', '.join(_SOLVERS)}")
    solve = _SOLVERS[meta_solver] if isinstance(meta_solver, str) else meta_solver
    form = SequenceForm.of(game)
    tables = [form.table(form.uniform())]
    plans = form.plan(tables[0])[None]  # (n, S)
    curve = []
    while True:
        payoffs = form.payoffs(plans)
        mixtures = tuple(mixture.to(plans) for mixture in solve(payoffs))
        shares = torch.stack(mixtures, 1)[:, form.owner]  # (n, S)
        plan = (shares * plans).sum(0)
        response, _, improvements = responded(form, plan)
        curve.append(improvements.mean())
        if len(curve) > iterations:
            break
        tables.append(response)
        plans = torch.cat([plans, form.plan(response)[None]])
    policies = [form.given_back(table) for table in tables]
    return Population(form.given_back(form.behaviour(plan)), policies, mixtures, payoffs, torch.stack(curve))
