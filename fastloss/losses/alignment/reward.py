"""Training a reward model, and the distance to a reference policy."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from fastloss.core.arguments import Hyper
from fastloss.core.composite import composite, elements, present
from fastloss.core.dispatch import fused
from fastloss.core.dtypes import result_dtype
from fastloss.core.metrics import REWARD_METRICS, Batch, Metrics, counted, detached
from fastloss.skeletons.pointwise import Pointwise

__all__ = ["kl_penalty", "reward_model_loss", "rlhf_loss"]

_KINDS = ("k1", "k2", "k3", "abs")


def kl_estimate(difference: Tensor, kind: str, log_ratio_clamp: float) -> Tensor:
    """From the logarithm of the ratio of policy and reference."""
    if kind == "k1":
        return difference
    if kind == "k2":
        return 0.5 * difference.square()
    if kind == "k3":
        clamped = (-difference).clamp(-log_ratio_clamp, log_ratio_clamp)
        return torch.expm1(clamped) - clamped
    return difference.abs()


@fused(
    Pointwise(
        operands=("logp", "ref_logp"),
        parameters={"log_ratio_clamp": Hyper(low=1e-30)},
        differentiable=("logp",),
        variant=("kind", _KINDS),
    )
)
def kl_penalty(
    logp: Tensor,
    ref_logp: Tensor,
    *,
    kind: str = "k1",
    log_ratio_clamp: float = 20.0,
    mask: Tensor | None = None,
    normalizer: float | Tensor | None = None,
    aggregation: str = "token-mean",
) -> Tensor:
    r"""Estimates of the KL divergence to a reference policy, from log-probabilities of samples of the policy.

    With :math:`d = \log\pi - \log\pi_{ref}` at one sample:

    ========  ====================  ========================================================================
    ``kind``  estimate              expected gradient, over samples of the policy itself
    ========  ====================  ========================================================================
    "k1"      d                     0: it is an estimate to subtract from a reward, not a loss
    "k2"      :math:`d^2 / 2`       that of KL(policy || reference), the reverse KL
    "k3"      :math:`e^{-d}-1+d`    that of KL(reference || policy), the forward KL
    "abs"     :math:`|d|`           that of :math:`\sum |\pi - \pi_{ref}|`, twice the total variation
    ========  ====================  ========================================================================

    k1 and k3 are unbiased estimates of KL(policy || reference); k2 is not, but nearly so where the policies are close.
    The gradient is the derivative of the formula (0 at a tie of "abs"); what the table says of it follows from
    :math:`E_\pi[f \nabla\log\pi] = \sum f \nabla\pi`. ``ref_logp`` is a constant.

    Args:
        logp: log-probabilities under the policy.
        ref_logp: log-probabilities under the reference policy.
        kind: ``"k1"``, ``"k2"``, ``"k3"`` or ``"abs"``.
        log_ratio_clamp: positive; bounds \|d\| in "k3", so that its exponential is a number; the gradient is 0 beyond.
        mask: broadcasts to the losses; 0 takes an element out, whatever it holds. Other values weight it.
        normalizer: the denominator of a mean instead of what the mask counts: a number or a 0-d tensor.
        aggregation: ``"token-mean"``, ``"token-sum"``, ``"seq-mean-token-sum"``, ``"seq-mean-token-mean"``,
            ``"seq-mean-token-sum-norm"`` or ``"none"``; the last dimension is the sequence.

    Shape:
        - logp, ref_logp, mask: any, broadcast together
        - output: the broadcast shape for ``"none"``, else ()

    Returns:
        The penalty, in the dtype that torch promotes the operands to (float32 under autocast).

    Raises:
        ValueError: an unknown ``kind`` or ``aggregation``, a ``log_ratio_clamp`` that is not positive.

    Source:
        Schulman 2020, "Approximating KL divergence", http://joschu.net/blog/kl-approx.html. k3 as a loss: Shao et al.
        2024 (GRPO), arXiv:2402.03300.

    Example:
        >>> kl_penalty(torch.tensor([-1.0]), torch.tensor([-2.0]), kind="k2").item()
        0.5
    """
    if kind not in _KINDS:
        raise ValueError(f"{kind!r} is not a kind of penalty; choose one of {', '.join(_KINDS)}")
    if not log_ratio_clamp > 0:
        raise ValueError(f"log_ratio_clamp must be positive, got {log_ratio_clamp}")
    dtype = result_dtype(logp, ref_logp)
    logp, ref_logp = counted(mask, logp, detached(ref_logp))
    losses = kl_estimate(logp - ref_logp, kind, log_ratio_clamp)
    return Batch(losses, aggregation, mask, normalizer, dtype).loss()


@fused(
    Pointwise(
        operands=("chosen_rewards", "rejected_rewards", "margin"),
        fill={"margin": 0.0},
        parameters={"center_coefficient": Hyper(low=-math.inf)},
        differentiable=("chosen_rewards", "rejected_rewards"),
        metrics={**REWARD_METRICS, "ranking_loss": "part", "center_loss": "part"},
    )
)
def reward_model_loss(
    chosen_rewards: Tensor,
    rejected_rewards: Tensor,
    margin: Tensor | float | None = None,
    *,
    center_coefficient: float = 0.0,
    reduction: str = "mean",
    mask: Tensor | None = None,
    normalizer: float | Tensor | None = None,
    return_terms: bool = False,
) -> Tensor | tuple[Tensor, Metrics]:
    r"""Bradley-Terry loss of a reward model on pairs.

    .. math::
        \ell = -\log\sigma(r_c - r_r - \mathrm{margin}) + \mathrm{center\_coefficient}\,(r_c + r_r)^2

    The second term holds the rewards near 0, which the first leaves free to drift together. ``margin`` is a constant.

    Args:
        chosen_rewards, rejected_rewards: what the model gives to the preferred answer and to the other.
        margin: how much larger the first is to be: a tensor, a number, or None for 0.
        center_coefficient: any number; 1e-2 is usual where rewards drift.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.
        mask: broadcasts to the losses; 0 takes a pair out, whatever it holds. Other values weight it.
        normalizer: the denominator of the mean instead of what the mask counts: a number or a 0-d tensor.
        return_terms: also return what is usually logged.

    Shape:
        - chosen_rewards, rejected_rewards, margin, mask: any, broadcast together
        - output: the broadcast shape for ``"none"``, else ()

    Returns:
        The loss, or (loss, terms) with ``return_terms``. The terms are detached 0-d tensors: ``chosen_reward``,
        ``rejected_reward``, ``margin`` (of the rewards) and ``accuracy`` (share of the pairs with the chosen reward
        above the other) are means over what the mask counts; ``ranking_loss`` and ``center_loss`` are the two parts of
        the loss, reduced as it is (summed for ``"none"``).

    Raises:
        ValueError: an unknown ``reduction``.

    Source:
        Ouyang et al. 2022, arXiv:2203.02155. Margin: Touvron et al. 2023, arXiv:2307.09288. Centering: Eisenstein et
        al. 2023, arXiv:2312.09244.

    Example:
        >>> reward_model_loss(torch.tensor([1.0]), torch.tensor([-1.0]), center_coefficient=0.01).item()
        0.12692800164222717
    """
    dtype = result_dtype(chosen_rewards, rejected_rewards, margin)
    chosen, rejected, wanted = counted(mask, chosen_rewards, rejected_rewards, detached(margin))
    difference = chosen - rejected
    ranking = -F.logsigmoid(difference if wanted is None else difference - wanted)
    center = center_coefficient * (chosen + rejected).square()
    losses = ranking + center
    batch = Batch(losses, reduction, mask, normalizer, dtype)
    if not return_terms:
        return batch.loss()
    return batch.loss(), {
        **batch.rewards(chosen, rejected),
        "ranking_loss": batch.part(ranking),
        "center_loss": batch.part(center),
    }


@composite()
def rlhf_loss(
    logp: Tensor,
    ref_logp: Tensor,
    rewards: Tensor,
    *,
    beta: float = 0.1,
    reduction: str = "mean",
    mask: Tensor | None = None,
    normalizer: float | Tensor | None = None,
    return_terms: bool = False,
) -> Tensor | tuple[Tensor, Metrics]:
    r"""Minus the reward of sampled answers, less the distance to a reference policy; its gradient is the policy's.

    .. math::
        \ell = -\bigl(r - \beta d\bigr)\,\frac{\pi}{\mathrm{sg}(\pi)}, \qquad
        d = \mathrm{sg}\bigl(\log\pi - \log\pi_{ref}\bigr)

    The quotient is 1; its gradient is that of the log-probability. Over answers of the policy itself, the expected
    gradient is that of :math:`-E[r] + \beta\,\mathrm{KL}(\pi \| \pi_{ref})`. ``ref_logp`` and ``rewards`` are
    constants; a baseline that is subtracted from the rewards changes no expected gradient.

    Args:
        logp: log-probabilities of whole answers under the policy.
        ref_logp: under the reference policy.
        rewards: r, of a reward model.
        beta: how far the policy may go from the reference.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``, over the answers.
        mask: broadcasts to the losses; 0 takes one out, whatever it holds. Other values weight it.
        normalizer: the denominator of the mean, instead of the sum of the mask: a number or a 0-d tensor.
        return_terms: also return the two parts.

    Shape:
        - logp, ref_logp, rewards: any, and the same
        - output: as logp for ``"none"``, else ()

    Returns:
        The loss, in the dtype that torch promotes the operands to (float32 under autocast); with ``return_terms``,
        (loss, terms): ``reward`` and ``kl``, the estimate d.

    Raises:
        ValueError: shapes that differ.

    Source:
        Ziegler et al. 2019, arXiv:1909.08593; Ouyang et al. 2022, arXiv:2203.02155, without its clipping.

    Example:
        >>> rlhf_loss(torch.tensor([-1.0]), torch.tensor([-3.0]), torch.tensor([2.0]), beta=0.5).item()
        -1.0
    """
    if not logp.shape == ref_logp.shape == rewards.shape:
        raise ValueError(
            f"logp {tuple(logp.shape)}, ref_logp {tuple(ref_logp.shape)} and rewards {tuple(rewards.shape)} differ"
        )
    logp, ref_logp, rewards = present(logp.shape, mask, normalizer, logp, ref_logp.detach(), rewards.detach())
    distance = logp.detach() - ref_logp
    return elements(-(rewards - beta * distance) * (logp - logp.detach()).exp(), {"reward": rewards, "kl": distance})
