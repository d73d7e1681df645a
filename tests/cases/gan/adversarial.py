"""The two players of an adversarial game; the oracles write probabilities and logarithms out."""

from __future__ import annotations

import torch
from torch import Tensor

from cases.case import Arguments, Case, Shape, normal


def _scores(generator: torch.Generator, shape: Shape) -> Arguments:
    """As of a critic that can tell them: the means, whose difference Wasserstein's is, do not cancel."""
    return {"real": normal(generator, *shape) + 2.0, "fake": normal(generator, *shape)}


def _fakes(generator: torch.Generator, shape: Shape) -> Arguments:
    return {"fake": normal(generator, *shape)}


def _experts(generator: torch.Generator, shape: Shape) -> Arguments:
    return {"expert": normal(generator, *shape), "policy": normal(generator, 2 * shape[0], *shape[1:])}


def _log_sigmoid(x: Tensor) -> Tensor:
    return (1 / (1 + torch.exp(-x))).log()


def _d(real: Tensor, fake: Tensor, kind: str = "non_saturating") -> Tensor:
    if kind in ("minimax", "non_saturating"):
        return -_log_sigmoid(real).mean() - (1 - torch.sigmoid(fake)).log().mean()
    if kind == "lsgan":
        return ((real - 1) ** 2).mean() / 2 + (fake**2).mean() / 2
    if kind == "wasserstein":
        return fake.mean() - real.mean()
    if kind == "hinge":
        return torch.relu(1 - real).mean() + torch.relu(1 + fake).mean()
    if kind == "relativistic":
        return -_log_sigmoid(real - fake).mean()
    return -_log_sigmoid(real - fake.mean()).mean() - (1 - torch.sigmoid(fake - real.mean())).log().mean()


def _g(fake: Tensor, real: Tensor | None = None, kind: str = "non_saturating") -> Tensor:
    if kind == "minimax":
        return (1 - torch.sigmoid(fake)).log().mean()
    if kind == "non_saturating":
        return -torch.sigmoid(fake).log().mean()
    if kind == "lsgan":
        return ((fake - 1) ** 2).mean() / 2
    if kind in ("wasserstein", "hinge"):
        return -fake.mean()
    assert real is not None
    real = real.detach()
    if kind == "relativistic":
        return -_log_sigmoid(fake - real).mean()
    return -_log_sigmoid(fake - real.mean()).mean() - (1 - torch.sigmoid(real - fake.mean())).log().mean()


def _gail(expert: Tensor, policy: Tensor, entropy_coefficient: float = 0.0) -> Tensor:
    p = torch.sigmoid(torch.cat([expert.flatten(), policy.flatten()]))
    entropy = torch.distributions.Bernoulli(probs=p).entropy().mean()
    return _d(expert, policy) - entropy_coefficient * entropy


def _case(name: str, build, kind: str, differentiable: tuple[str, ...], oracle, **more) -> Case:
    return Case(
        name, build, (5, 3), differentiable, variant=kind, options={"kind": kind}, oracle=oracle, reductions=("mean",),
        **more,
    )  # fmt: skip


_KINDS = ("non_saturating", "minimax", "lsgan", "wasserstein", "hinge", "relativistic", "relativistic_average")
CASES = [
    # Wasserstein's is linear: a gradient that depends on nothing has no graph
    *(_case("gan.gan_d_loss", _scores, kind, ("real", "fake"), _d, twice=kind not in ("wasserstein", "hinge"))
      for kind in _KINDS),
    *(_case("gan.gan_g_loss", _fakes, kind, ("fake",), _g, twice=kind not in ("wasserstein", "hinge"))
      for kind in _KINDS[:5]),
    *(_case("gan.gan_g_loss", _scores, kind, ("fake",), _g) for kind in _KINDS[5:]),
    Case("gan.gail_loss", _experts, (5, 3), ("expert", "policy"), oracle=_gail, reductions=("mean",)),
    Case(
        "gan.gail_loss", _experts, (5, 3), ("expert", "policy"), variant="entropy",
        options={"entropy_coefficient": 0.3}, oracle=_gail, reductions=("mean",),
    ),
]  # fmt: skip
