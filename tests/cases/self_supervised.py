"""The losses of self-supervised learning that are compositions of torch's operations."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from cases.case import MASKED, Arguments, Case, Shape, normal


def _views(generator: torch.Generator, shape: Shape) -> Arguments:
    return {"z_a": normal(generator, *shape), "z_b": normal(generator, *shape)}


def vicreg_oracle(z_a: Tensor, z_b: Tensor) -> Tensor:
    """main_vicreg.py of facebookresearch/vicreg, as lightly has it."""

    def spread(z: Tensor) -> Tensor:
        return F.relu(1 - torch.sqrt(z.var(0) + 0.0001)).mean()

    def off_diagonal(z: Tensor) -> Tensor:
        covariance = torch.cov(z.T).reshape(z.shape[1], z.shape[1])
        return covariance[~torch.eye(len(covariance), dtype=torch.bool)].pow(2).sum() / len(covariance)

    invariance = F.mse_loss(z_a, z_b)
    return 25 * invariance + 25 * (spread(z_a) + spread(z_b)) / 2 + off_diagonal(z_a) + off_diagonal(z_b)


def _barlow(z_a: Tensor, z_b: Tensor) -> Tensor:
    """main.py of facebookresearch/barlowtwins: batch normalisation, then the correlations, entry by entry."""
    a, b = (F.batch_norm(z, None, None, training=True, eps=1e-5) for z in (z_a, z_b))
    total = torch.zeros((), dtype=torch.float64)
    for d in range(a.shape[1]):
        for e in range(a.shape[1]):
            c = (a[:, d] * b[:, e]).mean()
            total = total + ((c - 1) ** 2 if d == e else 0.005 * c**2)
    return total


def _named(*names: str):
    return lambda generator, shape: {name: normal(generator, *shape) for name in names}


def _labeled_views(generator: torch.Generator, shape: Shape) -> Arguments:
    return {
        "student": normal(generator, *shape), "teacher": normal(generator, 2, *shape[1:]),
        "center": normal(generator, shape[2]),
    }  # fmt: skip


def _byol(input: Tensor, target: Tensor) -> Tensor:
    return (F.normalize(input) - F.normalize(target)).square().sum(1)


def _simsiam(p1: Tensor, p2: Tensor, z1: Tensor, z2: Tensor) -> Tensor:
    return -(F.cosine_similarity(p1, z2) + F.cosine_similarity(p2, z1)) / 2


def _dcl(z1: Tensor, z2: Tensor, temperature: float = 0.1, sigma: float | None = None) -> Tensor:
    z = F.normalize(torch.cat([z1, z2]))
    s, size = z @ z.T, len(z1)
    losses = []
    for i in range(2 * size):
        j = (i + size) % (2 * size)
        weight = 1.0
        if sigma is not None:
            positives = (s.diagonal(size) / sigma).exp().detach()
            weight = 2 - positives[i % size] / positives.mean()
        rest = [k for k in range(2 * size) if k not in (i, j)]
        losses.append((s[i, rest] / temperature).exp().sum().log() - weight * s[i, j] / temperature)
    return torch.stack(losses)


def _dino(student: Tensor, teacher: Tensor, center: Tensor) -> Tensor:
    """main_dino.py of facebookresearch/dino: the loops over views."""
    total, count = torch.zeros((), dtype=torch.float64), 0
    for t, logits in enumerate(teacher):
        q = torch.softmax((logits - center) / 0.04, 1)
        for s, x in enumerate(student):
            if s != t:
                total, count = total - (q * torch.log_softmax(x / 0.1, 1)).sum(1).mean(), count + 1
    return total / count


def _patches(generator: torch.Generator, shape: Shape) -> Arguments:
    return {
        "student": normal(generator, *shape), "teacher": normal(generator, *shape),
        "center": normal(generator, shape[2]),
    }  # fmt: skip


def _ibot(student: Tensor, teacher: Tensor, center: Tensor) -> Tensor:
    """ibot_patch_loss.py of facebookresearch/dinov2."""
    return -(torch.softmax((teacher - center) / 0.04, -1) * torch.log_softmax(student / 0.1, -1)).sum(-1)


def _prototyped(generator: torch.Generator, shape: Shape) -> Arguments:
    return {
        "embeddings": normal(generator, *shape), "prototypes": normal(generator, 4, shape[2]),
        "queue": normal(generator, 3, shape[2]),
    }  # fmt: skip


def _swav(embeddings: Tensor, prototypes: Tensor, queue: Tensor) -> Tensor:
    """main_swav.py of facebookresearch/swav: exponentials, normalised in turns, as rows of prototypes."""
    c, total, count = F.normalize(prototypes), torch.zeros((), dtype=torch.float64), 0
    for t in range(2):
        z = torch.cat([F.normalize(embeddings[t]), F.normalize(queue)])
        q = ((z @ c.T).detach() / 0.05).exp().T
        for _ in range(3):
            q = q / q.sum(1, keepdim=True) / q.shape[0]
            q = q / q.sum(0, keepdim=True) / q.shape[1]
        q = (q * q.shape[1]).T[: embeddings.shape[1]]
        for v, view in enumerate(embeddings):
            if v != t:
                logits = F.normalize(view) @ c.T / 0.1
                total, count = total - (q * torch.log_softmax(logits, 1)).sum(1).mean(), count + 1
    return total / count


def _koleo(embeddings: Tensor) -> Tensor:
    x = F.normalize(embeddings)
    return -torch.stack([
        torch.stack([(a - b).norm() for j, b in enumerate(x) if j != i]).min().add(1e-8).log() for i, a in enumerate(x)
    ])  # fmt: skip


def _mae(pred: Tensor, target: Tensor, norm_pix: bool = False) -> Tensor:
    """models_mae.py of facebookresearch/mae."""
    if norm_pix:
        target = (target - target.mean(-1, keepdim=True)) / (target.var(-1, keepdim=True) + 1e-6) ** 0.5
    return ((pred - target) ** 2).mean(-1)


CASES = [
    # the squares on the diagonal, about 1 each, are subtracted again
    Case("vicreg_loss", _views, (20, 12), ("z_a", "z_b"), oracle=vicreg_oracle, reductions=("mean",), magnitude=4.0),
    Case(
        "barlow_twins_loss", _views, (20, 6), ("z_a", "z_b"), oracle=_barlow, reductions=("mean",), magnitude=4.0,
    ),
    Case("byol_loss", _named("input", "target"), (6, 5), ("input",), oracle=_byol, magnitude=2.0),
    Case("simsiam_loss", _named("p1", "p2", "z1", "z2"), (6, 5), ("p1", "p2"), oracle=_simsiam, magnitude=1.0),
    Case("dcl_loss", _named("z1", "z2"), (9, 12), ("z1", "z2"), oracle=_dcl, magnitude=40.0),
    Case(
        "dcl_loss", _named("z1", "z2"), (9, 12), ("z1", "z2"), variant="weighted", oracle=_dcl, magnitude=40.0,
        # the weights are constants
        options={"sigma": 0.5, "temperature": 0.5}, derivative=False,
    ),
    Case(
        "dino_loss", _labeled_views, (4, 3, 5), ("student",), oracle=_dino, reductions=("mean",), magnitude=20.0,
        batched=False,
    ),
    Case(
        "ibot_loss", _patches, (3, 4, 5), ("student",), oracle=_ibot, optional=MASKED, magnitude=20.0,
        reductions=("none", "token-mean", "seq-mean-token-mean"),
    ),
    # the assignment is a constant, so the gradient is no derivative
    Case(
        "swav_loss", _prototyped, (3, 4, 5), ("embeddings", "prototypes"), oracle=_swav, reductions=("mean",),
        magnitude=40.0, batched=False, derivative=False,
    ),
    # half and single round the similarities, which may choose another neighbour
    Case("koleo_loss", _named("embeddings"), (6, 4), ("embeddings",), oracle=_koleo, dtypes=(torch.float64,)),
    Case("mae_loss", _named("pred", "target"), (3, 4, 5), ("pred",), oracle=_mae, optional=MASKED),
    Case(
        "mae_loss", _named("pred", "target"), (3, 4, 5), ("pred",), variant="normalised", oracle=_mae, optional=MASKED,
        options={"norm_pix": True},
    ),
]  # fmt: skip
