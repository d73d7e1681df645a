"""Auxiliary predictions of an agent, and curiosity: what it cannot predict yet is worth a visit."""

from __future__ import annotations

import math

from torch import Tensor

from fastloss.core.arguments import check_range
from fastloss.core.composite import composite, elements, present
from fastloss.core.metrics import Metrics
from fastloss.losses.classification import cross_entropy
from fastloss.losses.regression import mse_loss
from fastloss.losses.rl.transitions import checked_actions, same_shape

__all__ = ["icm_loss", "inverse_dynamics_loss", "next_state_loss", "reward_prediction_loss", "rnd_loss"]


def _squares(input: Tensor, target: Tensor) -> Tensor:
    """(..., D) -> (...): the squared distance to a constant."""
    return mse_loss(input, target.detach().to(input.dtype), reduction="none").sum(-1)


def _vectors(input: Tensor, target: Tensor, mask: Tensor | None, normalizer: float | Tensor | None) -> Tensor:
    """
    Raises:
        ValueError: if they are not vectors of the same number and length.
    """
    if not input.dim() or input.shape != target.shape:
        raise ValueError(f"input {tuple(input.shape)} and target {tuple(target.shape)} must be the same (..., D)")
    return _squares(*present(input.shape[:-1], mask, normalizer, input, target.detach()))


def _of_actions(input: Tensor, actions: Tensor) -> Tensor:
    """(...): the cross-entropy of discrete actions, or the squared distance to continuous ones."""
    if actions.is_floating_point():
        return _squares(input, actions)
    rows, count = math.prod(actions.shape), input.shape[-1]
    target = actions.long().reshape(rows)
    check_range(target, count, 0)  # torch's -100 is no action
    return cross_entropy(input.reshape(rows, count), target, reduction="none").reshape(actions.shape)


def _checked_prediction(input: Tensor, actions: Tensor) -> None:
    """
    Raises:
        ValueError: if the actions are neither vectors like the prediction nor integers, one for each of its rows.
    """
    if actions.is_floating_point():
        same_shape(input.shape, actions=actions)
    else:
        checked_actions(actions, input.shape[:-1], "the predictions")


@composite()
def reward_prediction_loss(
    input: Tensor,
    rewards: Tensor,
    *,
    reduction: str = "mean",
    mask: Tensor | None = None,
    normalizer: float | Tensor | None = None,
) -> Tensor:
    r"""Squared error of predicted rewards, as an auxiliary task or of a model.

    .. math:: \ell = (\hat r - r)^2

    Args:
        input: the predicted rewards.
        rewards: r, constants.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``, over the steps.
        mask: broadcasts to the losses; 0 takes one out, whatever it holds. Other values weight it.
        normalizer: the denominator of the mean, instead of the sum of the mask: a number or a 0-d tensor.

    Shape:
        - input, rewards: any, and the same
        - output: as input for ``"none"``, else ()

    Returns:
        The loss, in the dtype that torch promotes the operands to (float32 under autocast).

    Raises:
        ValueError: shapes that differ.

    Source:
        Jaderberg et al. 2017 (UNREAL), arXiv:1611.05397, there of the reward's sign, by a cross-entropy.

    Example:
        >>> reward_prediction_loss(torch.tensor([1.0, 2.0]), torch.tensor([1.0, 0.0])).item()
        2.0
    """
    same_shape(input.shape, rewards=rewards)
    input, rewards = present(input.shape, mask, normalizer, input, rewards.detach())
    return elements(mse_loss(input, rewards.to(input.dtype), reduction="none"))


@composite()
def next_state_loss(
    input: Tensor,
    target: Tensor,
    *,
    reduction: str = "mean",
    mask: Tensor | None = None,
    normalizer: float | Tensor | None = None,
) -> Tensor:
    r"""Squared distance of a predicted next state, as an auxiliary task or of a model.

    .. math:: \ell = \sum_d (\hat s'_d - s'_d)^2

    Args:
        input: the predicted states (or features of them).
        target: s', constants.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``, over the steps.
        mask: broadcasts to the losses; 0 takes one out, whatever it holds. Other values weight it.
        normalizer: the denominator of the mean, instead of the sum of the mask: a number or a 0-d tensor.

    Shape:
        - input, target: (..., D)
        - output: (...) for ``"none"``, else ()

    Returns:
        The loss, in the dtype that torch promotes the operands to (float32 under autocast).

    Raises:
        ValueError: shapes that differ.

    Source:
        Oh et al. 2015, arXiv:1507.08750; Munk et al. 2016, Learning state representation for deep actor-critic control.

    Example:
        >>> next_state_loss(torch.zeros(1, 2), torch.tensor([[1.0, 2.0]])).item()
        5.0
    """
    return elements(_vectors(input, target, mask, normalizer))


@composite()
def inverse_dynamics_loss(
    input: Tensor,
    actions: Tensor,
    *,
    reduction: str = "mean",
    mask: Tensor | None = None,
    normalizer: float | Tensor | None = None,
) -> Tensor:
    r"""Which action led from a state to the next one? Representations keep what the agent can change.

    .. math::
        \ell = -\log \mathrm{softmax}(x)_a \text{ of discrete actions,} \qquad
        \ell = \sum_d (x_d - a_d)^2 \text{ of others}

    Args:
        input: x, predicted from the two states: logits, or the action itself.
        actions: a: integers are discrete ones, floating-point numbers vectors; constants.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``, over the steps.
        mask: broadcasts to the losses; 0 takes one out, whatever it holds. Other values weight it.
        normalizer: the denominator of the mean, instead of the sum of the mask: a number or a 0-d tensor.

    Shape:
        - input: (..., A)
        - actions: (...), or (..., A) if they are vectors
        - output: (...) for ``"none"``, else ()

    Returns:
        The loss, in the dtype that torch promotes the operands to (float32 under autocast).

    Raises:
        ValueError: shapes that do not fit.
        IndexError: an action that there is not.

    Source:
        Agrawal et al. 2016, arXiv:1606.07419; Pathak et al. 2017, arXiv:1705.05363.

    Example:
        >>> round(inverse_dynamics_loss(torch.zeros(1, 4), torch.tensor([2])).item(), 4)  # log 4
        1.3863
        >>> inverse_dynamics_loss(torch.zeros(1, 2), torch.tensor([[1.0, 1.0]])).item()
        2.0
    """
    _checked_prediction(input, actions)
    input, actions = present(input.shape[:-1], mask, normalizer, input, actions.detach())
    return elements(_of_actions(input, actions))


@composite()
def icm_loss(
    input: Tensor,
    target: Tensor,
    inverse: Tensor,
    actions: Tensor,
    *,
    beta: float = 0.2,
    reduction: str = "mean",
    mask: Tensor | None = None,
    normalizer: float | Tensor | None = None,
    return_terms: bool = False,
) -> Tensor | tuple[Tensor, Metrics]:
    r"""Intrinsic curiosity: a forward model of features, and an inverse one that makes them.

    .. math:: \ell = \beta\, \tfrac12 \|\hat\varphi' - \varphi(s')\|^2 + (1 - \beta)\, \ell_{inverse}

    with :func:`inverse_dynamics_loss`. The features that are predicted are a constant: only the inverse model shapes
    them. The intrinsic reward of a step is the forward part, ``next_state_loss(..., reduction="none").detach() / 2``.

    Args:
        input: the features of s' that the forward model predicts.
        target: those that there are; no gradient flows into them.
        inverse: what the inverse model predicts: logits of the actions, or the action itself.
        actions: integers are discrete ones, floating-point numbers vectors; constants.
        beta: the weight of the forward model, between 0 and 1.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``, over the steps.
        mask: broadcasts to the losses; 0 takes one out, whatever it holds. Other values weight it.
        normalizer: the denominator of the mean, instead of the sum of the mask: a number or a 0-d tensor.
        return_terms: also return the two terms.

    Shape:
        - input, target: (..., D)
        - inverse: (..., A)
        - actions: (...), or (..., A) if they are vectors
        - output: (...) for ``"none"``, else ()

    Returns:
        The loss, in the dtype that torch promotes the operands to (float32 under autocast); with ``return_terms``,
        (loss, terms): ``forward`` and ``inverse``, before their weights.

    Raises:
        ValueError: shapes that do not fit, ``beta`` out of range.
        IndexError: an action that there is not.

    Source:
        Pathak et al. 2017, arXiv:1705.05363.

    Example:
        >>> inverse, actions = torch.zeros(1, 2), torch.tensor([[1.0, 1.0]])
        >>> icm_loss(torch.zeros(1, 3), torch.ones(1, 3), inverse, actions, beta=0.5).item()  # (3 / 2 + 2) / 2
        1.75
    """
    if not 0 <= beta <= 1:
        raise ValueError(f"beta must be between 0 and 1, got {beta}")
    _checked_prediction(inverse, actions)
    if inverse.shape[:-1] != input.shape[:-1]:
        raise ValueError(f"inverse {tuple(inverse.shape)} does not fit input {tuple(input.shape)}")
    forward = _vectors(input, target, mask, normalizer) / 2
    inverse, actions = present(forward.shape, mask, normalizer, inverse, actions.detach())
    backward = _of_actions(inverse, actions)
    return elements(beta * forward + (1 - beta) * backward, {"forward": forward, "inverse": backward})


@composite()
def rnd_loss(
    input: Tensor,
    target: Tensor,
    *,
    reduction: str = "mean",
    mask: Tensor | None = None,
    normalizer: float | Tensor | None = None,
) -> Tensor:
    r"""Random network distillation: what a fixed random network says of a state is to be predicted.

    .. math:: \ell = \frac1D \sum_d (\hat f_d - f_d)^2

    The intrinsic reward of a state is the same, ``reduction="none"`` and ``.detach()``: states that were seen often are
    predicted well. A ``mask`` of a random quarter of the states slows the predictor down, as in the paper.

    Args:
        input: the predictor's features.
        target: those of the fixed network; no gradient flows into them.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``, over the states.
        mask: broadcasts to the losses; 0 takes one out, whatever it holds. Other values weight it.
        normalizer: the denominator of the mean, instead of the sum of the mask: a number or a 0-d tensor.

    Shape:
        - input, target: (..., D)
        - output: (...) for ``"none"``, else ()

    Returns:
        The loss, in the dtype that torch promotes the operands to (float32 under autocast).

    Raises:
        ValueError: shapes that differ.

    Source:
        Burda et al. 2019, arXiv:1810.12894; the mean over the features is the authors' code's.

    Example:
        >>> rnd_loss(torch.zeros(1, 2), torch.tensor([[1.0, 2.0]])).item()
        2.5
    """
    return elements(_vectors(input, target, mask, normalizer) / max(1, input.shape[-1]))
