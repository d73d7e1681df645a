"""Archives of many good solutions that differ, and how new one is."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = [
    "Archive",
    "Elites",
    "archive_improvement",
    "coverage",
    "cvt_centroids",
    "dqd_branch",
    "novelty_fitness",
    "novelty_score",
    "qd_score",
]


class Elites(NamedTuple):
    """What an archive holds, a row a filled cell, in the order of the cells."""

    solutions: Tensor  # (F, D)
    objectives: Tensor  # (F,)
    measures: Tensor  # (F, K)
    cells: Tensor  # (F,)


def cvt_centroids(
    cells: int, ranges: list[tuple[float, float]], *, samples: int = 10000, iterations: int = 20,
    generator: torch.Generator | None = None,
) -> Tensor:  # fmt: skip
    """Centroids of a centroidal Voronoi tessellation of a box, by k-means of uniform samples.

    Args:
        cells: how many.
        ranges: (least, greatest) of each measure.
        samples, iterations: of k-means.
        generator: of the samples.

    Returns:
        (cells, K)

    Source:
        Vassiliades et al. 2018, arXiv:1610.05729.

    Example:
        >>> cvt_centroids(5, [(0.0, 1.0), (0.0, 2.0)], samples=100).shape
        torch.Size([5, 2])
    """
    low, high = torch.tensor(ranges, dtype=torch.float64).unbind(1)
    points = low + (high - low) * torch.rand(samples, len(ranges), generator=generator, dtype=torch.float64)
    centroids = points[torch.randperm(samples, generator=generator)[:cells]].clone()
    for _ in range(iterations):
        nearest = torch.cdist(points, centroids).argmin(1)
        sums = torch.zeros_like(centroids).index_add(0, nearest, points)
        counts = torch.bincount(nearest, minlength=len(centroids))[:, None]
        centroids = torch.where(counts > 0, sums / counts.clamp(min=1), centroids)
    return centroids


class Archive:
    """The best solution of each cell of a space of measures (MAP-Elites).

    Args:
        ranges: (least, greatest) of each measure; what is outside belongs to the cell at the edge.
        dims: how many cells along each measure: a grid.
        centroids: (cells, K), in the place of ``dims``: a cell is what is nearest to its centroid (CVT-MAP-Elites); see
            :func:`cvt_centroids`.

    A solution takes a cell that is empty, or whose objective is less than its own; of equal ones the earlier stays.
    NaN in an objective or a measure is rejected.

    Source:
        Mouret and Clune 2015, arXiv:1504.04909.

    Example:
        >>> archive = Archive([(0.0, 1.0)], dims=(4,))
        >>> measures = torch.tensor([[0.1], [0.2], [0.9]])
        >>> archive.insert(torch.zeros(3, 2), torch.tensor([1.0, 3.0, float("nan")]), measures)
        tensor([0, 2, 0])
        >>> archive.elites().objectives.tolist()
        [3.0]
    """

    def __init__(
        self,
        ranges: list[tuple[float, float]],
        *,
        dims: tuple[int, ...] | None = None,
        centroids: Tensor | None = None,
    ) -> None:
        if (dims is None) == (centroids is None):
            raise ValueError("an archive has dims (a grid) or centroids (CVT)")
        if dims is not None and len(dims) != len(ranges):
            raise ValueError(f"dims {dims} and ranges {ranges} have to be of the same measures")
        self.low, self.high = torch.tensor(ranges, dtype=torch.float64).unbind(1)
        if not (self.low < self.high).all():
            raise ValueError(f"a range is (least, greatest), got {ranges}")
        self.dims = dims
        self.centroids = None if centroids is None else centroids.double()
        self.cells = math.prod(dims) if dims is not None else len(centroids)  # type: ignore[arg-type]
        self.filled = torch.zeros(self.cells, dtype=torch.bool)
        self.objectives = torch.full((self.cells,), -math.inf, dtype=torch.float64)
        self.measures = torch.zeros(self.cells, len(ranges), dtype=torch.float64)
        self.solutions: Tensor | None = None

    def cell_of(self, measures: Tensor) -> Tensor:
        """(N,), the cells of measures (N, K)."""
        measures = measures.double()
        if self.centroids is not None:
            return torch.cdist(measures, self.centroids, compute_mode="donot_use_mm_for_euclid_dist").argmin(1)
        assert self.dims is not None
        sizes = torch.tensor(self.dims)
        # a measure on a boundary, which rounding may have put below it, is the next cell's, as in pyribs
        place = (sizes * (measures - self.low) + 1e-6) / (self.high - self.low)
        place = torch.minimum(place.nan_to_num(0.0, 1e18, -1e18).clamp(min=0).floor(), sizes - 1.0).long()
        strides = [math.prod(self.dims[k + 1 :]) for k in range(len(self.dims))]
        return (place * torch.tensor(strides)).sum(1)

    def insert(self, solutions: Tensor, objectives: Tensor, measures: Tensor) -> Tensor:
        """Offers solutions (N, D) with objectives (N,) and measures (N, K).

        Returns:
            (N,): 2 for the first elite of its cell, 1 for a better one than before, 0: not taken. Of a batch in one
            cell only the best is taken.
        """
        size = objectives.shape[0]
        if solutions.shape[0] != size or measures.shape != (size, self.measures.shape[1]):
            raise ValueError(
                f"solutions {tuple(solutions.shape)}, objectives {tuple(objectives.shape)} and measures "
                f"{tuple(measures.shape)} are not of the same number of solutions"
            )
        if self.solutions is None:
            self.solutions = torch.zeros(self.cells, *solutions.shape[1:], dtype=solutions.dtype)
        objectives = objectives.detach().double().cpu()
        measures, solutions = measures.detach().double().cpu(), solutions.detach().cpu()
        valid = ~(objectives.isnan() | measures.isnan().any(1))
        cells = self.cell_of(measures.nan_to_num())
        status = torch.zeros(size, dtype=torch.long)
        if not size:
            return status
        # the best of each cell, of equal ones the first: by a stable sort of objectives, then of cells
        order = objectives.where(valid, -math.inf).argsort(descending=True, stable=True)
        order = order[valid[order]]
        order = order[cells[order].argsort(stable=True)]
        first = torch.ones(len(order), dtype=torch.bool)
        first[1:] = cells[order][1:] != cells[order][:-1]
        best = order[first]
        place = cells[best]
        taken = ~self.filled[place] | (objectives[best] > self.objectives[place])
        best, place = best[taken], place[taken]
        status[best] = torch.where(self.filled[place], 1, 2)
        self.filled[place] = True
        self.objectives[place] = objectives[best]
        self.measures[place] = measures[best]
        self.solutions[place] = solutions[best]
        return status

    def elites(self) -> Elites:
        """What is held."""
        cells = self.filled.nonzero()[:, 0]
        solutions = torch.zeros(0) if self.solutions is None else self.solutions[cells]
        return Elites(solutions, self.objectives[cells], self.measures[cells], cells)


def qd_score(archive: Archive, *, offset: float = 0.0) -> Tensor:
    """The sum of the elites' objectives, each less an offset that makes all of them positive.

    Args:
        archive: an :class:`Archive`.
        offset: the least objective there can be; with another one a new cell may lower the score.

    Returns:
        0-d, in float64.

    Source:
        Pugh et al. 2016, Quality diversity: a new frontier for evolutionary computation.

    Example:
        >>> archive = Archive([(0.0, 1.0)], dims=(4,))
        >>> _ = archive.insert(torch.zeros(2, 1), torch.tensor([1.0, 2.0]), torch.tensor([[0.1], [0.9]]))
        >>> qd_score(archive, offset=-1.0).item()
        5.0
    """
    return torch.where(archive.filled, archive.objectives - offset, 0).sum()


def coverage(archive: Archive) -> Tensor:
    """The share of the cells that are filled.

    Returns:
        0-d, in float64.

    Example:
        >>> coverage(Archive([(0.0, 1.0)], dims=(4,))).item()
        0.0
    """
    return archive.filled.double().mean()


def archive_improvement(archive: Archive, objectives: Tensor, measures: Tensor, *, minimum: float = 0.0) -> Tensor:
    """What each solution would add to an archive, by which CMA-ME and CMA-MEGA rank them.

    Args:
        archive: an :class:`Archive`.
        objectives: (N,)
        measures: (N, K)
        minimum: what an empty cell counts.

    Returns:
        (N,), in float64: the objective less that of the cell's elite, negative where it would not be taken; -inf of
        NaN.

    Source:
        Fontaine et al. 2020 (CMA-ME), arXiv:1912.02400; Fontaine and Nikolaidis 2021, arXiv:2106.03894.

    Example:
        >>> archive = Archive([(0.0, 1.0)], dims=(2,))
        >>> _ = archive.insert(torch.zeros(1, 1), torch.tensor([2.0]), torch.tensor([[0.1]]))
        >>> archive_improvement(archive, torch.tensor([3.0, 3.0]), torch.tensor([[0.2], [0.8]])).tolist()
        [1.0, 3.0]
    """
    objectives, measures = objectives.detach().double().cpu(), measures.detach().double().cpu()
    cells = archive.cell_of(measures.nan_to_num())
    before = torch.where(archive.filled[cells], archive.objectives[cells], minimum)
    valid = ~(objectives.isnan() | measures.isnan().any(1))
    return torch.where(valid, objectives - before, -math.inf)


def dqd_branch(theta: Tensor, grad_f: Tensor, grad_m: Tensor, coeffs: Tensor, *, normalize: bool = True) -> Tensor:
    r"""The solutions that branch off one along the gradients of its objective and its measures (CMA-MEGA's step).

    .. math:: \theta_i = \theta + |c_{i0}|\, \nabla f + \sum_j c_{ij}\, \nabla m_j

    Args:
        theta: (D,)
        grad_f: (D,), the gradient of the objective.
        grad_m: (K, D), those of the measures.
        coeffs: (B, 1 + K); that of the objective counts without its sign.
        normalize: every gradient divided by its norm; one of 0 stays 0.

    Returns:
        (B, D)

    Source:
        Fontaine and Nikolaidis 2021, arXiv:2106.03894.

    Example:
        >>> grad_f, grad_m = torch.tensor([2.0, 0.0]), torch.tensor([[0.0, 3.0]])
        >>> dqd_branch(torch.zeros(2), grad_f, grad_m, torch.tensor([[-1.0, 2.0]]))
        tensor([[1., 2.]])
    """
    gradients = torch.cat([grad_f[None], grad_m])  # (1 + K, D)
    if coeffs.dim() != 2 or coeffs.shape[1] != gradients.shape[0]:
        raise ValueError(f"coeffs must be (B, {gradients.shape[0]}), got {tuple(coeffs.shape)}")
    if normalize:
        norm = gradients.norm(dim=1, keepdim=True)
        gradients = gradients / torch.where(norm == 0, 1, norm)
    return theta + torch.cat([coeffs[:, :1].abs(), coeffs[:, 1:]], 1) @ gradients


def novelty_score(bd: Tensor, archive: Tensor | None = None, *, k: int = 15) -> Tensor:
    r"""How far behaviours are from their nearest neighbours.

    .. math:: \rho(x) = \frac1k \sum_{j=1}^k \|b(x) - b(x_j)\|

    over the k nearest among the archive and the other behaviours; a behaviour is no neighbour of itself. Fewer than k:
    the mean over these; none: inf.

    Args:
        bd: behaviours (N, D).
        archive: behaviours of the past (M, D).
        k: at least 1.

    Returns:
        (N,)

    Source:
        Lehman and Stanley 2011, Abandoning objectives.

    Example:
        >>> novelty_score(torch.tensor([[0.0], [1.0], [5.0]]), k=1).tolist()
        [1.0, 1.0, 4.0]
    """
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    pool = bd if archive is None else torch.cat([bd, archive.to(bd)])
    distances = torch.cdist(bd, pool, compute_mode="donot_use_mm_for_euclid_dist")  # (N, N + M)
    distances.diagonal().fill_(math.inf)
    others = pool.shape[0] - 1
    if others < 1:
        return torch.full_like(distances[:, 0], math.inf) if bd.shape[0] else bd.new_zeros(0)
    return distances.topk(min(k, others), dim=1, largest=False).values.mean(1)


def novelty_fitness(novelty: Tensor, fitness: Tensor, *, alpha: float = 0.5) -> Tensor:
    r"""The compromise :math:`(1 - \alpha)\, \rho + \alpha f` of novelty and fitness.

    Args:
        novelty: (N,)
        fitness: (N,), on the scale of the novelty.
        alpha: in [0, 1].

    Returns:
        (N,)

    Example:
        >>> novelty_fitness(torch.tensor([1.0]), torch.tensor([3.0]), alpha=0.25).item()
        1.5
    """
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha must be between 0 and 1, got {alpha}")
    return torch.lerp(novelty, fitness.to(novelty), alpha)
