"""The pairwise losses against other libraries: values and gradients on the same inputs."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from cases.case import normal
from support import assert_close, generator

import fastloss

BACKENDS = ["auto", "reference"]
each_backend = pytest.mark.parametrize("backend", BACKENDS)


def embeddings() -> tuple[torch.Tensor, torch.Tensor]:
    """Of every class at least two, as the libraries differ in what an anchor without a positive counts for."""
    random = generator("oracles")
    return normal(random, 90, 12), torch.randint(11, (45,), generator=random).repeat(2)


def compare(backend, ours, theirs, *tensors):
    leaves = [x.requires_grad_() for x in tensors]
    with fastloss.backend(backend):
        value = ours(*leaves)
    expected = theirs(*leaves)
    assert_close(value, expected, torch.float64, terms=10.0)
    gradients = torch.autograd.grad(value, leaves), torch.autograd.grad(expected, leaves)
    for actual, wanted in zip(*gradients, strict=True):
        assert_close(actual, wanted, torch.float64, "gradient", 1.0)


@each_backend
class TestPytorchMetricLearning:
    @pytest.fixture(autouse=True)
    def library(self):
        pytest.importorskip("pytorch_metric_learning", reason="pytorch-metric-learning is not installed")

    def test_nt_xent(self, backend):
        from pytorch_metric_learning.losses import NTXentLoss

        x, _ = embeddings()
        labels = torch.arange(45).repeat(2)
        theirs = NTXentLoss(temperature=0.3)
        compare(backend, lambda x: fastloss.nt_xent(x[:45], x[45:], temperature=0.3), lambda x: theirs(x, labels), x)

    def test_supcon(self, backend):
        from pytorch_metric_learning.losses import SupConLoss
        from pytorch_metric_learning.reducers import MeanReducer

        x, labels = embeddings()
        theirs = SupConLoss(temperature=0.2, reducer=MeanReducer())
        compare(backend, lambda x: fastloss.supcon_loss(x, labels, temperature=0.2), lambda x: theirs(x, labels), x)

    def test_batch_hard(self, backend):
        from pytorch_metric_learning.distances import LpDistance
        from pytorch_metric_learning.losses import TripletMarginLoss
        from pytorch_metric_learning.miners import BatchHardMiner
        from pytorch_metric_learning.reducers import MeanReducer

        x, labels = embeddings()
        distance = LpDistance(normalize_embeddings=False)
        miner = BatchHardMiner(distance=distance)
        theirs = TripletMarginLoss(margin=0.7, distance=distance, reducer=MeanReducer())
        compare(
            backend,
            lambda x: fastloss.batch_hard_triplet_loss(x, labels, margin=0.7),
            lambda x: theirs(x, labels, miner(x, labels)),
            x,
        )

    def test_vicreg(self, backend):
        from pytorch_metric_learning.losses import VICRegLoss

        for width in (12, 60):  # the covariance by D x D, and by N x N
            a, b = (normal(generator(f"vicreg {k}"), 40, width) for k in range(2))
            theirs = VICRegLoss(invariance_lambda=25, variance_mu=25, covariance_v=1, eps=1e-4)
            total, terms = fastloss.vicreg_loss(a, b, return_terms=True)
            assert_close(total, theirs(a, ref_emb=b), torch.float64)
            assert terms.keys() == {"invariance", "variance", "covariance"}


@each_backend
def test_nt_xent_of_optax(backend):
    optax = pytest.importorskip("optax", reason="optax is not installed")
    x, _ = embeddings()
    labels = np.arange(45)
    expected = optax.losses.ntxent(x.float().numpy(), np.concatenate([labels, labels]), temperature=0.3)
    with fastloss.backend(backend):
        value = fastloss.nt_xent(x[:45].float(), x[45:].float(), temperature=0.3)
    assert_close(value, torch.tensor(float(expected), dtype=torch.float64), torch.float32, terms=10.0)


@each_backend
def test_info_nce_is_a_cross_entropy(backend):
    x, _ = embeddings()
    a, b = x[:45], x[45:]
    compare(
        backend,
        lambda a, b: fastloss.info_nce(a, b, temperature=0.2, label_smoothing=0.1),
        lambda a, b: F.cross_entropy(F.normalize(a) @ F.normalize(b).t() / 0.2, torch.arange(45), label_smoothing=0.1),
        a.clone(),
        b.clone(),
    )


def test_vicreg_closed_form():
    """As the authors' code computes it."""
    a, b = (normal(generator(f"closed form {k}"), 40, 13) for k in range(2))

    def variance(x):
        return F.relu(1 - torch.sqrt(x.var(0) + 1e-4)).mean()

    def covariance(x):
        matrix = torch.cov(x.t())
        return (matrix - torch.diag(matrix.diagonal())).square().sum() / x.shape[1]

    expected = 25 * F.mse_loss(a, b) + 25 * (variance(a) + variance(b)) / 2 + covariance(a) + covariance(b)
    assert_close(fastloss.vicreg_loss(a, b), expected, torch.float64)
    wide_a, wide_b = (normal(generator(f"wide {k}"), 13, 40).requires_grad_() for k in range(2))
    value = fastloss.vicreg_loss(wide_a, wide_b, invariance=0.0, variance=0.0)
    assert_close(value, covariance(wide_a) + covariance(wide_b), torch.float64)
    assert torch.autograd.gradcheck(fastloss.vicreg_loss, (wide_a, wide_b), fast_mode=True)


def test_siglip_and_clip_with_a_module_of_their_own():
    """The gradient of a scale and a bias that are parameters, in the form in which open_clip keeps them."""
    x, _ = embeddings()
    log_scale = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    bias = torch.tensor([-3.0], dtype=torch.float64, requires_grad=True)
    for backend in BACKENDS:
        with fastloss.backend(backend):
            value = fastloss.siglip_loss(x[:45], x[45:], log_scale.exp(), bias)
        logits = log_scale.exp() * (F.normalize(x[:45]) @ F.normalize(x[45:]).t()) + bias
        expected = -F.logsigmoid((2 * torch.eye(45) - 1) * logits).sum() / 45
        assert_close(value, expected, torch.float64)
        for parameter in (log_scale, bias):
            actual, wanted = (torch.autograd.grad(v, parameter, retain_graph=True)[0] for v in (value, expected))
            assert actual.shape == parameter.shape
            assert_close(actual, wanted, torch.float64)
