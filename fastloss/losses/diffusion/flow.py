"""Flow matching: a velocity that carries noise to data."""

from __future__ import annotations

import math

from torch import Tensor

from fastloss.core.composite import composite, present
from fastloss.core.metrics import detached
from fastloss.core.reductions import aggregate
from fastloss.functions.diffusion import logit_normal_density, per_sample
from fastloss.losses.regression import mse_loss

__all__ = ["flow_matching_loss"]

WEIGHTINGS = ("uniform", "logit_normal", "cosmap")


@composite()
def flow_matching_loss(
    v_pred: Tensor,
    x0: Tensor,
    x1: Tensor,
    t: Tensor | None = None,
    *,
    weighting: str = "uniform",
    mean: float = 0.0,
    std: float = 1.0,
    reduction: str = "mean",
    mask: Tensor | None = None,
    normalizer: float | Tensor | None = None,
) -> Tensor:
    r"""Squared error of a velocity on the straight line from noise to data.

    At :math:`x_t = (1 - t)\, x_0 + t\, x_1`, elementwise

    .. math::
        \ell = w(t)\, \bigl(v - (x_1 - x_0)\bigr)^2,

    with w = 1 (``"uniform"``), the density of the logit-normal distribution at t (``"logit_normal"``; for times that
    were drawn evenly, where :func:`fastloss.diffusion.flow_times` draws them so), or :math:`2 / (\pi (1 - 2t + 2t^2))`
    (``"cosmap"``). Pairs by optimal transport: :func:`fastloss.diffusion.optimal_pairs`. ``x0``, ``x1`` and ``t`` are
    constants.

    Args:
        v_pred: the velocity that the model predicts at x_t.
        x0: the noise, where the flow begins.
        x1: the data, where it ends.
        t: the times, of each sample or one for all, in [0, 1]; needed for a weighting.
        weighting: ``"uniform"``, ``"logit_normal"`` or ``"cosmap"``.
        mean, std: of the normal logit; ``std`` positive.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``, over all elements.
        mask: broadcasts to the losses; 0 takes an element out, whatever it holds. Other values weight it.
        normalizer: the denominator of the mean, instead of the sum of the mask: a number or a 0-d tensor.

    Shape:
        - v_pred, x0, x1: (N, ...); t: (N,) or ()
        - output: (N, ...) for ``"none"``, else ()

    Returns:
        The loss, in the dtype that torch promotes the operands to (float32 under autocast).

    Raises:
        ValueError: shapes that differ, an unknown ``weighting`` or one without ``t``, ``std`` not positive.

    Source:
        Lipman et al. 2023, arXiv:2210.02747; Liu et al. 2023 (rectified flow), arXiv:2209.03003; weightings: Esser et
        al. 2024, arXiv:2403.03206.

    Example:
        >>> flow_matching_loss(torch.ones(1, 2), torch.zeros(1, 2), torch.tensor([[1.0, 3.0]])).item()
        2.0
    """
    if weighting not in WEIGHTINGS:
        raise ValueError(f"{weighting!r} is no weighting; choose one of {', '.join(WEIGHTINGS)}")
    if not v_pred.shape == x0.shape == x1.shape:
        shapes = (tuple(x.shape) for x in (v_pred, x0, x1))
        raise ValueError("v_pred {}, x0 {} and x1 {} differ in shape".format(*shapes))
    if not std > 0:
        raise ValueError(f"std must be positive, got {std}")
    v_pred, x0, x1 = present(v_pred.shape, mask, normalizer, v_pred, detached(x0), detached(x1))
    weight: Tensor | None = None
    if weighting != "uniform":
        if t is None:
            raise ValueError(f"the weighting {weighting} is a function of t: give t")
        t = per_sample(t.detach(), v_pred)
        weight = (
            logit_normal_density(t, mean, std) if weighting == "logit_normal" else 2 / (math.pi * (1 - 2 * t * (1 - t)))
        )
        weight = weight.to(v_pred.dtype).expand_as(v_pred)
    target = x1 - x0
    if mask is None and normalizer is None and reduction in ("mean", "sum"):  # one pass
        total = mse_loss(v_pred, target, reduction="sum", weight=weight)
        return total / max(1, math.prod(v_pred.shape)) if reduction == "mean" else total
    losses = mse_loss(v_pred, target, reduction="none", weight=weight)
    return aggregate(losses, reduction, mask, normalizer)
