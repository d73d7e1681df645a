"""What only the losses over pairs of vectors have: their operators, corners, errors, memory."""

from __future__ import annotations

import math
import subprocess
import sys

import pytest
import torch
from cases.case import normal
from support import BACKENDS, assert_close, each_backend, generator

import fastloss
from fastloss.operators.similarity import DIFFERENTIABLE
from fastloss.skeletons.comparisons import SigmoidComparison

pytestmark = pytest.mark.usefixtures("small_tiles")


@each_backend
def test_similarity_operators_pass_opcheck(backend, device):
    namespace = getattr(torch.ops, "fastloss_triton" if backend == "triton" else "fastloss")
    random = generator("opcheck")
    q, k, own = (normal(random, 9, 4).float().to(device) for _ in range(3))
    scale, labels = torch.tensor(3.0, device=device), torch.arange(9, device=device) % 4
    upstream = torch.rand(9, device=device)
    for gradients in (False, True):
        for name, arguments in {
            "similarity_softmax": (q, k, own, scale, labels, None, None, None),
            "similarity_two_way": (q, k, scale),
            "similarity_sigmoid": (q, k, scale, scale),
            "similarity_semi_hard": (q, labels, 0.5, True),
        }.items():
            operator = getattr(namespace, name)
            wanted = sum(1 << k for k in DIFFERENTIABLE[name] if arguments[k] is not None)
            more = (upstream, wanted) if gradients else (None, 0)
            torch.library.opcheck(operator, (*arguments, *more), test_utils=("test_schema", "test_faketensor"))
    torch.library.opcheck(namespace.hardest_pairs, (q, labels), test_utils=("test_schema", "test_faketensor"))


@each_backend
def test_large_similarities(backend, device):
    """Cosines over a temperature of 0.001, and vectors that are not normalised: no overflow, no NaN."""
    x = normal(generator("large"), 100, 8).to(device)
    for name in (backend, "reference"):
        with fastloss.backend(name):
            for loss in (fastloss.info_nce, fastloss.nt_xent):
                leaf = x.float().requires_grad_()
                value = loss(leaf, x.float(), temperature=1e-3)
                assert value.isfinite()
                assert torch.autograd.grad(value, leaf)[0].isfinite().all()
            if name != "triton":  # whose positives are not the numbers in the sums
                near = fastloss.nt_xent(x.float(), x.float() + 1e-4, temperature=0.02, reduction="none")
                with fastloss.backend("reference"):
                    exact = fastloss.nt_xent(x.float().double(), (x.float() + 1e-4).double(), temperature=0.02,
                                             reduction="none")  # fmt: skip
                assert (near >= 0).all()
                assert_close(near, exact, torch.float32, "almost perfect", 50.0)
            leaf = x.float().requires_grad_()
            value = fastloss.clip_loss(leaf, x.float() + 1, 1e4)
            assert value.isfinite()
            assert torch.autograd.grad(value, leaf)[0].isfinite().all()


@each_backend
def test_an_infinite_similarity_is_nan(backend, device):
    """inf - inf, as in torch's softmax, whichever pair it is of."""
    x = normal(generator("infinite"), 90, 8).float().abs().to(device)
    far = x.clone()
    far[70, 2] = math.inf
    labels = torch.arange(90, device=device) // 2
    calls = {
        "info_nce": lambda: fastloss.info_nce(x, far, reduction="none"),
        "nt_xent": lambda: fastloss.nt_xent(far, x, normalize=False, reduction="none"),
        "supcon_loss": lambda: fastloss.supcon_loss(far, labels, normalize=False, reduction="none"),
        "clip_loss": lambda: fastloss.clip_loss(x, far, 1.0, reduction="none"),
    }
    for name, call in calls.items():
        for chosen in (backend, "reference"):
            with fastloss.backend(chosen):
                assert call().isnan().all(), (name, chosen)


@each_backend
def test_nothing_that_counts(backend, device):
    """No positives, no triplets, only -100: the loss 0, with a graph and zero gradients."""
    x = normal(generator("nothing"), 80, 8).float().to(device)
    alone, same = torch.arange(80, device=device), torch.zeros(80, dtype=torch.int64, device=device)
    calls = {
        "alone": lambda x: fastloss.supcon_loss(x, alone),
        "one class, decoupled": lambda x: fastloss.supcon_loss(x, same, decoupled=True),
        "ignored": lambda x: fastloss.info_nce(x, x, target=torch.full_like(same, -100)),
        "no positives": lambda x: fastloss.batch_hard_triplet_loss(x, alone),
        "no negatives": lambda x: fastloss.batch_hard_triplet_loss(x, same),
        "no positive pairs": lambda x: fastloss.semi_hard_triplet_loss(x, alone),
        "no negatives, semi-hard": lambda x: fastloss.semi_hard_triplet_loss(x, same),
    }
    for name in (backend, "reference"):
        with fastloss.backend(name):
            for what, call in calls.items():
                leaf = x.clone().requires_grad_()
                value = call(leaf)
                assert value == 0, (name, what)
                (gradient,) = torch.autograd.grad(value, leaf)
                assert (gradient == 0).all(), (name, what)


@each_backend
def test_triplets_at_distance_zero(backend, device):
    """Equal embeddings, of one class and of several: no NaN, the gradient is 0 where the distance has none."""
    x = normal(generator("zero"), 1, 8).float().to(device).expand(80, 8)
    labels = torch.arange(80, device=device) % 2
    for name in (backend, "reference"):
        with fastloss.backend(name):
            for squared in (False, True):
                for loss in (fastloss.batch_hard_triplet_loss, fastloss.semi_hard_triplet_loss):
                    leaf = x.clone().requires_grad_()
                    value = loss(leaf, labels, margin=0.5, normalize=False, squared=squared)
                    assert_close(value, torch.tensor(0.5, dtype=torch.float64), torch.float32)
                    (gradient,) = torch.autograd.grad(value, leaf)
                    assert gradient.isfinite().all()


def test_errors_of_similarity_losses():
    x, y = torch.randn(5, 3), torch.randn(5, 4)
    labels = torch.arange(5)
    for call, words in [
        (lambda: fastloss.info_nce(x, y), "positive must have the shape"),
        (lambda: fastloss.info_nce(x, x, temperature=0.0), "temperature must be positive"),
        (lambda: fastloss.info_nce(x, x, label_smoothing=2.0), "label_smoothing"),
        (lambda: fastloss.info_nce(x, x, x, target=labels), "no target"),
        (lambda: fastloss.nt_xent(x, x[:4]), "z2 must have the shape"),
        (lambda: fastloss.supcon_loss(x, labels[:4]), "labels must be"),
        (lambda: fastloss.batch_hard_triplet_loss(x, labels.float()), "labels must be"),
        (lambda: fastloss.semi_hard_triplet_loss(x, labels, margin=math.nan), "margin must be finite"),
        (lambda: fastloss.clip_loss(x, x, torch.ones(2)), "logit_scale must be a number"),
        (lambda: fastloss.rl.temporal_contrastive_loss(x[:, None], offset=5), "offset must be between"),
        (lambda: fastloss.info_nce(x, x, reduction="no"), "reduction"),
    ]:
        with pytest.raises(ValueError, match=words):
            call()


def test_automatic_choice_by_the_number_of_pairs():
    small, large = torch.randn(50, 4), torch.randn(100, 4)
    assert "quicker" in fastloss.explain(fastloss.info_nce, small, small).reason
    if ("cpu", "cpu") in BACKENDS:
        assert fastloss.explain(fastloss.info_nce, large, large).backend == "cpu"
        assert fastloss.explain(fastloss.nn.NTXentLoss(), large, large).backend == "cpu"
    assert "meta" in fastloss.explain(fastloss.info_nce, large.to("meta"), large.to("meta")).reason


def test_module_of_vicreg():
    z_a, z_b = torch.randn(9, 4), torch.randn(9, 4)
    assert fastloss.nn.VICRegLoss(covariance=2.0)(z_a, z_b) == fastloss.vicreg_loss(z_a, z_b, covariance=2.0)


MEMORY = """
import torch, fastloss
def field(name):
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) << 10 for line in file if line.startswith(name))
x, y = torch.randn(4000, 16, requires_grad=True), torch.randn(4000, 16)
def step(n):
    torch.autograd.grad(fastloss.info_nce(x[:n], y[:n]), x)
for backend in ("cpu", "reference"):
    with fastloss.backend(backend):
        step(100)
        with open("/proc/self/clear_refs", "w") as file: file.write("5")
        before = field("VmRSS")
        step(4000)
    print((field("VmHWM") - before) / (4000 * 4000 * 4))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.skipif(("cpu", "cpu") not in BACKENDS, reason="no CPU kernels")
def test_peak_memory_in_units_of_the_similarity_matrix():
    result = subprocess.run([sys.executable, "-c", MEMORY], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    ours, reference = map(float, result.stdout.split())
    assert ours < 0.4
    assert reference > 1.5, "the measurement does not see torch's matrices"


@each_backend
@pytest.mark.parametrize("keys", [70, 71, 133])
def test_more_keys_than_queries_at_the_sigmoid(backend, device, keys):
    """The keys of other ranks belong to no query of this one."""
    random = generator(f"keys {keys}")
    tensors = [normal(random, 70, 5), normal(random, keys, 5), torch.tensor(1.5).double(), torch.tensor(-0.5).double()]
    tensors = [x.to(device).requires_grad_() for x in tensors]
    namespace = getattr(torch.ops, "fastloss_triton" if backend == "triton" else "fastloss")
    expected = SigmoidComparison(*tensors).reference("sum")
    right = torch.autograd.grad(expected, tensors)
    constants = [x.detach() for x in tensors]
    losses, found = namespace.similarity_sigmoid(*constants, torch.ones(70, device=device).double(), 0b1111)
    assert_close(losses.sum(), expected.detach(), torch.float64)
    for name, ours, theirs in zip(("query", "key", "scale", "bias"), found, right, strict=True):
        terms = 70.0 * keys if theirs.dim() == 0 else float(keys)  # sums of both signs, of numbers of about 1
        assert_close(ours.reshape(theirs.shape), theirs, torch.float64, f"gradient of {name}", terms)


@each_backend
@pytest.mark.parametrize("size", [1, 2, 65, 129])
def test_a_last_block_of_one_vector(backend, device, size):
    """Alone in its block, or in the batch: its similarities are a column of the blocks before, which is no row."""
    made = normal(generator(f"one vector {size}"), size, 12).to(device)
    labels = torch.arange(size, device=device) % 3
    found = {}
    for name in (backend, "reference"):
        leaf = made.clone().requires_grad_()
        with fastloss.backend(name):
            losses = fastloss.supcon_loss(leaf, labels, reduction="none")
        losses.sum().backward()
        found[name] = losses.detach(), leaf.grad
    for got, wanted, what in zip(found[backend], found["reference"], ("losses", "gradient"), strict=True):
        assert_close(got, wanted, torch.float64, what, 10.0)
