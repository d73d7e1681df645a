"""Behaviour descriptors that are learned."""

from __future__ import annotations

import torch
from torch import Tensor

from fastloss.core.composite import composite
from fastloss.core.metrics import Metrics
from fastloss.losses.regression import mse_loss

__all__ = ["aurora_loss"]


@composite()
def aurora_loss(
    recon: Tensor,
    target: Tensor,
    diversity: Tensor | None = None,
    *,
    diversity_coefficient: float = 1.0,
    return_terms: bool = False,
) -> Tensor | tuple[Tensor, Metrics]:
    r"""Loss of the autoencoder whose code describes behaviours: reconstruction, and what the archive asks for.

    .. math:: \ell = E\,(r - t)^2 + \lambda\, \ell_{QD}

    Args:
        recon: r, of the decoder.
        target: t, what was observed of a behaviour; a constant.
        diversity: the loss of quality and diversity, 0-d, such as minus the mean :func:`novelty_score` of the codes.
            None: reconstruction alone, as in the paper.
        diversity_coefficient: lambda.
        return_terms: also return the two terms.

    Shape:
        - recon, target: any, and the same; diversity: ()
        - output: ()

    Returns:
        The loss, in the dtype that torch promotes the operands to (float32 under autocast); with ``return_terms``,
        (loss, terms): ``reconstruction`` and ``diversity``. The error of nothing is 0.

    Raises:
        ValueError: shapes that differ, a diversity that is no number.

    Source:
        Cully 2019, arXiv:1905.11874; Grillotti and Cully 2022, arXiv:2106.05648.

    Example:
        >>> aurora_loss(torch.ones(2, 3), torch.zeros(2, 3), torch.tensor(-4.0), diversity_coefficient=0.1).item()
        0.6000000238418579
    """
    if recon.shape != target.shape:
        raise ValueError(f"recon {tuple(recon.shape)} and target {tuple(target.shape)} differ in shape")
    if diversity is not None and diversity.dim():
        raise ValueError(f"diversity must be one number, got {tuple(diversity.shape)}")
    error = mse_loss(recon, target.detach().to(recon.dtype), reduction="sum") / max(1, recon.numel())
    wanted = torch.zeros_like(error) if diversity is None else diversity
    return error + diversity_coefficient * wanted, {"reconstruction": error, "diversity": wanted}
