"""World models: predicted states and rewards, divergences of latent states, self-predictive representations."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fastloss.core.composite import composite, elements, present
from fastloss.core.metrics import Metrics
from fastloss.losses.binary import binary_cross_entropy_with_logits
from fastloss.losses.distillation import categorical_kl
from fastloss.losses.regression import mse_loss
from fastloss.losses.rl.transitions import same_shape
from fastloss.skeletons.comparisons import unit

__all__ = ["dynamics_loss", "kl_balance", "rssm_loss", "spr_loss"]


def _same(a: Tensor, b: Tensor) -> Tensor:
    """The squared error of each number, to a constant."""
    return mse_loss(a, b.detach().to(a.dtype), reduction="none")


@composite()
def dynamics_loss(
    input: Tensor,
    target: Tensor,
    predicted_rewards: Tensor,
    rewards: Tensor,
    *,
    reward_coefficient: float = 1.0,
    reduction: str = "mean",
    mask: Tensor | None = None,
    normalizer: float | Tensor | None = None,
    return_terms: bool = False,
) -> Tensor | tuple[Tensor, Metrics]:
    r"""Squared errors of a model's next states and rewards.

    .. math:: \ell = \sum_d (\hat s'_d - s'_d)^2 + c\,(\hat r - r)^2

    Args:
        input: the predicted states.
        target: s', constants.
        predicted_rewards: of the same steps.
        rewards: r, constants.
        reward_coefficient: c.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``, over the steps.
        mask: broadcasts to the losses; 0 takes one out, whatever it holds. Other values weight it.
        normalizer: the denominator of the mean, instead of the sum of the mask: a number or a 0-d tensor.
        return_terms: also return the two terms.

    Shape:
        - input, target: (..., D)
        - predicted_rewards, rewards: (...)
        - output: (...) for ``"none"``, else ()

    Returns:
        The loss, in the dtype that torch promotes the operands to (float32 under autocast); with ``return_terms``,
        (loss, terms): ``state`` and ``reward``, before the coefficient.

    Raises:
        ValueError: shapes that do not fit.

    Source:
        Janner et al. 2019 (MBPO), arXiv:1906.08253, there as a likelihood; Hafner et al. 2020, arXiv:1912.01603.

    Example:
        >>> dynamics_loss(torch.zeros(1, 2), torch.ones(1, 2), torch.zeros(1), torch.full((1,), 2.0)).item()
        6.0
    """
    if not input.dim() or input.shape != target.shape:
        raise ValueError(f"input {tuple(input.shape)} and target {tuple(target.shape)} must be the same (..., D)")
    same_shape(input.shape[:-1], predicted_rewards=predicted_rewards, rewards=rewards)
    input, target, predicted_rewards, rewards = present(
        input.shape[:-1], mask, normalizer, input, target.detach(), predicted_rewards, rewards.detach()
    )
    state, reward = _same(input, target).sum(-1), _same(predicted_rewards, rewards)
    return elements(state + reward_coefficient * reward, {"state": state, "reward": reward})


def _balanced(post: Tensor, prior: Tensor, dyn: float, rep: float, free_nats: float) -> tuple[Tensor, Metrics]:
    """(losses, terms) of latent states (..., G, C).

    Raises:
        ValueError: if free_nats is negative.
    """
    if not free_nats >= 0:
        raise ValueError(f"free_nats must not be negative, got {free_nats}")
    dynamics = categorical_kl(post.detach(), prior, reduction="none").sum(-1)
    representation = categorical_kl(post, prior.detach(), reduction="none").sum(-1)
    losses = dyn * dynamics.clamp(min=free_nats) + rep * representation.clamp(min=free_nats)
    return losses, {"kl": dynamics}


def _check_latents(post: Tensor, prior: Tensor) -> None:
    """
    Raises:
        ValueError: if they are not the same (..., G, C).
    """
    if post.dim() < 2 or post.shape != prior.shape:
        raise ValueError(f"post {tuple(post.shape)} and prior {tuple(prior.shape)} must be the same (..., G, C)")


@composite()
def kl_balance(
    post: Tensor,
    prior: Tensor,
    *,
    dyn: float = 1.0,
    rep: float = 0.1,
    free_nats: float = 1.0,
    reduction: str = "mean",
    mask: Tensor | None = None,
    normalizer: float | Tensor | None = None,
    return_terms: bool = False,
) -> Tensor | tuple[Tensor, Metrics]:
    r"""Divergence of a latent state's posterior and prior, of which the prior learns faster than the posterior.

    With the divergence D of all G categorical variables of a state, and constants sg(.),

    .. math::
        \ell = \mathrm{dyn} \cdot \max\bigl(f, D(\mathrm{sg}(q) \| p)\bigr)
             + \mathrm{rep} \cdot \max\bigl(f, D(q \| \mathrm{sg}(p))\bigr), \qquad
        D(q \| p) = \sum_g \mathrm{KL}(q_g \| p_g)

    The free nats f are compared with the sum over the variables; below them there is no gradient.

    Args:
        post: logits of q, which has seen the observation.
        prior: logits of p, predicted from the past.
        dyn: how fast the prior follows the posterior.
        rep: how fast the posterior follows the prior.
        free_nats: f, not negative.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``, over the states.
        mask: broadcasts to the losses; 0 takes one out, whatever it holds. Other values weight it.
        normalizer: the denominator of the mean, instead of the sum of the mask: a number or a 0-d tensor.
        return_terms: also return D itself.

    Shape:
        - post, prior: (..., G, C)
        - output: (...) for ``"none"``, else ()

    Returns:
        The loss, in the dtype that torch promotes the operands to (float32 under autocast); with ``return_terms``,
        (loss, terms): ``kl``, without free nats and coefficients.

    Raises:
        ValueError: shapes that do not fit.

    Source:
        Hafner et al. 2023 (DreamerV3), arXiv:2301.04104, equation 5; 2021 (DreamerV2), arXiv:2010.02193.

    Example:
        >>> post = torch.tensor([[[9.0, 9.0]]])  # one state of one variable
        >>> kl_balance(post, post, free_nats=1.0).item()
        1.100000023841858
    """
    _check_latents(post, prior)
    post, prior = present(post.shape[:-2], mask, normalizer, post, prior)
    return elements(*_balanced(post, prior, dyn, rep, free_nats))


@composite()
def rssm_loss(
    recon: Tensor,
    target: Tensor,
    predicted_rewards: Tensor,
    rewards: Tensor,
    continues: Tensor,
    terminated: Tensor,
    post: Tensor,
    prior: Tensor,
    *,
    kl_coefficient: float = 1.0,
    reward_coefficient: float = 1.0,
    continue_coefficient: float = 1.0,
    dyn: float = 1.0,
    rep: float = 0.1,
    free_nats: float = 1.0,
    reduction: str = "mean",
    mask: Tensor | None = None,
    normalizer: float | Tensor | None = None,
    return_terms: bool = False,
) -> Tensor | tuple[Tensor, Metrics]:
    r"""Loss of a recurrent state-space model: what a world model predicts, and how far its posterior leaves its prior.

    .. math::
        \ell = \sum_d (o_d - \hat o_d)^2 + \beta_1\, \ell_{KL} + \beta_2\,(\hat r - r)^2
             + \beta_3\, \mathrm{BCE}(c, 1 - \mathrm{terminated})

    with :func:`kl_balance`. Observations, rewards and ends are constants. Rewards predicted as distributions:
    ``reward_coefficient=0`` and :func:`two_hot_loss`.

    Args:
        recon: the decoder's observations.
        target: o, the observations, as the decoder has them (symlog, say).
        predicted_rewards: of the same steps.
        rewards: r, as they are predicted.
        continues: logits c of the episode's going on.
        terminated: nonzero where it has ended by itself.
        post, prior, dyn, rep, free_nats: as in :func:`kl_balance`.
        kl_coefficient, reward_coefficient, continue_coefficient: the betas.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``, over the steps.
        mask: broadcasts to the losses; 0 takes one out, whatever it holds. Other values weight it.
        normalizer: the denominator of the mean, instead of the sum of the mask: a number or a 0-d tensor.
        return_terms: also return the terms.

    Shape:
        - recon, target: (..., D)
        - predicted_rewards, rewards, continues, terminated: (...)
        - post, prior: (..., G, C)
        - output: (...) for ``"none"``, else ()

    Returns:
        The loss, in the dtype that torch promotes the operands to (float32 under autocast); with ``return_terms``,
        (loss, terms): ``reconstruction``, ``kl`` (without free nats), ``reward`` and ``continue``, before the
        coefficients.

    Raises:
        ValueError: shapes that do not fit.

    Source:
        Hafner et al. 2019 (PlaNet), arXiv:1811.04551; 2023 (DreamerV3), arXiv:2301.04104.

    Example:
        >>> zero, latent = torch.zeros(1), torch.zeros(1, 1, 2)
        >>> seen = torch.zeros(1, 3), torch.ones(1, 3)
        >>> round(rssm_loss(*seen, zero, zero, zero, zero, latent, latent).item(), 4)  # 3 + 1.1 + log 2
        4.7931
    """
    steps = rewards.shape
    _check_latents(post, prior)
    if not recon.dim() or recon.shape != target.shape or recon.shape[:-1] != steps or post.shape[:-2] != steps:
        raise ValueError(
            f"recon {tuple(recon.shape)}, target {tuple(target.shape)} and post {tuple(post.shape)} do not fit rewards "
            f"{tuple(steps)}"
        )
    same_shape(steps, predicted_rewards=predicted_rewards, continues=continues, terminated=terminated)
    recon, target, predicted_rewards, rewards, continues, terminated, post, prior = present(
        steps, mask, normalizer, recon, target, predicted_rewards, rewards, continues, terminated, post, prior
    )
    reconstruction, reward = _same(recon, target).sum(-1), _same(predicted_rewards, rewards)
    going = (terminated == 0).to(continues.dtype)
    goes_on = binary_cross_entropy_with_logits(continues, going, reduction="none")
    latent, terms = _balanced(post, prior, dyn, rep, free_nats)
    losses = reconstruction + kl_coefficient * latent + reward_coefficient * reward + continue_coefficient * goes_on
    return elements(losses, {"reconstruction": reconstruction, **terms, "reward": reward, "continue": goes_on})


@composite()
def spr_loss(
    input: Tensor,
    target: Tensor,
    *,
    reduction: str = "mean",
    mask: Tensor | None = None,
    normalizer: float | Tensor | None = None,
) -> Tensor:
    r"""Self-predictive representations: predicted latent states point where the averaged encoder puts the real ones.

    .. math:: \ell = 2 - 2 \cos(\hat z_{t+k}, \mathrm{sg}(z_{t+k}))

    Args:
        input: predictions for the steps t + k, by a model that was unrolled from t, projected.
        target: what the averaged encoder says of these steps, projected; no gradient flows into it.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``, over the predictions.
        mask: broadcasts to the losses; 0 takes one out, whatever it holds: what lies beyond an episode's end.
        normalizer: the denominator of the mean, instead of the sum of the mask: a number or a 0-d tensor.

    Shape:
        - input, target: (..., D)
        - output: (...) for ``"none"``, else ()

    Returns:
        The loss, in the dtype that torch promotes the operands to (float32 under autocast).

    Raises:
        ValueError: shapes that differ.

    Source:
        Schwarzer et al. 2021, arXiv:2007.05929; the paper leaves out the constant.

    Example:
        >>> spr_loss(torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 3.0]])).item()
        2.0
    """
    if not input.dim() or input.shape != target.shape:
        raise ValueError(f"input {tuple(input.shape)} and target {tuple(target.shape)} must be the same (..., D)")
    steps = input.shape[:-1]
    input, target = present(steps, mask, normalizer, input, target.detach())
    dtype, size = torch.promote_types(input.dtype, target.dtype), (math.prod(steps), input.shape[-1])
    a, b = (unit(x.to(dtype).reshape(size), True) for x in (input, target))
    return elements(2 - 2 * (a * b).sum(1).reshape(steps))
