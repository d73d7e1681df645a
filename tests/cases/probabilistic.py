"""Predicted distributions; the oracles are torch.distributions, and sums over all pairs."""

from __future__ import annotations

import torch
import torch.distributions as D
from torch import Tensor

from cases.case import MASKED, Arguments, Build, Case, Shape, normal, uniform


def _normals(*names: str) -> Build:
    return lambda generator, shape: {name: normal(generator, *shape, scale=0.7) for name in names}


def _gaussian(mu, logvar) -> D.Normal:
    return D.Normal(mu, (logvar / 2).exp())


def _kl(mu, logvar, other_mu=None, other_logvar=None, reverse=False) -> Tensor:
    zero = torch.zeros_like(mu)
    q = _gaussian(mu, logvar)
    p = _gaussian(zero if other_mu is None else other_mu, zero if other_logvar is None else other_logvar)
    return D.kl_divergence(*((p, q) if reverse else (q, p))).sum(-1)


def _autoencoder(generator: torch.Generator, shape: Shape) -> Arguments:
    made = {name: normal(generator, *shape) for name in ("mu", "logvar")}
    target = uniform(generator, 0.0, 1.0, shape[0], 3, 2).mul(2).round().div(2)  # 1 is the last bin, 0 and 1/2 are not
    return {"recon": normal(generator, shape[0], 3, 2), "target": target, **made}


def _elbo(recon, target, mu, logvar, recon_kind="mse", beta=1.0, free_bits=0.0, scale=1.0, bin=1 / 255) -> Tensor:
    if recon_kind == "mse":
        errors = (recon - target) ** 2
    elif recon_kind == "bce":
        p = torch.sigmoid(recon)
        errors = -(target * p.log() + (1 - target) * (1 - p).log())
    elif recon_kind == "gaussian":
        errors = -D.Normal(recon, scale).log_prob(target)
    else:
        base = D.Uniform(torch.zeros_like(recon), torch.ones_like(recon))
        transforms = [D.SigmoidTransform().inv, D.AffineTransform(recon, scale)]
        logistic = D.TransformedDistribution(base, transforms)
        # on the lower side, by symmetry: on the upper one both probabilities are nearly 1, and cancel
        near = recon - (target - recon).abs()
        inside = logistic.cdf(near + bin) - logistic.cdf(near - bin)
        at_the_ends = torch.where(target > 1 - bin, logistic.cdf(2 * recon - target + bin), logistic.cdf(target + bin))
        errors = -torch.where((target > 1 - bin) | (target < -1 + bin), at_the_ends, inside).log()
    kl = D.kl_divergence(_gaussian(mu, logvar), D.Normal(torch.zeros_like(mu), 1.0)).clamp(min=free_bits)
    return errors.sum((1, 2)) + beta * kl.sum(1)


def _iwae(log_p, log_q) -> Tensor:
    return -(log_p - log_q).exp().mean(1).log()


def _with_variance(generator: torch.Generator, shape: Shape) -> Arguments:
    made = {name: normal(generator, *shape) for name in ("input", "target")}
    return {**made, "var": uniform(generator, 0.5, 2.0, *shape)}


def _beta_nll(input, target, var, beta=0.5) -> Tensor:
    nll = -D.Normal(input, var.sqrt()).log_prob(target) - 0.5 * torch.log(torch.tensor(2 * torch.pi, dtype=var.dtype))
    return var.detach() ** beta * nll


def _mixture(generator: torch.Generator, shape: Shape) -> Arguments:
    n, k, d = shape
    made = {"logits": normal(generator, n, k), "mu": normal(generator, *shape)}
    return {**made, "log_scale": normal(generator, *shape, scale=0.5), "target": normal(generator, n, d)}


def _mdn(logits, mu, log_scale, target) -> Tensor:
    components = D.Independent(D.Normal(mu, log_scale.exp()), 1)
    return -D.MixtureSameFamily(D.Categorical(logits=logits), components).log_prob(target)


def _student(generator: torch.Generator, shape: Shape) -> Arguments:
    made = {name: normal(generator, *shape) for name in ("input", "target")}
    return {**made, "scale": uniform(generator, 0.5, 2.0, *shape), "df": uniform(generator, 1.0, 8.0, *shape)}


def _student_t(input, target, scale, df) -> Tensor:
    return -D.StudentT(df, input, scale).log_prob(target)


def _counts(generator: torch.Generator, shape: Shape) -> Arguments:
    target = torch.randint(6, shape, generator=generator).double()
    return {"input": normal(generator, *shape), "target": target, "dispersion": uniform(generator, 0.5, 3.0, *shape)}


def _negative_binomial(input, target, dispersion) -> Tensor:
    return -D.NegativeBinomial(dispersion, logits=input - dispersion.log()).log_prob(target)


def _scored(generator: torch.Generator, shape: Shape) -> Arguments:
    made = {name: normal(generator, *shape) for name in ("input", "target")}
    return {**made, "scale": uniform(generator, 0.5, 2.0, *shape)}


def _ensemble(generator: torch.Generator, shape: Shape) -> Arguments:
    return {"input": normal(generator, *shape), "target": normal(generator, *shape[:-1])}


def _members(generator: torch.Generator, shape: Shape) -> Arguments:
    return {"input": normal(generator, *shape), "target": normal(generator, shape[0], shape[2])}


def _crps(input, target, scale=None, fair=False) -> Tensor:
    if scale is not None:
        normal, z = D.Normal(torch.zeros_like(input), 1.0), (target - input) / scale
        return scale * (z * (2 * normal.cdf(z) - 1) + 2 * normal.log_prob(z).exp() - torch.pi**-0.5)
    size = input.shape[-1]
    pairs = (input[..., :, None] - input[..., None, :]).abs().sum((-1, -2))
    return (input - target[..., None]).abs().mean(-1) - pairs / (2 * size * (size - fair))


def _energy(input, target, fair=False) -> Tensor:
    scores = []
    for x, t in zip(input, target, strict=True):
        size = len(x)
        pairs = sum((x[i] - x[j]).norm() for i in range(size) for j in range(i))
        scores.append(sum((row - t).norm() for row in x) / size - pairs / (size * (size - fair)))
    return torch.stack(scores)


_TWO, _FOUR = ("mu", "logvar"), ("mu", "logvar", "other_mu", "other_logvar")
_ENCODED = ("recon", "mu", "logvar")
CASES = [
    Case("gaussian_kl", _normals(*_FOUR), (3, 2, 4), _FOUR, oracle=_kl, optional=MASKED),
    Case("gaussian_kl", _normals(*_TWO), (3, 4), _TWO, variant="standard", oracle=_kl, optional=MASKED),
    Case(
        "gaussian_kl", _normals(*_FOUR), (3, 4), _FOUR, variant="reverse", oracle=_kl, optional=MASKED,
        options={"reverse": True},
    ),
    Case("elbo_loss", _autoencoder, (4, 5), _ENCODED, oracle=_elbo),
    Case(
        "elbo_loss", _autoencoder, (4, 5), _ENCODED, variant="bce", oracle=_elbo,
        options={"recon_kind": "bce", "beta": 4.0},
    ),
    Case(
        "elbo_loss", _autoencoder, (4, 5), _ENCODED, variant="gaussian", oracle=_elbo,
        options={"recon_kind": "gaussian", "scale": 0.6, "free_bits": 0.3},
    ),
    Case(
        "elbo_loss", _autoencoder, (4, 5), _ENCODED, variant="logistic", oracle=_elbo,
        options={"recon_kind": "logistic", "scale": 0.4, "bin": 0.1}, magnitude=4.0,
    ),
    Case("iwae_loss", _normals("log_p", "log_q"), (4, 5), ("log_p", "log_q"), oracle=_iwae),
    # the factor of the variance is a constant, so the gradient is no derivative
    Case("beta_nll_loss", _with_variance, (4, 5), ("input", "var"), oracle=_beta_nll, derivative=False),
    Case("mdn_loss", _mixture, (4, 3, 2), ("logits", "mu", "log_scale"), oracle=_mdn, optional=MASKED),
    Case(
        "student_t_nll_loss", _student, (4, 5), ("input", "scale", "df"), oracle=_student_t, optional=MASKED,
        magnitude=4.0,  # digammas cancel
    ),
    Case(
        "negative_binomial_nll_loss", _counts, (4, 5), ("input", "dispersion"), oracle=_negative_binomial,
        optional=MASKED, magnitude=8.0,
    ),
    Case("crps", _scored, (4, 5), ("input", "scale"), oracle=_crps, optional=MASKED, magnitude=1.0),
    Case("crps", _ensemble, (4, 5), ("input",), variant="ensemble", oracle=_crps, optional=MASKED, twice=False),
    Case(
        "crps", _ensemble, (4, 5), ("input",), variant="fair", oracle=_crps, optional=MASKED, twice=False,
        options={"fair": True},
    ),
    Case("energy_score", _members, (3, 4, 2), ("input",), oracle=_energy, optional=MASKED),
    Case(
        "energy_score", _members, (3, 4, 2), ("input",), variant="fair", oracle=_energy, optional=MASKED,
        options={"fair": True},
    ),
]  # fmt: skip
