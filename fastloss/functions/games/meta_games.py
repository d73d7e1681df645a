"""Solutions of matrix games, such as those between the policies of a population."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["alpha_rank", "replicator_dynamics", "zero_sum_equilibrium"]


def _of_players(payoffs: Tensor) -> Tensor:
    """(P, A_1, ..., A_P), in float64."""
    payoffs = payoffs.detach().double()
    if payoffs.dim() == 2:
        payoffs = torch.stack([payoffs, -payoffs])
    if payoffs.dim() < 2 or payoffs.shape[0] != payoffs.dim() - 1:
        raise ValueError(f"payoffs must be (A, B) or (P, A_1, ..., A_P), got {tuple(payoffs.shape)}")
    return payoffs


def zero_sum_equilibrium(payoffs: Tensor) -> tuple[Tensor, Tensor]:
    r"""A Nash equilibrium of a matrix game of two players and zero sum, by linear programming with scipy.

    .. math:: \max_{x, v} v \quad\text{with}\quad x^\top A \ge v,\; x \in \Delta

    Args:
        payoffs: A, (A_1, A_2), what the first player wins; or (2, A_1, A_2), what each wins.

    Returns:
        The strategies of both, (A_1,) and (A_2,), in float64; the second one is the dual solution.

    Raises:
        ValueError: more players, or payoffs whose sum is not constant.

    Source:
        von Neumann 1928, Zur Theorie der Gesellschaftsspiele; Dantzig 1951.

    Example:
        >>> first, second = zero_sum_equilibrium(torch.tensor([[2.0, -1.0], [-1.0, 1.0]]))
        >>> [round(p, 4) for p in first.tolist()]
        [0.4, 0.6]
    """
    from scipy.optimize import linprog  # no dependency of fastloss

    payoffs = _of_players(payoffs)
    total = payoffs.sum(0)
    if payoffs.shape[0] != 2 or (total - total.mean()).abs().max() > 1e-6 * payoffs.abs().max().clamp(min=1):
        raise ValueError("linear programming solves games of two players and constant sum")
    wins = payoffs[0].cpu().numpy()
    rows, columns = wins.shape
    objective = [0.0] * rows + [-1.0]
    # v - x^T A <= 0 for each column; x sums to 1
    bounded = torch.cat([-payoffs[0].t().cpu(), torch.ones(columns, 1, dtype=torch.float64)], 1).numpy()
    solution = linprog(
        objective, bounded, [0.0] * columns, [[1.0] * rows + [0.0]], [1.0], [(0, None)] * rows + [(None, None)]
    )
    if not solution.success:
        raise ValueError(f"no equilibrium was found: {solution.message}")
    found = [solution.x[:rows], -solution.ineqlin.marginals]
    first, second = (torch.as_tensor(x, dtype=torch.float64, device=payoffs.device).clamp(min=0) for x in found)
    return first / first.sum(), second / second.sum()


@torch.no_grad()
def replicator_dynamics(payoffs: Tensor, *, iterations: int = 2000, step_size: float = 0.05) -> tuple[Tensor, ...]:
    r"""The average of strategies that grow by how much their actions win above the mean, from the uniform one.

    .. math:: \dot x_a = x_a \bigl(u_a(x) - \textstyle\sum_b x_b u_b(x)\bigr)

    in steps :math:`x_a \propto x_a \exp(\epsilon\, u_a)`, which stay in the simplex.

    Args:
        payoffs: (A, B) of a zero-sum game, or (P, A_1, ..., A_P), what each player wins.
        iterations: how many steps.
        step_size: epsilon, for payoffs of the size of 1.

    Returns:
        The strategies of P players, averaged over time, in float64. In games of two players and zero sum they are an
        equilibrium up to about step_size / 8 + log(A) / (step_size iterations) for each player.

    Source:
        Taylor and Jonker 1978, Evolutionary stable strategies and game dynamics; in populations of policies: Lanctot et
        al. 2017, arXiv:1711.00832.

    Example:
        >>> first, second = replicator_dynamics(torch.tensor([[2.0, -1.0], [-1.0, 1.0]]))
        >>> [round(p, 1) for p in first.tolist()]
        [0.4, 0.6]
    """
    payoffs = _of_players(payoffs)
    players = payoffs.shape[0]
    logits = [payoffs.new_zeros(count) for count in payoffs.shape[1:]]
    totals = [torch.zeros_like(x) for x in logits]
    for _ in range(iterations):
        strategies = [x.softmax(0) for x in logits]
        for q in range(players):
            totals[q] += strategies[q]
            wins = payoffs[q]
            for r in reversed([r for r in range(players) if r != q]):  # the last dimension first: the others stay
                wins = torch.tensordot(wins, strategies[r], ([r], [0]))
            logits[q] = logits[q] + step_size * wins
    return tuple(total / total.sum() for total in totals)


@torch.no_grad()
def alpha_rank(payoffs: Tensor, *, alpha: float = 100.0, population: int = 50) -> Tensor:
    r"""How long the evolution of a population of each player stays at each profile of pure strategies.

    A mutant with another strategy of one player q takes over its population with the probability

    .. math:: \rho = \frac{1 - e^{-\alpha d}}{1 - e^{-\alpha m d}}, \qquad d = u_q(\mathrm{mutant}) - u_q

    (1 / m for d = 0); of all mutants each is as likely as the others. The result is the stationary distribution of this
    Markov chain, by an elimination without differences, which is exact to rounding for nearly separate states, too.

    Args:
        payoffs: (A, B) of a zero-sum game, or (P, A_1, ..., A_P), what each player wins.
        alpha: the strength of selection.
        population: m, at least 2.

    Returns:
        (A_1, ..., A_P), in float64: its sum is 1. Transitions less likely than 1e-20 count as that likely.

    Raises:
        ValueError: alpha that is not positive, a population below 2.

    Source:
        Omidshafiei et al. 2019, arXiv:1903.01373; the elimination: Grassmann, Taksar and Heyman 1985.

    Example:
        >>> alpha_rank(torch.tensor([[3.0, 1.0], [4.0, 2.0]])).round(decimals=4).tolist()  # the second row and column
        [[0.0, 0.0], [0.0, 1.0]]
    """
    if not alpha > 0 or population < 2:
        raise ValueError(f"alpha must be positive and population at least 2, got {alpha} and {population}")
    payoffs = _of_players(payoffs)
    shape = payoffs.shape[1:]
    profiles = math.prod(shape)
    index = torch.arange(profiles, device=payoffs.device).view(shape)
    chain = payoffs.new_zeros(profiles, profiles)
    mutants = sum(count - 1 for count in shape)
    for q, wins in enumerate(payoffs):
        # (..., from, to) along the dimension of player q
        lines, places = wins.movedim(q, -1), index.movedim(q, -1)
        gain = lines[..., None, :] - lines[..., :, None]
        start = places[..., :, None].expand(gain.shape)
        chain[start, places[..., None, :].expand(gain.shape)] = _takeover(gain, alpha, population)
    chain.fill_diagonal_(0)
    stationary = _stationary(chain / max(1, mutants))
    return stationary.view(shape)


def _takeover(gain: Tensor, alpha: float, population: int) -> Tensor:
    """rho, without a power that overflows."""
    size = torch.where(gain == 0, 1, alpha * gain.abs())
    up = torch.expm1(-size) / torch.expm1(-population * size)
    rho = torch.where(gain > 0, up, up * torch.exp(-(population - 1) * size))
    return torch.where(gain == 0, 1 / population, rho).clamp(min=1e-20)


def _stationary(chain: Tensor) -> Tensor:
    """(N,), of transitions (N, N) whose diagonal does not count: states are taken out from the last to the second."""
    chain = chain.clone()
    count = chain.shape[0]
    for n in range(count - 1, 0, -1):
        leaving = chain[n, :n] / chain[n, :n].sum()
        chain[:n, :n] += chain[:n, n, None] * leaving
        chain[:n, n] /= chain[n, :n].sum()
    weights = torch.ones_like(chain[0])
    for n in range(1, count):
        weights[n] = weights[:n] @ chain[:n, n]
    return weights / weights.sum()
