"""Penalties on the parameters of a model, over all of them at once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from fastloss.core.composite import composite
from fastloss.core.dtypes import widened, without_autocast
from fastloss.skeletons.parameters import collected, group_norms, power_sum

__all__ = [
    "elastic_net_penalty",
    "group_lasso",
    "l1_penalty",
    "l2_penalty",
    "orthogonality_penalty",
    "spectral_norm_penalty",
]


@composite(calls_model=True)
def l1_penalty(
    parameters: Tensor | torch.nn.Module | Mapping[str, Tensor] | Iterable[Tensor], *, biases: bool = False
) -> Tensor:
    r"""The sum of the absolute values of the parameters, which makes some of them 0 (lasso).

    .. math:: \ell = \sum_i |\theta_i|

    Args:
        parameters: a Module, its parameters, with names or without, or one tensor.
        biases: count tensors whose name ends in "bias", too; what has no name always counts.

    Shape:
        - parameters: any
        - output: ()

    Returns:
        The penalty, in the dtype that torch promotes the parameters to (float32 under autocast); 0 of none. The
        gradient at 0 is 0.

    Raises:
        Nothing of its own.

    Source:
        Tibshirani 1996, Regression shrinkage and selection via the lasso.

    Example:
        >>> l1_penalty([torch.tensor([1.0, -2.0]), torch.tensor([0.5])]).item()
        3.5
    """
    return power_sum(collected(parameters, biases), 1.0, 0.0)


@composite(calls_model=True)
def l2_penalty(
    parameters: Tensor | torch.nn.Module | Mapping[str, Tensor] | Iterable[Tensor], *, biases: bool = False
) -> Tensor:
    r"""The sum of the squares of the parameters (ridge, weight decay).

    .. math:: \ell = \sum_i \theta_i^2

    Args:
        parameters: a Module, its parameters, with names or without, or one tensor.
        biases: count tensors whose name ends in "bias", too; what has no name always counts.

    Shape:
        - parameters: any
        - output: ()

    Returns:
        The penalty, in the dtype that torch promotes the parameters to (float32 under autocast); 0 of none.

    Raises:
        Nothing of its own.

    Source:
        Hoerl and Kennard 1970, Ridge regression.

    Example:
        >>> l2_penalty([torch.tensor([1.0, -2.0]), torch.tensor([0.5])]).item()
        5.25
    """
    return power_sum(collected(parameters, biases), 0.0, 1.0)


@composite(calls_model=True)
def elastic_net_penalty(
    parameters: Tensor | torch.nn.Module | Mapping[str, Tensor] | Iterable[Tensor],
    *,
    l1: float = 1.0,
    l2: float = 1.0,
    biases: bool = False,
) -> Tensor:
    r"""Absolute values and squares of the parameters.

    .. math:: \ell = \lambda_1 \sum_i |\theta_i| + \lambda_2 \sum_i \theta_i^2

    scikit-learn's ``alpha`` and ``l1_ratio`` are l1 = alpha l1_ratio and l2 = alpha (1 - l1_ratio) / 2.

    Args:
        parameters: a Module, its parameters, with names or without, or one tensor.
        l1: :math:`\lambda_1`.
        l2: :math:`\lambda_2`.
        biases: count tensors whose name ends in "bias", too; what has no name always counts.

    Shape:
        - parameters: any
        - output: ()

    Returns:
        The penalty, in the dtype that torch promotes the parameters to (float32 under autocast); 0 of none. The
        gradient at 0 is 0.

    Raises:
        Nothing of its own.

    Source:
        Zou and Hastie 2005, Regularization and variable selection via the elastic net.

    Example:
        >>> elastic_net_penalty(torch.tensor([1.0, -2.0]), l1=0.5).item()
        6.5
    """
    return power_sum(collected(parameters, biases), l1, l2)


def _sum(values: list[Tensor]) -> Tensor:
    return torch.stack([x.to(values[0].device) for x in values]).sum() if values else torch.zeros(())


def _matrices(parameters: object, biases: bool = True) -> list[Tensor]:
    """(out, rest) of what has two dimensions or more, in float32 at least."""
    return [x.flatten(1) for x in widened(*collected(parameters, biases)) if x.dim() > 1]


@composite(calls_model=True)
def group_lasso(
    parameters: Tensor | torch.nn.Module | Mapping[str, Tensor] | Iterable[Tensor],
    *,
    sizes: bool = True,
    biases: bool = False,
) -> Tensor:
    r"""The sum of the norms of groups of parameters, which makes whole groups 0.

    With the groups g, the entries of a parameter's first dimension (what a unit or a channel takes in),

    .. math:: \ell = \sum_g \sqrt{|g|}\, \|\theta_g\|_2.

    Other groups: give tensors whose first dimension has them, such as the transpose of a weight.

    Args:
        parameters: a Module, its parameters, with names or without, or one tensor.
        sizes: the root of a group's size as its weight; else 1.
        biases: count tensors whose name ends in "bias", too; what has no name always counts.

    Shape:
        - parameters: any
        - output: ()

    Returns:
        The penalty, in the dtype that torch promotes the parameters to (float32 under autocast); 0 of none. The
        gradient of a group of zeros is 0.

    Raises:
        Nothing of its own.

    Source:
        Yuan and Lin 2006, Model selection and estimation in regression with grouped variables.

    Example:
        >>> group_lasso(torch.tensor([[3.0, 4.0], [0.0, 0.0]]), sizes=False).item()
        5.0
    """
    return group_norms(collected(parameters, biases), sizes)


@composite(calls_model=True)
def spectral_norm_penalty(
    parameters: Tensor | torch.nn.Module | Mapping[str, Tensor] | Iterable[Tensor], *, bound: float = 0.0
) -> Tensor:
    r"""The squares of the largest singular values of the weights, of what is beyond a bound.

    With :math:`\sigma(W)`, the largest singular value of a weight (out, everything else),

    .. math:: \ell = \tfrac12 \sum_W \max(0, \sigma(W) - \mathrm{bound})^2

    by a singular value decomposition, O(out in min(out, in)). What has less than two dimensions does not count.

    Args:
        parameters: a Module, its parameters, or one tensor.
        bound: not negative; a norm up to it costs nothing.

    Shape:
        - parameters: any
        - output: ()

    Returns:
        The penalty, in the dtype that torch promotes the parameters to (float32 under autocast); 0 of none.

    Raises:
        ValueError: a negative ``bound``.

    Source:
        Yoshida and Miyato 2017, arXiv:1705.10941.

    Example:
        >>> round(spectral_norm_penalty(torch.tensor([[3.0, 0.0], [0.0, 1.0]])).item(), 4)
        4.5
    """
    if not bound >= 0:
        raise ValueError(f"bound must not be negative, got {bound}")
    largest = [torch.linalg.matrix_norm(x, 2) if x.numel() else x.sum() for x in _matrices(parameters)]
    return _sum([(norm - bound).clamp(min=0).square() for norm in largest]) / 2


@composite(calls_model=True)
def orthogonality_penalty(
    parameters: Tensor | torch.nn.Module | Mapping[str, Tensor] | Iterable[Tensor], *, diagonal: bool = True
) -> Tensor:
    r"""How far the rows or columns of the weights, whichever are fewer, are from orthonormal.

    .. math:: \ell = \sum_W \|W W^\top - I\|_F^2 \quad\text{or, of more rows than columns, } \|W^\top W - I\|_F^2

    of each weight (out, everything else). Without ``diagonal`` only the products of different ones count.

    Args:
        parameters: a Module, its parameters, or one tensor.
        diagonal: norms should be 1; else they are free.

    Shape:
        - parameters: any
        - output: ()

    Returns:
        The penalty, in the dtype that torch promotes the parameters to (float32 under autocast); 0 of none.

    Raises:
        Nothing of its own.

    Source:
        Bansal et al. 2018, arXiv:1810.09102; without the diagonal: Brock et al. 2019 (BigGAN), arXiv:1809.11096.

    Example:
        >>> orthogonality_penalty(torch.tensor([[1.0, 0.0], [1.0, 1.0]])).item()  # 0, 1, 1 and 2 - 1
        3.0
    """
    totals = []
    for x in _matrices(parameters):
        with without_autocast(x):
            gram = x @ x.mT if x.shape[0] <= x.shape[1] else x.mT @ x
        if diagonal:
            difference = gram - torch.eye(gram.shape[0], dtype=gram.dtype, device=gram.device)
        else:
            difference = gram - torch.diag_embed(torch.diagonal(gram))
        totals.append(difference.square().sum())
    return _sum(totals)
