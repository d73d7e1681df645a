"""Predicted distributions: divergences, bounds of likelihoods, likelihoods with other tails, and proper scores."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from fastloss.core.composite import composite, elements, present
from fastloss.core.elementary import softplus
from fastloss.core.metrics import Metrics
from fastloss.losses.binary import binary_cross_entropy_with_logits
from fastloss.losses.likelihood import gaussian_nll_loss
from fastloss.losses.regression import mse_loss

__all__ = [
    "beta_nll_loss",
    "crps",
    "elbo_loss",
    "energy_score",
    "gaussian_kl",
    "iwae_loss",
    "mdn_loss",
    "negative_binomial_nll_loss",
    "student_t_nll_loss",
]

_HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)


def _same_shape(**tensors: Tensor) -> None:
    first, *others = tensors.values()
    if any(x.shape != first.shape for x in others):  # not a set of shapes, whose numbers are tensors in torch.jit.trace
        found = ", ".join(f"{name} {tuple(x.shape)}" for name, x in tensors.items())
        raise ValueError(f"{found} differ in shape")


def _divergences(mu: Tensor, logvar: Tensor, other_mu: Tensor, other_logvar: Tensor) -> Tensor:
    """Of each dimension. e^d - 1 - d of the log-ratio d, which is 0 where the variances are equal.

    The distance in standard deviations is squared: a precision is infinite in float32 from a log-variance of -88 on.
    """
    d = logvar - other_logvar
    return 0.5 * (torch.expm1(d) - d + ((mu - other_mu) * torch.exp(-0.5 * other_logvar)).square())


@composite()
def gaussian_kl(
    mu: Tensor,
    logvar: Tensor,
    other_mu: Tensor | None = None,
    other_logvar: Tensor | None = None,
    *,
    reverse: bool = False,
    reduction: str = "mean",
    mask: Tensor | None = None,
    normalizer: float | Tensor | None = None,
) -> Tensor:
    r"""Kullback-Leibler divergence of normal distributions with diagonal covariances.

    Summed over the last dimension, with :math:`v = e^{\mathrm{logvar}}`,

    .. math::
        D(q \| p) = \tfrac12 \sum_d \Bigl(\frac{v_q}{v_p} - 1 - \log \frac{v_q}{v_p}
                    + \frac{(\mu_q - \mu_p)^2}{v_p}\Bigr)

    Args:
        mu, logvar: of q.
        other_mu, other_logvar: of p. None: 0, the standard normal distribution's.
        reverse: D(p || q) instead.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``, over all dimensions but the last.
        mask: broadcasts to the losses; 0 takes one out, whatever it holds. Other values weight it.
        normalizer: the denominator of the mean, instead of the sum of the mask: a number or a 0-d tensor.

    Shape:
        - mu, logvar, other_mu, other_logvar: (..., D)
        - output: (...) for ``"none"``, else ()

    Returns:
        The divergence, in the dtype that torch promotes the operands to (float32 under autocast).

    Raises:
        ValueError: shapes that differ.

    Source:
        Kingma and Welling 2014, arXiv:1312.6114, appendix B.

    Example:
        >>> gaussian_kl(torch.ones(1, 2), torch.zeros(1, 2)).item()
        1.0
    """
    other_mu = torch.zeros_like(mu) if other_mu is None else other_mu
    other_logvar = torch.zeros_like(logvar) if other_logvar is None else other_logvar
    _same_shape(mu=mu, logvar=logvar, other_mu=other_mu, other_logvar=other_logvar)
    mu, logvar, other_mu, other_logvar = present(mu.shape[:-1], mask, normalizer, mu, logvar, other_mu, other_logvar)
    pair = (other_mu, other_logvar, mu, logvar) if reverse else (mu, logvar, other_mu, other_logvar)
    return elements(_divergences(*pair).sum(-1))


def _logistic_bins(recon: Tensor, target: Tensor, scale: Tensor | float, bin: float) -> Tensor:
    """-log of a logistic distribution's mass in the bin around the target; the last bins go on to infinity.

    sigmoid(a) - sigmoid(b) = sigmoid(a) sigmoid(-b) (1 - e^(b - a)), which neither cancels nor underflows.
    """
    above, below = (target + bin - recon) / scale, (target - bin - recon) / scale
    left, right = target < -1 + bin, target > 1 - bin
    # of an open bin one factor is 1; the third one is, too
    width = torch.log(-torch.expm1(below - above))
    return -(
        torch.where(right, 0, F.logsigmoid(above)) + torch.where(left, 0, F.logsigmoid(-below))
        + torch.where(left | right, 0, width)
    )  # fmt: skip


@composite()
def elbo_loss(
    recon: Tensor,
    target: Tensor,
    mu: Tensor,
    logvar: Tensor,
    *,
    recon_kind: str = "mse",
    beta: float = 1.0,
    free_bits: float = 0.0,
    scale: float = 1.0,
    bin: float = 1 / 255,
    reduction: str = "mean",
    return_terms: bool = False,
) -> Tensor | tuple[Tensor, Metrics]:
    r"""Minus the evidence lower bound: what a variational autoencoder minimises.

    With the reconstruction r, the target t and the posterior :math:`q = N(\mu, e^{\mathrm{logvar}})`,

    .. math::
        \ell = \sum_i \rho(r_i, t_i) + \beta \sum_d \max\bigl(\mathrm{free\_bits}, D(q_d \| N(0, 1))\bigr)

    and for :math:`\rho`

    .. math::
        \begin{array}{ll}
        \mathrm{mse} & (r - t)^2 \\
        \mathrm{bce} & \text{binary cross-entropy of the logit } r \\
        \mathrm{gaussian} & (r - t)^2 / 2 s^2 + \log s + \tfrac12 \log 2\pi \\
        \mathrm{logistic} & -\log\bigl(\sigma((t + b - r) / s) - \sigma((t - b - r) / s)\bigr)
        \end{array}

    with s = ``scale``, b = ``bin``; the logistic's first and last bin, of targets at -1 and 1, have no end. A beta that
    is annealed: :mod:`fastloss.compose`.

    Args:
        recon: r, of the decoder; logits for ``"bce"``.
        target: t, a constant.
        mu, logvar: of the posterior, from the encoder.
        recon_kind: ``"mse"``, ``"bce"``, ``"gaussian"`` or ``"logistic"``.
        beta: not negative; above 1 the latent dimensions come apart, below it the reconstruction is better.
        free_bits: not negative, in nats; a dimension of a sample that says less than this costs no more, nor less, by
            which the posterior does not collapse.
        scale: positive.
        bin: positive; half the distance of two values of the data.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``, over the samples.
        return_terms: also return the two terms.

    Shape:
        - recon, target: (N, ...); mu, logvar: (N, D)
        - output: (N,) for ``"none"``, else ()

    Returns:
        The loss, in the dtype that torch promotes the operands to (float32 under autocast); with ``return_terms``,
        (loss, terms): ``reconstruction`` and ``kl`` (without beta and free bits).

    Raises:
        ValueError: shapes that do not fit, an unknown ``recon_kind``, a hyper-parameter out of range.

    Source:
        Kingma and Welling 2014, arXiv:1312.6114; Higgins et al. 2017 (beta-VAE); Kingma et al. 2016 (free bits),
        arXiv:1606.04934, there of a batch's mean; Salimans et al. 2017 (discretised logistic), arXiv:1701.05517.

    Example:
        >>> z = torch.zeros(1, 2)
        >>> elbo_loss(torch.ones(1, 3), torch.zeros(1, 3), z + 1, z).item()  # 3 + 1
        4.0
    """
    if not (beta >= 0 and free_bits >= 0 and scale > 0 and bin > 0):
        raise ValueError(
            f"beta and free_bits must not be negative, scale and bin be positive, got {beta}, {free_bits}, {scale}, "
            f"{bin}"
        )
    _same_shape(recon=recon, target=target)
    _same_shape(mu=mu, logvar=logvar)
    if mu.dim() != 2 or not recon.dim() or mu.shape[0] != recon.shape[0]:
        raise ValueError(f"mu must be (N, D) beside recon (N, ...), got {tuple(mu.shape)} and {tuple(recon.shape)}")
    target = target.detach().to(recon.dtype)
    if recon_kind == "mse":
        errors = mse_loss(recon, target, reduction="none")
    elif recon_kind == "bce":
        errors = binary_cross_entropy_with_logits(recon, target, reduction="none")
    elif recon_kind == "gaussian":
        errors = mse_loss(recon, target, reduction="none") / (2 * scale * scale) + (math.log(scale) + _HALF_LOG_2PI)
    elif recon_kind == "logistic":
        errors = _logistic_bins(recon, target, scale, bin)
    else:
        raise ValueError(f"{recon_kind!r} is no reconstruction; choose mse, bce, gaussian or logistic")
    reconstruction = errors.reshape(errors.shape[0], math.prod(errors.shape[1:])).sum(1)
    divergences = _divergences(mu, logvar, torch.zeros_like(mu), torch.zeros_like(mu))
    counted = divergences.clamp(min=free_bits) if free_bits else divergences
    terms = {"reconstruction": reconstruction, "kl": divergences.sum(1)}
    return elements(reconstruction + beta * counted.sum(1), terms)


@composite()
def iwae_loss(log_p: Tensor, log_q: Tensor, *, reduction: str = "mean") -> Tensor:
    r"""Minus the importance-weighted bound of K samples of the posterior, tighter than the evidence lower bound.

    .. math:: \ell = -\log \frac1K \sum_k \frac{p(x, z_k)}{q(z_k \mid x)}

    Args:
        log_p: log p(x, z) of each sample z of each x.
        log_q: log q(z | x).
        reduction: ``"none"``, ``"mean"`` or ``"sum"``, over the x.

    Shape:
        - log_p, log_q: (N, K)
        - output: (N,) for ``"none"``, else ()

    Returns:
        The loss, in the dtype that torch promotes the operands to (float32 under autocast).

    Raises:
        ValueError: shapes that differ or are not (N, K) with K at least 1.

    Source:
        Burda et al. 2016, arXiv:1509.00519.

    Example:
        >>> iwae_loss(torch.tensor([[-1.0, -1.0]]), torch.tensor([[-2.0, -2.0]])).item()
        -1.0
    """
    _same_shape(log_p=log_p, log_q=log_q)
    if log_p.dim() != 2 or not log_p.shape[1]:
        raise ValueError(f"log_p must be (N, K) with K at least 1, got {tuple(log_p.shape)}")
    return elements(math.log(log_p.shape[1]) - (log_p - log_q).logsumexp(1))


@composite()
def beta_nll_loss(
    input: Tensor, target: Tensor, var: Tensor, *, beta: float = 0.5, eps: float = 1e-6, reduction: str = "mean"
) -> Tensor:
    r"""Normal likelihood in which a large variance does not silence the error.

    .. math::
        \ell = \tfrac12\, \mathrm{sg}(v)^\beta \Bigl(\log v + \frac{(x - t)^2}{v}\Bigr),
        \qquad v = \max(\mathrm{var}, \epsilon)

    with sg(v), a constant. beta = 0 is the likelihood; with beta = 1 the mean learns as by the squared error.

    Args:
        input: predicted means x.
        target: t, a constant.
        var: predicted variances, not negative.
        beta: in [0, 1].
        eps: positive, the least variance.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.

    Shape:
        - input, target, var: any, and the same
        - output: the shape of ``input`` for ``"none"``, else ()

    Returns:
        The loss, in the dtype that torch promotes the operands to (float32 under autocast).

    Raises:
        ValueError: shapes that differ, a hyper-parameter out of range, a negative variance (on a CPU).

    Source:
        Seitzer et al. 2022, arXiv:2203.09168.

    Example:
        >>> one = torch.ones(1)
        >>> beta_nll_loss(one, 0 * one, one).item()
        0.5
    """
    if not (0 <= beta <= 1 and eps > 0):
        raise ValueError(f"beta must be in [0, 1] and eps positive, got {beta} and {eps}")
    _same_shape(input=input, target=target, var=var)
    losses = gaussian_nll_loss(input, target.detach().to(input.dtype), var, eps=eps, reduction="none")
    return elements(var.detach().clamp(min=eps) ** beta * losses if beta else losses)


@composite()
def mdn_loss(
    logits: Tensor, mu: Tensor, log_scale: Tensor, target: Tensor, *, reduction: str = "mean",
    mask: Tensor | None = None, normalizer: float | Tensor | None = None,
) -> Tensor:  # fmt: skip
    r"""Minus the log-likelihood of a mixture of K normal distributions with diagonal covariances.

    .. math::
        \ell = -\log \sum_k \pi_k \prod_d N\bigl(t_d;\, \mu_{kd},\, e^{2\,\mathrm{log\_scale}_{kd}}\bigr), \qquad
        \pi = \mathrm{softmax}(\mathrm{logits})

    Args:
        logits: of the components.
        mu: their means.
        log_scale: the logarithms of their deviations.
        target: t, a constant.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``, over the samples.
        mask: broadcasts to the losses; 0 takes a sample out, whatever it holds. Other values weight it.
        normalizer: the denominator of the mean, instead of the sum of the mask: a number or a 0-d tensor.

    Shape:
        - logits: (N, K); mu, log_scale: (N, K, D); target: (N, D)
        - output: (N,) for ``"none"``, else ()

    Returns:
        The loss, in the dtype that torch promotes the operands to (float32 under autocast).

    Raises:
        ValueError: shapes that do not fit.

    Source:
        Bishop 1994, Mixture density networks.

    Example:
        >>> z = torch.zeros(1, 2, 1)
        >>> round(mdn_loss(torch.zeros(1, 2), z, z, torch.zeros(1, 1)).item(), 4)  # log sqrt(2 pi)
        0.9189
    """
    fits = mu.dim() == 3 and mu.shape[:2] == logits.shape and target.shape == (mu.shape[0], mu.shape[2])
    if not fits or log_scale.shape != mu.shape:
        shapes = [tuple(x.shape) for x in (logits, mu, log_scale, target)]
        raise ValueError("logits {} must be (N, K), mu {} and log_scale {} (N, K, D), target {} (N, D)".format(*shapes))
    logits, mu, log_scale, target = present(logits.shape[:1], mask, normalizer, logits, mu, log_scale, target.detach())
    z = (target[:, None] - mu) * torch.exp(-log_scale)
    log_p = -(0.5 * z.square() + log_scale + _HALF_LOG_2PI).sum(2)
    return elements(-(logits.log_softmax(1) + log_p).logsumexp(1))


def _log_gamma_ratio(z: Tensor) -> Tensor:
    """log Gamma(z + 1/2) - log Gamma(z); of large z by its series, where the two would cancel."""
    large = z > (50 if z.dtype == torch.float64 else 10)
    big, few = torch.where(large, z, 100), torch.where(large, 1, z)
    square = 1 / (big * big)
    series = 0.5 * torch.log(big) - (1 / 8 - square * (1 / 192 - square / 640)) / big
    return torch.where(large, series, torch.lgamma(few + 0.5) - torch.lgamma(few))


@composite()
def student_t_nll_loss(
    input: Tensor,
    target: Tensor,
    scale: Tensor,
    df: Tensor,
    *,
    eps: float = 1e-6,
    reduction: str = "mean",
    mask: Tensor | None = None,
    normalizer: float | Tensor | None = None,
) -> Tensor:
    r"""Minus the log-likelihood of Student's t-distribution, whose tails take outliers.

    With :math:`s = \max(\mathrm{scale}, \epsilon)` and the degrees of freedom :math:`\nu`,

    .. math::
        \ell = \tfrac{\nu + 1}{2} \log\Bigl(1 + \frac{(x - t)^2}{\nu s^2}\Bigr) + \log s + \tfrac12 \log(\nu\pi)
               + \log\Gamma\bigl(\tfrac\nu2\bigr) - \log\Gamma\bigl(\tfrac{\nu + 1}2\bigr)

    Args:
        input: predicted location x.
        target: t, a constant.
        scale: predicted, positive.
        df: nu, positive, predicted or not: 0-d or of the input's shape.
        eps: positive, the least scale.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.
        mask: broadcasts to the losses; 0 takes one out, whatever it holds. Other values weight it.
        normalizer: the denominator of the mean, instead of the sum of the mask: a number or a 0-d tensor.

    Shape:
        - input, target, scale: any, and the same; df: the same or ()
        - output: the shape of ``input`` for ``"none"``, else ()

    Returns:
        The loss, in the dtype that torch promotes the operands to (float32 under autocast).

    Raises:
        ValueError: shapes that differ, ``eps`` not positive.

    Source:
        Lange et al. 1989, Robust statistical modeling using the t distribution.

    Example:
        >>> zero, one = torch.zeros(1), torch.ones(1)
        >>> round(student_t_nll_loss(zero, zero, one, one).item(), 4)  # Cauchy: log pi
        1.1447
    """
    if not eps > 0:
        raise ValueError(f"eps must be positive, got {eps}")
    df = df.expand(input.shape) if not df.dim() else df
    _same_shape(input=input, target=target, scale=scale, df=df)
    input, target = present(input.shape, mask, normalizer, input, target.detach())
    if mask is not None:
        there = (mask != 0).expand(input.shape)
        scale, df = torch.where(there, scale, 1), torch.where(there, df, 1)
    scale = scale.clamp(min=eps)
    z = (input - target) / scale
    tail = (df + 1) / 2 * torch.log1p(z.square() / df)
    return elements(tail + scale.log() + 0.5 * torch.log(df * math.pi) - _log_gamma_ratio(df / 2))


@composite()
def negative_binomial_nll_loss(
    input: Tensor,
    target: Tensor,
    dispersion: Tensor,
    *,
    log_input: bool = True,
    eps: float = 1e-8,
    reduction: str = "mean",
    mask: Tensor | None = None,
    normalizer: float | Tensor | None = None,
) -> Tensor:
    r"""Minus the log-likelihood of counts that vary more than Poisson's: the variance is :math:`\mu + \mu^2 / r`.

    With the mean :math:`\mu = e^x` (x itself, without ``log_input``) and r = ``dispersion``,

    .. math::
        \ell = r \log\frac{r + \mu}{r} + t \log\frac{r + \mu}{\mu} - \log\frac{\Gamma(t + r)}{\Gamma(r)\,\Gamma(t + 1)}

    Args:
        input: logarithm of the predicted mean, or the mean, positive.
        target: counts t, a constant.
        dispersion: r, positive, predicted or not: 0-d or of the input's shape. Large: Poisson.
        log_input: the input is the logarithm.
        eps: positive; the least mean and dispersion.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.
        mask: broadcasts to the losses; 0 takes one out, whatever it holds. Other values weight it.
        normalizer: the denominator of the mean, instead of the sum of the mask: a number or a 0-d tensor.

    Shape:
        - input, target: any, and the same; dispersion: the same or ()
        - output: the shape of ``input`` for ``"none"``, else ()

    Returns:
        The loss, in the dtype that torch promotes the operands to (float32 under autocast).

    Raises:
        ValueError: shapes that differ, ``eps`` not positive.

    Source:
        Hilbe 2011, Negative binomial regression.

    Example:
        >>> zero = torch.zeros(1)
        >>> round(negative_binomial_nll_loss(zero, zero, torch.tensor(1.0)).item(), 4)  # log 2
        0.6931
    """
    if not eps > 0:
        raise ValueError(f"eps must be positive, got {eps}")
    dispersion = dispersion.expand(input.shape) if not dispersion.dim() else dispersion
    _same_shape(input=input, target=target, dispersion=dispersion)
    input, target = present(input.shape, mask, normalizer, input, target.detach())
    if mask is not None:
        dispersion = torch.where((mask != 0).expand(input.shape), dispersion, 1)
    r = dispersion.clamp(min=eps)
    log_mean = input if log_input else input.clamp(min=eps).log()
    odds = log_mean - r.log()
    coefficient = torch.lgamma(target + r) - torch.lgamma(r) - torch.lgamma(target + 1)
    return elements(r * softplus(odds) + target * softplus(-odds) - coefficient)


@composite()
def crps(
    input: Tensor,
    target: Tensor,
    scale: Tensor | None = None,
    *,
    fair: bool = False,
    reduction: str = "mean",
    mask: Tensor | None = None,
    normalizer: float | Tensor | None = None,
) -> Tensor:
    r"""Continuous ranked probability score of a normal distribution, or of an ensemble.

    .. math::
        \ell = \sigma\Bigl(z\,(2\Phi(z) - 1) + 2\varphi(z) - \tfrac{1}{\sqrt\pi}\Bigr), \quad z = \frac{t - x}\sigma
        \qquad\text{or}\qquad
        \ell = \frac1M \sum_i |x_i - t| - \frac{1}{2 M^2} \sum_{i,j} |x_i - x_j|,

    the second of an ensemble of M members, whose pairs are counted by sorting. ``fair``: M (M - 1) in the place of
    :math:`M^2`, by which members that are drawn from the right distribution are best whatever M.

    Args:
        input: means, or, without ``scale``, the members, last dimension.
        target: t, a constant.
        scale: deviations sigma, positive.
        fair: of an ensemble.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.
        mask: broadcasts to the losses; 0 takes one out, whatever it holds. Other values weight it.
        normalizer: the denominator of the mean, instead of the sum of the mask: a number or a 0-d tensor.

    Shape:
        - input: (...) with ``scale``, else (..., M); target, scale: (...)
        - output: (...) for ``"none"``, else ()

    Returns:
        The score, in the dtype that torch promotes the operands to (float32 under autocast).

    Raises:
        ValueError: shapes that do not fit, an ensemble without members, a fair one of one.

    Source:
        Gneiting and Raftery 2007, Strictly proper scoring rules, prediction, and estimation; fair: Ferro 2014.

    Example:
        >>> crps(torch.tensor([[0.0, 2.0]]), torch.tensor([1.0])).item()
        0.5
    """
    shape = target.shape
    if scale is not None:
        _same_shape(input=input, target=target, scale=scale)
        input, target = present(shape, mask, normalizer, input, target.detach())
        if mask is not None:
            scale = torch.where((mask != 0).expand(shape), scale, 1)
        z = (target - input) / scale
        density = torch.exp(-0.5 * z * z) / math.sqrt(2 * math.pi)
        return elements(scale * (z * torch.erf(z / math.sqrt(2)) + 2 * density - 1 / math.sqrt(math.pi)))
    members = input.shape[-1] if input.dim() else 0
    if input.shape[:-1] != shape or members < 1 + fair:
        raise ValueError(f"an ensemble is (..., M) beside target (...), got {tuple(input.shape)} and {tuple(shape)}")
    input, target = present(shape, mask, normalizer, input, target.detach())
    ordered = (input - target[..., None]).sort(-1).values
    ranks = torch.arange(members, device=input.device, dtype=ordered.dtype)
    pairs = (ordered * (2 * ranks - (members - 1))).sum(-1)  # of i < j
    return elements(ordered.abs().mean(-1) - pairs / (members * (members - fair)))


@composite()
def energy_score(
    input: Tensor,
    target: Tensor,
    *,
    fair: bool = False,
    reduction: str = "mean",
    mask: Tensor | None = None,
    normalizer: float | Tensor | None = None,
) -> Tensor:
    r"""Energy score of an ensemble of vectors: :func:`fastloss.crps` of more dimensions than one.

    .. math:: \ell = \frac1M \sum_i \|x_i - t\| - \frac{1}{2 M^2} \sum_{i,j} \|x_i - x_j\|

    with M (M - 1) in the place of :math:`M^2` if ``fair``. O(M^2 D) memory for each target.

    Args:
        input: the members x.
        target: t, a constant.
        fair: members that are drawn from the right distribution are best whatever M.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.
        mask: broadcasts to the losses; 0 takes one out, whatever it holds. Other values weight it.
        normalizer: the denominator of the mean, instead of the sum of the mask: a number or a 0-d tensor.

    Shape:
        - input: (N, M, D); target: (N, D)
        - output: (N,) for ``"none"``, else ()

    Returns:
        The score, in the dtype that torch promotes the operands to (float32 under autocast). Where two points are one,
        the gradient is 0.

    Raises:
        ValueError: shapes that do not fit, an ensemble without members, a fair one of one.

    Source:
        Gneiting and Raftery 2007, Strictly proper scoring rules, prediction, and estimation.

    Example:
        >>> energy_score(torch.tensor([[[0.0], [2.0]]]), torch.tensor([[1.0]])).item()
        0.5
    """
    if input.dim() != 3 or target.shape != (input.shape[0], input.shape[2]) or input.shape[1] < 1 + fair:
        raise ValueError(
            f"an ensemble is (N, M, D) beside target (N, D), got {tuple(input.shape)}, {tuple(target.shape)}"
        )
    input, target = present(input.shape[:1], mask, normalizer, input, target.detach())
    members = input.shape[1]
    error = _length(input - target[:, None]).mean(1)
    pairs = _length(input[:, :, None] - input[:, None]).sum((1, 2))
    return elements(error - pairs / (2 * members * (members - int(fair))))


def _length(x: Tensor) -> Tensor:
    """The norms along the last dimension; at 0 the gradient is 0."""
    square = x.square().sum(-1)
    apart = square > 0
    return torch.where(apart, torch.where(apart, square, 1).sqrt(), 0)
