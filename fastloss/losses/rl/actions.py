"""Log-probabilities and entropies of actions: Gaussian, squashed by tanh, and categorical policies."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fastloss.core.composite import composite, elements, present
from fastloss.core.reductions import check_fit
from fastloss.losses.log_prob import selective_log_softmax
from fastloss.losses.regression import log_cosh_loss
from fastloss.losses.rl.transitions import checked_actions

__all__ = [
    "categorical_log_prob",
    "gaussian_entropy",
    "gaussian_log_prob",
    "tanh_gaussian_entropy",
    "tanh_gaussian_log_prob",
]

_HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)


def of_dimensions(x: Tensor, mean: Tensor, name: str) -> Tensor:
    """A parameter of the actions' dimensions, for each state: it is given so, or once for all states.

    Raises:
        ValueError: if it has another shape.
    """
    if not mean.dim() or x.shape not in (mean.shape, mean.shape[-1:]):
        raise ValueError(
            f"{name} {tuple(x.shape)} must have the shape of mean, {tuple(mean.shape)}, or of its last part"
        )
    return x.expand(mean.shape)


def _checked_sample(x: Tensor, mean: Tensor, name: str) -> None:
    """
    Raises:
        ValueError: if there is not one for each mean.
    """
    if x.shape != mean.shape:
        raise ValueError(f"{name} must have the shape of mean, {tuple(mean.shape)}, got {tuple(x.shape)}")


def _log_densities(x: Tensor, mean: Tensor, log_std: Tensor) -> Tensor:
    """Of each dimension. 1 / std is two factors: each is a number of the dtype where their product is not, and a
    distance of 0 stays 0."""
    inverse_root = torch.exp(-0.5 * log_std)
    return -0.5 * ((x - mean) * inverse_root * inverse_root).square() - log_std - _HALF_LOG_2PI


def _log_cosh(x: Tensor) -> Tensor:
    return log_cosh_loss(x, x.new_zeros(()).expand(x.shape), reduction="none")


@composite()
def gaussian_log_prob(
    mean: Tensor,
    log_std: Tensor,
    actions: Tensor,
    *,
    reduction: str = "none",
    mask: Tensor | None = None,
    normalizer: float | Tensor | None = None,
) -> Tensor:
    r"""Log-probability of actions of a Gaussian policy with a diagonal covariance.

    .. math:: \log \pi(a | s) = -\sum_d \frac{(a_d - \mu_d)^2}{2 \sigma_d^2} + \log \sigma_d + \tfrac12 \log 2\pi

    Differentiable by all three. Minus its mean is the loss of behavioural cloning.

    Args:
        mean: mu, in each state.
        log_std: log sigma, in each state or the same in all. A deviation that is no number of the dtype any more, as
            e^-100 in float32, is none the less one here.
        actions: a.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``, over the states.
        mask: broadcasts to the states; 0 takes one out, whatever it holds. Other values weight it.
        normalizer: the denominator of the mean, instead of the sum of the mask: a number or a 0-d tensor.

    Shape:
        - mean, actions: (..., D)
        - log_std: (..., D) or (D,)
        - output: (...) for ``"none"``, else ()

    Returns:
        The log-probability in nats, in the dtype that torch promotes the operands to (float32 under autocast).

    Raises:
        ValueError: shapes that do not fit.

    Source:
        Williams 1992, Simple statistical gradient-following algorithms for connectionist reinforcement learning. rlax's
        ``gaussian_diagonal``.

    Example:
        >>> gaussian_log_prob(torch.zeros(1, 2), torch.zeros(2), torch.tensor([[1.0, 2.0]]))  # -5/2 - log 2 pi
        tensor([-4.3379])
    """
    log_std = of_dimensions(log_std, mean, "log_std")
    _checked_sample(actions, mean, "actions")
    mean, log_std, actions = present(mean.shape[:-1], mask, normalizer, mean, log_std, actions)
    return elements(_log_densities(actions, mean, log_std).sum(-1))


@composite()
def gaussian_entropy(
    log_std: Tensor,
    *,
    reduction: str = "none",
    mask: Tensor | None = None,
    normalizer: float | Tensor | None = None,
) -> Tensor:
    r"""Entropy of a Gaussian policy with a diagonal covariance.

    .. math:: H = \sum_d \log \sigma_d + \tfrac12 \log 2 \pi e

    Args:
        log_std: log sigma, in each state.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``, over the states.
        mask: broadcasts to the states; 0 takes one out, whatever it holds. Other values weight it.
        normalizer: the denominator of the mean, instead of the sum of the mask: a number or a 0-d tensor.

    Shape:
        - log_std: (..., D)
        - output: (...) for ``"none"``, else ()

    Returns:
        The entropy in nats, in the dtype of ``log_std`` (float32 under autocast).

    Raises:
        ValueError: a ``log_std`` without a dimension, a mask that does not fit.

    Source:
        Shannon 1948, A mathematical theory of communication, section 20.

    Example:
        >>> gaussian_entropy(torch.zeros(1, 2))  # log 2 pi e
        tensor([2.8379])
    """
    if not log_std.dim():
        raise ValueError("log_std must be (..., D), got a number")
    (log_std,) = present(log_std.shape[:-1], mask, normalizer, log_std)
    return elements((log_std + (0.5 + _HALF_LOG_2PI)).sum(-1))


def _before_tanh(actions: Tensor) -> Tensor:
    """atanh, of -1 and 1 as of the nearest numbers between."""
    largest = 1 - torch.finfo(actions.dtype).eps / 2
    return actions.clamp(-largest, largest).atanh()


@composite()
def tanh_gaussian_log_prob(
    mean: Tensor,
    log_std: Tensor,
    actions: Tensor | None = None,
    pre_tanh: Tensor | None = None,
    *,
    reduction: str = "none",
    mask: Tensor | None = None,
    normalizer: float | Tensor | None = None,
) -> Tensor:
    r"""Log-probability of actions of a Gaussian policy that is squashed by tanh.

    With :math:`a = \tanh u` and u of the Gaussian,

    .. math::
        \log \pi(a | s) = \log N(u; \mu, \sigma) - \sum_d \log(1 - a_d^2)
                        = \log N(u; \mu, \sigma) + 2 \sum_d \log \cosh u_d,

    with the fused :func:`fastloss.log_cosh_loss`, which is right where a has been rounded to -1 or 1. Differentiable by
    all of them: by mean, log_std and the sample that was made of both, as the actor of SAC needs it.

    Args:
        mean: mu of u, in each state.
        log_std: log sigma of u, in each state or the same in all.
        actions: a, between -1 and 1, for those of which u is not known; the ends count as the numbers beside them, at
            which u is 9 in float32 and 19 in float64, and have no gradient.
        pre_tanh: u instead, of any size. One of the two.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``, over the states.
        mask: broadcasts to the states; 0 takes one out, whatever it holds. Other values weight it.
        normalizer: the denominator of the mean, instead of the sum of the mask: a number or a 0-d tensor.

    Shape:
        - mean, actions, pre_tanh: (..., D)
        - log_std: (..., D) or (D,)
        - output: (...) for ``"none"``, else ()

    Returns:
        The log-probability in nats, in the dtype that torch promotes the operands to (float32 under autocast). Of
        actions within other bounds, with a factor b, subtract :math:`\sum_d \log b_d`.

    Raises:
        ValueError: shapes that do not fit, neither or both of ``actions`` and ``pre_tanh``.

    Source:
        Haarnoja et al. 2018, arXiv:1812.05905, appendix C.

    Example:
        >>> zero = torch.zeros(1, 1)
        >>> tanh_gaussian_log_prob(zero, zero, pre_tanh=torch.tensor([[30.0]]))  # -450 - log(2 pi) / 2 + 2 (30 - log 2)
        tensor([-392.3052])
        >>> tanh_gaussian_log_prob(zero, zero, torch.ones(1, 1)).isfinite().item()
        True
    """
    if (actions is None) == (pre_tanh is None):
        raise ValueError("give either actions or pre_tanh, which they were before tanh")
    log_std = of_dimensions(log_std, mean, "log_std")
    name, sample = ("pre_tanh", pre_tanh) if actions is None else ("actions", actions)
    assert sample is not None
    _checked_sample(sample, mean, name)
    mean, log_std, sample = present(mean.shape[:-1], mask, normalizer, mean, log_std, sample)
    u = sample if actions is None else _before_tanh(sample)
    return elements((_log_densities(u, mean, log_std) + 2 * _log_cosh(u)).sum(-1))


def _expected_log_cosh(mean: Tensor, std: Tensor) -> Tensor:
    """E log cosh u of normal u, to the digits of the dtype, by the rule of the trapezoid on a line.

    Up to a deviation of 1 over the noise, whose density ends the sum: log cosh is smooth at its scale. Above it over u,
    after |u| - log 2, whose expectation is known, and what remains falls as e^(-2|u|): a half-line, which
    t = exp(x - exp(-x)) makes a line with doubly exponential ends (Takahasi and Mori 1974). Half of the steps square
    the error, so float64 takes them half as long as float32, and half as far again.
    """
    of_double = mean.dtype == torch.float64

    def line(step: float, first: float, last: float) -> Tensor:
        return torch.arange(round(first / step), round(last / step) + 1, dtype=mean.dtype, device=mean.device) * step

    step = 0.25 if of_double else 0.5
    z = line(step, -8.75, 8.75) if of_double else line(step, -6, 6)
    density = torch.exp(-0.5 * z.square() - _HALF_LOG_2PI) * step
    of_low = (_log_cosh(mean[..., None] + std.clamp(max=1)[..., None] * z) * density).sum(-1)

    step = 0.1 if of_double else 0.2
    x = line(step, -3.7, 3.1) if of_double else line(step, -2.8, 2.4)
    t = torch.exp(x - torch.exp(-x))
    weight = torch.log1p(torch.exp(-2 * t)) * t * (1 + torch.exp(-x)) * (step * math.exp(-_HALF_LOG_2PI))
    high = std.clamp(min=1)
    m = mean / high
    z = torch.cat([-t, t]) / high[..., None] - m[..., None]
    of_high = (torch.exp(-0.5 * z.square()) * torch.cat([weight, weight])).sum(-1) / high
    distance = math.sqrt(2 / math.pi) * high * torch.exp(-0.5 * m.square()) + mean * torch.erf(m * math.sqrt(0.5))
    return torch.where(std <= 1, of_low, of_high + distance - math.log(2))


@composite()
def tanh_gaussian_entropy(
    mean: Tensor,
    log_std: Tensor,
    *,
    reduction: str = "none",
    mask: Tensor | None = None,
    normalizer: float | Tensor | None = None,
) -> Tensor:
    r"""Entropy of a Gaussian policy that is squashed by tanh.

    .. math:: H = \sum_d \log \sigma_d + \tfrac12 \log 2 \pi e - 2\,\mathrm E \log \cosh u_d, \qquad
              u_d \sim N(\mu_d, \sigma_d)

    The expectation has no closed form; it is an integral over a line, and the sums over 25 and 54 points (71 and 138 in
    float64) that stand for it are right to the digits of the dtype. Minus :func:`tanh_gaussian_log_prob` of a sample
    has H for its mean and costs a hundredth: with that SAC does.

    Args:
        mean: mu of u, in each state.
        log_std: log sigma of u, in each state or the same in all.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``, over the states.
        mask: broadcasts to the states; 0 takes one out, whatever it holds. Other values weight it.
        normalizer: the denominator of the mean, instead of the sum of the mask: a number or a 0-d tensor.

    Shape:
        - mean: (..., D)
        - log_std: (..., D) or (D,)
        - output: (...) for ``"none"``, else ()

    Returns:
        The entropy in nats, negative if the actions are near an end, and at most D log 2; in the dtype that torch
        promotes the operands to (float32 under autocast).

    Raises:
        ValueError: shapes that do not fit.

    Source:
        Of a change of variables: Shannon 1948, A mathematical theory of communication, section 20. The policy:
        Haarnoja et al. 2018, arXiv:1812.05905, appendix C.

    Example:
        >>> tanh_gaussian_entropy(torch.zeros(1, 1), torch.tensor([[-0.1]]))  # nearly uniform, which has log 2
        tensor([0.6828])
    """
    log_std = of_dimensions(log_std, mean, "log_std")
    mean, log_std = present(mean.shape[:-1], mask, normalizer, mean, log_std)
    dtype = torch.promote_types(mean.dtype, log_std.dtype)
    mean, log_std = mean.to(dtype), log_std.to(dtype)
    of_gaussian = log_std + (0.5 + _HALF_LOG_2PI)
    return elements((of_gaussian - 2 * _expected_log_cosh(mean, log_std.exp())).sum(-1))


@composite(calls_model=True)
def categorical_log_prob(
    logits: Tensor,
    actions: Tensor,
    *,
    reduction: str = "none",
    mask: Tensor | None = None,
    normalizer: float | Tensor | None = None,
) -> Tensor:
    r"""Log-probability of actions of a categorical policy, from its logits.

    .. math:: \log \pi(a | s) = x_a - \log \sum_j e^{x_j}

    The entropy is :func:`fastloss.categorical_entropy`; :func:`fastloss.selective_log_softmax` has both from one
    reading of the logits.

    Args:
        logits: x, of all actions; -inf for actions that there are not.
        actions: a, integers.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``, over the states.
        mask: broadcasts to the states; 0 takes one out, whatever it holds. Other values weight it.
        normalizer: the denominator of the mean, instead of the sum of the mask: a number or a 0-d tensor.

    Shape:
        - logits: (..., A)
        - actions: (...)
        - output: (...) for ``"none"``, else ()

    Returns:
        The log-probability in nats, in the dtype of the logits (float32 under autocast).

    Raises:
        ValueError: shapes that do not fit.
        IndexError: an action that there is not (on a CPU).

    Source:
        Williams 1992, Simple statistical gradient-following algorithms for connectionist reinforcement learning.

    Example:
        >>> categorical_log_prob(torch.zeros(1, 4), torch.tensor([2]))  # -log 4
        tensor([-1.3863])
    """
    checked_actions(actions, logits.shape[:-1], "the logits")
    check_fit(actions.shape, logits.device, normalizer, mask=mask)
    counted = None if mask is None else (mask != 0).expand(actions.shape)
    log_prob = selective_log_softmax(logits, actions, mask=counted).log_prob
    assert log_prob is not None
    return elements(log_prob)
