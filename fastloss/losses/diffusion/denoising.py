"""Losses of models that take noise away."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fastloss.core.composite import composite, elements, present
from fastloss.core.metrics import detached
from fastloss.core.reductions import aggregate
from fastloss.functions.diffusion import check_prediction, per_sample
from fastloss.losses.regression import mse_loss

__all__ = ["consistency_loss", "diffusion_loss"]

WEIGHTINGS = ("uniform", "snr", "truncated_snr", "min_snr", "p2", "edm")


def _weights(kind: str, prediction: str, a: Tensor, snr_gamma: float, p2_gamma: float, p2_k: float, sigma_data: float):
    """Of the squared error of a prediction. Signal and noise are the weights that SNR and 1 have on the error of x0,
    written so that no infinity is divided by another."""
    s = 1 - a
    signal, noise = {"eps": (torch.ones_like(a), s / a), "x0": (a / s, torch.ones_like(a)), "v": (a, s)}[prediction]
    if kind == "snr":
        return signal
    if kind == "truncated_snr":
        return torch.maximum(signal, noise)
    if kind == "min_snr":
        return torch.minimum(signal, snr_gamma * noise)
    if kind == "p2":
        return signal * (s / (p2_k * s + a)) ** p2_gamma
    return signal + noise / sigma_data**2


@composite()
def diffusion_loss(
    pred: Tensor,
    x0: Tensor,
    noise: Tensor,
    alphas_cumprod_t: Tensor,
    *,
    prediction_type: str = "eps",
    weighting: str = "uniform",
    snr_gamma: float = 5.0,
    p2_gamma: float = 1.0,
    p2_k: float = 1.0,
    sigma_data: float = 0.5,
    reduction: str = "mean",
    mask: Tensor | None = None,
    normalizer: float | Tensor | None = None,
) -> Tensor:
    r"""Weighted squared error of a denoiser's prediction of the noise, the sample or the velocity.

    With a, the share of the signal's variance at the sample's time, :math:`x_t = \sqrt a\, x_0 + \sqrt{1 - a}\,
    \epsilon`, and SNR = a / (1 - a), elementwise

    .. math::
        \ell = w\,(\hat y - y)^2, \qquad
        y = \begin{cases} \epsilon & \text{eps} \\ x_0 & \text{x0} \\
        \sqrt a\, \epsilon - \sqrt{1 - a}\, x_0 & \text{v.} \end{cases}

    The weightings but ``"uniform"`` (w = 1) are functions of the SNR on the error of :math:`x_0`, whatever is
    predicted: w is that times 1 / SNR for ``"eps"``, times 1 / (SNR + 1) for ``"v"``.

    .. math::
        \begin{array}{ll}
        \mathrm{snr} & \mathrm{SNR} \quad(\text{1 on the error of the noise}) \\
        \mathrm{truncated\_snr} & \max(\mathrm{SNR}, 1) \\
        \mathrm{min\_snr} & \min(\mathrm{SNR}, \mathrm{snr\_gamma}) \\
        \mathrm{p2} & \mathrm{SNR}\,/\,(\mathrm{p2\_k} + \mathrm{SNR})^{\mathrm{p2\_gamma}} \\
        \mathrm{edm} & \mathrm{SNR} + 1 / \mathrm{sigma\_data}^2
        \end{array}

    A weight that is infinite (of ``"x0"`` without noise, for one) makes an infinite loss. ``x0``, ``noise`` and
    ``alphas_cumprod_t`` are constants.

    Args:
        pred: the prediction.
        x0: the samples.
        noise: what was added to them, standard normal.
        alphas_cumprod_t: a, of each sample or one for all, in [0, 1].
        prediction_type: ``"eps"``, ``"x0"`` or ``"v"``.
        weighting: ``"uniform"`` or one of the above.
        snr_gamma: positive; the bound of ``"min_snr"``.
        p2_gamma, p2_k: of ``"p2"``.
        sigma_data: positive; the deviation of the samples, of ``"edm"``.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``, over all elements.
        mask: broadcasts to the losses; 0 takes an element out, whatever it holds. Other values weight it.
        normalizer: the denominator of the mean, instead of the sum of the mask: a number or a 0-d tensor.

    Shape:
        - pred, x0, noise: (N, ...); alphas_cumprod_t: (N,) or ()
        - output: (N, ...) for ``"none"``, else ()

    Returns:
        The loss, in the dtype that torch promotes the operands to (float32 under autocast).

    Raises:
        ValueError: shapes that differ, an unknown ``prediction_type`` or ``weighting``, a hyper-parameter out of range.

    Source:
        Ho et al. 2020 (DDPM), arXiv:2006.11239; Salimans and Ho 2022 (v, truncated SNR), arXiv:2202.00512; Hang et al.
        2023 (min-SNR), arXiv:2303.09556; Choi et al. 2022 (P2), arXiv:2204.00227; Karras et al. 2022 (EDM),
        arXiv:2206.00364.

    Example:
        >>> x0, noise = torch.zeros(1, 2), torch.tensor([[1.0, -1.0]])
        >>> diffusion_loss(torch.zeros(1, 2), x0, noise, torch.tensor([0.9])).item()
        1.0
    """
    check_prediction(prediction_type)
    if weighting not in WEIGHTINGS:
        raise ValueError(f"{weighting!r} is no weighting; choose one of {', '.join(WEIGHTINGS)}")
    if not (snr_gamma > 0 and sigma_data > 0):
        raise ValueError(f"snr_gamma and sigma_data must be positive, got {snr_gamma} and {sigma_data}")
    if not pred.shape == x0.shape == noise.shape:
        raise ValueError(
            f"pred {tuple(pred.shape)}, x0 {tuple(x0.shape)} and noise {tuple(noise.shape)} differ in shape"
        )
    pred, x0, noise = present(pred.shape, mask, normalizer, pred, detached(x0), detached(noise))
    a = per_sample(alphas_cumprod_t.detach(), pred)
    target = noise if prediction_type == "eps" else x0
    if prediction_type == "v":
        target = a.sqrt() * noise - (1 - a).sqrt() * x0
    weight: Tensor | None = None
    if weighting != "uniform":
        weight = _weights(weighting, prediction_type, a, snr_gamma, p2_gamma, p2_k, sigma_data)
        weight = weight.to(pred.dtype).expand_as(pred)
    if mask is None and normalizer is None and reduction in ("mean", "sum"):  # one pass
        total = mse_loss(pred, target, reduction="sum", weight=weight)
        return total / max(1, math.prod(pred.shape)) if reduction == "mean" else total
    losses = mse_loss(pred, target, reduction="none", weight=weight)
    return aggregate(losses, reduction, mask, normalizer)


@composite()
def consistency_loss(
    pred: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    *,
    metric: str = "pseudo_huber",
    c: float | None = None,
    reduction: str = "mean",
) -> Tensor:
    r"""Distance of a consistency model's answers at two neighbouring times of one trajectory.

    With f, the answer at the later time, g, that at the earlier one, a constant, d = f - g, and D, their size,

    .. math::
        \ell = w \begin{cases} \sqrt{\|d\|^2 + c^2} - c & \text{pseudo\_huber, } c = 0.00054 \sqrt D \\
        \|d\|^2 & \text{l2.} \end{cases}

    Args:
        pred: f, of the model that is trained.
        target: g, of its average or of itself; no gradient flows into it.
        weight: w of each sample. None: 1; improved training takes 1 / (t - t').
        metric: ``"pseudo_huber"`` or ``"l2"``.
        c: not negative. None: 0.00054 times the root of the size of a sample.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``, over the samples.

    Shape:
        - pred, target: (N, ...); weight: (N,)
        - output: (N,) for ``"none"``, else ()

    Returns:
        The loss, in the dtype that torch promotes the operands to (float32 under autocast). Where d and c are 0, the
        gradient is 0.

    Raises:
        ValueError: shapes that differ, an unknown ``metric``, a negative ``c``.

    Source:
        Song et al. 2023, arXiv:2303.01469; Song and Dhariwal 2023 (pseudo-Huber), arXiv:2310.14189.

    Example:
        >>> consistency_loss(torch.tensor([[3.0, 0.0]]), torch.zeros(1, 2), c=4.0).item()
        1.0
    """
    if metric not in ("pseudo_huber", "l2"):
        raise ValueError(f"{metric!r} is no metric; choose pseudo_huber or l2")
    if pred.shape != target.shape or not pred.dim():
        raise ValueError(f"pred {tuple(pred.shape)} and target {tuple(target.shape)} must be batches of one shape")
    size = math.prod(pred.shape[1:])
    c = 0.00054 * math.sqrt(size) if c is None else c
    if not c >= 0:
        raise ValueError(f"c must not be negative, got {c}")
    square = mse_loss(pred, target.detach(), reduction="none").flatten(1).sum(1)
    losses = square
    if metric == "pseudo_huber":
        # sqrt(q + c^2) - c = q / (sqrt(q + c^2) + c), which does not cancel; at 0 its slope 1 / 2c is the limit
        apart = square > 0 if c == 0 else torch.ones_like(square, dtype=torch.bool)
        safe = torch.where(apart, square, 1)
        losses = torch.where(apart, safe / ((safe + c * c).sqrt() + c), 0)
    if weight is not None:
        losses = losses * per_sample(weight.detach(), square)
    return elements(losses)
