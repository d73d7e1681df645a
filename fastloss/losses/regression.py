"""Regression losses."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fastloss.core import torch_losses
from fastloss.core.arguments import Domain, Hyper, Invalid, Refused, readable, reduction_of
from fastloss.core.dispatch import fused
from fastloss.core.dtypes import one_dtype, result_dtype, widened
from fastloss.core.elementary import softplus
from fastloss.core.metrics import counted
from fastloss.core.reductions import aggregate
from fastloss.skeletons.pointwise import Pointwise

__all__ = [
    "expectile_loss",
    "huber_loss",
    "l1_loss",
    "log_cosh_loss",
    "mse_loss",
    "quantile_loss",
    "smooth_l1_loss",
]


_LEVELS = Domain("tau must be between 0 and 1")

# With a weight, torch composes the loss of functions of which autocast has some in float32 on a GPU, none on a CPU.
_WEIGHTED = ("cuda", "xpu")


def _torch_weights(arguments: dict[str, Any]) -> dict[str, Any] | Refused:
    """A weight of another dtype takes part in torch's promotion, which the kernels' weights do not."""
    input, weight = arguments.get("input"), arguments.get("weight")
    if isinstance(input, Tensor) and isinstance(weight, Tensor) and input.dtype != weight.dtype:
        return Invalid("the weights have another dtype than the input")
    return arguments


@fused(
    Pointwise(
        operands=("input", "target"),
        shapes="warn",
        weight="weight",
        drop_in=True,
        weighted_autocast=_WEIGHTED,
        prepare=_torch_weights,
    )
)
def mse_loss(
    input: Tensor,
    target: Tensor,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
    weight: Tensor | None = None,
) -> Tensor:
    r"""Squared error, elementwise :math:`\ell = (x - t)^2`, times the weight if there is one.

    A drop-in for :func:`torch.nn.functional.mse_loss`. With weights w, the mean is :math:`\sum w\ell / \sum w`.

    Args:
        input: predictions x, any real number.
        target: targets t; differentiated as well.
        size_average, reduce: deprecated, as in torch.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.
        weight: of each element.

    Shape:
        - input, target: any, and the same; others broadcast with a warning
        - weight: the shape of ``input``
        - output: the shape of ``input`` for ``"none"``, else ()

    Returns:
        The loss, in the dtype that torch promotes the operands to (float32 under autocast).

    Raises:
        Torch's exceptions: ``ValueError`` for a weight of another shape or an unknown reduction, ``RuntimeError`` for
        shapes that do not broadcast.

    Source:
        Gauss 1809, Theoria motus corporum coelestium.

    Example:
        >>> mse_loss(torch.tensor([1.0, 2.0]), torch.tensor([1.0, 4.0])).item()
        2.0
    """
    return torch_losses.mse_loss(input, target, size_average, reduce, reduction, weight)  # type: ignore[call-arg]


def _without_bool(arguments: dict[str, Any]) -> dict[str, Any] | Refused:
    if any(isinstance(x, Tensor) and x.dtype == torch.bool for x in map(arguments.get, ("input", "target"))):
        return Invalid("torch does not subtract bool tensors")
    return _torch_weights(arguments)


@fused(
    Pointwise(
        operands=("input", "target"),
        shapes="warn",
        weight="weight",
        drop_in=True,
        weighted_autocast=_WEIGHTED,
        prepare=_without_bool,
    )
)
def l1_loss(
    input: Tensor,
    target: Tensor,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
    weight: Tensor | None = None,
) -> Tensor:
    r"""Absolute error, elementwise :math:`\ell = |x - t|`, times the weight if there is one.

    A drop-in for :func:`torch.nn.functional.l1_loss`. The gradient at a tie is 0. With weights w, the mean is
    :math:`\sum w\ell / \sum w`.

    Args:
        input: predictions x, any real number.
        target: targets t; differentiated as well.
        size_average, reduce: deprecated, as in torch.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.
        weight: of each element.

    Shape:
        - input, target: any, and the same; others broadcast with a warning
        - weight: the shape of ``input``
        - output: the shape of ``input`` for ``"none"``, else ()

    Returns:
        The loss, in the dtype that torch promotes the operands to (float32 under autocast).

    Raises:
        Torch's exceptions: ``ValueError`` for a weight of another shape or an unknown reduction, ``RuntimeError`` for
        shapes that do not broadcast.

    Source:
        Laplace 1774; Koenker and Bassett 1978 for its minimiser, the conditional median.

    Example:
        >>> l1_loss(torch.tensor([1.0, 2.0]), torch.tensor([1.0, 4.0])).item()
        1.0
    """
    how = reduction_of({"size_average": size_average, "reduce": reduce}, reduction)
    known = weight is not None and weight.size() == input.size() == target.size() and how in ("none", "mean", "sum")
    if weight is None or not known:
        return torch_losses.l1_loss(input, target, size_average, reduce, reduction, weight)  # type: ignore[call-arg]
    # As torch has it, which (2.13) loses the weight under a TorchFunctionMode, of torch.export for one.
    losses = (input - target).abs() * weight
    if how == "none":
        return losses
    return losses.sum() / weight.sum() if how == "mean" else losses.sum()


def _one_dtype(arguments: dict[str, Any]) -> dict[str, Any] | Refused:
    if not one_dtype(arguments, "input", "target", "weight"):
        return Invalid("torch gives mixed dtypes the input's, and fails in backward")
    return arguments


@fused(
    Pointwise(
        operands=("input", "target"),
        parameters={"delta": Hyper(low=1e-30)},
        shapes="warn",
        weight="weight",
        mean_of_weights=False,
        drop_in=True,
        prepare=_one_dtype,
    )
)
def huber_loss(
    input: Tensor,
    target: Tensor,
    reduction: str = "mean",
    delta: float = 1.0,
    weight: Tensor | None = None,
) -> Tensor:
    r"""Huber's loss: quadratic in small errors, linear in large ones.

    A drop-in for :func:`torch.nn.functional.huber_loss`. Elementwise, with the error :math:`r = x - t`,

    .. math::
        \ell = \begin{cases} r^2 / 2 & |r| \le \delta \\ \delta\,(|r| - \delta / 2) & |r| > \delta, \end{cases}

    times the weight if there is one. The mean divides by the number of elements, with weights too. It is
    :func:`smooth_l1_loss` with ``beta=delta``, times ``delta``.

    Args:
        input: predictions x, any real number.
        target: targets t; differentiated as well.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.
        delta: positive; the error from which on the loss is linear.
        weight: of each element.

    Shape:
        - input, target: any, and the same; others broadcast with a warning
        - weight: the shape of ``input``
        - output: the shape of ``input`` for ``"none"``, else ()

    Returns:
        The loss, in the dtype of ``input`` (float32 under autocast).

    Raises:
        Torch's exceptions: ``RuntimeError`` for a ``delta`` that is not positive or shapes that do not broadcast,
        ``ValueError`` for a weight of another shape or an unknown reduction.

    Source:
        Huber 1964, Robust estimation of a location parameter.

    Example:
        >>> huber_loss(torch.tensor([0.0, 3.0]), torch.tensor([1.0, 0.0])).item()
        1.5
    """
    return torch_losses.huber_loss(input, target, reduction, delta, weight)  # type: ignore[call-arg]


@fused(Pointwise(operands=("input", "target"), parameters={"beta": Hyper()}, shapes="warn", drop_in=True))
def smooth_l1_loss(
    input: Tensor,
    target: Tensor,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
    beta: float = 1.0,
) -> Tensor:
    r"""Absolute error, with a quadratic bottom: :func:`huber_loss` divided by its threshold.

    A drop-in for :func:`torch.nn.functional.smooth_l1_loss`. Elementwise, with the error :math:`r = x - t`,

    .. math::
        \ell = \begin{cases} r^2 / (2\beta) & |r| < \beta \\ |r| - \beta / 2 & |r| \ge \beta. \end{cases}

    Args:
        input: predictions x, any real number.
        target: targets t; differentiated as well.
        size_average, reduce: deprecated, as in torch.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.
        beta: at least 0; the error from which on the loss is linear. 0: :func:`l1_loss`.

    Shape:
        - input, target: any, and the same; others broadcast with a warning
        - output: the shape of ``input`` for ``"none"``, else ()

    Returns:
        The loss, in the dtype that torch promotes the operands to (float32 under autocast).

    Raises:
        Torch's exceptions: ``RuntimeError`` for a negative ``beta`` or shapes that do not broadcast, ``ValueError`` for
        an unknown reduction.

    Source:
        Girshick 2015 (Fast R-CNN), arXiv:1504.08083.

    Example:
        >>> smooth_l1_loss(torch.tensor([0.0, 3.0]), torch.tensor([1.0, 0.0])).item()
        1.5
    """
    return torch_losses.smooth_l1_loss(input, target, size_average, reduce, reduction, beta)


# ------------------------------------------------------------------------------------------ beyond torch


def _leveled(input: Tensor, target: Tensor, tau: float | Tensor) -> Tensor:
    """The target as it broadcasts to the input: with a dimension for the levels, if tau has one.

    Raises:
        ValueError: if the shapes do not fit, or a number tau is out of range.
    """
    if not isinstance(tau, Tensor):
        if not 0 <= tau <= 1:
            raise ValueError(f"tau must be between 0 and 1, got {tau}")
        levels: tuple[int, ...] = ()
    else:
        if tau.dim() > 1:
            raise ValueError(f"tau must be a number or of shape (Q,), got {tuple(tau.shape)}")
        levels = tuple(tau.shape)
    if input.shape[input.dim() - len(levels) :] != levels:
        raise ValueError(f"input {tuple(input.shape)} must end with the dimension of the levels, {levels}")
    if levels and target.dim() == input.dim() - 1:
        target = target.unsqueeze(-1)
    shape = target.shape[:-1] + levels if levels and target.shape[-1:] == (1,) else target.shape
    if shape != input.shape:
        raise ValueError(f"target {tuple(target.shape)} does not fit input {tuple(input.shape)}")
    return target


def _checked_penalty(crossing_penalty: float) -> float:
    if not crossing_penalty >= 0:
        raise ValueError(f"crossing_penalty must not be negative, got {crossing_penalty}")
    return crossing_penalty


def _with_levels(arguments: dict[str, Any]) -> dict[str, Any] | Refused:
    input, target, tau = (arguments.get(name) for name in ("input", "target", "tau"))
    if _checked_penalty(arguments.get("crossing_penalty", 0.0)):
        return Refused("a crossing penalty compares neighbouring levels")
    if isinstance(input, Tensor) and isinstance(target, Tensor) and isinstance(tau, (int, float, Tensor)):
        arguments["target"] = _leveled(input, target, tau)
    return arguments


def _constant_level(tau: float | Tensor) -> float | Tensor:
    """Levels as constants. In a tensor they are checked where that costs nothing: on a GPU the kernel checks them."""
    if not isinstance(tau, Tensor):
        return tau
    if readable(tau) and not bool(((tau >= 0) & (tau <= 1)).all()):
        raise _LEVELS.error(_LEVELS.requirement)
    return tau.detach()


@fused(
    Pointwise(
        operands=("input", "target", "tau"),
        differentiable=("input", "target"),
        domain=_LEVELS,
        prepare=_with_levels,
    )
)
def quantile_loss(
    input: Tensor,
    target: Tensor,
    tau: float | Tensor,
    *,
    crossing_penalty: float = 0.0,
    reduction: str = "mean",
    mask: Tensor | None = None,
    normalizer: float | Tensor | None = None,
) -> Tensor:
    r"""Quantile (pinball) loss, whose minimiser is the conditional quantile at level :math:`\tau`.

    Elementwise, with the error :math:`d = t - x`,

    .. math::
        \ell = \max(\tau d,\; (\tau - 1)\, d).

    The gradient at a tie is 0. At :math:`\tau = 1/2` it is half of :func:`l1_loss`. Several levels at once have a last
    dimension of their own in ``input``; ``crossing_penalty`` :math:`\lambda` then adds
    :math:`\lambda \max(0, x_{q-1} - x_q)` to the loss of each level but the lowest, with the levels in ascending order.

    Args:
        input: predicted quantiles x, any real number.
        target: targets t; differentiated as well.
        tau: level or levels, between 0 and 1.
        crossing_penalty: at least 0; discourages quantiles that cross. Computed by the reference only.
        reduction: ``"none"``, ``"mean"`` (over everything, the levels too) or ``"sum"``.
        mask: broadcasts to the losses; 0 takes an element out, whatever it holds. Other values weight it.
        normalizer: the denominator of the mean, instead of the sum of the mask: a number or a 0-d tensor.

    Shape:
        - input: any, or (..., Q) for Q levels
        - target: the shape of ``input``; for Q levels also (...) or (..., 1)
        - tau: number, (), or (Q)
        - output: the shape of ``input`` for ``"none"``, else ()

    Returns:
        The loss, in the dtype that torch promotes the operands to (float32 under autocast).

    Raises:
        ValueError: shapes that do not fit, ``tau`` or ``crossing_penalty`` out of range (levels in a tensor on a GPU: a
        device-side trap), an unknown reduction.

    Source:
        Koenker and Bassett 1978, Regression quantiles.

    Example:
        >>> quantile_loss(torch.tensor([0.0, 0.0]), torch.tensor([2.0, -2.0]), 0.9).item()
        1.0
    """
    _checked_penalty(crossing_penalty)
    target = _leveled(input, target, tau)
    dtype = result_dtype(input, target, tau)
    input, target, tau = widened(input, target, _constant_level(tau))
    input, target = counted(mask, input, target)
    error = target - input
    losses = tau * F.relu(error) + (1 - tau) * F.relu(-error)
    if crossing_penalty and isinstance(tau, Tensor) and tau.dim():
        losses = losses + crossing_penalty * _crossing(input, tau, mask)
    return aggregate(losses, reduction, mask, normalizer).to(dtype)


def _crossing(input: Tensor, tau: Tensor, mask: Tensor | None) -> Tensor:
    """How far each level lies below the next lower one, 0 for the lowest; (..., Q). Of levels that the mask counts."""
    order = tau.argsort()
    ascending = input[..., order]
    crossing = F.relu(ascending[..., :-1] - ascending[..., 1:])
    if mask is not None:
        crossing = torch.where(mask.expand(input.shape)[..., order][..., :-1] != 0, crossing, 0)
    return F.pad(crossing, (1, 0))[..., order.argsort()]


@fused(
    Pointwise(
        operands=("input", "target", "tau"),
        differentiable=("input", "target"),
        domain=_LEVELS,
        prepare=_with_levels,
    )
)
def expectile_loss(
    input: Tensor,
    target: Tensor,
    tau: float | Tensor,
    *,
    reduction: str = "mean",
    mask: Tensor | None = None,
    normalizer: float | Tensor | None = None,
) -> Tensor:
    r"""Expectile loss: the squared error with different weights above and below the prediction.

    Elementwise, with the error :math:`d = t - x`,

    .. math::
        \ell = \begin{cases} \tau\, d^2 & d \ge 0 \\ (1 - \tau)\, d^2 & d < 0. \end{cases}

    Its minimiser is the conditional expectile at level :math:`\tau`; at 1/2 it is half of :func:`mse_loss`.

    Args:
        input: predicted expectiles x, any real number.
        target: targets t; differentiated as well.
        tau: level or levels, between 0 and 1.
        reduction: ``"none"``, ``"mean"`` (over everything, the levels too) or ``"sum"``.
        mask: broadcasts to the losses; 0 takes an element out, whatever it holds. Other values weight it.
        normalizer: the denominator of the mean, instead of the sum of the mask: a number or a 0-d tensor.

    Shape:
        - input: any, or (..., Q) for Q levels
        - target: the shape of ``input``; for Q levels also (...) or (..., 1)
        - tau: number, (), or (Q)
        - output: the shape of ``input`` for ``"none"``, else ()

    Returns:
        The loss, in the dtype that torch promotes the operands to (float32 under autocast).

    Raises:
        ValueError: shapes that do not fit, ``tau`` out of range (levels in a tensor on a GPU: a device-side trap), an
            unknown reduction.

    Source:
        Newey and Powell 1987, Asymmetric least squares estimation and testing. In reinforcement learning: Kostrikov et
        al. 2021 (IQL), arXiv:2110.06169.

    Example:
        >>> expectile_loss(torch.tensor([0.0, 0.0]), torch.tensor([2.0, -2.0]), 0.75).item()
        2.0
    """
    target = _leveled(input, target, tau)
    dtype = result_dtype(input, target, tau)
    input, target, tau = widened(input, target, _constant_level(tau))
    input, target = counted(mask, input, target)
    error = target - input
    losses = torch.where(error < 0, (1 - tau) * error, tau * error) * error
    return aggregate(losses, reduction, mask, normalizer).to(dtype)


@fused(Pointwise(operands=("input", "target"), shapes="equal"))
def log_cosh_loss(
    input: Tensor,
    target: Tensor,
    *,
    reduction: str = "mean",
    mask: Tensor | None = None,
    normalizer: float | Tensor | None = None,
) -> Tensor:
    r"""Logarithm of the hyperbolic cosine of the error: quadratic near 0, linear far away, smooth in between.

    Elementwise, with the error :math:`r = x - t`,

    .. math::
        \ell = \log\cosh r = |r| + \log(1 + e^{-2|r|}) - \log 2,

    in a form that neither overflows for large errors nor loses the digits of small ones. The derivative is tanh(r).

    Args:
        input: predictions x, any real number.
        target: targets t; differentiated as well.
        reduction: ``"none"``, ``"mean"`` or ``"sum"``.
        mask: broadcasts to the losses; 0 takes an element out, whatever it holds. Other values weight it.
        normalizer: the denominator of the mean, instead of the sum of the mask: a number or a 0-d tensor.

    Shape:
        - input, target: any, and the same
        - output: the shape of ``input`` for ``"none"``, else ()

    Returns:
        The loss, in the dtype that torch promotes the operands to (float32 under autocast).

    Raises:
        ValueError: shapes that differ, an unknown reduction.

    Source:
        Green 1990, Bayesian reconstructions from emission tomography data using a modified EM algorithm.

    Example:
        >>> log_cosh_loss(torch.tensor([1e4]), torch.tensor([0.0])).item()
        9999.306640625
    """
    if input.shape != target.shape:
        raise ValueError(f"input {tuple(input.shape)} and target {tuple(target.shape)} differ in shape")
    dtype = result_dtype(input, target)
    input, target = counted(mask, *widened(input, target))
    error = input - target
    size = error.abs()
    small = size < 1
    # each branch sees only the errors that it is for, so that the other one's gradient is 0 and not NaN
    near = -0.5 * torch.log1p(-torch.tanh(torch.where(small, error, 0)).square())
    far = size + softplus(-2 * size) - math.log(2)
    return aggregate(torch.where(small, near, far), reduction, mask, normalizer).to(dtype)
