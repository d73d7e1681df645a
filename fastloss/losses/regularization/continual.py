"""Penalties on parameters that leave the place where they were right for an earlier task."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from fastloss.core.composite import composite
from fastloss.skeletons.parameters import alike, weighted_squares

__all__ = ["ewc_loss", "synaptic_intelligence"]


@composite(calls_model=True)
def ewc_loss(
    parameters: Tensor | torch.nn.Module | Mapping[str, Tensor] | Iterable[Tensor],
    anchors: Tensor | Mapping[str, Tensor] | Iterable[Tensor],
    importance: Tensor | Mapping[str, Tensor] | Iterable[Tensor],
) -> Tensor:
    r"""Elastic weight consolidation: a parameter may move as far as an earlier task does not need it.

    .. math:: \ell = \tfrac12 \sum_i F_i\, (\theta_i - \theta^*_i)^2

    Times lambda, beside the new task's loss. :class:`fastloss.regularization.EWC` keeps the anchors and the Fisher
    information.

    Args:
        parameters: theta, a Module, its parameters or one tensor.
        anchors: theta*, their values after the earlier task; constants.
        importance: F, the diagonal of the Fisher information there; constants.

    Shape:
        - parameters, anchors, importance: any, and the same
        - output: ()

    Returns:
        The loss, in the dtype that torch promotes the tensors to (float32 under autocast); 0 of none.

    Raises:
        ValueError: anchors or importances that do not have a tensor for each parameter, of its shape.

    Source:
        Kirkpatrick et al. 2017, arXiv:1612.00796.

    Example:
        >>> ewc_loss(torch.tensor([1.0, 2.0]), torch.tensor([0.0, 2.0]), torch.tensor([4.0, 9.0])).item()
        2.0
    """
    return weighted_squares(*alike(parameters, anchors=anchors, importance=importance)) / 2


@composite(calls_model=True)
def synaptic_intelligence(
    parameters: Tensor | torch.nn.Module | Mapping[str, Tensor] | Iterable[Tensor],
    anchors: Tensor | Mapping[str, Tensor] | Iterable[Tensor],
    importance: Tensor | Mapping[str, Tensor] | Iterable[Tensor],
) -> Tensor:
    r"""A parameter costs as much as what it gained on the way of earlier tasks, when it leaves their end.

    .. math:: \ell = \sum_i \Omega_i\, (\theta_i - \theta^*_i)^2

    Times c, beside the new task's loss. :class:`fastloss.regularization.SynapticIntelligence` keeps the path integral
    and makes the importances of it.

    Args:
        parameters: theta, a Module, its parameters or one tensor.
        anchors: theta*, their values after the earlier task; constants.
        importance: Omega; constants.

    Shape:
        - parameters, anchors, importance: any, and the same
        - output: ()

    Returns:
        The loss, in the dtype that torch promotes the tensors to (float32 under autocast); 0 of none.

    Raises:
        ValueError: anchors or importances that do not have a tensor for each parameter, of its shape.

    Source:
        Zenke et al. 2017, arXiv:1703.04200.

    Example:
        >>> synaptic_intelligence(torch.tensor([1.0]), torch.tensor([0.0]), torch.tensor([4.0])).item()
        4.0
    """
    return weighted_squares(*alike(parameters, anchors=anchors, importance=importance))
