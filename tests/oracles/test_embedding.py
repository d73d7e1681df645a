"""Metric learning and self-supervision against pytorch-metric-learning, and where nothing is left to compare."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from support import assert_close, generator

import fastloss


def _batch(name: str):
    x = torch.randn(12, 5, generator=generator(name), dtype=torch.float64)
    return x, torch.arange(12) % 4


def test_losses_of_pytorch_metric_learning() -> None:
    losses = pytest.importorskip("pytorch_metric_learning.losses")
    x, labels = _batch("pml")

    def assert_near(found: torch.Tensor, right: torch.Tensor) -> None:  # its softplus is 2e-9 off from 20 on
        torch.testing.assert_close(found, right, rtol=1e-9, atol=1e-8)

    theirs = losses.CircleLoss(m=0.3, gamma=20)
    assert_near(fastloss.circle_loss(x, labels, margin=0.3, scale=20), theirs(x, labels))
    theirs = losses.MultiSimilarityLoss(alpha=3, beta=20, base=0.4)
    found = fastloss.multi_similarity_loss(x, labels, alpha=3, beta=20, base=0.4)
    assert_near(found, theirs(x, labels))
    theirs = losses.LiftedStructureLoss(neg_margin=0.7, pos_margin=0.0)
    found = fastloss.lifted_structure_loss(x, labels, margin=0.7, normalize=True)
    assert_near(found, theirs(x, labels))
    theirs = losses.ProxyAnchorLoss(num_classes=5, embedding_size=5, margin=0.2, alpha=16).double()
    found = fastloss.proxy_anchor_loss(x, labels, theirs.proxies, margin=0.2, alpha=16)
    assert_near(found, theirs(x, labels))
    anchor, positive = x[:4], x[4:8]
    found = fastloss.n_pair_loss(anchor, positive)
    assert_close(found, F.cross_entropy(anchor @ positive.T, torch.arange(4)), torch.float64, terms=10.0)


ONE_CLASS, ALONE = torch.zeros(4, dtype=torch.long), torch.arange(4)


@pytest.mark.parametrize("labels", [ONE_CLASS, ALONE], ids=["one class", "all alone"])
@pytest.mark.parametrize("name", ["circle_loss", "lifted_structure_loss", "multi_similarity_loss"])
def test_batches_without_negatives_or_positives(name: str, labels: torch.Tensor) -> None:
    x = torch.randn(4, 3, generator=generator(name)).requires_grad_()
    loss = getattr(fastloss, name)(x, labels)
    loss.backward()
    assert x.grad.isfinite().all() and loss.isfinite()
    if name != "multi_similarity_loss":
        assert loss == 0 and (x.grad == 0).all()


@pytest.mark.parametrize("name", ["circle_loss", "lifted_structure_loss", "multi_similarity_loss", "koleo_loss"])
def test_embeddings_that_coincide(name: str) -> None:
    x = torch.ones(4, 3, requires_grad=True)
    labels = () if name == "koleo_loss" else (torch.tensor([0, 0, 1, 1]),)
    loss = getattr(fastloss, name)(x, *labels)
    loss.backward()
    assert loss.isfinite() and x.grad.isfinite().all()


def test_contrast_of_pairs_that_coincide() -> None:
    a = torch.zeros(2, 3, requires_grad=True)
    loss = fastloss.contrastive_loss(a, torch.zeros(2, 3), torch.tensor([True, False]), margin=2.0)
    loss.backward()
    assert loss == 2.0 and (a.grad == 0).all()


def test_views_that_agree() -> None:
    z = torch.randn(64, 5, generator=generator("views"))
    assert fastloss.barlow_twins_loss(z, z, redundancy=0.0) < 1e-6
    assert fastloss.byol_loss(z, 3 * z) < 1e-6
    assert fastloss.koleo_loss(z[:1]) == 0
    x = torch.randn(90, 80)
    for loss, part in ((fastloss.dcl_loss, "nt_xent by"), (fastloss.n_pair_loss, "info_nce by")):
        assert part in fastloss.explain(loss, x, x).reason
    views = torch.randn(3, 40, 50)
    assert "cross_entropy by" in fastloss.explain(fastloss.dino_loss, views, views[:2]).reason


def test_large_teachers_of_views_are_constants() -> None:
    student, teacher = (torch.randn(n, 6, 7, generator=generator(str(n))).requires_grad_() for n in (4, 2))
    center = torch.randn(7).requires_grad_()
    fastloss.dino_loss(student, teacher, center).backward()
    assert teacher.grad is None and center.grad is None and student.grad.isfinite().all()
    lone = fastloss.dino_loss(student[:2], teacher[:1])
    q = torch.softmax(teacher[0] / 0.04, 1)
    assert_close(lone, -(q * torch.log_softmax(student[1] / 0.1, 1)).sum(1).mean().double(), torch.float32)
