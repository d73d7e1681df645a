"""Policy losses of proximal policy optimisation."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fastloss.core.arguments import Hyper
from fastloss.core.dispatch import fused
from fastloss.core.dtypes import result_dtype
from fastloss.core.metrics import Batch, Metrics, counted, detached
from fastloss.losses.rl.value import value_error
from fastloss.skeletons.pointwise import Pointwise

__all__ = ["ppo_clip_loss", "ppo_loss"]


class _Surrogate(NamedTuple):
    losses: Tensor
    log_ratio: Tensor
    ratio: Tensor
    clipped: Tensor
    dual_clipped: Tensor


def _surrogate(
    logp: Tensor,
    old_logp: Tensor,
    advantages: Tensor | float,
    clip: float,
    clip_high: float | None,
    dual_clip: float | None,
    log_ratio_clamp: float,
) -> _Surrogate:
    """The clipped surrogate of each sample; where a bound is the loss, the gradient is 0."""
    high = clip if clip_high is None else clip_high
    if not (clip >= 0 and high >= 0):
        raise ValueError(f"clip and clip_high must not be negative, got {clip} and {clip_high}")
    if dual_clip is not None and not dual_clip >= 1:
        raise ValueError(f"dual_clip must be at least 1, got {dual_clip}")
    if not log_ratio_clamp > 0:
        raise ValueError(f"log_ratio_clamp must be positive, got {log_ratio_clamp}")
    log_ratio = (logp - old_logp).clamp(-log_ratio_clamp, log_ratio_clamp)
    ratio = log_ratio.exp()
    free = -advantages * ratio
    bound = -advantages * ratio.clamp(1 - clip, 1 + high)
    losses = torch.maximum(free, bound)
    dual_clipped = torch.zeros_like(losses, dtype=torch.bool)
    if dual_clip is not None:
        dual_bound = torch.as_tensor(-advantages * dual_clip, dtype=losses.dtype, device=losses.device)
        dual_clipped = (dual_bound > 0) & (losses > dual_bound)
        losses = torch.where(dual_clipped, dual_bound, losses)
    return _Surrogate(losses, log_ratio, ratio, bound > free, dual_clipped)


def _policy_metrics(batch: Batch, policy: _Surrogate) -> Metrics:
    return {
        "clip_fraction": batch.mean(policy.clipped),
        "dual_clip_fraction": batch.mean(policy.dual_clipped),
        "approx_kl": batch.mean(torch.expm1(policy.log_ratio) - policy.log_ratio),
        "approx_kl_k1": batch.mean(-policy.log_ratio),
        "ratio_mean": batch.mean(policy.ratio),
        "ratio_min": batch.least(policy.ratio),
        "ratio_max": batch.greatest(policy.ratio),
    }


_POLICY_METRICS = {
    "clip_fraction": "mean",
    "dual_clip_fraction": "mean",
    "approx_kl": "mean",
    "approx_kl_k1": "mean",
    "ratio_mean": "mean",
    "ratio_min": "min",
    "ratio_max": "max",
}
_POLICY_PARAMETERS = {
    "clip": Hyper(),
    "clip_high": Hyper(none="clip"),
    "dual_clip": Hyper(low=1.0, none=math.inf),
    "log_ratio_clamp": Hyper(low=1e-30),
}


@fused(
    Pointwise(
        operands=("logp", "old_logp", "advantages"),
        parameters=_POLICY_PARAMETERS,
        differentiable=("logp",),
        metrics=_POLICY_METRICS,
    )
)
def ppo_clip_loss(
    logp: Tensor,
    old_logp: Tensor,
    advantages: Tensor | float,
    *,
    clip: float = 0.2,
    clip_high: float | None = None,
    dual_clip: float | None = None,
    log_ratio_clamp: float = 20.0,
    mask: Tensor | None = None,
    normalizer: float | Tensor | None = None,
    aggregation: str = "token-mean",
    return_terms: bool = False,
) -> Tensor | tuple[Tensor, Metrics]:
    r"""Clipped surrogate of proximal policy optimisation, from log-probabilities of the actions (or tokens) taken.

    With :math:`r = \exp(\mathrm{clamp}(\log\pi - \log\pi_{old}, -c, c))`, c = ``log_ratio_clamp``, and the advantage A,

    .. math::
        \ell = \max\bigl(-A\,r,\; -A\,\mathrm{clamp}(r,\, 1 - \mathrm{clip},\, 1 + \mathrm{clip\_high})\bigr),

    and for A < 0, with ``dual_clip``, at most :math:`-A\cdot\mathrm{dual\_clip}`. The gradient is 0 where a clip or the
    clamp is active. ``old_logp`` and ``advantages`` are constants: no gradient flows into them.

    Args:
        logp: log-probabilities under the policy that is trained.
        old_logp: log-probabilities under the policy that acted.
        advantages: tensor or number; one for each sequence as (..., 1), or one for each token.
        clip: at least 0; how far the ratio may fall below 1.
        clip_high: at least 0; how far it may rise above 1. None: as far as ``clip``. DAPO takes more (0.28).
        dual_clip: at least 1 (3 is usual); bounds the loss where the advantage is negative. None: no bound.
        log_ratio_clamp: positive; bounds the logarithm of the ratio, so that its exponential is a number.
            ``math.inf``: no bound.
        mask: broadcasts to the losses; 0 takes an element out, whatever it holds. Other values weight it.
        normalizer: the denominator of a mean, instead of the number of elements (or sequences) that the mask counts:
            a number or a 0-d tensor, for accumulation over batches or devices.
        aggregation: ``"token-mean"``, ``"token-sum"``, ``"seq-mean-token-sum"``, ``"seq-mean-token-mean"``,
            ``"seq-mean-token-sum-norm"`` or ``"none"``; the last dimension is the sequence.
        return_terms: also return what is usually logged.

    Shape:
        - logp, old_logp, advantages, mask: any, broadcast together
        - output: the broadcast shape for ``"none"``, else ()

    Returns:
        The loss, or (loss, terms) with ``return_terms``. The terms are detached 0-d tensors over the elements that the
        mask counts: ``clip_fraction`` and ``dual_clip_fraction`` (share of the elements where that bound is active),
        ``approx_kl`` (mean of r - 1 - log r, the k3 estimate of KL(old || new)), ``approx_kl_k1`` (mean of -log r),
        ``ratio_mean``, ``ratio_min``, ``ratio_max``. Nothing counted: loss and means 0, minimum inf, maximum -inf.

    Raises:
        ValueError: a hyper-parameter out of range, an unknown ``aggregation``.

    Source:
        Schulman et al. 2017, arXiv:1707.06347. Dual clip: Ye et al. 2019, arXiv:1912.09729. Asymmetric clip: Yu et al.
        2025 (DAPO), arXiv:2503.14476.

    Example:
        >>> logp = torch.tensor([0.5, -0.25]).log_softmax(0)
        >>> ppo_clip_loss(logp, logp, torch.tensor([1.0, -3.0])).item()
        1.0
    """
    dtype = result_dtype(logp, old_logp, advantages)
    logp, old_logp, advantages = counted(mask, logp, detached(old_logp), detached(advantages))
    policy = _surrogate(logp, old_logp, advantages, clip, clip_high, dual_clip, log_ratio_clamp)
    batch = Batch(policy.losses, aggregation, mask, normalizer, dtype)
    return (batch.loss(), _policy_metrics(batch, policy)) if return_terms else batch.loss()


def _without_old_values(arguments: dict[str, Any]) -> dict[str, Any]:
    """Where there are none, no value is too far from them."""
    if arguments.get("old_values") is not None:
        return arguments
    return {**arguments, "old_values": 0.0, "value_clip": math.inf}


@fused(
    Pointwise(
        operands=("logp", "old_logp", "advantages", "values", "returns", "entropy", "old_values"),
        fill={"entropy": 0.0, "old_values": 0.0},
        parameters={
            **_POLICY_PARAMETERS,
            "value_clip": Hyper(),
            "value_coefficient": Hyper(low=-math.inf),
            "entropy_coefficient": Hyper(low=-math.inf),
        },
        differentiable=("logp", "values", "entropy"),
        metrics={
            "policy_loss": "part",
            "value_loss": "part",
            "entropy": "part",
            "clip_fraction": "mean",
            "value_clip_fraction": "mean",
            "approx_kl": "mean",
            "ratio_min": "min",
            "ratio_max": "max",
        },
        prepare=_without_old_values,
    )
)
def ppo_loss(
    logp: Tensor,
    old_logp: Tensor,
    advantages: Tensor | float,
    values: Tensor,
    returns: Tensor | float,
    entropy: Tensor | None = None,
    old_values: Tensor | None = None,
    *,
    value_coefficient: float = 0.5,
    entropy_coefficient: float = 0.0,
    clip: float = 0.2,
    clip_high: float | None = None,
    dual_clip: float | None = None,
    value_clip: float = 0.2,
    log_ratio_clamp: float = 20.0,
    mask: Tensor | None = None,
    normalizer: float | Tensor | None = None,
    aggregation: str = "token-mean",
    return_terms: bool = False,
) -> Tensor | tuple[Tensor, Metrics]:
    r"""Policy, value and entropy losses of proximal policy optimisation, in one pass.

    .. math::
        \ell = \ell_{policy} + \mathrm{value\_coefficient}\cdot\ell_{value}
               - \mathrm{entropy\_coefficient}\cdot\mathrm{entropy},

    with :math:`\ell_{policy}` of :func:`ppo_clip_loss` and :math:`\ell_{value}` of :func:`value_clip_loss`, or
    :math:`(v - R)^2 / 2` without ``old_values``. Gradients flow into ``logp``, ``values`` and ``entropy``.

    Args:
        logp, old_logp, advantages, clip, clip_high, dual_clip, log_ratio_clamp: as in :func:`ppo_clip_loss`.
        values, returns, old_values: as in :func:`value_clip_loss`; ``old_values`` None: values are not clipped.
        value_clip: at least 0; the ``clip`` of :func:`value_clip_loss`.
        entropy: entropy of the policy at each element. None: 0.
        value_coefficient, entropy_coefficient: any number.
        mask, normalizer, aggregation: as in :func:`ppo_clip_loss`, the same for the three parts.
        return_terms: also return what is usually logged.

    Shape:
        - all tensors: any, broadcast together
        - output: the broadcast shape for ``"none"``, else ()

    Returns:
        The loss, or (loss, terms) with ``return_terms``. The terms are ``policy_loss``, ``value_loss`` and ``entropy``
        (the parts without their coefficients, reduced as the loss is; summed for ``"none"``), and ``clip_fraction``,
        ``value_clip_fraction``, ``approx_kl``, ``ratio_min`` and ``ratio_max`` as in the two losses themselves.

    Raises:
        ValueError: a hyper-parameter out of range, an unknown ``aggregation``.

    Source:
        Schulman et al. 2017, arXiv:1707.06347, equation 9.

    Example:
        >>> logp, advantages = torch.tensor([-0.7, -0.7]), torch.tensor([1.0, -2.0])
        >>> ppo_loss(logp, logp, advantages, torch.tensor([1.0, 2.0]), torch.tensor([0.0, 2.0])).item()
        0.625
    """
    dtype = result_dtype(logp, old_logp, advantages, values, returns, entropy, old_values)
    logp, values, entropy = counted(mask, logp, values, entropy)
    old_logp, advantages, returns, old_values = counted(
        mask, detached(old_logp), detached(advantages), detached(returns), detached(old_values)
    )
    policy = _surrogate(logp, old_logp, advantages, clip, clip_high, dual_clip, log_ratio_clamp)
    value_losses, value_clipped = (
        (0.5 * (values - returns).square(), torch.zeros_like(values, dtype=torch.bool))
        if old_values is None
        else value_error(values, old_values, returns, value_clip)
    )
    losses = policy.losses + value_coefficient * value_losses
    if entropy is not None:
        losses = losses - entropy_coefficient * entropy
    batch = Batch(losses, aggregation, mask, normalizer, dtype)
    if not return_terms:
        return batch.loss()
    terms = _policy_metrics(batch, policy)
    return batch.loss(), {
        "policy_loss": batch.part(policy.losses),
        "value_loss": batch.part(value_losses),
        "entropy": batch.part(torch.zeros_like(losses) if entropy is None else entropy),
        "clip_fraction": terms["clip_fraction"],
        "value_clip_fraction": batch.mean(value_clipped),
        "approx_kl": terms["approx_kl"],
        "ratio_min": terms["ratio_min"],
        "ratio_max": terms["ratio_max"],
    }
