"""Archives against a dictionary (and pyribs, where it is installed), novelty against scikit-learn."""

from __future__ import annotations

import math

import pytest
import torch
from support import assert_close, generator

from fastloss import quality_diversity as qd


def _offers(name: str, size: int = 60):
    random = generator(name)
    solutions = torch.randn(size, 3, generator=random, dtype=torch.float64)
    objectives = torch.randint(-4, 9, (size,), generator=random).double()  # many ties
    measures = torch.rand(size, 2, generator=random, dtype=torch.float64) * 3 - 1.5
    objectives[7], measures[9, 1] = math.nan, math.nan
    return solutions, objectives, measures


def _nearest(centroids):
    def cell_of(m) -> int:
        squares = [sum((a - b) ** 2 for a, b in zip(m, c, strict=True)) for c in centroids.tolist()]
        return squares.index(min(squares))

    return cell_of


@pytest.mark.parametrize("kind", ["grid", "cvt"])
def test_an_archive_is_a_dictionary_of_the_best(kind: str) -> None:
    ranges = [(-1.0, 1.0), (-1.0, 2.0)]
    centroids = qd.cvt_centroids(9, ranges, samples=300, generator=generator("cvt"))
    archive = qd.Archive(ranges, dims=(4, 5)) if kind == "grid" else qd.Archive(ranges, centroids=centroids)

    def grid(m) -> int:
        place = []
        for x, (low, high), n in zip(m, ranges, (4, 5), strict=True):
            place.append(min(n - 1, max(0, math.floor((x - low) / (high - low) * n))))
        return place[0] * 5 + place[1]

    cell_of = grid if kind == "grid" else _nearest(centroids)
    held: dict[int, tuple[float, int]] = {}
    solutions, objectives, measures = _offers(kind)
    for part in (slice(0, 25), slice(25, 60), slice(0, 0)):
        status = archive.insert(solutions[part], objectives[part], measures[part])
        before, candidates = dict(held), range(*part.indices(60))
        for i in candidates:
            f, m = float(objectives[i]), measures[i].tolist()
            if not math.isnan(f) and not any(map(math.isnan, m)):
                cell = cell_of(m)
                if cell not in held or f > held[cell][0]:
                    held[cell] = (f, i)
        right = [0] * len(candidates)
        for cell, (_, i) in held.items():
            if before.get(cell) != held[cell]:
                right[i - part.start] = 1 if cell in before else 2
        assert status.tolist() == right
    elites = archive.elites()
    assert elites.cells.tolist() == sorted(held)
    assert elites.objectives.tolist() == [held[cell][0] for cell in sorted(held)]
    assert torch.equal(elites.solutions, solutions[[held[cell][1] for cell in sorted(held)]])
    assert qd.coverage(archive) == len(held) / archive.cells
    assert qd.qd_score(archive, offset=-4.0) == sum(f + 4 for f, _ in held.values())
    gains = qd.archive_improvement(archive, objectives, measures, minimum=-4.0)
    for i, gain in enumerate(gains.tolist()):
        f, m = float(objectives[i]), measures[i].tolist()
        wrong = math.isnan(f) or any(map(math.isnan, m))
        assert gain == (-math.inf if wrong else f - held.get(cell_of(m), (-4.0, 0))[0])


def test_an_archive_is_pyribs() -> None:
    archives = pytest.importorskip("ribs.archives")
    theirs = archives.GridArchive(solution_dim=3, dims=(4, 5), ranges=[(-1.0, 1.0), (-1.0, 2.0)], qd_score_offset=-4.0)
    ours = qd.Archive([(-1.0, 1.0), (-1.0, 2.0)], dims=(4, 5))
    solutions, objectives, measures = _offers("pyribs")
    keep = ~(objectives.isnan() | measures.isnan().any(1))
    theirs.add(solutions[keep].numpy(), objectives[keep].numpy(), measures[keep].numpy())
    ours.insert(solutions, objectives, measures)
    assert math.isclose(theirs.stats.coverage, qd.coverage(ours))
    assert math.isclose(theirs.stats.qd_score, qd.qd_score(ours, offset=-4.0))


def test_novelty_is_the_mean_distance_of_neighbours() -> None:
    neighbors = pytest.importorskip("sklearn.neighbors")
    bd, archive = (torch.randn(n, 3, generator=generator(str(n)), dtype=torch.float64) for n in (8, 20))
    pool = torch.cat([bd, archive])
    for k in (1, 5, 27, 40):
        found, _ = neighbors.NearestNeighbors(n_neighbors=min(k, 27) + 1).fit(pool.numpy()).kneighbors(bd.numpy())
        right = torch.from_numpy(found[:, 1:]).mean(1)  # the nearest is itself
        assert_close(qd.novelty_score(bd, archive, k=k), right, torch.float64)
    mixed = qd.novelty_fitness(torch.tensor([2.0, 4.0]), torch.tensor([6.0, 0.0]), alpha=0.25)
    assert mixed.tolist() == [3.0, 3.0]
    twins = torch.zeros(3, 2)
    assert (qd.novelty_score(twins, k=2) == 0).all()
    assert qd.novelty_score(twins[:1]).isinf().all() and qd.novelty_score(twins[:0]).shape == (0,)


def test_branches_follow_unit_gradients() -> None:
    theta, f = torch.zeros(4), torch.tensor([0.0, 0.0, 0.0, 0.0])
    m = torch.eye(4)[:2] * torch.tensor([[2.0], [5.0]])
    coeffs = torch.tensor([[1.0, 2.0, -3.0]])
    assert qd.dqd_branch(theta, f, m, coeffs).tolist() == [[2.0, -3.0, 0.0, 0.0]]
    assert qd.dqd_branch(theta, f, m, coeffs, normalize=False).tolist() == [[4.0, -15.0, 0.0, 0.0]]
    with pytest.raises(ValueError, match="coeffs"):
        qd.dqd_branch(theta, f, m, torch.zeros(1, 2))


def test_what_no_archive_is() -> None:
    for wrong in ({}, {"dims": (2,), "centroids": torch.zeros(1, 1)}, {"dims": (2, 2)}):
        with pytest.raises(ValueError, match="dims"):
            qd.Archive([(0.0, 1.0)], **wrong)
    with pytest.raises(ValueError, match="range"):
        qd.Archive([(1.0, 1.0)], dims=(2,))
    archive = qd.Archive([(0.0, 1.0)], dims=(2,))
    with pytest.raises(ValueError, match="same number"):
        archive.insert(torch.zeros(2, 1), torch.zeros(3), torch.zeros(3, 1))
