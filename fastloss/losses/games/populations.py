"""Policies that are trained against others: mixtures of opponents, and the regret of an environment."""

from __future__ import annotations

import torch
from torch import Tensor

from fastloss.core.composite import composite, elements, present

__all__ = ["neupl_loss", "paired_regret"]


@composite()
def neupl_loss(
    returns: Tensor,
    interaction_graph: Tensor,
    *,
    reduction: str = "mean",
    mask: Tensor | None = None,
    normalizer: float | Tensor | None = None,
) -> Tensor:
    r"""Loss of a population of policies in one network, each of which answers a mixture of the others.

    .. math:: \ell_i = -\sum_j \Sigma_{ij}\, R_{ij}

    Row i of the interaction graph is the mixture of opponents that policy i is conditioned on, and is trained against.

    Args:
        returns: R, what policy i has won against opponent j, or a surrogate whose gradient is the policy gradient. Only
            the policy that learns may have a gradient in it: opponents are constants, detached by who plays.
        interaction_graph: Sigma, a constant. Where it is 0 nothing has to be played: any return does, NaN too.
        reduction: ``"none"``, ``"mean"`` (over the policies) or ``"sum"``.
        mask: 0 takes a policy out.
        normalizer: the denominator of the mean, instead of the number of policies.

    Shape:
        - returns: (\*, K, M); interaction_graph: the same, or one that broadcasts to it; mask: as the losses
        - output: (\*, K) for ``"none"``, else ()

    Returns:
        The loss, in the dtype that torch promotes the operands to (float32 under autocast); of no policies 0.

    Raises:
        ValueError: shapes that do not fit.

    Source:
        Liu et al. 2022 (NeuPL), arXiv:2202.07415.

    Example:
        >>> returns = torch.tensor([[float("nan"), 0.5], [2.0, 1.0]])
        >>> neupl_loss(returns, torch.tensor([[0.0, 1.0], [0.5, 0.5]]), reduction="none").tolist()
        [-0.5, -1.5]
    """
    if returns.dim() < 2:
        raise ValueError(f"returns must be (*, K, M), got {tuple(returns.shape)}")
    if torch.broadcast_shapes(returns.shape, interaction_graph.shape) != returns.shape:
        raise ValueError(f"{tuple(interaction_graph.shape)} of the graph does not fit returns {tuple(returns.shape)}")
    (returns,) = present(returns.shape[:-1], mask, normalizer, returns)
    share = interaction_graph.detach().to(returns.dtype)
    return elements(-torch.where(share != 0, share * returns, 0).sum(-1))


@composite()
def paired_regret(
    antagonist_returns: Tensor,
    protagonist_returns: Tensor,
    *,
    reduction: str = "mean",
    mask: Tensor | None = None,
    normalizer: float | Tensor | None = None,
) -> Tensor:
    r"""Regret of the protagonist, which the designer of environments maximises: the antagonist shows what was possible.

    .. math:: \mathrm{regret} = R_A - R_P

    The protagonist minimises it, the antagonist and the designer maximise it: their loss is minus the regret.

    Args:
        antagonist_returns: what the antagonist has won in each environment; of several episodes the greatest, in the
            paper.
        protagonist_returns: what the protagonist has won there; of several episodes the mean.
        reduction: ``"none"``, ``"mean"`` (over the environments) or ``"sum"``.
        mask: 0 takes an environment out.
        normalizer: the denominator of the mean, instead of the number of environments.

    Shape:
        - antagonist_returns, protagonist_returns: any, and the same; mask: one that broadcasts to it
        - output: that shape for ``"none"``, else ()

    Returns:
        The regret, in the dtype that torch promotes the operands to (float32 under autocast); of no environments 0.

    Raises:
        ValueError: shapes that differ.

    Source:
        Dennis et al. 2020 (PAIRED), arXiv:2012.02096.

    Example:
        >>> paired_regret(torch.tensor([3.0, 1.0]), torch.tensor([1.0, 2.0])).item()
        0.5
    """
    if antagonist_returns.shape != protagonist_returns.shape:
        raise ValueError(
            f"antagonist_returns {tuple(antagonist_returns.shape)} and protagonist_returns "
            f"{tuple(protagonist_returns.shape)} differ in shape"
        )
    shape = antagonist_returns.shape
    antagonist, protagonist = present(shape, mask, normalizer, antagonist_returns, protagonist_returns)
    return elements(antagonist - protagonist)
